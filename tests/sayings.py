"""Labelled texts of a few words for tests of classification, and options of a training that takes a second."""

import csv

import numpy as np
from click.testing import CliRunner

from textgen.cli import group

WORDS = {"pos": ["fine", "good", "warm", "bright"], "neg": ["bad", "dull", "cold", "grim"]}
TINY = {
    "task": "classify", "hidden_size": 12, "embedding_size": 10, "batch_size": 8, "seq_length": 6, "max_steps": 150,
    "learning_rate": 0.02, "dropout": 0.0, "eval_steps": 50, "save_steps": 150, "sample_steps": 0, "threads": 1,
    "validation_split": 0.25, "device": "cpu", "ngrams": False, "ensemble": 1,
}  # fmt: skip


def sayings(count, seed=0):
    """Texts of one to eight words, each with a word in it that says its label."""
    noise = np.random.default_rng(seed)
    found = []
    for number in range(count):
        label = ("neg", "pos")[number % 2]
        words = [f"w{word}" for word in noise.integers(0, 9, noise.integers(0, 8))]
        words.insert(int(noise.integers(0, len(words) + 1)), str(noise.choice(WORDS[label])))
        found.append((" ".join(words), label))
    return found


def csv_of(rows, path, header=("text", "label")):
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file, delimiter="\t" if path.suffix == ".tsv" else ",").writerows([header, *rows])
    return path


def run(*arguments, stdin=None):
    """The result of a command."""
    return CliRunner().invoke(group, list(map(str, arguments)), input=stdin)

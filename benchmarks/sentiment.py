"""Sentiment classification on standard data sets, without pretrained vectors, next to published accuracies.

    python benchmarks/sentiment.py DATA_FOLDER [--sets sst2,sst3,rt,cr,fpb] [--cells rnn,lstm,gru] [--folds 3]
        [--seed 1] [--with NAME=VALUE]... [--natural] [--pretrain | --init-from MODEL] [--plot FILE]

DATA_FOLDER contains `sst/` (trees `train.txt`; sentences `stsa.fine.dev`, `stsa.fine.test`), `rt-polarity/`
(`rt-polarity.neg`, `rt-polarity.pos`), `customer-reviews/custrev.all` and `financial-phrasebank/Sentences_50Agree.txt`.
SST models are trained on every distinct phrase of the training trees, as in the literature, and the weights are
selected on its dev sentences. The other sets have no test part: they are split into ten stratified folds with seed 0,
and the first `--folds` are tested in turn; a tenth of the other nine is held out to select the weights. Nothing is ever
selected on a test part. Seconds are CPU seconds of training and testing together. With --pretrain, a language model is
first trained on the training texts without their labels, and the classifier starts from it; with --init-from it starts
from this model. --with changes a training option. With --natural, punctuation is attached to words, as people write it.
--plot draws the confusion matrix of the last model.
"""

import argparse
import csv
import json
import os
import platform
import re
import statistics
import tempfile
import time
from dataclasses import astuple, dataclass, field
from datetime import date
from pathlib import Path

os.environ.update(dict.fromkeys(("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"), "1"))
import numpy as np
import torch

import textgen
from textgen.data.sources import SourceOptions
from textgen.tasks.classification.reading import find_labelled, read_labelled
from textgen.tasks.metrics import plot_confusion

PARTS = 10
SMALL = {"epochs": 6.0, "average_weights": 0.998}
PHRASES = {"epochs": 3.0, "average_weights": 0.999, "batch_size": 64, "hidden_size": 150, "embedding_size": 150}
PRETRAINED = {"task": "lm", "epochs": 6.0, "sampled_softmax": 500, "dropout": 0.3, "hidden_size": 128,
              "embedding_size": 128, "tie_weights": True, "tokenizer": "word", "vocab_size": 30_000}  # fmt: skip


@dataclass(frozen=True)
class Fold:
    """Texts with labels to learn from, to test on, and to choose weights on, if these are given."""

    train: list
    test: list
    dev: list = field(default_factory=list)


def sentences(folder, part, names):
    lines = (folder / "sst" / f"stsa.fine.{part}").read_text(encoding="utf-8").splitlines()
    return [(line[2:], names[int(line[0])]) for line in lines if names[int(line[0])]]


def phrases(folder, names):
    """Every different phrase of the training trees, with its label, in the spelling of the sentences."""
    found = {}
    for line in (folder / "sst" / "train.txt").read_text(encoding="utf-8").splitlines():
        open_ones = []
        for token in re.findall(r"\(\d|\)|[^\s()]+", line):
            if token[0] == "(":
                open_ones.append((names[int(token[1])], []))
            elif token != ")":
                open_ones[-1][1].append(token.lower().replace("\\/", "/"))
            else:
                label, words = open_ones.pop()
                if open_ones:
                    open_ones[-1][1].extend(words)
                if label:
                    found[" ".join(words), label] = None
    return list(found)


def sst(folder, count, names):
    dev, test = sentences(folder, "dev", names), sentences(folder, "test", names)
    return [Fold(phrases(folder, names), test, dev)]


def folds(rows, count):
    """The first `count` of ten folds."""
    part = np.zeros(len(rows), int)
    for label in sorted({label for _, label in rows}):
        places = [k for k, row in enumerate(rows) if row[1] == label]
        part[np.random.default_rng(0).permutation(places)] = np.arange(len(places)) % PARTS
    found = []
    for number in range(count):
        fold = Fold([], [])
        for row, own in zip(rows, part, strict=True):
            (fold.test if own == number else fold.train).append(row)
        found.append(fold)
    return found


def rt_polarity(folder, count):
    paths = ((folder / "rt-polarity" / f"rt-polarity.{label}", label) for label in ("neg", "pos"))
    rows = [(line.strip(), label) for path, label in paths for line in path.open(encoding="utf-8", newline="\n")]
    return folds(rows, count)


def customer_reviews(folder, count):
    """Its sentences, without the few lines that hold a label and no text."""
    lines = (folder / "customer-reviews" / "custrev.all").read_text(encoding="utf-8").splitlines()
    rows = [(line[2:], ("negative", "positive")[int(line[0])]) for line in lines]
    return folds([row for row in rows if row[0].strip()], count)


def phrasebank(folder, count):
    path = folder / "financial-phrasebank" / "Sentences_50Agree.txt"
    lines = path.read_text(encoding="utf-8-sig").splitlines()
    return folds([tuple(line.rsplit("@", 1)) for line in lines], count)


TWO = ("negative", "negative", "", "positive", "positive")
THREE = ("negative", "negative", "neutral", "positive", "positive")
SETS = {
    "sst2": ("SST, two classes, phrases", "86.3 (2-layer LSTM, outside vectors), 83.5 (CNN)", PHRASES,
             lambda folder, count: sst(folder, count, TWO)),
    "sst3": ("SST, three classes, phrases", "none is standard; majority 41.3", PHRASES,
             lambda folder, count: sst(folder, count, THREE)),
    "rt": ("rt-polarity", "75.9 (CNN)", SMALL, rt_polarity),
    "cr": ("customer reviews", "78.3 (CNN); majority 63.8", SMALL, customer_reviews),
    "fpb": ("Financial PhraseBank, 50% agree", "71 (LSTM, outside vectors); majority 59.4", SMALL, phrasebank),
}  # fmt: skip


def natural(text):
    """A sentence that was cut into words, with punctuation at its word again."""
    return re.sub(r"(?<=[(\[]) ", "", re.sub(r" (?=[.,!?;:)\]'])", "", text))


def changed(typed):
    """NAME=VALUE as a name and a number or a text."""
    name, _, value = typed.partition("=")
    try:
        return name, json.loads(value)
    except ValueError:
        return name, value


def write(path, rows):
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([("text", "label"), *rows])
    return str(path)


def figures(fold, cell, options, seed, pretrain, init_from):
    """The figures on the test part of a model that learned from the others."""
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch)
        train = write(root / "train.csv", fold.train)
        shared = {"seed": seed, "threads": 1, "device": "cpu", "sample_steps": 0}
        given = {**options, **shared, "task": "classify"}
        if fold.dev:
            given["validation_file"] = write(root / "dev.csv", fold.dev)
        if pretrain:
            language = root / "language"
            textgen.train(train, text_column="text", cell=cell, output_dir=str(language), **PRETRAINED, **shared)
            init_from = str(language)
        if init_from:
            given = {k: v for k, v in given.items() if k not in ("hidden_size", "embedding_size")}
            given |= {"init_from": init_from}
        else:
            given["cell"] = cell
        model = textgen.load(textgen.train(train, output_dir=str(root / "run"), **given))
        test = find_labelled([write(root / "test.csv", fold.test)], None)
        return model.metrics(read_labelled(test, SourceOptions()))


def measured(name, cell, given):
    """A cell of the table: mean accuracy over folds, and seconds."""
    _, _, options, prepare = SETS[name]
    options = {**options, **dict(given.changed)}
    began = time.process_time()
    parts = prepare(Path(given.data), given.folds)
    if given.natural:
        parts = [Fold(*([(natural(text), label) for text, label in rows] for rows in astuple(part))) for part in parts]
    found = [figures(fold, cell, options, given.seed, given.pretrain, given.init_from) for fold in parts]
    if given.plot:
        plot_confusion(found[-1], Path(given.plot))
    right = [100 * each.accuracy for each in found]
    spread = f" ± {statistics.stdev(right):.1f}" if len(right) > 1 else ""
    error = statistics.fmean(each.calibration_error for each in found)
    macro = 100 * statistics.fmean(each.macro_f1 for each in found)
    seconds = time.process_time() - began
    return f"{statistics.fmean(right):.1f}{spread} (F1 {macro:.1f}, off by {error:.2f}, {seconds:.0f} s)"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data")
    parser.add_argument("--sets", default=",".join(SETS))
    parser.add_argument("--cells", default="rnn,lstm,gru")
    parser.add_argument("--folds", type=int, default=3)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--pretrain", action="store_true")
    parser.add_argument("--init-from")
    parser.add_argument("--with", dest="changed", type=changed, action="append", default=[])
    parser.add_argument("--natural", action="store_true")
    parser.add_argument("--plot")
    given = parser.parse_args()
    cells = given.cells.split(",")
    print(f"{date.today()}, {platform.machine()}, one thread, torch {torch.__version__}, seed {given.seed}, "
          f"{given.folds} of {PARTS} folds{', from a language model of the texts' if given.pretrain else ''}"
          f"{f', from {given.init_from}' if given.init_from else ''}"
          f"{', natural punctuation' if given.natural else ''}{''.join(f', {k} {v}' for k, v in given.changed)}: "
          "test accuracy in percent (macro F1, calibration error, seconds of one processor)\n")  # fmt: skip
    print(f"| set | published, without (CNN) or with pretrained vectors | {' | '.join(cells)} |")
    print(f"|---|---|{'--:|' * len(cells)}", flush=True)
    for name in given.sets.split(","):
        title, published, *_ = SETS[name]
        row = [measured(name, cell, given) for cell in cells]
        print(f"| {title} | {published} | {' | '.join(row)} |", flush=True)


if __name__ == "__main__":
    main()

"""Completing prompts: three data sets, every cell, compared with a look-up of the most similar training prompt.

    python benchmarks/completing.py DATA_FOLDER [--sets conala,pystdlib,stories] [--cells rnn,lstm,gru]
        [--init-from MODEL]

DATA_FOLDER contains code/conala (CoNaLa: from a question to a line of Python, with rewritten questions where available;
the last 200 training pairs are held out), code/pystdlib (from the first paragraph of a docstring to the function, in
Python's standard library; functions of at most 240 characters, split by module) and stories (TinyStories: from the
first sentence to the rest of the story; a tenth for testing, a tenth held out). Models are trained on the training
part, weights are selected on the held-out part, and the table shows results on the test part alone. BLEU and exact
matches are those of `textgen evaluate`. Models have one layer of 256 units; with --init-from they start from
this model, and have its cell and size. --passes 0.1 trains for a tenth of the
epochs in `OPTIONS`, to try the script.
"""

import argparse
import gzip
import json
import math
import os
import platform
import re
import tempfile
import time
from collections import Counter
from datetime import date
from pathlib import Path

import torch

import textgen
from textgen.tasks.completion.evaluate import bleu, evaluate_pairs, exact_matches
from textgen.tasks.completion.reading import Pair

COLUMNS = {"prompt_column": "prompt", "completion_column": "completion"}
PUBLISHED = {"conala": "10.58"}
OPTIONS = {
    "conala": {"epochs": 9.0, "dropout": 0.5, "prompt_loss_weight": 0.3},
    "pystdlib": {"epochs": 4.0, "dropout": 0.3, "prompt_loss_weight": 0.3},
    "stories": {"epochs": 6.0, "dropout": 0.5, "prompt_loss_weight": 0.3},
}
"""Tried out on the held-out parts of CoNaLa and of the stories; few enough passes for one or two minutes of a core."""

LONGEST = 240
"""Characters of the functions that are taken: longer ones are beyond a small model."""


def conala(data):
    """Questions and lines of Python: (training, held out, test), each a list of (prompt, completion)."""
    both = [json.loads((data / "code" / "conala" / f"conala-{part}.json").read_text()) for part in ("train", "test")]
    train, test = ([(row["rewritten_intent"] or row["intent"], row["snippet"]) for row in part] for part in both)
    return train[:-200], train[-200:], test


def pystdlib(data):
    """Docstrings, their first paragraph, and short functions."""
    for part in ("train", "valid", "test"):
        with gzip.open(data / "code" / "pystdlib" / f"{part}.jsonl.gz", "rt", encoding="utf-8") as file:
            rows = [json.loads(line) for line in file]
        first = [" ".join(row["docstring"].strip().split("\n\n")[0].split()) for row in rows]
        functions = [f"{row['signature']}\n{row['body']}" for row in rows]
        yield [pair for pair in zip(first, functions, strict=True) if pair[0] and len(pair[1]) <= LONGEST]


def stories(data):
    """First sentences and how the stories go on."""
    told = (data / "stories" / "tinystories_sample.txt").read_text(encoding="utf-8").split("<|endoftext|>")
    pairs = [match.groups() for story in told if (match := re.match(r"\s*(.+?[.!?]\"?)\s+(\S.*\S)", story, re.DOTALL))]
    tenth = len(pairs) // 10
    return pairs[: -2 * tenth], pairs[-2 * tenth : -tenth], pairs[-tenth:]


SETS = {"conala": conala, "pystdlib": pystdlib, "stories": stories}


def nearest(training, prompts):
    """For each prompt the completion of the training prompt that shares most words with it, rare ones weighing more
    (cosine of tf-idf vectors)."""
    words = [Counter(re.findall(r"\w+|[^\w\s]", prompt.lower())) for prompt, _ in training]
    found_in = Counter(word for each in words for word in each)
    rare = {word: math.log(len(words) / number) for word, number in found_in.items()}
    vectors = [{word: number * rare[word] for word, number in each.items()} for each in words]
    sizes = [math.sqrt(sum(value**2 for value in vector.values())) or 1.0 for vector in vectors]
    for prompt in prompts:
        asked = Counter(re.findall(r"\w+|[^\w\s]", prompt.lower()))
        likeness = [
            sum(number * rare.get(word, 0.0) * vector.get(word, 0.0) for word, number in asked.items()) / size
            for vector, size in zip(vectors, sizes, strict=True)
        ]
        yield training[likeness.index(max(likeness))][1]


def compared(parts):
    """The row of the table that a model has to beat: what `nearest` finds."""
    train, _, test = parts
    began = time.process_time()
    expected, found = [pair[1] for pair in test], list(nearest(train, [pair[0] for pair in test]))
    exact = exact_matches(found, expected) / len(test)
    return ["nearest", "", "", f"{exact:.1%}", f"{bleu(found, expected):.2f}", f"{time.process_time() - began:.0f}"]


def written_to(folder, name, pairs):
    """A jsonl file of pairs."""
    path = folder / f"{name}.jsonl"
    rows = ({"prompt": prompt, "completion": completion} for prompt, completion in pairs)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def measured(name, cell, parts, folder, passes, options):
    """A row of the table: training and evaluating one cell on one set."""
    train, held, test = parts
    began = time.process_time()
    made = textgen.train(
        written_to(folder, f"{name}-train", train),
        validation_file=str(written_to(folder, f"{name}-held-out", held)),
        output_dir=str(folder / f"{name}-{cell}"),
        **({} if "init_from" in options else {"cell": cell, "hidden_size": 256}),
        **COLUMNS,
        **{**OPTIONS[name], "epochs": passes * OPTIONS[name]["epochs"], **options},
    )
    seconds = time.process_time() - began
    model = textgen.load(made)
    outcome = evaluate_pairs(model, [Pair(*(text.encode() for text in pair)) for pair in test])
    figures = outcome.to_json()
    print(f"  {name} {cell}: {model.config.num_layers} x {model.config.hidden_size}", json.dumps(figures), flush=True)
    for prompt, _ in test[:5]:
        print(f"    {prompt[:200]!r} -> {textgen.generate(model, prompt, temperature=0)[:400]!r}", flush=True)
    return [
        f"{figures['completion_loss']:.3f}", f"{figures['bits_per_byte']:.3f}",
        f"{figures['exact_match']:.1%}", f"{figures['bleu']:.2f}", f"{seconds:.0f}",
    ]  # fmt: skip


def row(*cells):
    return "| " + " | ".join(cells) + " |"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("--sets", default="conala,pystdlib,stories")
    parser.add_argument("--cells", default="rnn,lstm,gru")
    parser.add_argument("--passes", type=float, default=1.0)
    parser.add_argument("--prompt-loss-weight", type=float, help="instead of that of OPTIONS")
    parser.add_argument("--init-from", help="start from this model")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seed", type=int, default=1)
    asked = parser.parse_args()
    options = {"threads": asked.threads, "seed": asked.seed}
    if asked.init_from is not None:
        options["init_from"] = asked.init_from
    if asked.prompt_loss_weight is not None:
        options["prompt_loss_weight"] = asked.prompt_loss_weight
    print(f"{date.today()}, {platform.machine()}, {os.cpu_count()} cores, torch {torch.__version__}, {options}")
    with tempfile.TemporaryDirectory() as scratch:
        for name in asked.sets.split(","):
            parts = [list(part) for part in SETS[name](asked.data)]
            print(f"\n{name}: {' / '.join(f'{len(part):,}' for part in parts)} pairs, {OPTIONS[name]}", flush=True)
            table = [["published", "", "", "", PUBLISHED.get(name, "-"), ""], compared(parts)]
            for cell in asked.cells.split(","):
                table.append([cell, *measured(name, cell, parts, Path(scratch), asked.passes, options)])
            print("\n" + row(name, "nats per token", "bits per byte", "exact", "BLEU", "CPU seconds"))
            print(row("---", *["--:"] * 5))
            for cells in table:
                print(row(*cells), flush=True)


if __name__ == "__main__":
    main()

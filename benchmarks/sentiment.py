"""Sentiment classification on standard data sets, without pretrained vectors, next to a linear model.

    python benchmarks/sentiment.py DATA_FOLDER RECORD [--sets rt,cr,fpb,sst2,sst3] [--models linear,gru,lstm]
        [--seeds 1,2,3] [--folds 10] [--with NAME=VALUE]... [--natural] [--pretrain | --init-from MODEL] [--plot FILE]
    python benchmarks/sentiment.py DATA_FOLDER RECORD --levers [--sets rt,cr,fpb] [--folds 4]
    python benchmarks/sentiment.py DATA_FOLDER RECORD --table

DATA_FOLDER contains `sst/` (trees `train.txt`; sentences `stsa.fine.dev`, `stsa.fine.test`), `rt-polarity/`
(`rt-polarity.neg`, `rt-polarity.pos`), `customer-reviews/custrev.all` and `financial-phrasebank/Sentences_50Agree.txt`.
SST models are trained on every distinct phrase of the training trees, as in the literature, and the weights are
selected on its dev sentences. The other sets have no test part: they are split into ten stratified folds with seed 0,
and the first `--folds` are tested in turn; a tenth of the other nine is held out to select the weights. Nothing is ever
selected on a test part. `linear` is TF-IDF of words and pairs of words with logistic regression (scikit-learn, of the
extra `bench`), which is trained on all of the other nine folds; `majority` is the share of the most frequent label.

RECORD is a file of JSON lines: what is in it is not measured again, so that a run can be continued. --table prints its
tables. --levers measures other options on other folds than those that are tested, drawn with another seed.

Seconds are CPU seconds of training; speed is in texts per CPU second. With --pretrain, a language model is first
trained on the training texts without their labels, and the classifier starts from it; with --init-from it starts from
this model. --with changes a training option. With --natural, punctuation is attached to words, as people write it.
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
SMALL = {"epochs": 5.0, "average_weights": 0.998, "label_smoothing": 0.1}
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


def folds(rows, count, seed=0):
    """The first `count` of ten folds."""
    part = np.zeros(len(rows), int)
    for label in sorted({label for _, label in rows}):
        places = [k for k, row in enumerate(rows) if row[1] == label]
        part[np.random.default_rng(seed).permutation(places)] = np.arange(len(places)) % PARTS
    found = []
    for number in range(count):
        fold = Fold([], [])
        for row, own in zip(rows, part, strict=True):
            (fold.test if own == number else fold.train).append(row)
        found.append(fold)
    return found


def rt_polarity(folder, count, seed):
    paths = ((folder / "rt-polarity" / f"rt-polarity.{label}", label) for label in ("neg", "pos"))
    rows = [(line.strip(), label) for path, label in paths for line in path.open(encoding="utf-8", newline="\n")]
    return folds(rows, count, seed)


def customer_reviews(folder, count, seed):
    """Its sentences, without the few lines that hold a label and no text."""
    lines = (folder / "customer-reviews" / "custrev.all").read_text(encoding="utf-8").splitlines()
    rows = [(line[2:], ("negative", "positive")[int(line[0])]) for line in lines]
    return folds([row for row in rows if row[0].strip()], count, seed)


def phrasebank(folder, count, seed):
    path = folder / "financial-phrasebank" / "Sentences_50Agree.txt"
    lines = path.read_text(encoding="utf-8-sig").splitlines()
    return folds([tuple(line.rsplit("@", 1)) for line in lines], count, seed)


TWO = ("negative", "negative", "", "positive", "positive")
THREE = ("negative", "negative", "neutral", "positive", "positive")
SETS = {
    "sst2": ("SST, two classes, phrases", "86.3 (2-layer LSTM, outside vectors), 83.5 (CNN)", PHRASES,
             lambda folder, count, seed: sst(folder, count, TWO)),
    "sst3": ("SST, three classes, phrases", "none is standard; majority 41.3", PHRASES,
             lambda folder, count, seed: sst(folder, count, THREE)),
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


def measured(fold, given, cell, options, seed):
    """What is recorded of a model that learned from the other parts of a fold."""
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch)
        train = write(root / "train.csv", fold.train)
        shared = {"seed": seed, "threads": 1, "device": "cpu", "sample_steps": 0}
        options = {**options, **shared, "task": "classify"}
        if fold.dev:
            options["validation_file"] = write(root / "dev.csv", fold.dev)
        init_from, began = given.init_from, time.process_time()
        if given.pretrain:
            init_from = str(root / "language")
            textgen.train(train, text_column="text", cell=cell, output_dir=init_from, **PRETRAINED, **shared)
        if init_from:
            options = {k: v for k, v in options.items() if k not in ("hidden_size", "embedding_size")}
            options |= {"init_from": init_from}
        else:
            options["cell"] = cell
        model = textgen.load(textgen.train(train, output_dir=str(root / "run"), **options))
        seconds = time.process_time() - began
        test = find_labelled([write(root / "test.csv", fold.test)], None)
        found = model.metrics(read_labelled(test, SourceOptions()))
        if given.plot:
            plot_confusion(found, Path(given.plot))
        return {**scores_of(found), "seconds": round(seconds, 1), "speed": speed(model.classify, fold.test)}


def linear(fold):
    """What is recorded of TF-IDF with logistic regression, whose strength is what suits these sets best."""
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import f1_score
    from sklearn.pipeline import make_pipeline

    began = time.process_time()
    pipeline = make_pipeline(TfidfVectorizer(ngram_range=(1, 2)), LogisticRegression(C=10, max_iter=1000))
    pipeline.fit([text for text, _ in fold.train], [label for _, label in fold.train])
    seconds = time.process_time() - began
    found, true = pipeline.predict([text for text, _ in fold.test]), [label for _, label in fold.test]
    macro = 100 * f1_score(true, found, average="macro")
    counted = {"accuracy": round(100 * float(np.mean(found == np.array(true))), 3), "macro_f1": round(macro, 2)}
    return {**counted, "texts": len(true), "seconds": round(seconds, 1), "speed": speed(pipeline.predict, fold.test)}


def majority(fold):
    """What is recorded of predicting the most frequent label of the training texts."""
    labels = [label for _, label in fold.train]
    common = max(sorted({*labels}), key=labels.count)
    right = [label == common for _, label in fold.test]
    return {"accuracy": round(100 * statistics.fmean(right), 3), "texts": len(right)}


def scores_of(found):
    return {
        "accuracy": round(100 * found.accuracy, 3),
        "macro_f1": round(100 * found.macro_f1, 2),
        "calibration_error": round(found.calibration_error, 4),
        "texts": found.texts,
    }


def speed(classify, rows):
    """Texts per CPU second."""
    texts = [text for text, _ in rows] * max(1, 2000 // len(rows))
    began = time.process_time()
    classify(texts)
    return round(len(texts) / (time.process_time() - began))


LEVERS = {
    "default": {},
    "no n-grams": {"ngrams": False},
    "one member": {"ensemble": 1},
    "two members": {"ensemble": 2},
    "one member of 128 units": {"ensemble": 1, "hidden_size": 128, "embedding_size": 128},
    "label smoothing 0": {"label_smoothing": 0.0},
    "pooling mean": {"pooling": "mean"},
    "dropout 0.7": {"dropout": 0.7},
    "lstm": {"cell": "lstm"},
}
"""Options that are measured on development folds, each alone."""
DEVELOPMENT = 77
"""The seed of the development folds."""


def jobs(given):
    """What is to be measured: the name of the model, its set, fold and seed, and the options that differ."""
    for name in given.sets.split(","):
        parts = SETS[name][3](Path(given.data), given.folds, DEVELOPMENT if given.levers else 0)
        for seed in map(int, given.seeds.split(",")):
            for number, part in enumerate(parts):
                fold = part
                if given.natural:
                    fold = Fold(*([(natural(text), label) for text, label in rows] for rows in astuple(part)))
                models = {"linear": {}} | LEVERS if given.levers else {name: {} for name in given.models.split(",")}
                for model, changes in models.items():
                    fixed = model in ("linear", "majority")
                    if not fixed or seed == 1:
                        about = {"set": name, "model": model + given.note, "fold": number, "seed": seed}
                        yield about | {"development": given.levers}, fold, {**changes, **dict(given.changed)}


def run(given):
    """Measure what the record lacks."""
    known = [json.loads(line) for line in given.record.read_text().splitlines()] if given.record.exists() else []
    done = {key(each) for each in known}
    for about, fold, changes in jobs(given):
        if key(about) in done:
            continue
        name = about["model"].removesuffix(given.note)
        if name in ("linear", "majority"):
            found = linear(fold) if name == "linear" else majority(fold)
        else:
            cell = changes.pop("cell", "gru" if given.levers else name)
            found = measured(fold, given, cell, {**SETS[about["set"]][2], **changes}, about["seed"])
        with given.record.open("a") as file:
            file.write(json.dumps({**about, **found}) + "\n")


def key(entry):
    return tuple(entry[name] for name in ("set", "model", "fold", "seed", "development"))


def interval(entries):
    """The mean accuracy and half the width of its 95 % interval: by Student's t over folds, whose seeds are averaged
    first; of one test part by the normal distribution of a share."""
    folds = {}
    for each in entries:
        folds.setdefault(each["fold"], []).append(each["accuracy"])
    means = [statistics.fmean(found) for found in folds.values()]
    mean = statistics.fmean(means)
    if len(means) == 1:
        return mean, 1.96 * (mean * (100 - mean) / entries[0]["texts"]) ** 0.5
    return mean, T.get(len(means), 2.0) * statistics.stdev(means) / len(means) ** 0.5


T = {2: 12.71, 3: 4.30, 4: 3.18, 5: 2.78, 6: 2.57, 7: 2.45, 8: 2.36, 9: 2.31, 10: 2.26}
"""The 97.5 % quantile of Student's t for the mean of so many folds."""


def tables(record):
    """The tables of a record, as text."""
    entries = [json.loads(line) for line in record.read_text().splitlines()]
    for development in (False, True):
        chosen = [each for each in entries if each["development"] == development]
        if not chosen:
            continue
        print(f"{'development folds' if development else 'test folds'}: accuracy in percent with its 95 % interval\n")
        print(
            "| set | model | folds x seeds | accuracy | macro F1 | calibration error | CPU seconds | texts per second |"
        )
        print("|---|---|--:|--:|--:|--:|--:|--:|")
        found = dict.fromkeys((each["set"], each["model"]) for each in chosen)
        for name, model in sorted(found, key=lambda pair: list(SETS).index(pair[0])):
            rows = [each for each in chosen if (each["set"], each["model"]) == (name, model)]
            mean, half = interval(rows)
            cells = [mean_of(rows, "macro_f1", 1), mean_of(rows, "calibration_error", 3), mean_of(rows, "seconds", 0)]
            cells += [mean_of(rows, "speed", 0)]
            print(f"| {SETS[name][0]} | {model} | {len(rows)} | {mean:.1f} ± {half:.1f} | {' | '.join(cells)} |")
        print()


def mean_of(rows, name, digits):
    values = [each[name] for each in rows if name in each]
    return f"{statistics.fmean(values):,.{digits}f}" if values else ""


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data")
    parser.add_argument("record", type=Path)
    parser.add_argument("--sets", default="rt,cr,fpb")
    parser.add_argument("--models", default="majority,linear,gru")
    parser.add_argument("--folds", type=int, default=10)
    parser.add_argument("--seeds", default="1")
    parser.add_argument("--levers", action="store_true")
    parser.add_argument("--table", action="store_true")
    parser.add_argument("--note", default="", help="added to the names of models in the record")
    parser.add_argument("--pretrain", action="store_true")
    parser.add_argument("--init-from")
    parser.add_argument("--with", dest="changed", type=changed, action="append", default=[])
    parser.add_argument("--natural", action="store_true")
    parser.add_argument("--plot")
    given = parser.parse_args()
    if not given.table:
        run(given)
    print(f"{date.today()}, {platform.machine()}, one thread, torch {torch.__version__}\n")
    tables(given.record)


if __name__ == "__main__":
    main()

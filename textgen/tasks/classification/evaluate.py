"""`textgen evaluate` and `textgen predict` with a classifier.

`evaluate` prints metrics; `predict` a line for each text, as soon as it is known.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable, Iterator
from dataclasses import replace
from itertools import chain

import numpy as np

from textgen.data.encodings import AUTO, Decoding, begins_mark, to_utf8
from textgen.data.recipes import VALIDATION
from textgen.data.sources import SourceOptions
from textgen.distributed import world
from textgen.errors import UsageError, require
from textgen.formatting import plural
from textgen.generation.sampling import log_softmax
from textgen.screen import Output, say, warn
from textgen.tasks import Request
from textgen.tasks.classification.calibration import cross_fitted, fit_temperature
from textgen.tasks.classification.model import Classifier, Prediction, answers, log_probabilities
from textgen.tasks.classification.model import load as load
from textgen.tasks.classification.reading import (
    Lines,
    Unlabelled,
    find_labelled,
    find_texts,
    read_labelled,
    read_texts,
)
from textgen.tasks.metrics import ClassificationMetrics, plot_confusion, shown

READ_BYTES = 1 << 16


def evaluate(request: Request) -> None:
    """Evaluate the predictions of a model on a corpus, or on the held-out part of its run."""
    plot = request.outputs.get("plot")
    if plot is not None:
        require("matplotlib")
    metrics = _of_corpus(request) if request.inputs else _of_held_out(request)
    if not world().leads:
        return
    lines = [shown(metrics), *_notes(metrics, not request.inputs)]
    Output().write((json.dumps(metrics.to_json(), ensure_ascii=False) if request.as_json else "\n".join(lines)) + "\n")
    if plot is not None:
        plot.check()
        plot_confusion(metrics, plot.path)
        say(f"plot: {plot.path}")


def _of_corpus(request: Request) -> ClassificationMetrics:
    reading = request.reading
    origins = find_labelled(request.inputs, reading.text_column, reading.label_column)
    model: Classifier = request.load()
    metrics = model.metrics(read_labelled(origins, reading.options, reading.label_column))
    return replace(metrics, temperature=model.temperature)


def _of_held_out(request: Request) -> ClassificationMetrics:
    texts, labels = request.held_out().labelled(VALIDATION)
    model: Classifier = request.load()
    raw = log_probabilities(model.reader, texts, model.pooling)
    found = raw
    if model.temperature != 1:
        scores = cross_fitted(raw, lambda half: fit_temperature(raw[half], labels[half]))
        found = log_softmax(scores).astype(np.float64)
    return replace(ClassificationMetrics.of(model.labels, labels, found), temperature=model.temperature)


def _notes(metrics: ClassificationMetrics, held_out: bool) -> list[str]:
    """A note on the temperature."""
    if not held_out or metrics.temperature in (None, 1.0):
        return []
    return [
        f"The temperature {metrics.temperature:.2f} of this model was fitted on these texts. So that the loss and the "
        "calibration error are not flattered, each half was measured with a temperature of the other half."
    ]


def predict(request: Request) -> None:
    """Print the label of every text and the probability of each label: a tab-separated table, or one JSON object per
    line."""
    if not request.inputs:
        raise UsageError("no text given.", hint="textgen predict FILE, or - to read lines from standard input.")
    reading, options = request.reading, request.reading.options
    whole = bool(reading.whole_files)
    by_line = not whole and options.document_separator is None and options.encoding != AUTO
    piped = request.inputs == ("-",) and by_line
    sources = [] if piped else find_texts(request.inputs, reading.text_column)
    model: Classifier = request.load()
    texts = piped_lines(options) if piped else read_texts(sources, options, whole, reading.label_column)
    _write(model, texts, request.as_json, at_once=piped)


def _write(model: Classifier, texts: Iterable[Unlabelled | None], as_json: bool, at_once: bool) -> None:
    """Print the predictions below a header, which is printed `at_once` or when the first text has been read."""
    output, empty = Output(), 0
    at_once = at_once and world().size == 1
    header = "" if as_json else "\t".join(map(_cell, ["label", *model.labels])) + "\n"
    if at_once:
        output.write(header)
    for number, (where, answer) in enumerate(answers(model, texts)):
        if number == 0 and not at_once:
            output.write(header)
        empty += answer is None
        output.write((_object(where, answer) if as_json else _line(answer)) + "\n")
    if empty:
        warn(f"{plural(empty, 'text')} without content got no label.")


def piped_lines(options: SourceOptions) -> Iterator[Unlabelled | None]:
    """The lines of standard input as they arrive, and None whenever no more input is available yet."""
    if sys.stdin is None or sys.stdin.isatty():
        raise UsageError("'-' reads texts from a pipe, not from a terminal.", hint="cat FILE | textgen predict -")
    handle = sys.stdin.fileno()
    head = os.read(handle, READ_BYTES)
    while begins_mark(head) and (more := os.read(handle, READ_BYTES)):
        head += more
    blocks = chain([head], iter(lambda: os.read(handle, READ_BYTES), b""))
    known = Decoding(options.encoding, from_training=options.from_training)
    number, split = 0, Lines()
    for piece in chain(to_utf8(filter(None, blocks), head, "standard input", known), [None]):
        for line in split.add(piece) if piece is not None else split.rest():
            number += 1
            yield Unlabelled(f"line {number} of standard input", [line] if line.strip() else [])
        yield None


def _line(answer: Prediction | None) -> str:
    if answer is None:
        return ""
    return "\t".join([_cell(answer.label), *[f"{value:.4f}" for value in answer.probabilities.values()]])


def _cell(text: str) -> str:
    """A label as one cell of a table."""
    return " ".join(text.split())


def _object(where: str, answer: Prediction | None) -> str:
    probabilities = answer and {label: round(value, 6) for label, value in answer.probabilities.items()}
    content = {"text": where, "label": answer and answer.label, "probabilities": probabilities}
    return json.dumps(content, ensure_ascii=False)

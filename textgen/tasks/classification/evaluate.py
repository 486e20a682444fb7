"""`textgen evaluate` and `textgen predict` with a classifier.

`evaluate` prints accuracy, F1, a confusion matrix and the calibration error; `predict` a line for each text, as soon
as it is known.
"""

from __future__ import annotations

import json
import os
import sys
from collections import deque
from collections.abc import Iterable, Iterator
from itertools import chain
from typing import cast

from textgen.data.encodings import AUTO, Decoding, begins_mark, to_utf8
from textgen.data.recipes import VALIDATION
from textgen.data.sources import SourceOptions
from textgen.errors import UsageError, require
from textgen.formatting import count, plural, table
from textgen.screen import Output, say, warn
from textgen.tasks import Request
from textgen.tasks.classification.classifier import (
    ClassificationMetrics,
    Classifier,
    Prediction,
    log_probabilities,
    plot_confusion,
)
from textgen.tasks.classification.data import ClassificationData
from textgen.tasks.classification.reading import Lines, Unlabelled, find_labelled, find_texts, read_labelled, read_texts

MOST_COLUMNS = 20
"""Above this number of labels, only the F1 table is printed; --json has the full matrix."""


def evaluate(request: Request) -> None:
    """Evaluate the predictions of a model on a corpus, or on the held-out part of its run."""
    plot = request.outputs.get("plot")
    if plot is not None:
        require("matplotlib")
    metrics = _of_corpus(request) if request.inputs else _of_held_out(request)
    print_metrics(metrics, request)
    if plot is not None:
        plot.check()
        plot_confusion(metrics, plot.path)
        say(f"plot: {plot.path}")


def print_metrics(metrics: ClassificationMetrics, request: Request) -> None:
    """Print metrics as a line and a table, or as JSON if the request says so."""
    Output().write((json.dumps(metrics.to_json(), ensure_ascii=False) if request.as_json else shown(metrics)) + "\n")


def _of_corpus(request: Request) -> ClassificationMetrics:
    reading = request.reading
    origins = find_labelled(request.inputs, reading.text_column, reading.label_column)
    model: Classifier = request.load()
    return model.metrics(read_labelled(origins, reading.options, reading.label_column))


def _of_held_out(request: Request) -> ClassificationMetrics:
    held_out = cast(ClassificationData, request.held_out()).part(VALIDATION)
    model: Classifier = request.load()
    predicted = log_probabilities(model.reader, held_out.texts, model.pooling)
    return ClassificationMetrics.of(model.labels, held_out.labels, predicted)


def shown(metrics: ClassificationMetrics) -> str:
    """The metrics in a line, and a table with a row for each true label: predicted counts and F1."""
    line = (
        f"accuracy {metrics.accuracy:.2%} · macro F1 {metrics.macro_f1:.4f} · "
        f"{metrics.loss:.4f} nats per {metrics.unit} · calibration error {metrics.calibration_error:.4f} · "
        f"{count(metrics.texts)} {metrics.unit}s"
    )
    narrow = len(metrics.labels) <= MOST_COLUMNS
    columns = list(metrics.labels) if narrow else []
    rows = [
        {
            "true \\ predicted": label,
            **{f"{other} ": count(number) for other, number in zip(columns, counts, strict=False)},
            f"{metrics.unit}s": count(counts.sum()),
            "F1": "-" if f1 != f1 else f"{f1:.4f}",
        }
        for label, counts, f1 in zip(metrics.labels, metrics.confusion, metrics.f1, strict=True)
    ]
    return f"{line}\n\n{table(rows, list(rows[0]))}"


READ_BYTES = 1 << 16


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


def answers(model: Classifier, texts: Iterable[Unlabelled | None]) -> Iterator[tuple[str, Prediction | None]]:
    """The location and prediction of each text, in order; None among the texts flushes the collected ones."""
    places: deque[str] = deque()

    def pieces() -> Iterator[Iterable[bytes] | None]:
        for text in texts:
            if text is not None:
                places.append(text.where)
            yield None if text is None else text.chunks

    for answer in model.stream(pieces()):
        yield places.popleft(), answer


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

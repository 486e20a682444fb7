"""`textgen evaluate` with a classifier: accuracy, F1, a confusion matrix, the calibration error."""

from __future__ import annotations

import json
from typing import cast

from textgen.dependencies import require
from textgen.labels.classifier import Classifier
from textgen.labels.data import ClassificationData
from textgen.labels.figures import ClassificationMetrics
from textgen.labels.plot import plot_confusion
from textgen.labels.read import find_labelled, read_labelled
from textgen.labels.texts import log_probabilities
from textgen.screen import Output, say
from textgen.tasks.base import Request
from textgen.text.split import VALIDATION
from textgen.wording import count, table

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

"""textgen evaluate with a model that tells labels: accuracy, F1, a confusion matrix, the calibration error."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from textgen.cli.screen import Output, say
from textgen.errors import TextgenError, UsageError
from textgen.wording import count, table

if TYPE_CHECKING:
    from textgen.cli.evaluate import EvaluationRequest
    from textgen.labels.figures import ClassificationMetrics

MOST_COLUMNS = 20
"""With more labels than this the table of F1 is shown alone: the matrix is in --json."""


def evaluate(request: EvaluationRequest) -> int:
    """Compare what a model says with the labels of a corpus, or of what its run held out."""
    from textgen.dependencies import require
    from textgen.labels.plot import plot_confusion
    from textgen.text.bulk import usable_cores
    from textgen.threads import use_threads

    if request.plot is not None:
        require("matplotlib")
    use_threads(request.threads or usable_cores())
    figures = _of_corpus(request) if request.corpus else _of_held_out(request.folder)
    Output().write((json.dumps(figures.to_json(), ensure_ascii=False) if request.as_json else shown(figures)) + "\n")
    if request.plot is not None:
        request.plot.check()
        plot_confusion(figures, request.plot.path)
        say(f"plot: {request.plot.path}")
    return 0


def _of_corpus(request: EvaluationRequest) -> ClassificationMetrics:
    from textgen.labels.predict import load
    from textgen.labels.read import find_labelled, read_labelled

    reading = request.reading
    origins = find_labelled(request.corpus, reading.text_column, reading.label_column)
    return load(request.folder).figures(read_labelled(origins, reading.options, reading.label_column))


def _of_held_out(folder: Path) -> ClassificationMetrics:
    from textgen.labels.data import LabelsData
    from textgen.labels.evaluate import evaluate_encoded
    from textgen.labels.predict import load
    from textgen.text.split import VALIDATION
    from textgen.training.checkpoint import Run
    from textgen.training.train import data_of

    try:
        data = data_of(Run(folder))
    except TextgenError as error:
        raise TextgenError(
            f"the held-out part of {str(folder)!r} is not available: {error}", hint="textgen evaluate FILE"
        ) from error
    assert isinstance(data, LabelsData)
    held_out = data.part(VALIDATION)
    if not len(held_out.labels):
        raise UsageError(f"{str(folder)!r} has no held-out part.", hint="textgen evaluate FILE")
    return evaluate_encoded(load(folder), held_out.texts, held_out.labels)


def shown(figures: ClassificationMetrics) -> str:
    """The figures in a line, and a table with a row for each true label: how often each was told, and F1."""
    line = (
        f"accuracy {figures.accuracy:.2%} · macro F1 {figures.macro_f1:.4f} · {figures.loss:.4f} nats per text · "
        f"calibration error {figures.calibration_error:.4f} · {count(figures.texts)} texts"
    )
    narrow = len(figures.labels) <= MOST_COLUMNS
    told = list(figures.labels) if narrow else []
    rows = [
        {
            "true \\ predicted": label,
            **{f"{other} ": count(number) for other, number in zip(told, counts, strict=False)},
            "texts": count(counts.sum()),
            "F1": "-" if f1 != f1 else f"{f1:.4f}",
        }
        for label, counts, f1 in zip(figures.labels, figures.confusion, figures.f1, strict=True)
    ]
    return f"{line}\n\n{table(rows, list(rows[0]))}"

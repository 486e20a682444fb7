"""Metrics of classification, for any task whose models predict labels: of a text, or of a token.

Accuracy, macro F1, the loss, the calibration error and the confusion matrix, which can also be printed as a table and
drawn as a picture: a row for each true label.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from textgen.errors import require
from textgen.formatting import count, table
from textgen.generation.sampling import log_softmax
from textgen.model.stepper import TokenStepper
from textgen.screen import Output
from textgen.storage import filesystem
from textgen.storage.outputs import to_png
from textgen.tasks.data import IGNORED, Texts

BINS = 15
"""Bins of confidence for the calibration error, as in Guo et al. 2017."""

MOST_COLUMNS = 20
"""Above this number of labels, only the F1 table is printed; --json has the full matrix."""


THRESHOLDS = (0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99)
"""The confidences for which `textgen evaluate --json` says how many texts would get a label, and how many rightly."""


@dataclass(frozen=True)
class Coverage:
    """A model that gives no label below a confidence: the share of texts that get one, and the share of right labels
    among those, None if there are none."""

    threshold: float
    texts: int
    coverage: float
    accuracy: float | None

    def __str__(self) -> str:
        accuracy = "" if self.accuracy is None else f" · accuracy {self.accuracy:.2%} of those"
        return f"confidence at least {self.threshold:g}: coverage {self.coverage:.2%} ({count(self.texts)}){accuracy}"


@dataclass(frozen=True)
class ClassificationMetrics:
    """The metrics of predictions for texts whose labels are known.

    `confusion` (C, C) holds counts: a row for each true label, a column for each predicted one, in the order of
    `labels`; `nats` is the sum over texts of -log p(true label); `calibration_error` (ECE), from 0 to 1, is the mean
    distance between confidence and accuracy. `confidence` (N,) holds the probability of each predicted label, and
    `right` (N,) whether it is the true one.
    """

    columns: ClassVar = ("loss", "accuracy", "macro F1")

    labels: tuple[str, ...]
    confusion: npt.NDArray[np.int64]
    nats: float
    calibration_error: float
    unit: str = "text"
    """What has a label: a text, or a token."""
    temperature: float | None = None
    """The temperature of the model, if it has one. While training it is what would calibrate the predictions measured;
    in `textgen evaluate` they are calibrated."""
    blend: tuple[float, float] | None = None
    """The weights of the recurrent model and of the linear one, if there is one."""
    confidence: npt.NDArray[np.float64] = field(default_factory=lambda: np.zeros(0), repr=False, compare=False)
    right: npt.NDArray[np.bool_] = field(default_factory=lambda: np.zeros(0, np.bool_), repr=False, compare=False)

    @classmethod
    def of(
        cls,
        labels: Sequence[str],
        true: npt.NDArray[np.integer[Any]],
        log_probabilities: npt.NDArray[np.floating[Any]],
        unit: str = "text",
    ) -> ClassificationMetrics:
        """The metrics of N texts: the indices of their true labels (N,) and log-probabilities (N, C) in nats."""
        predicted = log_probabilities.argmax(axis=1)
        confusion = np.zeros((len(labels), len(labels)), np.int64)
        np.add.at(confusion, (true, predicted), 1)
        nats = -float(log_probabilities[np.arange(len(true)), true].sum(dtype=np.float64))
        confidence = np.exp(log_probabilities[np.arange(len(true)), predicted].astype(np.float64))
        right = predicted == true
        error = calibration_error(confidence, right)
        return cls(tuple(labels), confusion, nats, error, unit, confidence=confidence, right=right)

    @classmethod
    def of_predictions(
        cls, labels: Sequence[str], true: npt.NDArray[np.integer[Any]], predicted: npt.NDArray[np.integer[Any]]
    ) -> ClassificationMetrics:
        """The metrics of N predictions without probabilities, given as indices of labels, like the true ones (N,): what
        needs probabilities is NaN."""
        confusion = np.zeros((len(labels), len(labels)), np.int64)
        np.add.at(confusion, (true, predicted), 1)
        return cls(tuple(labels), confusion, np.nan, np.nan)

    @classmethod
    def of_tokens(
        cls, labels: Sequence[str], stepper: TokenStepper, texts: Texts, true: npt.NDArray[np.integer[Any]]
    ) -> ClassificationMetrics:
        """The metrics of a model that predicts a label for every token, given their indices (S,), or `IGNORED`."""
        counts = true != IGNORED
        return cls.of(labels, true[counts], log_softmax(texts.outputs(stepper)[counts]), "token")

    @property
    def texts(self) -> int:
        return int(self.confusion.sum())

    @property
    def loss(self) -> float:
        """Mean nats per text."""
        return self.nats / max(1, self.texts)

    @property
    def accuracy(self) -> float:
        return float(np.trace(self.confusion)) / max(1, self.texts)

    @property
    def criterion(self) -> float:
        """The error rate; ties are decided by the loss."""
        return 1 - self.accuracy + self.loss / (1 + self.loss) / (self.texts + 1)

    @property
    def f1(self) -> npt.NDArray[np.float64]:
        """F1 of each label, (C,): the harmonic mean of precision and recall; NaN for a label that neither occurs nor is
        predicted."""
        hits = np.diag(self.confusion).astype(np.float64)
        either = self.confusion.sum(axis=0) + self.confusion.sum(axis=1)
        found: npt.NDArray[np.float64] = np.full(len(hits), np.nan)
        np.divide(2 * hits, either, out=found, where=either > 0)
        return found

    @property
    def macro_f1(self) -> float:
        """The mean F1 of the labels that occur or are predicted; 0 without texts."""
        return float(np.nanmean(self.f1)) if self.texts else 0.0

    @property
    def summary(self) -> dict[str, float]:
        """The metrics by which classifiers are compared, from 0 to 1."""
        return {"accuracy": self.accuracy, "macro_f1": self.macro_f1}

    def covered(self, threshold: float) -> Coverage:
        """What remains if a label needs this confidence."""
        labelled = self.confidence >= threshold
        number = int(labelled.sum())
        accuracy = float(self.right[labelled].mean()) if number else None
        return Coverage(threshold, number, number / max(1, len(labelled)), accuracy)

    def to_json(self) -> dict[str, Any]:
        """All metrics by name; F1 is null for a label that neither occurs nor is predicted."""
        blend = self.blend and dict(zip(("recurrent", "linear"), self.blend, strict=True))
        fitted = {"temperature": self.temperature, "blend": blend}
        fitted = {name: value for name, value in fitted.items() if value is not None}
        return {
            f"{self.unit}s": self.texts,
            "accuracy": self.accuracy,
            "macro_f1": self.macro_f1,
            f"nats_per_{self.unit}": self.loss,
            "calibration_error": self.calibration_error,
            "labels": list(self.labels),
            "f1": [None if np.isnan(value) else float(value) for value in self.f1],
            "confusion": self.confusion.tolist(),
            **fitted,
        }

    def shown(self) -> dict[str, str]:
        """The columns of the training table."""
        shown = (f"{self.loss:.4f}", f"{self.accuracy:.2%}", f"{self.macro_f1:.4f}")
        return dict(zip(self.columns, shown, strict=True))


def calibration_error(confidence: npt.NDArray[np.float64], right: npt.NDArray[np.bool_], bins: int = BINS) -> float:
    """The expected calibration error of N predictions: their confidences (N,) from 0 to 1, and whether each is right.

    Predictions are put into `bins` equal intervals of confidence; the distance between mean confidence and accuracy in
    each is weighted by its number of predictions (Naeini et al. 2015; Guo et al. 2017).
    """
    if not len(confidence):
        return 0.0
    place = np.clip(np.ceil(confidence * bins).astype(np.int64) - 1, 0, bins - 1)
    surplus = np.bincount(place, confidence - right, minlength=bins)
    return float(np.abs(surplus).sum() / len(confidence))


def print_metrics(metrics: ClassificationMetrics, as_json: bool) -> None:
    """Print metrics as a line and a table, or as JSON."""
    Output().write((json.dumps(metrics.to_json(), ensure_ascii=False) if as_json else shown(metrics)) + "\n")


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


INK, PALE = "#333333", "#FFFFFF"
MOST_NUMBERS = 30
"""With more labels than this, the cells are too small for numbers."""


def plot_confusion(metrics: ClassificationMetrics, path: Path) -> None:
    """Write a PNG: colours are shares of the row, numbers count texts. Raises TextgenError without matplotlib."""
    require("matplotlib")
    from matplotlib.figure import Figure

    counts, labels = metrics.confusion, [_short(label) for label in metrics.labels]
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    size = min(20.0, 2.6 + 0.75 * len(labels))
    figure = Figure(figsize=(size + 0.8, size), dpi=160, layout="constrained")
    axes = figure.subplots()
    image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    axes.set_xticks(range(len(labels)), labels, rotation=90 if len(labels) > 6 else 0, parse_math=False)
    axes.set_yticks(range(len(labels)), labels, parse_math=False)
    axes.set_xlabel("predicted label", color=INK)
    axes.set_ylabel("true label", color=INK)
    axes.tick_params(colors=INK, length=0)
    axes.spines[:].set_visible(False)
    for row, column in np.ndindex(*counts.shape) if len(labels) <= MOST_NUMBERS else ():
        colour = PALE if shares[row, column] > 0.55 else INK
        axes.text(column, row, f"{counts[row, column]:,}", ha="center", va="center", color=colour)
    bar = figure.colorbar(image, ax=axes, fraction=0.046, pad=0.03)
    bar.set_label("share of the true label's texts", color=INK)
    bar.outline.set_visible(False)
    bar.ax.tick_params(colors=INK, length=0)
    axes.set_title(f"accuracy {metrics.accuracy:.1%} of {metrics.texts:,} texts", color=INK, fontsize=11, loc="left")
    filesystem.write_output(path, to_png(figure))


def _short(label: str) -> str:
    return label if len(label) <= 24 else label[:23] + "…"

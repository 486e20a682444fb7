"""Metrics of classification: accuracy, macro F1, the confusion matrix, the loss and the calibration error."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

BINS = 15
"""Bins of confidence for the calibration error, as in Guo et al. 2017."""


@dataclass(frozen=True)
class ClassificationMetrics:
    """The metrics of predictions for texts whose labels are known.

    `confusion` (C, C) holds counts: a row for each true label, a column for each predicted one, in the order of
    `labels`; `nats` is the sum over texts of -log p(true label); `calibration_error` (ECE), from 0 to 1, is the mean
    distance between confidence and accuracy.
    """

    labels: tuple[str, ...]
    confusion: npt.NDArray[np.int64]
    nats: float
    calibration_error: float
    unit: str = "text"
    """What has a label: a text, or a token."""

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
        return cls(tuple(labels), confusion, nats, calibration_error(confidence, predicted == true), unit)

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

    def to_json(self) -> dict[str, Any]:
        """All metrics by name; F1 is null for a label that neither occurs nor is predicted."""
        return {
            f"{self.unit}s": self.texts,
            "accuracy": self.accuracy,
            "macro_f1": self.macro_f1,
            f"nats_per_{self.unit}": self.loss,
            "calibration_error": self.calibration_error,
            "labels": list(self.labels),
            "f1": [None if np.isnan(value) else float(value) for value in self.f1],
            "confusion": self.confusion.tolist(),
        }

    def shown(self) -> dict[str, str]:
        """The columns of the training table."""
        return {"loss": f"{self.loss:.4f}", "accuracy": f"{self.accuracy:.2%}", "macro F1": f"{self.macro_f1:.4f}"}


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

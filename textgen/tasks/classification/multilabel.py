"""Several labels per text: the probability of each label by itself, and the metrics of sets of labels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, ClassVar, Self

import numpy as np
import numpy.typing as npt

from textgen.formatting import count, table
from textgen.tasks.classification.calibration import lowest, smoothed
from textgen.tasks.metrics import calibration_error

Floats = npt.NDArray[np.floating[Any]]
Integers = npt.NDArray[np.integer[Any]]

THRESHOLD = 0.5
"""The probability from which a label is predicted, unless another one is asked for."""

THRESHOLDS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
"""The thresholds for which `textgen evaluate --json` gives metrics."""

SMALLEST = float(np.finfo(np.float64).tiny)


def sigmoid(scores: Floats) -> npt.NDArray[np.float64]:
    """The probability of each label, given its score, the log-odds."""
    found: npt.NDArray[np.float64] = np.exp(-np.logaddexp(0.0, -scores.astype(np.float64)))
    return found


def nats_of(scores: Floats, true: npt.NDArray[Any]) -> float:
    """The summed binary cross entropy of scores (N, C), given which labels each text has (N, C)."""
    return float((np.logaddexp(0.0, scores) - scores * true).sum(dtype=np.float64))


def fit_temperature(scores: Floats, true: Integers) -> float:
    """The temperature of scores (N, C), given which labels each text has (N, C)."""
    smooth = smoothed(true, len(true), 2)
    return lowest(
        lambda temperature: nats_of(scores / temperature, smooth),
        lambda temperature: nats_of(scores / temperature, true),
    )


@dataclass(frozen=True)
class MultiLabelMetrics:
    """The metrics of predicted sets of labels for N texts whose labels are known.

    `true` (N, C) and `probabilities` (N, C) are in the order of `labels`; a label is predicted if its probability
    reaches `threshold`. F1 is the harmonic mean of precision and recall: micro over all decisions, macro as the mean
    over the labels that occur or are predicted. `subset_accuracy` is the share of texts whose labels are all right.
    """

    columns: ClassVar = ("loss", "micro F1", "macro F1")

    labels: tuple[str, ...]
    true: Integers = field(repr=False, compare=False)
    probabilities: Floats = field(repr=False, compare=False)
    nats: float = np.nan
    threshold: float = THRESHOLD
    temperature: float | None = None
    """The temperature of the model, if it has one (`textgen.tasks.metrics.ClassificationMetrics`)."""
    blend: tuple[float, float] | None = None
    """The weights of the recurrent model and of the linear one, if there is one."""

    @classmethod
    def of_scores(cls, labels: Sequence[str], true: Integers, scores: Floats) -> Self:
        """The metrics of scores (N, C), the log-odds of each label."""
        return cls(tuple(labels), true, sigmoid(scores), nats_of(scores, true))

    @classmethod
    def of_probabilities(cls, labels: Sequence[str], true: Integers, probabilities: Floats) -> Self:
        """The metrics of probabilities (N, C)."""
        chosen = np.where(true > 0, probabilities, 1 - probabilities)
        return cls(tuple(labels), true, probabilities, -float(np.log(np.maximum(chosen, SMALLEST)).sum()))

    @cached_property
    def predicted(self) -> npt.NDArray[np.bool_]:
        """Which labels are predicted, (N, C)."""
        found: npt.NDArray[np.bool_] = self.probabilities >= self.threshold
        return found

    @cached_property
    def counts(self) -> npt.NDArray[np.int64]:
        """How often each label is predicted rightly, is predicted, and occurs: (3, C)."""
        true = self.true > 0
        return np.stack([(self.predicted & true).sum(axis=0), self.predicted.sum(axis=0), true.sum(axis=0)])

    @property
    def texts(self) -> int:
        return len(self.true)

    @property
    def loss(self) -> float:
        """Mean nats per text, summed over its labels."""
        return self.nats / max(1, self.texts)

    @property
    def criterion(self) -> float:
        """1 - micro F1; ties are decided by the loss."""
        return 1 - self.micro_f1 + 1e-6 * self.loss / (1 + self.loss)

    @property
    def micro_f1(self) -> float:
        """0 if no label occurs or is predicted."""
        hits, predicted, true = self.counts.sum(axis=1).tolist()
        return float(2 * hits / max(1, predicted + true))

    @property
    def f1(self) -> npt.NDArray[np.float64]:
        """F1 of each label, (C,); NaN for a label that neither occurs nor is predicted."""
        hits, predicted, true = self.counts.astype(np.float64)
        found: npt.NDArray[np.float64] = np.full(len(hits), np.nan)
        np.divide(2 * hits, predicted + true, out=found, where=predicted + true > 0)
        return found

    @property
    def macro_f1(self) -> float:
        known = self.f1[~np.isnan(self.f1)]
        return float(known.mean()) if len(known) else 0.0

    @property
    def subset_accuracy(self) -> float:
        return float((self.predicted == (self.true > 0)).all(axis=1).mean()) if self.texts else 0.0

    @property
    def calibration_error(self) -> float:
        """The mean distance between the probability of a label and how often it occurs."""
        return calibration_error(self.probabilities.ravel().astype(np.float64), self.true.ravel() > 0)

    @property
    def summary(self) -> dict[str, float]:
        """The metrics by which classifiers are compared, from 0 to 1."""
        return {"micro_f1": self.micro_f1, "macro_f1": self.macro_f1, "subset_accuracy": self.subset_accuracy}

    def to_json(self) -> dict[str, Any]:
        """All metrics by name; F1 is null for a label that neither occurs nor is predicted."""
        hits, predicted, true = self.counts.tolist()
        fitted = {} if self.temperature is None else {"temperature": self.temperature}
        return {
            "texts": self.texts,
            **self.summary,
            "nats_per_text": self.loss,
            "calibration_error": self.calibration_error,
            "threshold": self.threshold,
            "labels": list(self.labels),
            "f1": [None if np.isnan(value) else float(value) for value in self.f1],
            "hits": hits,
            "predicted": predicted,
            "true": true,
            **fitted,
        }

    def shown(self) -> dict[str, str]:
        """The columns of the training table."""
        shown = (f"{self.loss:.4f}", f"{self.micro_f1:.2%}", f"{self.macro_f1:.4f}")
        return dict(zip(self.columns, shown, strict=True))

    def table(self) -> str:
        """The metrics in a line, and a table with a row for each label."""
        line = (
            f"micro F1 {self.micro_f1:.2%} · macro F1 {self.macro_f1:.4f} · subset accuracy "
            f"{self.subset_accuracy:.2%} · {self.loss:.4f} nats per text · "
            f"calibration error {self.calibration_error:.4f} · {count(self.texts)} texts"
        )
        rows = [
            {
                "label": label, "texts": count(true), "predicted": count(predicted), "right": count(hits),
                "F1": "-" if f1 != f1 else f"{f1:.4f}",
            }
            for label, hits, predicted, true, f1 in zip(self.labels, *self.counts.tolist(), self.f1, strict=True)
        ]  # fmt: skip
        return f"{line}\n\n{table(rows, list(rows[0]))}"


def most_frequent_set(metrics: MultiLabelMetrics) -> tuple[str, MultiLabelMetrics]:
    """The set of labels that most of these texts have, in words, and the metrics of predicting it for every text."""
    sets, numbers = np.unique(metrics.true > 0, axis=0, return_counts=True)
    best = sets[int(numbers.argmax())]
    names = ", ".join(repr(label) for label, has in zip(metrics.labels, best, strict=True) if has) or "no label"
    constant = np.tile(best.astype(np.float64), (len(metrics.true), 1))
    return names, MultiLabelMetrics(metrics.labels, metrics.true, constant)

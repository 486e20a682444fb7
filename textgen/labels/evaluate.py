"""How well a model tells the labels of texts that are encoded already."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from textgen.labels.figures import ClassificationMetrics
from textgen.labels.predict import Classifier
from textgen.labels.texts import Texts, log_probabilities


def evaluate_encoded(model: Classifier, texts: Texts, labels: npt.NDArray[np.int64]) -> ClassificationMetrics:
    """The figures of texts that are encoded already, and the numbers of their labels, (N,)."""
    return ClassificationMetrics.of(model.labels, labels, log_probabilities(model.reader, texts, model.pooling))

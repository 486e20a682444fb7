"""How well a model tells the labels of texts that have them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
import numpy.typing as npt

from textgen.errors import TextgenError
from textgen.labels.figures import LabelFigures
from textgen.labels.predict import Classifier
from textgen.labels.read import Labelled
from textgen.labels.survey import unknown_label
from textgen.labels.texts import Texts, log_probabilities


def evaluate(model: Classifier, texts: Iterable[Labelled]) -> LabelFigures:
    """The figures of labelled texts, which are read once.

    Raises TextgenError for a label that the model does not know, with its row, and if there is no text.
    """
    true: list[int] = []

    def pieces() -> Iterator[Iterable[bytes]]:
        for where, content, label in texts:
            if label not in model.labels:
                raise unknown_label(where, label, model.labels)
            true.append(model.labels.index(label))
            yield content

    told = [list(answer.probabilities.values()) for answer in model.stream(pieces()) if answer is not None]
    if not told:
        raise TextgenError("there is no text to evaluate.")
    smallest = np.finfo(np.float64).tiny
    return LabelFigures.of(model.labels, np.array(true), np.log(np.maximum(np.array(told), smallest)))


def evaluate_encoded(model: Classifier, texts: Texts, labels: npt.NDArray[np.int64]) -> LabelFigures:
    """The figures of texts that are encoded already, and the numbers of their labels, (N,)."""
    return LabelFigures.of(model.labels, labels, log_probabilities(model.reader, texts, model.pooling))

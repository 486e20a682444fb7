"""How well a model tells the labels of texts that have them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Protocol

import numpy as np
import numpy.typing as npt

from textgen.errors import TextgenError
from textgen.labels.figures import LabelFigures
from textgen.labels.read import Labelled
from textgen.labels.survey import unknown_label
from textgen.labels.texts import Reader, Texts, log_probabilities


class Answer(Protocol):
    """How likely each label of a text is."""

    @property
    def probabilities(self) -> dict[str, float]: ...


class Answering(Protocol):
    """What is asked for labels: a `textgen.labels.predict.Classifier`."""

    @property
    def labels(self) -> tuple[str, ...]: ...

    @property
    def pooling(self) -> str: ...

    @property
    def reader(self) -> Reader: ...

    def stream(self, texts: Iterable[Iterable[bytes] | None]) -> Iterator[Answer | None]:
        """The probability of each label for every text, None for one that is empty."""


def evaluate(model: Answering, texts: Iterable[Labelled]) -> LabelFigures:
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


def evaluate_encoded(model: Answering, texts: Texts, labels: npt.NDArray[np.int64]) -> LabelFigures:
    """The figures of texts that are encoded already, and the numbers of their labels, (N,)."""
    return LabelFigures.of(model.labels, labels, log_probabilities(model.reader, texts, model.pooling))

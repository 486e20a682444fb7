"""What a classifier is measured against: the most frequent label, and a linear model on the same texts.

The linear model is TF-IDF of words and pairs of words with logistic regression, by scikit-learn (the extra `bench`). It
is trained on the training part of the run, and nothing about it is tuned.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from textgen.errors import TextgenError, needed
from textgen.tasks.classification.multilabel import MultiLabelMetrics
from textgen.tasks.classification.reading import LONG_WORDS
from textgen.tasks.data import TextExampleData
from textgen.tasks.metrics import ClassificationMetrics

MOST = 60_000
"""The most training texts, times labels, that a linear model is trained on without being asked for: that takes seconds.
"""

PURPOSE = "a linear model to compare with"
TOGETHER = 2048
"""Texts that are predicted at a time."""

LINEAR = "TF-IDF, logistic regression"


def most_frequent(metrics: ClassificationMetrics) -> tuple[str, ClassificationMetrics]:
    """The label that most of these texts have, and the metrics of predicting it for every text."""
    true = np.repeat(np.arange(len(metrics.labels)), metrics.confusion.sum(axis=1))
    best = int(np.bincount(true).argmax())
    return metrics.labels[best], ClassificationMetrics.of_predictions(metrics.labels, true, np.full(len(true), best))


def texts_of(data: TextExampleData, part: str) -> list[str]:
    """The texts of a part of a run, from their stored tokens; words beyond the vocabulary are unknown words."""
    texts, tokenizer = data.texts(part), data.tokenizer
    begins = np.append(0, texts.ends[:-1]) + 1  # after the boundary
    return [tokenizer.decode(texts.ids[begin:end]) for begin, end in zip(begins, texts.ends, strict=True)]


@dataclass(frozen=True)
class LinearModel:
    """A trained linear model of scikit-learn; labels are their indices."""

    pipeline: Any

    @classmethod
    def fit(cls, texts: Sequence[str], labels: npt.NDArray[np.integer[Any]]) -> Self:
        """Train on texts and the indices of their labels (N,), or which labels each has (N, C). Raises TextgenError
        without scikit-learn, and if the texts hold no words."""
        with needed("sklearn", PURPOSE):
            from sklearn.feature_extraction.text import TfidfVectorizer
            from sklearn.linear_model import LogisticRegression
            from sklearn.multiclass import OneVsRestClassifier
            from sklearn.pipeline import make_pipeline
        characters, words = sum(map(len, texts)), sum(len(text.split()) for text in texts)
        units = "word" if characters <= LONG_WORDS * words else "char"
        regression: Any = LogisticRegression(max_iter=1000)
        if labels.ndim == 2:
            regression = OneVsRestClassifier(regression)
        pipeline = make_pipeline(TfidfVectorizer(ngram_range=(1, 2), analyzer=units), regression)
        try:
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", "Label .* is present in all training examples")
                return cls(pipeline.fit(texts, labels))
        except ValueError as error:
            raise TextgenError(f"{PURPOSE} cannot be trained on these texts: {error}") from error

    def predicted(self, texts: Iterable[str]) -> npt.NDArray[np.int64]:
        """The predictions for texts, of which a few are held at a time: (N,) or (N, C)."""
        found = [self.pipeline.predict(some) for some in _blocks(texts)]
        return np.concatenate(found).astype(np.int64)

    def metrics(
        self, labels: Sequence[str], texts: Iterable[str], true: npt.NDArray[Any]
    ) -> ClassificationMetrics | MultiLabelMetrics:
        """The metrics of its predictions, given the true labels, (N,) or (N, C)."""
        return measured(labels, true, self.predicted(texts))


def measured(
    labels: Sequence[str], true: npt.NDArray[np.integer[Any]], predicted: npt.NDArray[np.integer[Any]]
) -> ClassificationMetrics | MultiLabelMetrics:
    """The metrics of predictions without probabilities, like the true ones as indices of labels (N,) or as 0 and 1
    (N, C)."""
    if true.ndim == 2:
        return MultiLabelMetrics(tuple(labels), true, predicted.astype(np.float64))
    return ClassificationMetrics.of_predictions(labels, true, predicted)


def _blocks(texts: Iterable[str]) -> Iterator[list[str]]:
    rest = iter(texts)
    while block := list(islice(rest, TOGETHER)):
        yield block

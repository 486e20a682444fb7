"""A trained classifier, what `textgen.load` gives for it, and its metrics.

A model gives outputs at every time step of a text; the readout is linear, so the mean of the outputs is the readout
of the mean state. Metrics are accuracy, macro F1, the loss, the calibration error and the confusion matrix, which is
also drawn as a picture: a row for each true label.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from textgen import options, storage
from textgen.data import Reading
from textgen.data.parquet_table import corpora
from textgen.data.tokenizers.base import Ids, Tokenizer
from textgen.errors import TextgenError, UsageError, require
from textgen.generation.language_model import digest_of, opened, stepper_of, tokenizer_for
from textgen.generation.sampling import log_softmax
from textgen.model import ModelConfig
from textgen.model.stepper import TokenStepper
from textgen.options import displayed, named
from textgen.storage import filesystem
from textgen.storage.outputs import to_png
from textgen.tasks.classification.options import POOLINGS
from textgen.tasks.classification.reading import Labelled, find_labelled, read_labelled, unknown_label

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


@dataclass
class Pool:
    """Pools the outputs of B texts incrementally; memory does not grow with their length."""

    pooling: str
    total: npt.NDArray[np.float64] | None = None
    steps: npt.NDArray[np.int64] | None = None

    def add(self, outputs: npt.NDArray[np.floating[Any]], lengths: npt.NDArray[np.int64]) -> None:
        """Add outputs (T, B, C), of which the first `lengths` (B,) steps count for each text; a length may be 0."""
        counted = (np.arange(len(outputs))[:, None] < lengths)[:, :, None]
        if self.total is None or self.steps is None:
            begin = -np.inf if self.pooling == "max" else 0.0
            self.total = np.full(outputs.shape[1:], begin, np.float64)
            self.steps = np.zeros(outputs.shape[1], np.int64)
        if self.pooling == "last":
            lanes = np.flatnonzero(lengths)
            self.total[lanes] = outputs[lengths[lanes] - 1, lanes]
        elif self.pooling == "max":
            self.total = np.maximum(self.total, np.where(counted, outputs, -np.inf).max(axis=0))
        else:
            self.total += np.where(counted, outputs, 0.0).sum(axis=0, dtype=np.float64)
        self.steps += lengths

    def pooled(self) -> npt.NDArray[np.float64]:
        """The pooled outputs (B, C)."""
        assert self.total is not None and self.steps is not None
        return self.total / self.steps[:, None] if self.pooling == "mean" else self.total


Integers = npt.NDArray[np.int64]

BATCH = 64
CHUNK = 512
"""Texts per batch, and tokens of each that are read at a time."""


@dataclass(frozen=True)
class Texts:
    """N texts of at least one token: all ids (S,), and where each text ends among them, (N,)."""

    ids: npt.NDArray[Any]
    ends: Integers
    pad: int = 0

    @classmethod
    def of(cls, texts: Sequence[Ids]) -> Texts:
        """Concatenate arrays of ids, one for each text."""
        return cls(np.concatenate(texts), np.cumsum([len(ids) for ids in texts], dtype=np.int64))

    @property
    def lengths(self) -> Integers:
        """Tokens of each text, (N,)."""
        lengths: Integers = np.diff(self.ends, prepend=0)
        return lengths

    def window(self, texts: Integers, start: int, length: int) -> tuple[Ids, Integers]:
        """Up to `length` tokens of some texts (B,), from token `start` of each: ids (T, B), padded at the end, and how
        many of the T steps belong to each text, (B,), which may be 0."""
        begins = self.ends[texts] - self.lengths[texts] + start
        counts: Integers = np.clip(self.ends[texts] - begins, 0, length)
        steps = np.arange(counts.max())[:, None]
        positions = np.minimum(begins + steps, len(self.ids) - 1)
        return np.where(steps < counts, self.ids[positions], self.pad).astype(np.int32), counts


def log_probabilities(
    stepper: TokenStepper, texts: Texts, pooling: str, chosen: Integers | None = None
) -> npt.NDArray[np.float64]:
    """The log-probability of each label for all texts, or for those chosen (N,): (N, C) in nats.

    Memory does not grow with the length of a text.
    """
    chosen = np.arange(len(texts.ends)) if chosen is None else chosen
    lengths = texts.lengths
    by_length = np.argsort(lengths[chosen], kind="stable")
    batches = []
    for first in range(0, len(chosen), BATCH):
        lanes = chosen[by_length[first : first + BATCH]]
        pool, state = Pool(pooling), stepper.initial_state(len(lanes))
        for start in range(0, int(lengths[lanes].max()), CHUNK):
            ids, counts = texts.window(lanes, start, CHUNK)
            outputs, state = stepper.outputs(ids.T, state)
            pool.add(outputs, counts)
        batches.append(log_softmax(pool.pooled()).astype(np.float64))
    found: npt.NDArray[np.float64] = np.concatenate(batches)[np.argsort(by_length)]
    return found


TASK, LABELS = "classify", "labels.json"
TOGETHER = 256
"""The number of texts collected before those of similar length are read in one batch."""


@dataclass(frozen=True)
class Prediction:
    """The most likely label of a text, and the probability of each label, in the order of the model's labels."""

    label: str
    probabilities: dict[str, float]

    @property
    def probability(self) -> float:
        """The probability of the predicted label."""
        return self.probabilities[self.label]


@dataclass(frozen=True)
class Classifier:
    """A tokenizer, a stepper over its tokens, the label names, and the pooling of outputs."""

    config: ModelConfig
    tokenizer: Tokenizer
    reader: TokenStepper
    labels: tuple[str, ...]
    pooling: str
    digest: str = ""
    folder: Path | None = None

    def classify(self, texts: str | Iterable[str]) -> list[Prediction]:
        """The label of every text. Raises TextgenError for a text that is empty.

        Example:
            >>> textgen.load("runs/lstm-reviews-1").classify(["a fine film"])[0].label     # doctest: +SKIP
            'pos'
        """
        if isinstance(texts, (str, bytes, Mapping)) or not isinstance(texts, Iterable):
            shown = "one text" if isinstance(texts, str) else displayed(texts)
            raise UsageError(f"{named('texts')} must be a list of texts, not {shown}.", hint='classify(["..."])')
        found = []
        given = (options.utf8("texts", text) for text in texts)
        for number, answer in enumerate(self.stream([text] if text.decode().strip() else [] for text in given), 1):
            if answer is None:
                raise TextgenError(f"text {number} is empty.")
            found.append(answer)
        return found

    def evaluate(self, corpus: Any, **reading: Any) -> ClassificationMetrics:
        """The metrics of labelled texts: a path, a table in memory as `textgen.train` takes it, or a list of those.

        They are read as in training; `reading` overrides encoding, text_column, label_column or document_separator (''
        for none). Raises TextgenError naming row and column.
        """
        known = Reading.of(self.config.reading, reading)
        with known.explained():
            origins = find_labelled(corpora("corpus", corpus), known.text_column, known.label_column)
            return self.metrics(read_labelled(origins, known.options, known.label_column))

    def metrics(self, texts: Iterable[Labelled]) -> ClassificationMetrics:
        """The metrics of labelled texts, which are read once. Raises TextgenError for a label that the model does not
        know, with its row, and if there is no text."""
        true: list[int] = []

        def pieces() -> Iterator[Iterable[bytes]]:
            for where, content, label in texts:
                if label not in self.labels:
                    raise unknown_label(where, label, self.labels)
                true.append(self.labels.index(label))
                yield content

        found = [list(answer.probabilities.values()) for answer in self.stream(pieces()) if answer is not None]
        if not found:
            raise TextgenError("there is no text to evaluate.")
        smallest = np.finfo(np.float64).tiny
        return ClassificationMetrics.of(self.labels, np.array(true), np.log(np.maximum(np.array(found), smallest)))

    def stream(self, texts: Iterable[Iterable[bytes] | None]) -> Iterator[Prediction | None]:
        """The label of every text, in order, None for an empty one. The chunks of a text are read before the next text
        is requested. None among the texts flushes the collected ones. Memory does not grow with the length of a
        text."""
        waiting: list[Ids] = []
        for pieces in texts:
            if pieces is None:
                yield from self._answers(waiting)
                continue
            chunks = self.encoded(pieces)
            first = next(chunks)
            second = next(chunks, None)
            if second is None:
                waiting.append(first)
                if len(waiting) == TOGETHER:
                    yield from self._answers(waiting)
            else:
                yield from self._answers(waiting)
                yield self._prediction(self._long(chain([first, second], chunks)))
        yield from self._answers(waiting)

    def encoded(self, pieces: Iterable[bytes]) -> Iterator[Ids]:
        """The ids of a text, its boundary first, in arrays of `CHUNK` ids and a shorter last one; a single empty array
        for an empty text."""
        rest = np.array([self.tokenizer.boundary], np.int32)
        for ids in self.tokenizer.encode_pieces(pieces):
            rest = np.concatenate([rest, self.tokenizer.model_ids(ids)])
            while len(rest) > CHUNK:
                yield rest[:CHUNK]
                rest = rest[CHUNK:]
        yield rest if len(rest) > 1 or rest[0] != self.tokenizer.boundary else rest[:0]

    def _answers(self, waiting: list[Ids]) -> Iterator[Prediction | None]:
        """The predictions for the collected short texts; clears the collection."""
        full = [ids for ids in waiting if len(ids)]
        log_probs = iter(log_probabilities(self.reader, Texts.of(full), self.pooling) if full else ())
        answers = [self._prediction(next(log_probs)) if len(ids) else None for ids in waiting]
        waiting.clear()
        yield from answers

    def _long(self, chunks: Iterable[Ids]) -> npt.NDArray[np.float64]:
        """The log-probabilities (C,) of one text given in arrays of ids."""
        pool, state = Pool(self.pooling), self.reader.initial_state(1)
        for ids in chunks:
            outputs, state = self.reader.outputs(ids[None], state)
            pool.add(outputs, np.array([len(ids)]))
        log_probs: npt.NDArray[np.float64] = log_softmax(pool.pooled())[0]
        return log_probs

    def _prediction(self, log_probs: npt.NDArray[np.float64]) -> Prediction:
        probabilities = dict(zip(self.labels, np.exp(log_probs).tolist(), strict=True))
        return Prediction(self.labels[int(log_probs.argmax())], probabilities)


def load(folder: str | os.PathLike[str], backend: str = "auto") -> Classifier:
    """Open the folder of a classifier. Raises as `textgen.generation.language_model.load`."""
    path = options.path("folder", folder)
    manifest, config = opened(path, backend)
    if config.task != TASK:
        raise TextgenError(
            f"the model in {str(path)!r} is not a classifier: it was trained for {named('task', config.task)}."
        )
    labels, pooling = read_labels(path, manifest, config.outputs)
    tokenizer, reader = tokenizer_for(path, config), stepper_of(path, manifest, config, backend)
    return Classifier(config, tokenizer, reader, labels, pooling, digest_of(manifest), path)


def labels_file(labels: Sequence[str], pooling: str) -> bytes:
    """The content of `labels.json`."""
    return filesystem.to_json({"labels": list(labels), "pooling": pooling})


def read_labels(folder: Path, manifest: Mapping[str, Any], outputs: int) -> tuple[tuple[str, ...], str]:
    """The labels and the pooling of a model folder. Raises DamagedError for invalid content."""
    path = folder / LABELS
    content = storage.parse_json(storage.verified(folder, LABELS, manifest, storage.JSON_LIMIT), str(path))
    labels, pooling = content.get("labels"), content.get("pooling")
    if not isinstance(labels, list) or not all(isinstance(label, str) for label in labels):
        raise storage.DamagedError(f"{path} is damaged: 'labels' must be a list of texts.")
    if len(labels) != outputs or len(set(labels)) != outputs:
        raise storage.DamagedError(f"{path} is damaged: it names {len(set(labels))} labels for {outputs} outputs.")
    if pooling not in POOLINGS:
        raise storage.DamagedError(f"{path} is damaged: 'pooling' must be {', '.join(POOLINGS)}, not {pooling!r}.")
    return tuple(labels), pooling

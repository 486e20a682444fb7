"""A trained classifier, as `textgen.load` returns it.

A model gives outputs at every time step of a text; the readout is linear, so the mean of the outputs is the readout
of the mean state.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from textgen import options, storage
from textgen.data import Reading
from textgen.data.parquet_table import corpora
from textgen.data.tokenizers.base import Ids, Tokenizer
from textgen.distributed import alone, world
from textgen.errors import TextgenError, UsageError
from textgen.generation.sampling import log_softmax
from textgen.model import ModelConfig
from textgen.model.stepper import TokenStepper
from textgen.options import displayed, named
from textgen.tasks.classification.calibration import stored_temperature, tempered
from textgen.tasks.classification.multilabel import THRESHOLD, MultiLabelMetrics, sigmoid
from textgen.tasks.classification.ngrams import Blend, Features
from textgen.tasks.classification.options import POOLINGS
from textgen.tasks.classification.reading import (
    LABELS,
    Label,
    LabelColumns,
    Labelled,
    Unlabelled,
    encoded_label,
    find_labelled,
    read_labelled,
)
from textgen.tasks.data import CHUNK, Integers, Texts, open_model, unknown_label
from textgen.tasks.metrics import ClassificationMetrics

DIVIDED = 512
"""Texts that a process predicts for before the next one has its turn, where several divide them."""

TOGETHER = 1024
"""The number of texts collected before those of similar length are read in one batch."""


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


def log_probabilities(
    stepper: TokenStepper, texts: Texts, pooling: str, chosen: Integers | None = None, several: bool = False
) -> npt.NDArray[np.float64]:
    """The log-probability of each label for all texts, or for those chosen (N,): (N, C) in nats; the log-odds of each,
    if a text may have several labels."""
    chosen = np.arange(len(texts.ends)) if chosen is None else chosen
    batches = []
    for lanes in texts.batches(chosen):
        pool = Pool(pooling)
        for outputs, counts in texts.read(stepper, lanes):
            pool.add(outputs, counts)
        scores = pool.pooled()
        batches.append((scores if several else log_softmax(scores)).astype(np.float64))
    by_length = np.argsort(texts.lengths[chosen], kind="stable")
    found: npt.NDArray[np.float64] = np.concatenate(batches)[np.argsort(by_length)]
    return found


@dataclass(frozen=True)
class Prediction:
    """The most likely label of a text, and the probability of each label, in the order of the model's labels."""

    label: str | None
    """None if its probability is below a threshold, and if a text may have several labels."""
    probabilities: dict[str, float]
    labels: tuple[str, ...] | None = None
    """The predicted labels, if a text may have several."""

    @classmethod
    def of(cls, probabilities: dict[str, float], threshold: float | None = None, several: bool = False) -> Self:
        """The prediction with these probabilities; no label whose probability is below the threshold."""
        if several:
            least = THRESHOLD if threshold is None else threshold
            return cls(None, probabilities, tuple(label for label, value in probabilities.items() if value >= least))
        label = max(probabilities, key=probabilities.__getitem__)
        return cls(None if threshold is not None and probabilities[label] < threshold else label, probabilities)

    @property
    def probability(self) -> float:
        """The probability of the most likely label."""
        return max(self.probabilities.values())


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
    temperature: float = 1.0
    """What calibrates its probabilities (`textgen.tasks.classification.calibration`)."""
    multi_label: bool = False
    """Whether a text may have several labels."""
    separator: str | None = None
    """What stood between them in the cells of the training table."""
    blend: Blend | None = None
    """The linear model that the outputs are added to; None without one."""

    def classify(self, texts: str | Iterable[str], threshold: float | None = None) -> list[Prediction]:
        """The label of every text, None where its probability is below a threshold. Raises TextgenError for a text that
        is empty.

        Example:
            >>> textgen.load("runs/lstm-reviews-1").classify(["a fine film"])[0].label     # doctest: +SKIP
            'pos'
        """
        if isinstance(texts, (str, bytes, Mapping)) or not isinstance(texts, Iterable):
            shown = "one text" if isinstance(texts, str) else displayed(texts)
            raise UsageError(f"{named('texts')} must be a list of texts, not {shown}.", hint='classify(["..."])')
        found = []
        threshold = None if threshold is None else options.share("threshold", threshold)
        given = (options.utf8("texts", text) for text in texts)
        for number, answer in enumerate(self.stream([text] if text.decode().strip() else [] for text in given), 1):
            if answer is None:
                raise TextgenError(f"text {number} is empty.")
            found.append(Prediction.of(answer.probabilities, threshold, self.multi_label))
        return found

    def evaluate(self, corpus: Any, **reading: Any) -> ClassificationMetrics | MultiLabelMetrics:
        """The metrics of labelled texts: a path, a table in memory as `textgen.train` takes it, or a list of those.

        They are read as in training; `reading` overrides encoding, text_column, label_column, label_separator or
        document_separator ('' for none). Raises TextgenError naming row and column.
        """
        separator = options.optional_text("label_separator", reading.pop("label_separator", None)) or self.separator
        known = Reading.of(self.config.reading, reading)
        with known.explained():
            origins = find_labelled(corpora("corpus", corpus), known.text_column, known.label_column)
            return self.metrics(read_labelled(origins, known.options, LabelColumns(known.label_column, separator)))

    def metrics(self, texts: Iterable[Labelled]) -> ClassificationMetrics | MultiLabelMetrics:
        """The metrics of labelled texts, which are read once. Raises TextgenError for a label that the model does not
        know, with its row, and if there is no text."""
        true: list[Any] = []

        def unlabelled() -> Iterator[Unlabelled]:
            for text in texts:
                true.append(encoded_label(self.known(text), self.labels))
                yield Unlabelled(text.where, text.chunks)

        found = [list(answer.probabilities.values()) for _, answer in answers(self, unlabelled()) if answer is not None]
        if true and not world().leads:  # rank 0 has the answers
            found = [[1 / len(self.labels)] * len(self.labels)] * len(true)
        if not found:
            raise TextgenError("there is no text to evaluate.")
        if self.multi_label:
            return MultiLabelMetrics.of_probabilities(self.labels, np.array(true), np.array(found))
        smallest = np.finfo(np.float64).tiny
        return ClassificationMetrics.of(self.labels, np.array(true), np.log(np.maximum(np.array(found), smallest)))

    def known(self, text: Labelled) -> Label:
        """The label of a text, or its labels if a text may have several. Raises TextgenError, with its row, for one
        that the model does not know, and for several if a text has one."""
        if not self.multi_label and not isinstance(text.label, str):
            raise TextgenError(f"{text.where} has a list of labels, but the model gives each text one label.")
        names = (text.label,) if isinstance(text.label, str) else text.label
        for name in names:
            if name not in self.labels:
                raise unknown_label(text.where, name, self.labels)
        return names if self.multi_label else text.label

    def stream(self, texts: Iterable[Iterable[bytes] | None]) -> Iterator[Prediction | None]:
        """The label of every text, in order, None for an empty one. The chunks of a text are read before the next text
        is requested. None among the texts flushes the collected ones. Memory does not grow with the length of a
        text."""
        waiting: list[tuple[Ids, Features | None]] = []
        for pieces in texts:
            if pieces is None:
                yield from self._answers(waiting)
                continue
            features = self.blend.ngrams.reading() if self.blend else None
            chunks = self.encoded(features.through(pieces) if features else pieces)
            first = next(chunks)
            second = next(chunks, None)
            if second is None:
                waiting.append((first, features))
                if len(waiting) == TOGETHER:
                    yield from self._answers(waiting)
            else:
                yield from self._answers(waiting)
                yield self._prediction(self._long(chain([first, second], chunks), features))
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

    def _answers(self, waiting: list[tuple[Ids, Features | None]]) -> Iterator[Prediction | None]:
        """The predictions for the collected short texts; clears the collection."""
        full = [each for each in waiting if len(each[0])]
        found: npt.NDArray[np.float64] = np.zeros((0, len(self.labels)))
        if full:
            ids, features = zip(*full, strict=True)
            log_probs = log_probabilities(self.reader, Texts.of(ids), self.pooling, several=self.multi_label)
            found = self._blended(log_probs, features)
        rows = iter(found)
        answers = [self._prediction(next(rows)) if len(ids) else None for ids, _ in waiting]
        waiting.clear()
        yield from answers

    def _blended(
        self, log_probs: npt.NDArray[np.floating[Any]], features: Sequence[Features | None]
    ) -> npt.NDArray[np.float64]:
        """The log-probabilities (N, C) with the scores of the linear model."""
        if self.blend is None:
            return log_probs.astype(np.float64)
        return self.blend.of([each.keys() for each in features if each], log_probs, self.multi_label)

    def _long(self, chunks: Iterable[Ids], features: Features | None) -> npt.NDArray[np.float64]:
        """The log-probabilities (C,) of one text given in arrays of ids, whose features are known when it is read."""
        pool, state = Pool(self.pooling), self.reader.initial_state(1)
        for ids in chunks:
            outputs, state = self.reader.outputs(ids[None], state)
            pool.add(outputs, np.array([len(ids)]))
        scores = pool.pooled()
        found: npt.NDArray[np.float64] = self._blended(scores if self.multi_label else log_softmax(scores), [features])[
            0
        ]
        return found

    def _prediction(self, log_probs: npt.NDArray[np.float64]) -> Prediction:
        if self.multi_label:
            found = sigmoid(log_probs / self.temperature)
        else:
            found = np.exp(tempered(log_probs, self.temperature))
        return Prediction.of(dict(zip(self.labels, found.tolist(), strict=True)), several=self.multi_label)


def load(folder: str | os.PathLike[str], backend: str = "auto") -> Classifier:
    """Open the folder of a classifier. Raises as `textgen.generation.language_model.load`, and DamagedError for labels
    that do not fit the model."""
    path = options.path("folder", folder)
    config, tokenizer, reader, facts, digest = open_model(path, backend, LABELS)
    labels, pooling, damaged = facts.get("labels"), facts.get("pooling"), f"{path / LABELS} is damaged"
    if not isinstance(labels, list) or not all(isinstance(label, str) for label in labels):
        raise storage.DamagedError(f"{damaged}: 'labels' must be a list of texts.")
    if len(labels) != config.outputs or len(set(labels)) != config.outputs:
        raise storage.DamagedError(f"{damaged}: it names {len(set(labels))} labels for {config.outputs} outputs.")
    if pooling not in POOLINGS:
        raise storage.DamagedError(f"{damaged}: 'pooling' must be {', '.join(POOLINGS)}, not {pooling!r}.")
    several, separator = facts.get("multi_label", False), facts.get("label_separator")
    if not isinstance(several, bool) or not isinstance(separator, str | None):
        raise storage.DamagedError(f"{damaged}: 'multi_label' must be true or false, and 'label_separator' text.")
    temperature, blend = stored_temperature(path), Blend.stored(path, len(labels))
    return Classifier(
        config, tokenizer, reader, tuple(labels), pooling, digest, path, temperature, several, separator, blend
    )


def read_facts(folder: Path) -> dict[str, Any]:
    """What the folder of a classifier says about its labels."""
    content = storage.verified(folder, LABELS, storage.read_manifest(folder), storage.JSON_LIMIT)
    return storage.parse_json(content, str(folder / LABELS))


def answers(model: Classifier, texts: Iterable[Unlabelled | None]) -> Iterator[tuple[str, Prediction | None]]:
    """The location and prediction of each text, in order; None among the texts flushes the collected ones. Several
    processes divide the texts, and rank 0 gets the predictions."""
    if world().size > 1:
        yield from _divided(model, (text for text in texts if text is not None))
        return
    places: deque[str] = deque()

    def pieces() -> Iterator[Iterable[bytes] | None]:
        for text in texts:
            if text is not None:
                places.append(text.where)
            yield None if text is None else text.chunks

    for answer in model.stream(pieces()):
        yield places.popleft(), answer


def _divided(model: Classifier, texts: Iterable[Unlabelled]) -> Iterator[tuple[str, Prediction | None]]:
    """As `answers`, each block of texts by another process."""

    def blocks() -> Iterator[list[tuple[str, bytes]]]:
        whole = ((text.where, b"".join(text.chunks)) for text in texts)
        while block := list(islice(whole, DIVIDED)):
            yield block

    def work(block: list[tuple[str, bytes]]) -> list[tuple[str, dict[str, float] | None]]:
        with alone():
            found = list(answers(model, (Unlabelled(where, [content] if content else []) for where, content in block)))
        return [(where, answer.probabilities if answer else None) for where, answer in found]

    for found in world().divided(blocks(), work):
        for where, probabilities in found:
            yield where, Prediction.of(probabilities, several=model.multi_label) if probabilities else None

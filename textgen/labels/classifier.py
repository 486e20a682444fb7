"""A trained classifier, as `textgen.load` returns it, for texts in a list or in a stream."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from textgen import arguments, files, sealed
from textgen.config import ModelConfig
from textgen.errors import TextgenError, UsageError
from textgen.labels.figures import ClassificationMetrics
from textgen.labels.options import POOLINGS
from textgen.labels.pooling import Pool
from textgen.labels.read import Labelled, find_labelled, read_labelled
from textgen.labels.survey import unknown_label
from textgen.labels.texts import CHUNK, Texts, log_probabilities
from textgen.language_model import digest_of, opened, stepper_of, tokenizer_for
from textgen.parameters import displayed, named
from textgen.stepper import TokenStepper
from textgen.text.memory import corpora
from textgen.text.reading import Reading
from textgen.text.symbols import Ids
from textgen.text.tokenizer import Tokenizer
from textgen.writing.sampling import log_softmax

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
        given = (arguments.utf8("texts", text) for text in texts)
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
    """Open the folder of a classifier. Raises as `textgen.language_model.load`."""
    path = arguments.path("folder", folder)
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
    return files.to_json({"labels": list(labels), "pooling": pooling})


def read_labels(folder: Path, manifest: Mapping[str, Any], outputs: int) -> tuple[tuple[str, ...], str]:
    """The labels and the pooling of a model folder. Raises DamagedError for invalid content."""
    path = folder / LABELS
    content = sealed.parse_json(sealed.verified(folder, LABELS, manifest, sealed.JSON_LIMIT), str(path))
    labels, pooling = content.get("labels"), content.get("pooling")
    if not isinstance(labels, list) or not all(isinstance(label, str) for label in labels):
        raise sealed.DamagedError(f"{path} is damaged: 'labels' must be a list of texts.")
    if len(labels) != outputs or len(set(labels)) != outputs:
        raise sealed.DamagedError(f"{path} is damaged: it names {len(set(labels))} labels for {outputs} outputs.")
    if pooling not in POOLINGS:
        raise sealed.DamagedError(f"{path} is damaged: 'pooling' must be {', '.join(POOLINGS)}, not {pooling!r}.")
    return tuple(labels), pooling

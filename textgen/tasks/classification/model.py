"""A trained classifier, as `textgen.load` returns it, and what `textgen evaluate` and `textgen predict` do with it.

A model gives outputs at every time step of a text; the readout is linear, so the mean of the outputs is the readout
of the mean state. `evaluate` prints metrics; `predict` a line for each text, as soon as it is known.
"""

from __future__ import annotations

import json
import os
import sys
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from textgen import options, storage
from textgen.data import Reading
from textgen.data.encodings import AUTO, Decoding, begins_mark, to_utf8
from textgen.data.parquet_table import corpora
from textgen.data.recipes import VALIDATION
from textgen.data.sources import SourceOptions
from textgen.data.tokenizers.base import Ids, Tokenizer
from textgen.distributed import alone, world
from textgen.errors import TextgenError, UsageError, require
from textgen.formatting import plural
from textgen.generation.sampling import log_softmax
from textgen.model import ModelConfig
from textgen.model.stepper import TokenStepper
from textgen.options import displayed, named
from textgen.screen import Output, say, warn
from textgen.tasks import Request
from textgen.tasks.classification.ngrams import LARGEST_NGRAMS, NGRAMS, Features, Ngrams
from textgen.tasks.classification.options import POOLINGS
from textgen.tasks.classification.reading import (
    LABELS,
    Labelled,
    Lines,
    Unlabelled,
    find_labelled,
    find_texts,
    read_labelled,
    read_texts,
)
from textgen.tasks.data import CHUNK, Integers, Texts, open_model, unknown_label
from textgen.tasks.metrics import ClassificationMetrics, plot_confusion, print_metrics

DIVIDED = 512
"""Texts that a process predicts for before the next one has its turn, where several divide them."""

TOGETHER = 256
"""The number of texts collected before those of similar length are read in one batch."""

READ_BYTES = 1 << 16


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
    stepper: TokenStepper,
    texts: Texts,
    pooling: str,
    chosen: Integers | None = None,
    scores: npt.NDArray[np.floating[Any]] | None = None,
) -> npt.NDArray[np.float64]:
    """The log-probability of each label for all texts, or for those chosen (N,): (N, C) in nats. `scores` are added to
    the outputs, a row for each of all texts."""
    chosen = np.arange(len(texts.ends)) if chosen is None else chosen
    batches = []
    for lanes in texts.batches(chosen):
        pool = Pool(pooling)
        for outputs, counts in texts.read(stepper, lanes):
            pool.add(outputs, counts)
        linear = 0.0 if scores is None else scores[lanes]
        batches.append(log_softmax(pool.pooled() + linear).astype(np.float64))
    by_length = np.argsort(texts.lengths[chosen], kind="stable")
    found: npt.NDArray[np.float64] = np.concatenate(batches)[np.argsort(by_length)]
    return found


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
    ngrams: Ngrams | None = None

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

        def unlabelled() -> Iterator[Unlabelled]:
            for where, content, label in texts:
                if label not in self.labels:
                    raise unknown_label(where, label, self.labels)
                true.append(self.labels.index(label))
                yield Unlabelled(where, content)

        found = [list(answer.probabilities.values()) for _, answer in answers(self, unlabelled()) if answer is not None]
        if true and not world().leads:  # rank 0 has the answers
            found = [[1 / len(self.labels)] * len(self.labels)] * len(true)
        if not found:
            raise TextgenError("there is no text to evaluate.")
        smallest = np.finfo(np.float64).tiny
        return ClassificationMetrics.of(self.labels, np.array(true), np.log(np.maximum(np.array(found), smallest)))

    def stream(self, texts: Iterable[Iterable[bytes] | None]) -> Iterator[Prediction | None]:
        """The label of every text, in order, None for an empty one. The chunks of a text are read before the next text
        is requested. None among the texts flushes the collected ones. Memory does not grow with the length of a
        text."""
        waiting: list[tuple[Ids, Features | None]] = []
        for pieces in texts:
            if pieces is None:
                yield from self._answers(waiting)
                continue
            features = Features(self.ngrams.known) if self.ngrams else None
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
            found = log_probabilities(self.reader, Texts.of(ids), self.pooling, scores=self._scores(features))
        log_probs = iter(found)
        answers = [self._prediction(next(log_probs)) if len(ids) else None for ids, _ in waiting]
        waiting.clear()
        yield from answers

    def _scores(self, features: Sequence[Features | None]) -> npt.NDArray[np.float64] | None:
        """The scores of the linear model, (N, C); None without one."""
        return self.ngrams.scores([each.keys() for each in features if each]) if self.ngrams else None

    def _long(self, chunks: Iterable[Ids], features: Features | None) -> npt.NDArray[np.float64]:
        """The log-probabilities (C,) of one text given in arrays of ids; its features are known once these are read."""
        pool, state = Pool(self.pooling), self.reader.initial_state(1)
        for ids in chunks:
            outputs, state = self.reader.outputs(ids[None], state)
            pool.add(outputs, np.array([len(ids)]))
        scores = self._scores([features])
        log_probs: npt.NDArray[np.float64] = log_softmax(pool.pooled() + (0.0 if scores is None else scores))[0]
        return log_probs

    def _prediction(self, log_probs: npt.NDArray[np.float64]) -> Prediction:
        probabilities = dict(zip(self.labels, np.exp(log_probs).tolist(), strict=True))
        return Prediction(self.labels[int(log_probs.argmax())], probabilities)


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
    manifest, ngrams = storage.read_manifest(path), None
    if NGRAMS in manifest["files"]:
        content = storage.verified(path, NGRAMS, manifest, LARGEST_NGRAMS)
        ngrams = Ngrams.from_bytes(content, str(path / NGRAMS), len(labels))
    return Classifier(config, tokenizer, reader, tuple(labels), pooling, digest, path, ngrams)


def evaluate(request: Request) -> None:
    """Evaluate the predictions of a model on a corpus, or on the held-out part of its run."""
    plot = request.outputs.get("plot")
    if plot is not None:
        require("matplotlib")
    metrics = _of_corpus(request) if request.inputs else _of_held_out(request)
    if not world().leads:
        return
    print_metrics(metrics, request.as_json)
    if plot is not None:
        plot.check()
        plot_confusion(metrics, plot.path)
        say(f"plot: {plot.path}")


def _of_corpus(request: Request) -> ClassificationMetrics:
    reading = request.reading
    origins = find_labelled(request.inputs, reading.text_column, reading.label_column)
    model: Classifier = request.load()
    return model.metrics(read_labelled(origins, reading.options, reading.label_column))


def _of_held_out(request: Request) -> ClassificationMetrics:
    data = request.held_out()
    texts, labels = data.labelled(VALIDATION)
    model: Classifier = request.load()
    log_probs = log_probabilities(model.reader, texts, model.pooling, scores=data.scores(VALIDATION))
    return ClassificationMetrics.of(model.labels, labels, log_probs)


def predict(request: Request) -> None:
    """Print the label of every text and the probability of each label: a tab-separated table, or one JSON object per
    line."""
    if not request.inputs:
        raise UsageError("no text given.", hint="textgen predict FILE, or - to read lines from standard input.")
    reading, options = request.reading, request.reading.options
    whole = bool(reading.whole_files)
    by_line = not whole and options.document_separator is None and options.encoding != AUTO
    piped = request.inputs == ("-",) and by_line
    sources = [] if piped else find_texts(request.inputs, reading.text_column)
    model: Classifier = request.load()
    texts = piped_lines(options) if piped else read_texts(sources, options, whole, reading.label_column)
    _write(model, texts, request.as_json, at_once=piped)


def _write(model: Classifier, texts: Iterable[Unlabelled | None], as_json: bool, at_once: bool) -> None:
    """Print the predictions below a header, which is printed `at_once` or when the first text has been read."""
    output, empty = Output(), 0
    at_once = at_once and world().size == 1
    header = "" if as_json else "\t".join(map(_cell, ["label", *model.labels])) + "\n"
    if at_once:
        output.write(header)
    for number, (where, answer) in enumerate(answers(model, texts)):
        if number == 0 and not at_once:
            output.write(header)
        empty += answer is None
        output.write((_object(where, answer) if as_json else _line(answer)) + "\n")
    if empty:
        warn(f"{plural(empty, 'text')} without content got no label.")


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
            likeliest = max(probabilities, key=probabilities.__getitem__) if probabilities else ""
            yield where, Prediction(likeliest, probabilities) if probabilities else None


def piped_lines(options: SourceOptions) -> Iterator[Unlabelled | None]:
    """The lines of standard input as they arrive, and None whenever no more input is available yet."""
    if sys.stdin is None or sys.stdin.isatty():
        raise UsageError("'-' reads texts from a pipe, not from a terminal.", hint="cat FILE | textgen predict -")
    handle = sys.stdin.fileno()
    head = os.read(handle, READ_BYTES)
    while begins_mark(head) and (more := os.read(handle, READ_BYTES)):
        head += more
    blocks = chain([head], iter(lambda: os.read(handle, READ_BYTES), b""))
    known = Decoding(options.encoding, from_training=options.from_training)
    number, split = 0, Lines()
    for piece in chain(to_utf8(filter(None, blocks), head, "standard input", known), [None]):
        for line in split.add(piece) if piece is not None else split.rest():
            number += 1
            yield Unlabelled(f"line {number} of standard input", [line] if line.strip() else [])
        yield None


def _line(answer: Prediction | None) -> str:
    if answer is None:
        return ""
    return "\t".join([_cell(answer.label), *[f"{value:.4f}" for value in answer.probabilities.values()]])


def _cell(text: str) -> str:
    """A label as one cell of a table."""
    return " ".join(text.split())


def _object(where: str, answer: Prediction | None) -> str:
    probabilities = answer and {label: round(value, 6) for label, value in answer.probabilities.items()}
    content = {"text": where, "label": answer and answer.label, "probabilities": probabilities}
    return json.dumps(content, ensure_ascii=False)

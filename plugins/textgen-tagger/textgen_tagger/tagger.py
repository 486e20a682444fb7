"""Labeled sentences, and a trained model that labels others. Runs without torch."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from textgen import storage
from textgen.data import Reading
from textgen.data.recipes import VALIDATION
from textgen.data.tokenizers.base import Tokenizer
from textgen.errors import TextgenError, UsageError
from textgen.generation.language_model import opened, stepper_of, tokenizer_for
from textgen.generation.sampling import log_softmax
from textgen.model.stepper import TokenStepper
from textgen.screen import Output
from textgen.tasks import Request
from textgen.tasks.classification.classifier import ClassificationMetrics, Texts
from textgen.tasks.classification.evaluate import print_metrics
from textgen.tasks.classification.reading import unknown_label
from textgen.tasks.data import ExampleData

Array = npt.NDArray[Any]
Sentence = list[tuple[str, str]]  # tokens and their labels
NO_LABEL, FILE, BATCH = -1, "tagger.json", 64


def read(paths: Sequence[str], reading: Reading, known: Sequence[str] = ()) -> list[Sentence]:
    """The sentences of some files. Raises TextgenError naming the line of anything else, and of an unknown label."""
    sentences: list[Sentence] = [[]]
    for where, line in reading.lines(paths):
        columns = line.split()
        if len(columns) not in (0, 2):
            raise TextgenError(f"{where} must hold a token and its label, not {line[:60]!r}.")
        if columns and known and columns[1] not in known:
            raise unknown_label(where, columns[1], known)
        sentences[-1:] = [[*sentences[-1], (columns[0], columns[1])]] if columns else [sentences[-1], []]
    found = [sentence for sentence in sentences if sentence]
    if not found:
        raise TextgenError(f"there is no sentence in {', '.join(map(repr, paths))}.")
    return found


def encode(
    sentences: Sequence[Sentence], tokenizer: Tokenizer, labels: Sequence[str], lookahead: int
) -> dict[str, Array]:
    """Sentences one after another: the ids that the model reads, the label to predict at each, the ends of sentences.

    The label of a token is predicted `lookahead` ids after it, so that many boundaries follow each sentence.
    """
    ids: list[int] = []
    numbers: list[int] = []
    ends: list[int] = []
    for sentence in sentences:
        ids += [*tokenizer.encode(" ".join(token for token, _ in sentence)), *[tokenizer.boundary] * lookahead]
        numbers += [*[NO_LABEL] * lookahead, *(labels.index(label) for _, label in sentence)]
        ends.append(len(ids))
    return {"ids": np.array(ids, np.int32), "labels": np.array(numbers, np.int64), "ends": np.array(ends, np.int64)}


@dataclass(frozen=True)
class Tagger:
    """A trained tagger: what `textgen.load` returns."""

    tokenizer: Tokenizer
    stepper: TokenStepper
    labels: Sequence[str]
    lookahead: int

    def tag(self, sentences: Sequence[Sequence[str]]) -> list[list[str]]:
        """The label of every token of sentences that are lists of tokens."""
        unlabeled = [[(token, self.labels[0]) for token in tokens] for tokens in sentences]
        found = self._predicted(encode(unlabeled, self.tokenizer, self.labels, self.lookahead)).argmax(axis=1)
        names = iter([self.labels[k] for k in found])
        return [[next(names) for _ in tokens] for tokens in sentences]

    def metrics(self, arrays: Mapping[str, Array]) -> ClassificationMetrics:
        """The metrics of what `encode` returned."""
        true = arrays["labels"][arrays["labels"] != NO_LABEL]
        return ClassificationMetrics.of(self.labels, true, self._predicted(arrays), "token")

    def _predicted(self, arrays: Mapping[str, Array]) -> Array:
        """The log-probability of each label for every token, (N, C)."""
        texts = Texts(arrays["ids"], arrays["ends"], self.tokenizer.boundary)
        found = np.empty((len(texts.ids), len(self.labels)))
        for first in range(0, len(texts.ends), BATCH):
            lanes = np.arange(first, min(first + BATCH, len(texts.ends)))
            ids, lengths = texts.window(lanes, 0, int(texts.lengths[lanes].max()))
            outputs, _ = self.stepper.outputs(ids.T, self.stepper.initial_state(len(lanes)))
            for row, (end, length) in enumerate(zip(texts.ends[lanes], lengths, strict=True)):
                found[end - length : end] = log_softmax(outputs[:length, row])
        predicted: Array = found[arrays["labels"] != NO_LABEL]
        return predicted


def load(folder: Path, backend: str = "auto") -> Tagger:
    manifest, config = opened(folder, backend)
    about = storage.parse_json(storage.verified(folder, FILE, manifest, storage.JSON_LIMIT), FILE)
    stepper = stepper_of(folder, manifest, config, backend)
    return Tagger(tokenizer_for(folder, config), stepper, **about)


def evaluate(request: Request) -> None:
    """Print the metrics of labeled sentences, or of those that training held out."""
    model: Tagger = request.load()
    if request.inputs:
        sentences = read(request.inputs, request.reading, model.labels)
        arrays = encode(sentences, model.tokenizer, model.labels, model.lookahead)
    else:
        arrays = cast(ExampleData, request.held_out()).store.parts[VALIDATION]
    print_metrics(model.metrics(arrays), request)


def predict(request: Request) -> None:
    """Print every token with its label, and an empty line after each sentence."""
    if not request.inputs:
        raise UsageError("no text given.", hint="textgen predict FILE, or - for standard input.")
    lines = [line.split() for _, line in request.reading.lines(request.inputs)]
    if request.options.conll:
        lines = [[line[0] for line in group] for full, group in groupby(lines, key=bool) if full]
    sentences = [line for line in lines if line]
    model: Tagger = request.load()
    for tokens, labels in zip(sentences, model.tag(sentences), strict=True):
        text = "".join(f"{token}\t{label}\n" for token, label in zip(tokens, labels, strict=True))
        Output().write((json.dumps({"tokens": tokens, "labels": labels}) if request.as_json else text) + "\n")

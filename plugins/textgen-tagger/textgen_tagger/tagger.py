"""Labeled sentences, what a tagger is trained on, and a trained tagger. Imports no torch."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np

from textgen import tasks
from textgen.data.tokenizers import train_tokenizer
from textgen.data.tokenizers.base import Tokenizer
from textgen.errors import TextgenError, UsageError
from textgen.formatting import plural
from textgen.model.stepper import TokenStepper
from textgen.screen import Output
from textgen.tasks import IGNORED, TRAIN, VALIDATION, ClassificationMetrics, Texts
from textgen_tagger import TagOptions

Sentence = list[tuple[str, str]]  # tokens and their labels
FILE = "tagger.json"


def read(paths: Sequence[str], reading: tasks.Reading, known: Sequence[str] = ()) -> list[Sentence]:
    """The sentences of some files. Raises TextgenError naming the line of anything else, and of an unknown label."""
    sentences: list[Sentence] = [[]]
    for where, line in reading.each_line(paths):
        columns = line.split()
        if len(columns) not in (0, 2):
            raise TextgenError(f"{where} must hold a token and its label, not {line[:60]!r}.")
        if columns and known and columns[1] not in known:
            raise tasks.unknown_label(where, columns[1], known)
        sentences[-1:] = [[*sentences[-1], (columns[0], columns[1])]] if columns else [sentences[-1], []]
    found = [sentence for sentence in sentences if sentence]
    if not found:
        raise TextgenError(f"there is no sentence in {', '.join(map(repr, paths))}.")
    return found


def encode(sentences: Sequence[Sentence], tokenizer: Tokenizer, labels: Sequence[str], lookahead: int) -> Any:
    """Sentences one after another: the ids that the model reads, the label to predict at each, the ends of sentences.

    The label of a token is predicted `lookahead` ids after it, so that many boundaries follow each sentence.
    """
    ids: list[int] = []
    numbers: list[int] = []
    ends: list[int] = []
    for sentence in sentences:
        ids += [*tokenizer.encode(" ".join(token for token, _ in sentence)), *[tokenizer.boundary] * lookahead]
        numbers += [*[IGNORED] * lookahead, *(labels.index(label) for _, label in sentence)]
        ends.append(len(ids))
    return {"ids": np.array(ids, np.int32), "labels": np.array(numbers, np.int64), "ends": np.array(ends, np.int64)}


@dataclass(frozen=True)
class TagData(tasks.TextExampleData):
    """What a tagger is trained on: labeled sentences as `encode` returns them."""

    kind, arrays, noun, facts_file = "labeled sentences", ("ids", "labels", "ends"), "sentence", FILE
    pipeline, model_name, most_epochs = "token-classification", "A tagger", 20.0
    defaults: ClassVar = {"batch_size": 16, "hidden_size": 128, "dropout": 0.3}

    store: tasks.ExampleStore

    @classmethod
    def prepare(cls, paths: list[str], options: TagOptions, cache: Path, progress: tasks.Progress) -> Self:
        reading = tasks.Reading.of({}, {"encoding": options.encoding})
        sentences = read(paths, reading)
        labels = sorted({label for sentence in sentences for _, label in sentence})
        validation = read([options.validation_file], reading, labels) if options.validation_file else None
        train, held_out = tasks.divide(sentences, validation, options)
        facts: dict[str, Any] = {"labels": labels, "lookahead": options.lookahead}

        def encoded() -> tasks.Encoded:
            documents = ([" ".join(token for token, _ in sentence).encode()] for sentence in train)
            tokenizer = train_tokenizer("word", documents, 30_000)
            parts = {name: encode(part, tokenizer, **facts) for name, part in ((TRAIN, train), (VALIDATION, held_out))}
            return tasks.Encoded(parts, {"facts": facts}, tokenizer)

        return cls.cached(cache, [train, held_out, facts], encoded)

    @property
    def outputs(self) -> int:
        return len(self.facts["labels"])

    def described(self) -> list[str]:
        return [*super().described(), plural(self.outputs, "label")]

    def objective(self, options: TagOptions) -> tasks.Objective:
        return tasks.TokenLabelObjective.of(self, self.facts["labels"], options)


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
        texts, true = self.encoded(unlabeled)
        names = iter([self.labels[k] for k in texts.outputs(self.stepper)[true != IGNORED].argmax(axis=1)])
        return [[next(names) for _ in tokens] for tokens in sentences]

    def encoded(self, sentences: Sequence[Sentence]) -> tuple[Texts, Any]:
        """Sentences as the model reads them, and the label to predict at each id."""
        arrays = encode(sentences, self.tokenizer, self.labels, self.lookahead)
        return Texts(arrays["ids"], arrays["ends"], self.tokenizer.boundary), arrays["labels"]


def load(folder: Path, backend: str = "auto") -> Tagger:
    model = tasks.open_model(folder, backend, FILE)
    return Tagger(model.tokenizer, model.stepper, **model.facts)


def evaluate(request: tasks.Request) -> None:
    """Print the metrics of labeled sentences, or of those that training held out."""
    model: Tagger = request.load()
    if request.inputs:
        texts, true = model.encoded(read(request.inputs, request.reading, model.labels))
    else:
        texts, true = request.held_out().labelled(VALIDATION)
    tasks.print_metrics(ClassificationMetrics.of_tokens(model.labels, model.stepper, texts, true), request.as_json)


def predict(request: tasks.Request) -> None:
    """Print every token with its label, and an empty line after each sentence."""
    if not request.inputs:
        raise UsageError("no text given.", hint="textgen predict FILE, or - for standard input.")
    lines = [line.split() for _, line in request.reading.each_line(request.inputs)]
    if request.options.conll:
        lines = [[line[0] for line in group] for full, group in groupby(lines, key=bool) if full]
    sentences = [line for line in lines if line]
    model: Tagger = request.load()
    for tokens, labels in zip(sentences, model.tag(sentences), strict=True):
        text = "".join(f"{token}\t{label}\n" for token, label in zip(tokens, labels, strict=True))
        Output().write((json.dumps({"tokens": tokens, "labels": labels}) if request.as_json else text) + "\n")

"""Labelled texts, read, divided and encoded once, and kept in a sealed folder."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Self

import numpy as np

from textgen import sealed
from textgen.config import ModelConfig
from textgen.labels.batches import Batches
from textgen.labels.corpus import KIND, LabelledCorpus
from textgen.labels.predict import LABELS, labels_file
from textgen.labels.settings import LabelsOptions
from textgen.labels.survey import listed
from textgen.labels.task import Classification, LabelledTexts, class_weights, replacement
from textgen.labels.texts import Texts
from textgen.settings import TrainOptions
from textgen.tasks.examples import ExampleStore, open_examples
from textgen.tasks.sizing import model_config
from textgen.tasks.task import ExampleData
from textgen.text.levels import LEVELS
from textgen.text.split import TRAIN, VALIDATION, Progress
from textgen.text.store import tokenizer_of
from textgen.text.tokenizer import Tokenizer
from textgen.wording import count, plural, short

BATCH_SIZE, SEQ_LENGTH = 32, 256
HIDDEN_SIZE, EMBEDDING_SIZE = 128, 128
DROPOUT, LEARNING_RATE = 0.5, 2e-3


@dataclass(frozen=True)
class LabelsData(ExampleData):
    """Texts with labels: what is learned from, and what is held out."""

    store: ExampleStore
    pooling: str = LabelsOptions.pooling

    most_epochs = 8.0
    next_verb = "predict{model} FILE"

    @classmethod
    def prepare(cls, paths: list[str], options: TrainOptions, cache: Path, progress: Progress) -> Self:
        """Read labelled texts and encode them, or find them as they were. Raises TextgenError naming row and column."""
        corpus = LabelledCorpus.read(paths, options, progress)
        folder = cache / corpus.key
        return replace(cls.kept(folder, lambda: corpus.write(folder, progress)), pooling=options.pooling)

    @classmethod
    def open(cls, folder: Path) -> Self:
        store = open_examples(folder, KIND)
        for part in (TRAIN, VALIDATION):
            if sorted(store.parts[part]) != ["ends", "ids", "labels"]:
                raise sealed.DamagedError(f"{folder} is damaged: its {part} part holds other arrays than it should.")
        return cls(store)

    @cached_property
    def tokenizer(self) -> Tokenizer:  # type: ignore[override]
        return tokenizer_of(self.store.folder)

    @property
    def labels(self) -> tuple[str, ...]:
        """The names of the labels, by number."""
        return tuple(self.store.about["labels"])

    @property
    def amount(self) -> int:
        return len(self.store.parts[TRAIN]["ids"])

    @property
    def held_out(self) -> int:
        return len(self.store.parts[VALIDATION]["ids"])

    @property
    def characters(self) -> float:  # type: ignore[override]
        return LEVELS[self.tokenizer.level].characters

    def part(self, part: str) -> LabelledTexts:
        """The texts of a part, encoded, and the numbers of their labels."""
        arrays = self.store.parts[part]
        texts = Texts(arrays["ids"], arrays["ends"], self.tokenizer.boundary)
        return LabelledTexts(texts, arrays["labels"].astype(np.int64))

    def described(self) -> list[str]:
        train, held = (self.part(part).labels for part in (TRAIN, VALIDATION))
        counts = np.bincount(np.concatenate([train, held]), minlength=len(self.labels))
        shown = ", ".join(f"{label!r} {number:,}" for label, number in zip(self.labels[:6], counts, strict=False))
        return [
            f"{short(self.store.about['bytes'])}B",
            f"{plural(len(train), 'text')} to learn from, {count(len(held))} held out",
            f"{len(self.labels)} labels: {shown}{', ...' if len(self.labels) > 6 else ''}",
            f"{count(self.amount)} {self.tokenizer.level} tokens",
            f"{count(self.tokenizer.vocab_size)} symbols",
        ]

    def with_defaults(self, options: TrainOptions) -> TrainOptions:
        """What suits some thousands of short texts: a small model, much dropout, small steps."""
        train = self.part(TRAIN).texts
        finetuned = options.init_from is not None
        return replace(
            options,
            batch_size=options.batch_size or min(BATCH_SIZE, len(train.ends)),
            seq_length=options.seq_length or min(SEQ_LENGTH, int(train.lengths.max())),
            hidden_size=options.hidden_size or HIDDEN_SIZE,
            embedding_size=options.embedding_size or EMBEDDING_SIZE,
            dropout=DROPOUT if options.dropout is None else options.dropout,
            learning_rate=options.learning_rate or (LEARNING_RATE / 2 if finetuned else LEARNING_RATE),
            tie_weights=False,
        )

    def symbols_per_step(self, options: TrainOptions) -> float:
        return self.amount / self._batches(options).steps_per_epoch

    def _batches(self, options: TrainOptions) -> Batches:
        assert options.batch_size and options.seq_length
        return Batches(self.part(TRAIN).texts.lengths, options.batch_size, options.seq_length, options.seed)

    def config(self, options: TrainOptions, hidden_size: int) -> ModelConfig:
        untied = replace(options, tie_weights=False)
        config = model_config(untied, self.tokenizer.level, self.tokenizer.vocab_size, hidden_size)
        return replace(config, task="classify", outputs=len(self.labels))

    def task(self, options: TrainOptions) -> Classification:
        train, tokenizer = self.part(TRAIN), self.tokenizer
        frequencies = np.bincount(train.texts.ids, minlength=tokenizer.vocab_size).astype(np.int64)
        return Classification(
            train,
            self.part(VALIDATION),
            self.labels,
            self._batches(options),
            options.pooling,
            class_weights(options.class_weights, train.labels, len(self.labels)),
            tokenizer.escape,
            replacement(frequencies, tokenizer.boundary),
        )

    def files(self) -> dict[str, bytes]:
        return {LABELS: labels_file(self.labels, self.pooling), **self.tokenizer.files()}

    def card(self, config: ModelConfig, name: str) -> str:
        texts = len(self.part(TRAIN).labels)
        return f"""---
library_name: textgen
pipeline_tag: text-classification
---

# {name}

A recurrent model that tells the label of a text ({listed(self.labels)}), made with textgen: {config.num_layers} x
{config.cell}, {config.hidden_size} units, {config.vocab_size:,} symbols ({self.tokenizer.level}), trained on
{texts:,} texts.

    textgen predict -m {name} FILE

Accuracy over time stands in `metrics.jsonl`, every option in `training_args.json`.
"""

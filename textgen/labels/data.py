"""The data of classification: labelled texts, split and encoded once, and stored in a sealed folder."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

import numpy as np

from textgen import files
from textgen.config import ModelConfig
from textgen.labels.batches import Batches
from textgen.labels.classifier import LABELS, labels_file
from textgen.labels.corpus import KIND, LabelledCorpus
from textgen.labels.objective import ClassificationObjective, LabelledTexts, class_weights, replacement
from textgen.labels.options import ClassificationOptions
from textgen.labels.survey import listed
from textgen.labels.texts import Texts
from textgen.tasks.data import ExampleStore, TextExampleData, model_card
from textgen.tasks.sizing import model_config
from textgen.text.split import TRAIN, VALIDATION, Progress
from textgen.wording import count, plural, short

BATCH_SIZE, SEQ_LENGTH = 32, 256
HIDDEN_SIZE, EMBEDDING_SIZE = 128, 128
DROPOUT, LEARNING_RATE = 0.5, 2e-3


@dataclass(frozen=True)
class ClassificationData(TextExampleData):
    """Labelled texts: the training part and the held-out part."""

    kind, arrays = KIND, ("ends", "ids", "labels")

    store: ExampleStore
    pooling: str = ClassificationOptions.pooling

    most_epochs = 8.0

    @classmethod
    def prepare(cls, paths: list[str], options: ClassificationOptions, cache: Path, progress: Progress) -> Self:
        """Read and encode labelled texts, or open the stored ones. Raises TextgenError naming row and column."""
        corpus = LabelledCorpus.read(paths, options, progress)
        folder = cache / corpus.key
        data = files.cached(folder, cls.open, lambda: corpus.write(folder, progress))
        return replace(data, pooling=options.pooling)

    @property
    def labels(self) -> tuple[str, ...]:
        """The label names, by index."""
        return tuple(self.store.about["labels"])

    def part(self, part: str) -> LabelledTexts:
        """The encoded texts of a part, and the indices of their labels."""
        arrays = self.store.parts[part]
        texts = Texts(arrays["ids"], arrays["ends"], self.tokenizer.boundary)
        return LabelledTexts(texts, arrays["labels"].astype(np.int64))

    def described(self) -> list[str]:
        train, held = (self.part(part).labels for part in (TRAIN, VALIDATION))
        counts = np.bincount(np.concatenate([train, held]), minlength=len(self.labels))
        shown = ", ".join(f"{label!r} {number:,}" for label, number in zip(self.labels[:6], counts, strict=False))
        return [
            f"{short(self.store.about['bytes'])}B",
            f"{plural(len(train), 'text')} to train on, {count(len(held))} held out",
            f"{len(self.labels)} labels: {shown}{', ...' if len(self.labels) > 6 else ''}",
            f"{count(self.training_tokens)} {self.tokenizer.level} tokens",
            f"{count(self.tokenizer.vocab_size)} tokens in the vocabulary",
        ]

    def with_defaults(self, options: ClassificationOptions) -> ClassificationOptions:
        """Defaults for some thousands of short texts: a small model, strong dropout, a low learning rate."""
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

    def tokens_per_step(self, options: ClassificationOptions) -> float:
        return self.training_tokens / self._batches(options).steps_per_epoch

    def _batches(self, options: ClassificationOptions) -> Batches:
        assert options.batch_size and options.seq_length
        return Batches(self.part(TRAIN).texts.lengths, options.batch_size, options.seq_length, options.seed)

    def config(self, options: ClassificationOptions, hidden_size: int) -> ModelConfig:
        untied = replace(options, tie_weights=False)
        config = model_config(untied, self.tokenizer.level, self.tokenizer.vocab_size, hidden_size)
        return replace(config, task="classify", outputs=len(self.labels))

    def objective(self, options: ClassificationOptions) -> ClassificationObjective:
        train, tokenizer = self.part(TRAIN), self.tokenizer
        frequencies = np.bincount(train.texts.ids, minlength=tokenizer.vocab_size).astype(np.int64)
        return ClassificationObjective(
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
        details = [
            f"{config.vocab_size:,} tokens ({self.tokenizer.level})",
            f"trained on {len(self.part(TRAIN).labels):,} texts",
        ]
        what = f"A recurrent classifier of texts ({listed(self.labels)})"
        return model_card(name, "text-classification", what, config, details, "predict -m {} FILE")

"""What a run on pairs learns from: tables read, divided by whole prompts, encoded once, and kept."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import numpy as np

from textgen import files
from textgen.config import ModelConfig
from textgen.errors import TextgenError
from textgen.language_model import SUBWORD_SAMPLING, with_habits
from textgen.model import Model
from textgen.model_folder import GENERATION
from textgen.pairs.examples import Examples
from textgen.pairs.read import Pair
from textgen.pairs.survey import COUNTS, PairCorpus, open_pairs
from textgen.pairs.task import Completing
from textgen.settings import TrainOptions
from textgen.tasks.examples import ExampleStore
from textgen.tasks.sizing import model_config
from textgen.tasks.task import ExampleData
from textgen.text.levels import LEVELS, SIZED
from textgen.text.split import TRAIN, VALIDATION, Progress, no_progress
from textgen.text.tokenizer import Ids, Tokenizer
from textgen.torch_stepper import TorchStepper
from textgen.writing.generate import generate

LONGEST = 512
"""Symbols of an example, at most, where --seq-length does not say."""

BATCHES, SMALLEST, LARGEST = 128, 8, 32
"""Where --batch-size does not say: so many steps make a pass, of no fewer and no more pairs than these. Few pairs in
large batches are too few steps."""

MOST_EPOCHS = 30.0
"""Passes that a plan of minutes makes at most: beyond them a small model learns the pairs by heart."""

SHOWN = 60
"""Symbols that are written, at most, to show what a model in training does."""

MOST_WRITTEN = 1000
"""The most symbols that a completion gets where sampling does not say."""


@dataclass(frozen=True)
class PairsData(ExampleData):
    """Pairs of prompts and completions, ready to be learned from."""

    store: ExampleStore
    tokenizer: Tokenizer

    most_epochs = MOST_EPOCHS

    @classmethod
    def prepare(cls, paths: list[str], options: TrainOptions, cache: Path, progress: Progress = no_progress) -> Self:
        corpus = PairCorpus.read(paths, options, progress)
        folder = cache / corpus.key
        return cls.kept(folder, lambda: corpus.write(folder, progress))

    @classmethod
    def open(cls, folder: Path) -> Self:
        return cls(*open_pairs(folder))

    @property
    def characters(self) -> float:  # type: ignore[override]
        return LEVELS[self.tokenizer.level].characters

    @cached_property
    def training(self) -> Examples:
        """The pairs to learn from."""
        return self._examples(TRAIN)

    @cached_property
    def validation(self) -> Examples:
        """The pairs that are held out."""
        return self._examples(VALIDATION)

    def _examples(self, part: str) -> Examples:
        arrays = self.store.parts[part]
        counts = {name: self.store.about[part][name] for name in COUNTS}
        sizes = arrays["sizes"].astype(np.int64)
        return Examples(arrays["ids"], sizes, self.tokenizer.boundary, self.tokenizer.vocab_size, **counts)

    def held_out_pairs(self) -> list[Pair]:
        """The held-out pairs as text."""
        arrays = self.store.parts[VALIDATION]
        text, pairs, at = arrays["text"].tobytes(), [], 0
        for prompt, completion in np.asarray(arrays["text_sizes"]).reshape(-1, 2).tolist():
            pairs.append(Pair(text[at : at + prompt], text[at + prompt : at + prompt + completion]))
            at += prompt + completion
        return pairs

    @property
    def amount(self) -> int:
        return self.training.symbols

    @property
    def held_out(self) -> int:
        return self.validation.symbols

    def described(self) -> list[str]:
        train, held = self.training, self.validation
        return [
            f"{len(train) + len(held):,} pairs",
            f"{train.symbols:,} {self.tokenizer.level} tokens to train on, {train.counted:,} of them in completions",
            f"{self.tokenizer.vocab_size + 1:,} symbols",
            f"{len(held):,} pairs held out",
        ]

    def with_defaults(self, options: TrainOptions) -> TrainOptions:
        if not len(self.training):
            raise TextgenError("every pair is held out; that leaves nothing to learn from.")
        longest = int(self.training.read.max())
        number = len(self.training)
        batch = options.batch_size or max(1, min(number // 4, LARGEST, max(SMALLEST, number // BATCHES)))
        return replace(options, batch_size=batch, seq_length=options.seq_length or min(LONGEST, longest))

    def symbols_per_step(self, options: TrainOptions) -> float:
        return self.task(options).symbols_per_step

    def config(self, options: TrainOptions, hidden_size: int) -> ModelConfig:
        symbols = self.tokenizer.vocab_size + 1  # the separator comes last
        return replace(model_config(options, self.tokenizer.level, symbols, hidden_size), task="complete")

    def task(self, options: TrainOptions) -> Completing:
        assert options.batch_size and options.seq_length
        return Completing(
            self.training,
            self.validation,
            options.batch_size,
            options.seq_length,
            options.seed,
            options.prompt_loss_weight,
            self._show,
        )

    def _show(self, model: Model) -> str:
        """A prompt, held out if one is, and what the model writes after it."""
        examples = self.validation if len(self.validation) else self.training
        prompt = self.tokenizer.decode(examples.example(0)[1 : int(examples.sizes[0, 0]) + 1])
        config = ModelConfig(self.tokenizer.vocab_size + 1)
        writer = with_habits(config, self.tokenizer, TorchStepper(model), self._habits())
        return f"{prompt!r} -> {generate(writer, prompt, temperature=0.0, max_new_tokens=SHOWN)!r}"

    def files(self) -> dict[str, bytes]:
        return {**self.tokenizer.files(), GENERATION: files.to_json(self._habits())}

    def _habits(self) -> dict[str, Any]:
        """What generation_config.json says: how a prompt is framed, and what is never written."""
        tokenizer, examples = self.tokenizer, self.training
        seen = np.bincount(examples.ids, minlength=tokenizer.vocab_size)
        unseen = {int(i) for i in np.flatnonzero(seen == 0)} | set(tokenizer.unsampled)
        most = min(MOST_WRITTEN, int(examples.sizes[:, 1].max()) + 1)
        return {
            "begin": [tokenizer.boundary],
            "prompt_end": [examples.separator],
            "suppress_tokens": sorted((unseen | {examples.separator}) - {tokenizer.boundary}),
            "sampling": {**(SUBWORD_SAMPLING if tokenizer.level in SIZED else {}), "max_new_tokens": most},
        }

    def written(self) -> Ids:
        examples = self.training
        begins = np.cumsum(examples.sizes[:, 1]) - examples.sizes[:, 1]
        return np.insert(examples.written, begins, examples.boundary)

    def card(self, config: ModelConfig, name: str) -> str:
        return f"""---
library_name: textgen
pipeline_tag: text-generation
---

# {name}

Completes prompts. Made with textgen: {config.num_layers} x {config.cell}, {config.hidden_size} units,
{config.vocab_size:,} symbols ({self.tokenizer.level}), trained on {len(self.training):,} pairs.

    textgen sample -m {name} --prompt "..."

The loss over time stands in `metrics.jsonl`, every option in `training_args.json`.
"""

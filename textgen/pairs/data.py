"""The data of completion: pairs read from tables, split by prompt, encoded once and stored."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import numpy as np

from textgen import files
from textgen.config import ModelConfig
from textgen.errors import TextgenError
from textgen.language_model import SUBWORD_SAMPLING, with_generation_config
from textgen.model import Model
from textgen.model_folder import GENERATION
from textgen.pairs.examples import Examples
from textgen.pairs.objective import CompletionObjective
from textgen.pairs.options import CompletionOptions
from textgen.pairs.read import Pair
from textgen.pairs.survey import COUNTS, PairCorpus, open_pairs
from textgen.tasks.data import ExampleData, ExampleStore, model_card
from textgen.tasks.sizing import model_config
from textgen.text.levels import LEVELS, SIZED
from textgen.text.split import TRAIN, VALIDATION, Progress, no_progress
from textgen.text.store import tokenizer_of
from textgen.text.tokenizer import Ids, Tokenizer
from textgen.torch_stepper import TorchStepper
from textgen.writing.generate import generate

LONGEST = 512
"""The default maximum of --seq-length, in tokens."""

BATCHES, SMALLEST, LARGEST = 128, 8, 32
"""Defaults for --batch-size: an epoch of this many steps, within the smallest and largest batch. With few pairs, large
batches would give too few steps."""

MOST_EPOCHS = 30.0
"""The most epochs of a plan by minutes: with more, a small model memorizes the pairs."""

SHOWN = 60
"""The most tokens in a sample during training."""

MOST_WRITTEN = 1000
"""The default maximum of tokens in a completion."""


@dataclass(frozen=True)
class CompletionData(ExampleData):
    """Pairs of prompts and completions, ready for training."""

    store: ExampleStore

    most_epochs = MOST_EPOCHS

    @classmethod
    def prepare(
        cls, paths: list[str], options: CompletionOptions, cache: Path, progress: Progress = no_progress
    ) -> Self:
        corpus = PairCorpus.read(paths, options, progress)
        folder = cache / corpus.key
        return files.cached(folder, cls.open, lambda: corpus.write(folder, progress))

    @classmethod
    def open(cls, folder: Path) -> Self:
        return cls(open_pairs(folder))

    @cached_property
    def tokenizer(self) -> Tokenizer:
        return tokenizer_of(self.store.folder)

    @property
    def characters_per_token(self) -> float:
        return LEVELS[self.tokenizer.level].characters

    @cached_property
    def training(self) -> Examples:
        """The training pairs."""
        return self._examples(TRAIN)

    @cached_property
    def validation(self) -> Examples:
        """The held-out pairs."""
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
    def training_tokens(self) -> int:
        return self.training.tokens

    @property
    def held_out_tokens(self) -> int:
        return self.validation.tokens

    def described(self) -> list[str]:
        train, held = self.training, self.validation
        return [
            f"{len(train) + len(held):,} pairs",
            f"{train.tokens:,} {self.tokenizer.level} tokens to train on, {train.counted:,} of them in completions",
            f"{self.tokenizer.vocab_size + 1:,} tokens in the vocabulary",
            f"{len(held):,} pairs held out",
        ]

    def with_defaults(self, options: CompletionOptions) -> CompletionOptions:
        if not len(self.training):
            raise TextgenError("every pair is held out, so there is nothing to train on.")
        longest = int(self.training.read.max())
        number = len(self.training)
        batch = options.batch_size or max(1, min(number // 4, LARGEST, max(SMALLEST, number // BATCHES)))
        return replace(options, batch_size=batch, seq_length=options.seq_length or min(LONGEST, longest))

    def tokens_per_step(self, options: CompletionOptions) -> float:
        return self.objective(options).tokens_per_step

    def config(self, options: CompletionOptions, hidden_size: int) -> ModelConfig:
        vocab_size = self.tokenizer.vocab_size + 1  # the separator comes last
        return replace(model_config(options, self.tokenizer.level, vocab_size, hidden_size), task="complete")

    def objective(self, options: CompletionOptions) -> CompletionObjective:
        assert options.batch_size and options.seq_length
        return CompletionObjective(
            self.training,
            self.validation,
            options.batch_size,
            options.seq_length,
            options.seed,
            options.prompt_loss_weight,
            self._show,
        )

    def _show(self, model: Model) -> str:
        """A prompt, held out if possible, and the completion that the model generates."""
        examples = self.validation if len(self.validation) else self.training
        prompt = self.tokenizer.decode(examples.example(0)[1 : int(examples.sizes[0, 0]) + 1])
        config = ModelConfig(self.tokenizer.vocab_size + 1)
        writer = with_generation_config(config, self.tokenizer, TorchStepper(model), self._generation_config())
        return f"{prompt!r} -> {generate(writer, prompt, temperature=0.0, max_new_tokens=SHOWN)!r}"

    def files(self) -> dict[str, bytes]:
        return {**self.tokenizer.files(), GENERATION: files.to_json(self._generation_config())}

    def _generation_config(self) -> dict[str, Any]:
        """The content of generation_config.json: the tokens around a prompt, and those that are never sampled."""
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

    def text_ids(self) -> Ids:
        examples = self.training
        begins = np.cumsum(examples.sizes[:, 1]) - examples.sizes[:, 1]
        return np.insert(examples.written, begins, examples.boundary)

    def card(self, config: ModelConfig, name: str) -> str:
        details = [
            f"{config.vocab_size:,} tokens ({self.tokenizer.level})",
            f"trained on {len(self.training):,} pairs",
        ]
        return model_card(name, "text-generation", "A recurrent model that completes prompts", config, details)

"""What a model that completes prompts is trained on: pairs, tokenized."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from textgen.data import SIZED
from textgen.data.recipes import TRAIN, VALIDATION, Progress
from textgen.data.store import no_progress
from textgen.data.tokenizers.base import Ids
from textgen.errors import TextgenError
from textgen.generation.generate import generate
from textgen.generation.language_model import SUBWORD_SAMPLING, with_generation_config
from textgen.model import GENERATION, ModelConfig
from textgen.storage import filesystem
from textgen.tasks.completion.options import CompletionOptions
from textgen.tasks.completion.reading import COUNTS, KIND, Examples, Pair, PairCorpus, open_pairs
from textgen.tasks.data import ExampleStore, TaskData, TextExampleData

if TYPE_CHECKING:
    from textgen.model.stack import Model
    from textgen.tasks.completion.objective import CompletionObjective

LONGEST = 512
"""The default maximum of --seq-length, in tokens."""

STEPS, SMALLEST, LARGEST = 128, 8, 32
"""Defaults for --batch-size: an epoch of this many steps, within the smallest and largest batch. With few pairs, large
batches would give too few steps."""

SHOWN = 60
"""The most tokens in a sample during training."""

MOST_WRITTEN = 1000
"""The default maximum of tokens in a completion."""


@dataclass(frozen=True)
class CompletionData(TextExampleData):
    """Pairs of prompts and completions, ready for training."""

    kind, noun, usage = KIND, "pair", TaskData.usage
    model_name = "A recurrent model that completes prompts"
    most_epochs = 30.0  # with more, a small model memorizes the pairs

    store: ExampleStore

    @classmethod
    def prepare(
        cls, paths: list[str], options: CompletionOptions, cache: Path, progress: Progress = no_progress
    ) -> Self:
        corpus = PairCorpus.read(paths, options, progress)
        return cls.cached(cache, corpus.depends, lambda: corpus.encode(progress))

    @classmethod
    def open(cls, folder: Path) -> Self:
        return cls(open_pairs(folder))

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

    @property
    def vocab_size(self) -> int:
        return self.tokenizer.vocab_size + 1  # the separator comes last

    def described(self) -> list[str]:
        train, held = self.training, self.validation
        return [
            f"{len(train) + len(held):,} pairs",
            f"{train.tokens:,} {self.tokenizer.kind} tokens to train on, {train.counted:,} of them in completions",
            f"{self.vocab_size:,} tokens in the vocabulary",
            f"{len(held):,} pairs held out",
        ]

    def with_defaults(self, options: CompletionOptions) -> CompletionOptions:
        if not len(self.training):
            raise TextgenError("every pair is held out, so there is nothing to train on.")
        longest = int(self.training.read.max())
        number = len(self.training)
        batch = options.batch_size or max(1, min(number // 4, LARGEST, max(SMALLEST, number // STEPS)))
        return replace(options, batch_size=batch, seq_length=options.seq_length or min(LONGEST, longest))

    def objective(self, options: CompletionOptions) -> CompletionObjective:
        from textgen.tasks.completion.objective import CompletionObjective

        return CompletionObjective.of(
            self.training,
            self.validation,
            *options.window,
            options.seed,
            options.prompt_loss_weight,
            self._show,
        )

    def _show(self, model: Model) -> str:
        """A prompt, held out if possible, and the completion that the model generates."""
        from textgen.model.weights import TorchStepper

        examples = self.validation if len(self.validation) else self.training
        prompt = self.tokenizer.decode(examples.example(0)[1 : int(examples.sizes[0, 0]) + 1])
        config = ModelConfig(self.vocab_size)
        writer = with_generation_config(config, self.tokenizer, TorchStepper(model), self._generation_config())
        return f"{prompt!r} -> {generate(writer, prompt, temperature=0.0, max_new_tokens=SHOWN)!r}"

    def files(self) -> dict[str, bytes]:
        return {**self.tokenizer.files(), GENERATION: filesystem.to_json(self._generation_config())}

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
            "sampling": {**(SUBWORD_SAMPLING if tokenizer.kind in SIZED else {}), "max_new_tokens": most},
        }

    def text_ids(self) -> Ids:
        examples = self.training
        begins = np.cumsum(examples.sizes[:, 1]) - examples.sizes[:, 1]
        return np.insert(examples.written, begins, examples.boundary)

    def trained_on(self) -> str:
        return f"{len(self.training):,} pairs"

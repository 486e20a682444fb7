"""What a model that completes prompts is trained on, and its objective: the loss of the completions."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from textgen.data import SIZED
from textgen.data.recipes import TRAIN, VALIDATION, Progress
from textgen.data.store import no_progress
from textgen.data.tokenizers.base import Ids
from textgen.errors import TextgenError
from textgen.evaluation import Score
from textgen.formatting import plural
from textgen.generation.generate import generate
from textgen.generation.language_model import SUBWORD_SAMPLING, with_generation_config
from textgen.model import GENERATION, ModelConfig
from textgen.model.stack import Model
from textgen.model.stepper import TokenStepper
from textgen.model.weights import TorchStepper
from textgen.options import named
from textgen.storage import filesystem
from textgen.tasks.completion.options import CompletionOptions
from textgen.tasks.completion.reading import COUNTS, FRAME, KIND, Examples, Pair, PairCorpus, open_pairs, padded_batches
from textgen.tasks.data import IGNORED, QUICK_LOOK, ExampleStore, TaskData, TextExampleData
from textgen.tasks.objective import Batches, ExampleObjective

AT_ONCE = 4096
"""Tokens per batch of an evaluation, padding included."""

JITTER = 0.05
"""As in `Batches`: the pairs of a batch have nearly the same size."""

LONGEST = 512
"""The default maximum of --seq-length, in tokens."""

STEPS, SMALLEST, LARGEST = 128, 8, 32
"""Defaults for --batch-size: an epoch of this many steps, within the smallest and largest batch. With few pairs, large
batches would give too few steps."""

SHOWN = 60
"""The most tokens in a sample during training."""

MOST_WRITTEN = 1000
"""The default maximum of tokens in a completion."""


def score_examples(stepper: TokenStepper, examples: Examples, most: int | None = None) -> Score:
    """The score of the completions, each read after its prompt from the initial state; every end counts as a token.

    With `most`, only the first pairs are scored, about so many tokens in total.
    """
    rows = np.arange(len(examples))
    if most is not None:
        rows = rows[: max(1, int(np.searchsorted(np.cumsum(examples.read), most, side="right")))]
    nats, counted = 0.0, 0
    for group in padded_batches(examples.read, rows, AT_ONCE):
        inputs, targets, _ = examples.batch(group.tolist())
        counts = targets != IGNORED
        wanted = np.where(counts, targets, 0).astype(np.int32)
        logprobs, _ = stepper.score(inputs.T, wanted.T, stepper.initial_state(len(group)))
        nats -= math.fsum(logprobs[counts.T])
        counted += int(counts.sum())
    share = counted / max(1, examples.counted)
    return Score(
        nats + examples.raw * 8 * math.log(2) * share,
        counted,
        max(1, round(examples.characters * share)),
        max(1, round(examples.bytes * share)),
        None if examples.unknown is None else round(examples.unknown * share),
    )


@dataclass(frozen=True)
class CompletionObjective(ExampleObjective):
    """Predict each token of a completion from the prompt and the tokens before it; the loss is in nats per token.

    Every example starts from the initial state; `usable` are the indices of the pairs to train on. `prompt_weight` is
    the weight of a prompt token relative to a completion token; without it targets are (T, B), with it (2 T, B): those
    of the completions, then those of the prompts. `show` gives a sample during training.
    """

    columns = ("loss", "perplexity", "bits/byte")

    training: Examples
    validation: Examples
    usable: npt.NDArray[np.intp]
    prompt_weight: float = 0.0
    show: Callable[[Model], str] | None = None

    @classmethod
    def of(
        cls,
        training: Examples,
        validation: Examples,
        batch_size: int,
        seq_length: int,
        seed: int,
        prompt_weight: float = 0.0,
        show: Callable[[Model], str] | None = None,
    ) -> Self:
        """The objective for the pairs whose prompt leaves room for a token of the completion. Raises TextgenError if
        there are none."""
        usable = np.flatnonzero(training.sizes[:, 0] + FRAME <= seq_length)
        if not len(usable):
            raise TextgenError(
                f"no prompt leaves room for a completion within {named('seq_length', seq_length)}.",
                hint=f"{named('seq_length', int(training.sizes[:, 0].min()) + FRAME)} and more has room.",
            )
        batches = Batches(np.minimum(training.read[usable], seq_length), batch_size, seq_length, seed, JITTER)
        return cls(batches, training, validation, usable, prompt_weight, show)

    def warnings(self) -> list[str]:
        """Warnings about pairs that are not trained on, one sentence each."""
        sizes, found, length = self.training.read, [], self.batches.seq_length
        if cut := int((sizes[self.usable] > length).sum()):
            found.append(f"{plural(cut, 'completion')} cut at the end: {named('seq_length', length)} holds no more.")
        if out := len(sizes) - len(self.usable):
            found.append(f"{plural(out, 'pair')} left out: the prompt alone fills {named('seq_length', length)}.")
        return found

    def window(self, step: int) -> tuple[Tensor, Tensor]:
        rows = self.usable[self.batches.batch(step).examples]
        inputs, targets, of_prompts = self.training.batch(rows.tolist(), self.batches.seq_length)
        if self.prompt_weight:
            targets = np.concatenate([targets, of_prompts])
        return self.batches.padded(inputs, self.training.boundary), self.batches.padded(targets, IGNORED)

    def weights(self, targets: Tensor) -> Tensor:
        counts = super().weights(targets)
        if self.prompt_weight:
            counts[len(counts) // 2 :] *= self.prompt_weight
        return counts

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """The weighted mean over the tokens that count."""
        logits = outputs.flatten(0, 1)
        losses = [
            cross_entropy(logits, part.flatten(), ignore_index=IGNORED, reduction="none").view_as(part)
            for part in targets.chunk(len(targets) // len(outputs))
        ]
        return self.mean(torch.cat(losses), targets)

    def evaluate(self, model: Model, quick: bool) -> Score | None:
        if not len(self.validation):
            return None
        return score_examples(TorchStepper(model), self.validation, QUICK_LOOK if quick else None)

    def sample(self, model: Model) -> str | None:
        return self.show(model) if self.show else None


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

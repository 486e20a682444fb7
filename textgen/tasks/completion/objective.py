"""The objective of a model that completes prompts: the loss of the completions."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Self

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from textgen.errors import TextgenError
from textgen.evaluation import Score
from textgen.formatting import plural
from textgen.model.stack import Model
from textgen.model.weights import TorchStepper
from textgen.options import named
from textgen.tasks.completion.reading import FRAME, Examples, score_examples
from textgen.tasks.data import IGNORED, QUICK_LOOK
from textgen.tasks.objective import Batches, ExampleObjective

JITTER = 0.05
"""As in `Batches`: the pairs of a batch have nearly the same size."""


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

"""The objective of completion: batches of pairs, and a loss on the completions."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from textgen.errors import TextgenError
from textgen.model import Model
from textgen.pairs.examples import FRAME, IGNORED, Examples, Order
from textgen.pairs.score import score_examples
from textgen.parameters import named
from textgen.scoring.evaluate import Score
from textgen.tasks.objective import Objective
from textgen.tasks.sizing import QUICK_LOOK
from textgen.torch_stepper import TorchStepper
from textgen.wording import plural


@dataclass(frozen=True)
class CompletionObjective(Objective):
    """Predict each token of a completion from the prompt and the tokens before it; the loss is in nats per token.

    Every example starts from the initial state. `prompt_weight` is the weight of a prompt token relative to a
    completion token; without it targets are (T, B), with it (2 T, B): those of the completions, then those of the
    prompts. `show` gives a sample during training.
    """

    columns = ("loss", "perplexity", "bits/byte")

    training: Examples
    validation: Examples
    batch_size: int
    seq_length: int
    seed: int
    prompt_weight: float = 0.0
    show: Callable[[Model], str] | None = None

    def __post_init__(self) -> None:
        if not len(self.usable):
            raise TextgenError(
                f"no prompt leaves room for a completion within {named('seq_length', self.seq_length)}.",
                hint=f"{named('seq_length', int(self.training.sizes[:, 0].min()) + FRAME)} and more has room.",
            )

    @cached_property
    def usable(self) -> npt.NDArray[np.intp]:
        """The indices of the pairs whose prompt leaves room for a token of the completion."""
        return np.flatnonzero(self.training.sizes[:, 0] + FRAME <= self.seq_length)

    @cached_property
    def order(self) -> Order:
        """The order of the usable pairs."""
        return Order(np.minimum(self.training.read[self.usable], self.seq_length), self.batch_size, self.seed)

    def warnings(self) -> list[str]:
        """Warnings about pairs that are not trained on, one sentence each."""
        sizes, found = self.training.read, []
        if cut := int((sizes[self.usable] > self.seq_length).sum()):
            found.append(
                f"{plural(cut, 'completion')} cut at the end: {named('seq_length', self.seq_length)} holds no more."
            )
        if out := len(sizes) - len(self.usable):
            found.append(
                f"{plural(out, 'pair')} left out: the prompt alone fills {named('seq_length', self.seq_length)}."
            )
        return found

    @property
    def steps_per_epoch(self) -> int:
        return self.order.steps_per_epoch

    @property
    def tokens_per_step(self) -> float:
        return self.batch_size * float(self.order.sizes.mean())

    def window(self, step: int) -> tuple[Tensor, Tensor]:
        rows = self.usable[self.order.rows(step)]
        inputs, targets, of_prompts = self.training.batch(rows.tolist(), self.seq_length)
        if self.prompt_weight:
            targets = np.concatenate([targets, of_prompts])
        return torch.from_numpy(inputs), torch.from_numpy(targets)

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """The weighted mean over the tokens that count."""
        logits, length = outputs.flatten(0, 1), len(outputs)
        total = cross_entropy(logits, targets[:length].flatten(), ignore_index=IGNORED, reduction="sum")
        if self.prompt_weight:
            prompts = cross_entropy(logits, targets[length:].flatten(), ignore_index=IGNORED, reduction="sum")
            total = total + self.prompt_weight * prompts
        return total / self._weight(targets)

    def _weight(self, targets: Tensor) -> Tensor:
        """The total weight, a scalar."""
        counts = (targets != IGNORED).float()
        if not self.prompt_weight:
            return counts.sum()
        completions, prompts = counts.chunk(2)
        return completions.sum() + self.prompt_weight * prompts.sum()

    def share(self, targets: Tensor, lanes: slice) -> float:
        return float(self._weight(targets[:, lanes]) / self._weight(targets))

    def evaluate(self, model: Model, quick: bool) -> Score | None:
        if not len(self.validation):
            return None
        return score_examples(TorchStepper(model), self.validation, QUICK_LOOK if quick else None)

    def sample(self, model: Model) -> str | None:
        return self.show(model) if self.show else None

"""Training objectives: the windows of each step, the loss, and how a model is evaluated.

Models have outputs at every time step, (T, B, outputs); an objective chooses which of them count.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, pad

from textgen.cells.engine import State
from textgen.data.recipes import TRAIN, VALIDATION
from textgen.data.tokenizers.base import Ids, Tokenizer
from textgen.evaluation import Metrics as Metrics
from textgen.model.stack import Candidates, Model
from textgen.model.weights import TorchStepper
from textgen.tasks.data import IGNORED, Integers, LabelledTexts, TextExampleData, Texts
from textgen.tasks.metrics import ClassificationMetrics

JITTER = 0.5
"""Lengths are increased by up to this share before sorting, so that batches differ between epochs."""

RARE = 0.25
"""While training, a token that occurs n times is replaced by the unknown token with probability RARE / (RARE + n), so
that the model learns to handle unknown words (Kiperwasser and Goldberg 2016)."""


def at_least_float32(outputs: Tensor) -> Tensor:
    """Outputs in float32 if they are of a lower precision: a loss is not computed in bfloat16."""
    return outputs.float() if outputs.itemsize < 4 else outputs


class Objective(ABC):
    """How a model is trained and evaluated."""

    columns: tuple[str, ...] = ("loss",)
    """The names of the metrics in the training table."""

    starts_as: str | None = None
    """What a new model already is, before it has learned anything, if that is of use: it is evaluated before the first
    step, and kept if training does not improve on it."""

    @property
    def guessing_loss(self) -> float | None:
        """The held-out loss of a uniform guess; None if there is no such loss."""
        return None

    @property
    @abstractmethod
    def steps_per_epoch(self) -> int:
        """Steps in one pass over the training part."""

    @property
    @abstractmethod
    def tokens_per_step(self) -> float:
        """Tokens, or time steps, that a step reads."""

    def fresh(self, step: int) -> Tensor | None:
        """The lanes, (B,) of bool, that start from the initial state in this step; None for all of them."""
        return None

    def window_state(self, step: int, initial: State, before: State, lanes: slice = slice(None)) -> State:
        """The state of some lanes at the start of a window: that after the previous one, and the initial state in fresh
        lanes."""
        fresh = self.fresh(step)
        if not before or fresh is None:
            return initial
        fresh = fresh[lanes]
        if not fresh.any():
            return before
        wide = [fresh.to(old.device).view(-1, *[1] * (old.dim() - 1)) for old in before]
        return tuple(torch.where(*each) for each in zip(wide, initial, before, strict=True))

    @abstractmethod
    def window(self, step: int) -> tuple[Tensor, Tensor]:
        """Inputs (T, B, ...) and targets (K, B, ...) of a step, a pure function of the seed and the step."""

    def candidates(self, step: int, targets: Tensor) -> tuple[Candidates | None, Tensor]:
        """The tokens that outputs are computed for in a step, None for all, and the targets as indices into them."""
        return None, targets

    @abstractmethod
    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """The mean loss, a scalar, of outputs (T, B, O) over the targets that count."""

    def share(self, targets: Tensor, lanes: slice) -> float:
        """The share of a batch's loss that some of its lanes contribute: by default, their share of the lanes."""
        return len(range(targets.shape[1])[lanes]) / targets.shape[1]

    @abstractmethod
    def evaluate(self, model: Model, quick: bool) -> Metrics | None:
        """The metrics on the held-out part; None if there is none. A quick evaluation may use only some of it."""

    def files(self, metrics: Metrics) -> dict[str, bytes]:
        """Files of the model folder that follow from the held-out metrics of its weights, by name: none by default."""
        return {}

    def warnings(self) -> list[str]:
        """Warnings about the data before training, one sentence each."""
        return []

    def sample(self, model: Model) -> str | None:
        """A line that shows what the model can do so far; None if there is nothing to show."""
        return None


@dataclass(frozen=True)
class ExampleBatch:
    """What a step reads: the indices of at most `batch_size` examples, and the token of each that it begins with."""

    examples: Integers
    start: int


@dataclass(frozen=True)
class Batches:
    """Batches of `batch_size` examples of similar length, given the lengths of all examples in tokens, (N,), each at
    least 1. The order is a pure function of (seed, step); an epoch reads every example once.

    Examples of more than `seq_length` tokens are read in several steps, so that memory does not grow with an example.
    """

    lengths: Integers
    batch_size: int
    seq_length: int
    seed: int
    jitter: float = JITTER
    _drawn: dict[int, tuple[Integers, Integers, Integers]] = field(default_factory=dict, repr=False, compare=False)

    @cached_property
    def _windows(self) -> Integers:
        """Windows of each example, (N,)."""
        return -(-self.lengths // self.seq_length)

    @cached_property
    def _steps(self) -> Integers:
        """Steps of each batch: the windows of its longest example. Examples are sorted by number of windows first, so
        this is the same in every epoch."""
        ordered = np.sort(self._windows)
        ends = np.minimum(np.arange(1, -(-len(ordered) // self.batch_size) + 1) * self.batch_size, len(ordered))
        steps: Integers = ordered[ends - 1]
        return steps

    @property
    def steps_per_epoch(self) -> int:
        return int(self._steps.sum())

    def batch(self, step: int) -> ExampleBatch:
        """What a step reads; steps count from 0."""
        epoch, within = divmod(step, self.steps_per_epoch)
        examples, batches, ends = self._epoch(epoch)
        at = int(np.searchsorted(ends, within, side="right"))
        batch = int(batches[at])
        window = within - int(ends[at]) + int(self._steps[batch])
        chosen = examples[batch * self.batch_size : (batch + 1) * self.batch_size]
        return ExampleBatch(chosen, window * self.seq_length)

    def _epoch(self, epoch: int) -> tuple[Integers, Integers, Integers]:
        """The examples of an epoch in order, its batches in order, and the number of steps after which each batch
        ends."""
        if epoch not in self._drawn:
            random: Any = np.random.default_rng([self.seed, epoch, 2])
            noise = random.random(len(self.lengths))
            by_length = np.where(self._windows > 1, noise, self.lengths * (1 + self.jitter * noise))
            examples = np.lexsort((by_length, self._windows))
            batches = random.permutation(len(self._steps))
            self._drawn.clear()
            self._drawn[epoch] = examples, batches, np.cumsum(self._steps[batches])
        return self._drawn[epoch]

    def padded(self, array: npt.NDArray[Any], value: int) -> Tensor:
        """An array (..., B) of a batch as a tensor (..., batch_size), filled up with a value: every step has as many
        lanes."""
        return pad(torch.from_numpy(array), (0, self.batch_size - array.shape[-1]), value=value)


@dataclass(frozen=True)
class ExampleObjective(Objective):
    """An objective over examples, read in `batches`. Targets that are `IGNORED`, and those of lanes without an example,
    do not count.

    By default targets are (T, B), the tokens or labels to predict at each time step, and the loss is their mean cross
    entropy; with weights, their weighted mean.
    """

    batches: Batches

    @property
    def steps_per_epoch(self) -> int:
        return self.batches.steps_per_epoch

    @property
    def tokens_per_step(self) -> float:
        return float(self.batches.lengths.sum() / self.steps_per_epoch)

    def fresh(self, step: int) -> Tensor | None:
        """All lanes before the first window of a batch, otherwise none."""
        started = self.batches.batch(step).start > 0
        return torch.zeros(self.batches.batch_size, dtype=torch.bool) if started else None

    def weights(self, targets: Tensor) -> Tensor:
        """The weight of each target, (..., B); 0 for those that do not count."""
        return (targets != IGNORED).float()

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        flat = targets.flatten()
        return self.mean(cross_entropy(outputs.flatten(0, 1), flat, ignore_index=IGNORED, reduction="none"), flat)

    def mean(self, losses: Tensor, targets: Tensor) -> Tensor:
        """The weighted mean of the losses of each target; 0 if none counts."""
        weights = self.weights(targets)
        return (losses * weights).sum() / weights.sum().clamp(min=torch.finfo(torch.float32).tiny)

    def share(self, targets: Tensor, lanes: slice) -> float:
        weights = self.weights(targets).double()
        return float(weights[..., lanes].sum() / weights.sum())


@dataclass(frozen=True)
class RareTokens:
    """Replaces rare tokens by the unknown token `escape`, if there is one: each token (V,) at its rate."""

    rates: npt.NDArray[np.float32]
    escape: int | None

    @classmethod
    def of(cls, ids: Ids, tokenizer: Tokenizer) -> RareTokens:
        """The rates for a model that is trained on these ids."""
        rates = (RARE / (RARE + np.bincount(ids, minlength=tokenizer.vocab_size))).astype(np.float32)
        rates[tokenizer.boundary] = 0
        return cls(rates, tokenizer.escape)

    def replaced(self, ids: Ids, seed: Sequence[int]) -> Ids:
        """The ids with some replaced, drawn by seed."""
        if self.escape is None:
            return ids
        noise = np.random.default_rng(seed).random(ids.shape, dtype=np.float32)
        return np.where(noise < self.rates[ids], np.int32(self.escape), ids)


@dataclass(frozen=True)
class TokenLabelObjective(ExampleObjective):
    """Predict a label for every token; the loss is in nats per token. Targets are (T, B)."""

    columns = ClassificationMetrics.columns

    train: LabelledTexts
    held_out: LabelledTexts
    labels: Sequence[str]
    rare: RareTokens

    @classmethod
    def of(cls, data: TextExampleData, labels: Sequence[str], options: Any) -> Self:
        """The objective for data with an array `labels`: for every id the index of its label, or `IGNORED`."""
        train, rare = data.labelled(TRAIN), RareTokens.of(data.texts(TRAIN).ids, data.tokenizer)
        batches = Batches(train.texts.lengths, options.batch_size, options.seq_length, options.seed)
        return cls(batches, train, data.labelled(VALIDATION), labels, rare)

    def window(self, step: int) -> tuple[Tensor, Tensor]:
        batch, (texts, labels) = self.batches.batch(step), self.train
        found, targets = (
            each.window(batch.examples, batch.start, self.batches.seq_length)[0]
            for each in (texts, Texts(labels, texts.ends, IGNORED))
        )
        ids = self.rare.replaced(found, [self.batches.seed, step])
        return self.batches.padded(ids, texts.pad), self.batches.padded(targets.astype(np.int64), IGNORED)

    def evaluate(self, model: Model, quick: bool) -> ClassificationMetrics | None:
        texts, true = self.held_out
        return ClassificationMetrics.of_tokens(self.labels, TorchStepper(model), texts, true) if len(true) else None

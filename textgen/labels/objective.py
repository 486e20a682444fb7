"""The objective of classification: batches, loss, and evaluation of held-out texts."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from textgen.labels.batches import Batches
from textgen.labels.figures import ClassificationMetrics
from textgen.labels.texts import Texts, log_probabilities
from textgen.model import Model
from textgen.tasks.objective import Objective
from textgen.torch_stepper import TorchStepper

NOT_COUNTED = -1
"""The target of a lane without text, or whose text ended before this window."""

RARE = 0.25
"""While training, a token that occurs n times is replaced by the unknown token with probability RARE / (RARE + n), so
that the model learns to handle unknown words (Kiperwasser and Goldberg 2016)."""

QUICK_TEXTS = 4000
"""Held-out texts used in an evaluation during training; the last evaluation uses all."""


@dataclass(frozen=True)
class LabelledTexts:
    """Encoded texts and the index of each one's label, (N,)."""

    texts: Texts
    labels: npt.NDArray[np.int64]


@dataclass(frozen=True)
class ClassificationObjective(Objective):
    """Predict the label of a text; the loss is in nats per text.

    Targets are (2, B): the label of each lane, and the position of its last token in this window. `weights` (C,) is the
    weight of a text of each label; `replaced` (V,) the probability that each token is replaced by `escape`.
    """

    columns = ("loss", "accuracy", "macro F1")

    train: LabelledTexts
    held_out: LabelledTexts
    labels: tuple[str, ...]
    batches: Batches
    pooling: str
    weights: npt.NDArray[np.float32]
    escape: int | None
    replaced: npt.NDArray[np.float32]

    @property
    def steps_per_epoch(self) -> int:
        return self.batches.steps_per_epoch

    @property
    def tokens_per_step(self) -> float:
        return len(self.train.texts.ids) / self.steps_per_epoch

    def fresh(self, step: int) -> Tensor:
        """All lanes before the first window of a batch, otherwise none."""
        return torch.full((self.batches.batch_size,), self.batches.batch(step).window == 0)

    def window(self, step: int) -> tuple[Tensor, Tensor]:
        """Ids (T, B) and targets (2, B); T is the length of the longest text, at most `seq_length`."""
        place, batch = self.batches.batch(step), self.batches.batch_size
        found, own = self.train.texts.window(
            place.texts, place.window * self.batches.seq_length, self.batches.seq_length
        )
        if self.escape is not None:
            noise = np.random.default_rng([self.batches.seed, step]).random(found.shape, dtype=np.float32)
            found[noise < self.replaced[found]] = self.escape
        ids = np.full((len(found), batch), self.train.texts.pad, np.int32)
        targets = np.stack([np.full(batch, NOT_COUNTED), np.zeros(batch, np.int64)])
        lanes = slice(len(place.texts))
        ids[:, lanes] = found
        targets[0, lanes] = np.where(own > 0, self.train.labels[place.texts], NOT_COUNTED)
        targets[1, lanes] = np.maximum(own - 1, 0)
        return torch.from_numpy(ids), torch.from_numpy(targets)

    @cached_property
    def _weights(self) -> Tensor:
        return torch.from_numpy(np.append(self.weights, np.float32(0)))

    def counted(self, targets: Tensor) -> Tensor:
        """The weight of each lane of targets (2, B), (B,)."""
        return self._weights.to(targets.device)[targets[0]]

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        answers = pooled(outputs.float(), targets[1], self.pooling)
        losses = torch.nn.functional.cross_entropy(answers, targets[0].clamp(min=0), reduction="none")
        counted = self.counted(targets)
        return (losses * counted).sum() / counted.sum().clamp(min=torch.finfo(torch.float32).tiny)

    def share(self, targets: Tensor, lanes: slice) -> float:
        """The share of the batch's loss that some lanes contribute."""
        counted = self.counted(targets)
        return float(counted[lanes].sum() / counted.sum())

    def evaluate(self, model: Model, quick: bool) -> ClassificationMetrics | None:
        texts = len(self.held_out.labels)
        if not texts:
            return None
        chosen = np.unique(np.linspace(0, texts - 1, min(texts, QUICK_TEXTS) if quick else texts).astype(np.int64))
        log_probs = log_probabilities(TorchStepper(model), self.held_out.texts, self.pooling, chosen)
        return ClassificationMetrics.of(self.labels, self.held_out.labels[chosen], log_probs)


def pooled(outputs: Tensor, last: Tensor, pooling: str) -> Tensor:
    """The pooled outputs (B, C) of outputs (T, B, C), over the time steps up to `last` (B,)."""
    if pooling == "last":
        return outputs[last, torch.arange(len(last), device=last.device)]
    counted = (torch.arange(len(outputs), device=last.device)[:, None] <= last)[:, :, None]
    if pooling == "max":
        return outputs.masked_fill(~counted, -torch.inf).amax(dim=0)
    return outputs.masked_fill(~counted, 0.0).sum(dim=0) / (last + 1)[:, None]


def class_weights(kind: str, labels: npt.NDArray[np.int64], classes: int) -> npt.NDArray[np.float32]:
    """The weight of a text of each label, (C,): uniform, or inverse to the label's frequency with a mean of 1 over
    texts."""
    if kind == "none":
        return np.ones(classes, np.float32)
    counts = np.bincount(labels, minlength=classes)
    return (len(labels) / (np.count_nonzero(counts) * np.maximum(counts, 1))).astype(np.float32)


def replacement(frequencies: npt.NDArray[np.int64], boundary: int) -> npt.NDArray[np.float32]:
    """The probability that each token (V,) is replaced by the unknown token, given its count (V,)."""
    rates = (RARE / (RARE + frequencies)).astype(np.float32)
    rates[boundary] = 0
    return rates

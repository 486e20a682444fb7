"""The objective of a classifier: the label of a text, from the outputs at its last time step or all of them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Self

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from textgen.data.tokenizers.base import Tokenizer
from textgen.model.stack import Model
from textgen.model.weights import TorchStepper
from textgen.tasks.classification.calibration import calibration_file, fit_temperature
from textgen.tasks.classification.model import log_probabilities
from textgen.tasks.classification.options import ClassificationOptions
from textgen.tasks.data import IGNORED, LabelledTexts
from textgen.tasks.metrics import ClassificationMetrics
from textgen.tasks.objective import Batches, ExampleObjective, Metrics, RareTokens, at_least_float32

QUICK_TEXTS = 4000
"""Held-out texts used in an evaluation during training; the last evaluation uses all."""


@dataclass(frozen=True)
class ClassificationObjective(ExampleObjective):
    """Predict the label of a text; the loss is in nats per text.

    Targets are (2, B): the label of each lane, and the position of its last token in this window. A lane whose text
    ended before this window does not count. `class_weights` (C,) is the weight of a text of each label.
    """

    columns = ClassificationMetrics.columns

    train: LabelledTexts
    held_out: LabelledTexts
    labels: tuple[str, ...]
    pooling: str
    class_weights: npt.NDArray[np.float32]
    rare: RareTokens

    @classmethod
    def of(
        cls,
        train: LabelledTexts,
        held_out: LabelledTexts,
        labels: tuple[str, ...],
        tokenizer: Tokenizer,
        options: ClassificationOptions,
    ) -> Self:
        """The objective of these texts; batch size and window length must be given."""
        assert options.batch_size and options.seq_length
        return cls(
            Batches(train.texts.lengths, options.batch_size, options.seq_length, options.seed),
            train,
            held_out,
            labels,
            options.pooling,
            class_weights(options.class_weights, train.labels, len(labels)),
            RareTokens.of(train.texts.ids, tokenizer),
        )

    def window(self, step: int) -> tuple[Tensor, Tensor]:
        """Ids (T, B) and targets (2, B); T is the length of the longest text, at most `seq_length`."""
        batch, texts = self.batches.batch(step), self.train.texts
        ids, own = texts.window(batch.examples, batch.start, self.batches.seq_length)
        ids = self.rare.replaced(ids, [self.batches.seed, step])
        labels = np.where(own > 0, self.train.labels[batch.examples], IGNORED)
        targets = np.stack([labels, np.maximum(own - 1, 0)])
        return self.batches.padded(ids, texts.pad), self.batches.padded(targets, IGNORED)

    @cached_property
    def _class_weights(self) -> Tensor:
        return torch.from_numpy(self.class_weights)

    def weights(self, targets: Tensor) -> Tensor:
        """The weight of each lane, (B,)."""
        return self._class_weights.to(targets.device)[targets[0].clamp(min=0)] * (targets[0] != IGNORED)

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        answers = pooled(at_least_float32(outputs), targets[1].clamp(min=0), self.pooling)
        return self.mean(cross_entropy(answers, targets[0], ignore_index=IGNORED, reduction="none"), targets)

    def evaluate(self, model: Model, quick: bool) -> ClassificationMetrics | None:
        texts = len(self.held_out.labels)
        if not texts:
            return None
        chosen = np.unique(np.linspace(0, texts - 1, min(texts, QUICK_TEXTS) if quick else texts).astype(np.int64))
        log_probs = log_probabilities(TorchStepper(model), self.held_out.texts, self.pooling, chosen)
        true = self.held_out.labels[chosen]
        metrics = ClassificationMetrics.of(self.labels, true, log_probs)
        return replace(metrics, temperature=fit_temperature(log_probs, true))

    def files(self, metrics: Metrics) -> dict[str, bytes]:
        assert isinstance(metrics, ClassificationMetrics) and metrics.temperature is not None
        return calibration_file(metrics.temperature)


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

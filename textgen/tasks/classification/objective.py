"""The objective of a classifier: the label of a text, from the outputs at its last time step or all of them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import NamedTuple, Self

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy

from textgen.data.tokenizers.base import Tokenizer
from textgen.model.stack import Model
from textgen.model.weights import TorchStepper
from textgen.tasks.classification import multilabel
from textgen.tasks.classification.calibration import calibration_file, fit_temperature
from textgen.tasks.classification.model import log_probabilities
from textgen.tasks.classification.multilabel import MultiLabelMetrics
from textgen.tasks.classification.ngrams import best_weights, blended, class_weights, losses_of, weights_file
from textgen.tasks.classification.options import ClassificationOptions
from textgen.tasks.data import IGNORED, Integers, LabelledTexts
from textgen.tasks.metrics import ClassificationMetrics
from textgen.tasks.objective import Batches, ExampleObjective, Metrics, RareTokens, at_least_float32

Labels = tuple[npt.NDArray[np.float32] | None, npt.NDArray[np.int64]]


class Scores(NamedTuple):
    """The scores of the linear model for the texts of both parts, (N, C) each. Without those of the training texts, the
    recurrent model learns on its own."""

    train: npt.NDArray[np.float32] | None = None
    held_out: npt.NDArray[np.float32] | None = None

    @classmethod
    def of(cls, train: Labels, held_out: Labels) -> Scores:
        """The scores of both parts, each with the labels of its texts, if there are any.

        Training texts that repeat parts of each other, such as phrases of one sentence, are predicted far better than
        new texts, so what remains to be learned cannot be seen in them: their scores are left out.
        """
        (scores, labels), (later, true) = train, held_out
        if scores is None or later is None:
            return cls()
        if labels.ndim == 2:
            return cls(None, later)
        repeated = len(later) and losses_of(scores, labels).mean() < REPEATED * losses_of(later, true).mean()
        return cls(None if repeated else scores, later)


NO_SCORES = Scores()
REPEATED = 0.8
"""Training texts repeat each other if the loss of the linear model on those that it has not seen is below this share of
that on held-out texts."""

QUICK_TEXTS = 4000
"""Held-out texts used in an evaluation during training; the last evaluation uses all."""


@dataclass(frozen=True)
class ClassificationObjective(ExampleObjective):
    """Predict the label of a text; the loss is in nats per text.

    Targets are (3, B): the label of each lane, the position of its last token in this window, and the text's index. A
    lane whose text ended before this window does not count. `class_weights` (C,) is the weight of a text of each label.
    `scores` are those of the linear model for the texts of both parts, to which the outputs are added.
    """

    columns = ClassificationMetrics.columns

    train: LabelledTexts
    held_out: LabelledTexts
    labels: tuple[str, ...]
    pooling: str
    class_weights: npt.NDArray[np.float32]
    rare: RareTokens
    scores: Scores = NO_SCORES
    label_smoothing: float = 0.0

    @classmethod
    def of(
        cls,
        train: LabelledTexts,
        held_out: LabelledTexts,
        labels: tuple[str, ...],
        tokenizer: Tokenizer,
        options: ClassificationOptions,
        scores: Scores,
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
            scores,
            options.label_smoothing,
        )

    def window(self, step: int) -> tuple[Tensor, Tensor]:
        """Ids (T, B) and targets (2, B); T is the length of the longest text, at most `seq_length`."""
        batch, texts = self.batches.batch(step), self.train.texts
        ids, own = texts.window(batch.examples, batch.start, self.batches.seq_length)
        ids = self.rare.replaced(ids, [self.batches.seed, step])
        targets = self.targets(batch.examples, own)
        return self.batches.padded(ids, texts.pad), self.batches.padded(targets, IGNORED)

    def targets(self, texts: Integers, own: Integers) -> Integers:
        """The targets (3, B) of some texts (B,), of which a window holds so many tokens (B,)."""
        return np.stack([np.where(own > 0, self.train.labels[texts], IGNORED), np.maximum(own - 1, 0), texts])

    @cached_property
    def _train_scores(self) -> Tensor:
        assert self.scores.train is not None
        return torch.from_numpy(self.scores.train)

    @cached_property
    def _class_weights(self) -> Tensor:
        return torch.from_numpy(self.class_weights)

    def weights(self, targets: Tensor) -> Tensor:
        """The weight of each lane, (B,)."""
        return self._class_weights.to(targets.device)[targets[0].clamp(min=0)] * (targets[0] != IGNORED)

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """The mean loss of the members of an ensemble, whose outputs lie side by side."""
        answers = pooled(at_least_float32(outputs), targets[1].clamp(min=0), self.pooling)
        answers = answers.reshape(len(answers), -1, len(self.labels))
        if self.scores.train is not None:
            answers = answers + self._train_scores.to(answers.device)[targets[2].clamp(min=0)].unsqueeze(1)
        losses = cross_entropy(
            answers.transpose(1, 2),
            targets[0].unsqueeze(1).expand(answers.shape[:2]),
            ignore_index=IGNORED,
            reduction="none",
            label_smoothing=self.label_smoothing,
        ).mean(dim=1)
        return self.mean(losses, targets)

    def evaluate(self, model: Model, quick: bool) -> ClassificationMetrics | None:
        texts = len(self.held_out.labels)
        if not texts:
            return None
        chosen = np.unique(np.linspace(0, texts - 1, min(texts, QUICK_TEXTS) if quick else texts).astype(np.int64))
        log_probs = log_probabilities(TorchStepper(model), self.held_out.texts, self.pooling, chosen)
        true, blend = self.held_out.labels[chosen], None
        if self.scores.held_out is not None:
            scores = self.scores.held_out[chosen]
            blend = best_weights(log_probs, scores, true)
            log_probs = blended(log_probs, scores, blend)
        metrics = ClassificationMetrics.of(self.labels, true, log_probs)
        return replace(metrics, temperature=fit_temperature(log_probs, true), blend=blend)

    def files(self, metrics: Metrics) -> dict[str, bytes]:
        assert isinstance(metrics, (ClassificationMetrics, MultiLabelMetrics)) and metrics.temperature is not None
        weights = {} if metrics.blend is None else weights_file(metrics.blend)
        return {**calibration_file(metrics.temperature), **weights}


@dataclass(frozen=True)
class MultiLabelObjective(ClassificationObjective):
    """Predict which labels a text has; the loss is the binary cross entropy in nats per text, summed over labels.

    Targets are (2 + C, B): whether a lane counts, the position of its last token in this window, and for each label
    whether the text has it. `class_weights` (C,) is the weight of having each label, relative to not having it.
    """

    columns = MultiLabelMetrics.columns

    def targets(self, texts: Integers, own: Integers) -> Integers:
        counts = np.where(own > 0, 0, IGNORED)
        return np.concatenate([np.stack([counts, np.maximum(own - 1, 0)]), self.train.labels[texts].T])

    def weights(self, targets: Tensor) -> Tensor:
        return (targets[0] != IGNORED).float()

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        answers = pooled(at_least_float32(outputs), targets[1].clamp(min=0), self.pooling)
        answers = answers.reshape(len(answers), -1, len(self.labels))
        wanted = targets[2:].T.clamp(min=0).to(answers.dtype).unsqueeze(1).expand(answers.shape)
        weights = self._class_weights.to(answers.device)
        losses = binary_cross_entropy_with_logits(answers, wanted, pos_weight=weights, reduction="none")
        return self.mean(losses.sum(dim=2).mean(dim=1), targets)

    def evaluate(self, model: Model, quick: bool) -> MultiLabelMetrics | None:  # type: ignore[override]
        texts = len(self.held_out.labels)
        if not texts:
            return None
        chosen = np.unique(np.linspace(0, texts - 1, min(texts, QUICK_TEXTS) if quick else texts).astype(np.int64))
        scores = log_probabilities(TorchStepper(model), self.held_out.texts, self.pooling, chosen, several=True)
        true, blend = self.held_out.labels[chosen], None
        if self.scores.held_out is not None:
            linear = self.scores.held_out[chosen]
            blend = best_weights(scores, linear, true)
            scores = blended(scores, linear, blend, several=True)
        metrics = MultiLabelMetrics.of_scores(self.labels, true, scores)
        return replace(metrics, temperature=multilabel.fit_temperature(scores, true), blend=blend)


def pooled(outputs: Tensor, last: Tensor, pooling: str) -> Tensor:
    """The pooled outputs (B, C) of outputs (T, B, C), over the time steps up to `last` (B,)."""
    if pooling == "last":
        return outputs[last, torch.arange(len(last), device=last.device)]
    counted = (torch.arange(len(outputs), device=last.device)[:, None] <= last)[:, :, None]
    if pooling == "max":
        return outputs.masked_fill(~counted, -torch.inf).amax(dim=0)
    return outputs.masked_fill(~counted, 0.0).sum(dim=0) / (last + 1)[:, None]

"""What a classifier learns from, in which order, and its objective.

The order is a pure function of (seed, step). Texts of similar length are read side by side. Those of more than
`seq_length` tokens are read in several steps, with the state carried, so that memory does not grow with a text; each
of these steps predicts the label from all that was read by then.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from textgen.data.recipes import TRAIN, VALIDATION, Progress
from textgen.formatting import count, plural, short
from textgen.model import ModelConfig
from textgen.model.stack import Model
from textgen.model.weights import TorchStepper
from textgen.storage import filesystem
from textgen.tasks import model_config
from textgen.tasks.classification.classifier import LABELS, ClassificationMetrics, Texts, labels_file, log_probabilities
from textgen.tasks.classification.options import ClassificationOptions
from textgen.tasks.classification.reading import KIND, LabelledCorpus, listed
from textgen.tasks.data import ExampleStore, TextExampleData, model_card
from textgen.tasks.objective import Objective

Integers = npt.NDArray[np.int64]

JITTER = 0.5
"""Lengths are increased by up to this share before sorting, so that batches differ between epochs."""


@dataclass(frozen=True)
class TextBatch:
    """What a step reads: the indices of at most `batch_size` texts, and which window of them, from 0."""

    texts: Integers
    window: int


@dataclass(frozen=True)
class Batches:
    """Batches of `batch_size` texts, given the lengths of all texts in tokens, (N,), each at least 1."""

    lengths: Integers
    batch_size: int
    seq_length: int
    seed: int
    _drawn: dict[int, tuple[Integers, Integers, Integers]] = field(default_factory=dict, repr=False, compare=False)

    @cached_property
    def _windows(self) -> Integers:
        """Windows of each text, (N,)."""
        return -(-self.lengths // self.seq_length)

    @cached_property
    def _steps(self) -> Integers:
        """Steps of each batch: the windows of its longest text. Texts are sorted by number of windows first, so this is
        the same in every epoch."""
        ordered = np.sort(self._windows)
        ends = np.minimum(np.arange(1, -(-len(ordered) // self.batch_size) + 1) * self.batch_size, len(ordered))
        steps: Integers = ordered[ends - 1]
        return steps

    @property
    def steps_per_epoch(self) -> int:
        return int(self._steps.sum())

    def batch(self, step: int) -> TextBatch:
        """The texts and the window of a step, which counts from 0."""
        epoch, within = divmod(step, self.steps_per_epoch)
        texts, batches, ends = self._epoch(epoch)
        at = int(np.searchsorted(ends, within, side="right"))
        batch = int(batches[at])
        first = int(ends[at]) - int(self._steps[batch])
        return TextBatch(texts[batch * self.batch_size : (batch + 1) * self.batch_size], within - first)

    def _epoch(self, epoch: int) -> tuple[Integers, Integers, Integers]:
        """The texts of an epoch in order, its batches in order, and the number of steps after which each batch ends."""
        if epoch not in self._drawn:
            random: Any = np.random.default_rng([self.seed, epoch, 2])
            noise = random.random(len(self.lengths))
            by_length = np.where(self._windows > 1, noise, self.lengths * (1 + JITTER * noise))
            texts = np.lexsort((by_length, self._windows))
            batches = random.permutation(len(self._steps))
            self._drawn.clear()
            self._drawn[epoch] = texts, batches, np.cumsum(self._steps[batches])
        return self._drawn[epoch]


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


BATCH_SIZE, SEQ_LENGTH = 32, 256
HIDDEN_SIZE, EMBEDDING_SIZE = 128, 128
DROPOUT, LEARNING_RATE = 0.5, 2e-3


@dataclass(frozen=True)
class ClassificationData(TextExampleData):
    """Labelled texts: the training part and the held-out part."""

    kind, arrays = KIND, ("ends", "ids", "labels")

    store: ExampleStore
    pooling: str = ClassificationOptions.pooling

    most_epochs = 8.0

    @classmethod
    def prepare(cls, paths: list[str], options: ClassificationOptions, cache: Path, progress: Progress) -> Self:
        """Read and encode labelled texts, or open the stored ones. Raises TextgenError naming row and column."""
        corpus = LabelledCorpus.read(paths, options, progress)
        folder = cache / corpus.key
        data = filesystem.cached(folder, cls.open, lambda: corpus.write(folder, progress))
        return replace(data, pooling=options.pooling)

    @property
    def labels(self) -> tuple[str, ...]:
        """The label names, by index."""
        return tuple(self.store.about["labels"])

    def part(self, part: str) -> LabelledTexts:
        """The encoded texts of a part, and the indices of their labels."""
        arrays = self.store.parts[part]
        texts = Texts(arrays["ids"], arrays["ends"], self.tokenizer.boundary)
        return LabelledTexts(texts, arrays["labels"].astype(np.int64))

    def described(self) -> list[str]:
        train, held = (self.part(part).labels for part in (TRAIN, VALIDATION))
        counts = np.bincount(np.concatenate([train, held]), minlength=len(self.labels))
        shown = ", ".join(f"{label!r} {number:,}" for label, number in zip(self.labels[:6], counts, strict=False))
        return [
            f"{short(self.store.about['bytes'])}B",
            f"{plural(len(train), 'text')} to train on, {count(len(held))} held out",
            f"{len(self.labels)} labels: {shown}{', ...' if len(self.labels) > 6 else ''}",
            f"{count(self.training_tokens)} {self.tokenizer.kind} tokens",
            f"{count(self.tokenizer.vocab_size)} tokens in the vocabulary",
        ]

    def with_defaults(self, options: ClassificationOptions) -> ClassificationOptions:
        """Defaults for some thousands of short texts: a small model, strong dropout, a low learning rate."""
        train = self.part(TRAIN).texts
        finetuned = options.init_from is not None
        return replace(
            options,
            batch_size=options.batch_size or min(BATCH_SIZE, len(train.ends)),
            seq_length=options.seq_length or min(SEQ_LENGTH, int(train.lengths.max())),
            hidden_size=options.hidden_size or HIDDEN_SIZE,
            embedding_size=options.embedding_size or EMBEDDING_SIZE,
            dropout=DROPOUT if options.dropout is None else options.dropout,
            learning_rate=options.learning_rate or (LEARNING_RATE / 2 if finetuned else LEARNING_RATE),
            tie_weights=False,
        )

    def tokens_per_step(self, options: ClassificationOptions) -> float:
        return self.training_tokens / self._batches(options).steps_per_epoch

    def _batches(self, options: ClassificationOptions) -> Batches:
        return Batches(self.part(TRAIN).texts.lengths, *options.window, options.seed)

    def config(self, options: ClassificationOptions, hidden_size: int) -> ModelConfig:
        untied = replace(options, tie_weights=False)
        config = model_config(untied, self.tokenizer.kind, self.tokenizer.vocab_size, hidden_size)
        return replace(config, task="classify", outputs=len(self.labels))

    def objective(self, options: ClassificationOptions) -> ClassificationObjective:
        train, tokenizer = self.part(TRAIN), self.tokenizer
        frequencies = np.bincount(train.texts.ids, minlength=tokenizer.vocab_size).astype(np.int64)
        return ClassificationObjective(
            train,
            self.part(VALIDATION),
            self.labels,
            self._batches(options),
            options.pooling,
            class_weights(options.class_weights, train.labels, len(self.labels)),
            tokenizer.escape,
            replacement(frequencies, tokenizer.boundary),
        )

    def files(self) -> dict[str, bytes]:
        return {LABELS: labels_file(self.labels, self.pooling), **self.tokenizer.files()}

    def card(self, config: ModelConfig, name: str) -> str:
        details = [
            f"{config.vocab_size:,} tokens ({self.tokenizer.kind})",
            f"trained on {len(self.part(TRAIN).labels):,} texts",
        ]
        what = f"A recurrent classifier of texts ({listed(self.labels)})"
        return model_card(name, "text-classification", what, config, details, "predict -m {} FILE")

"""What is predicted from what. A task gives the trainer its windows, its loss and its score; language modelling
(each symbol from those before it) is the first of them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from textgen.language_model import generation_habits, in_context
from textgen.model import Candidates, Model
from textgen.recurrence import State
from textgen.scoring.evaluate import LANES, WARM, Score, score_ids
from textgen.text.split import TRAIN, VALIDATION
from textgen.text.store import TokenStore
from textgen.text.tokenizer import Ids
from textgen.torch_stepper import TorchStepper
from textgen.training.lanes import Lanes, missing_escape
from textgen.training.plan import QUICK_LOOK
from textgen.training.sampled_softmax import SampledSoftmax

QUICK_WARM = 128
"""Symbols that a lane reads, uncounted, before a quick look: without them a short text is scored mostly cold, and the
wrong weights may look best."""


class Task(ABC):
    """One way of training a model."""

    @property
    @abstractmethod
    def steps_per_epoch(self) -> int:
        """Steps in one pass over the training part."""

    @abstractmethod
    def fresh(self, step: int) -> Tensor:
        """The lanes, (B,) of bool, whose carried state is dropped before this step."""

    def carried(self, step: int, initial: State, before: State) -> State:
        """The state into a step: what the step before left, and the initial one in lanes that begin afresh."""
        fresh = self.fresh(step)
        if not before or not fresh.any():
            return before or initial
        wide = [fresh.to(old.device).view(-1, *[1] * (old.dim() - 1)) for old in before]
        return tuple(torch.where(*each) for each in zip(wide, initial, before, strict=True))

    @abstractmethod
    def window(self, step: int) -> tuple[Tensor, Tensor]:
        """Inputs (T, B, ...) and targets (T, B, ...) of a step."""

    def candidates(self, step: int, targets: Tensor) -> tuple[Candidates | None, Tensor]:
        """Which symbols the outputs of a step are computed for, None for all, and the targets as places among them."""
        return None, targets

    @abstractmethod
    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """The mean loss of one window, a scalar."""

    @abstractmethod
    def evaluate(self, model: Model, quick: bool) -> Score | None:
        """The score on what is held out; None if nothing is."""


@dataclass(frozen=True)
class LanguageModeling(Task):
    """Predict each symbol from those before it; the loss is in nats a symbol."""

    store: TokenStore
    lanes: Lanes
    begin: tuple[int, ...] = ()
    sampled: SampledSoftmax | None = None

    @classmethod
    def of(
        cls, store: TokenStore, batch_size: int, seq_length: int, seed: int, sampled_softmax: int | None = None
    ) -> LanguageModeling:
        tokens = store.model_tokens(TRAIN)
        lanes = Lanes(tokens, batch_size, seq_length, seed, missing_escape(store.frequencies, store.tokenizer.escape))
        sampled = SampledSoftmax(store.frequencies, sampled_softmax, seed) if sampled_softmax else None
        return cls(store, lanes, tuple(generation_habits(store)["begin"]), sampled)

    @property
    def steps_per_epoch(self) -> int:
        return self.lanes.steps_per_epoch

    def fresh(self, step: int) -> Tensor:
        return torch.from_numpy(self.lanes.fresh(step))

    def window(self, step: int) -> tuple[Tensor, Tensor]:
        inputs, targets = self.lanes.window(step)
        return torch.from_numpy(inputs), torch.from_numpy(targets).long()

    def candidates(self, step: int, targets: Tensor) -> tuple[Candidates | None, Tensor]:
        return self.sampled.draw(step, targets) if self.sampled else (None, targets)

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return torch.nn.functional.cross_entropy(outputs.flatten(0, 1), targets.flatten())

    def evaluate(self, model: Model, quick: bool) -> Score | None:
        ids: Ids = np.asarray(self.store.model_tokens(VALIDATION))
        ids = in_context(ids, self.store.tokenizer.boundary, self.begin)
        if len(ids) < 2:
            return None
        about = self.store.about
        most = QUICK_LOOK if quick and len(ids) > QUICK_LOOK else None
        nats, tokens = score_ids(TorchStepper(model), ids, LANES, warm=QUICK_WARM if quick else WARM, most=most)
        share = tokens / (len(ids) - 1)
        raw = about["raw"][VALIDATION] * 8 * np.log(2)
        return Score(
            nats + float(raw) * share,
            tokens,
            max(1, round(about["characters"][VALIDATION] * share)),
            max(1, round(about["bytes"][VALIDATION] * share)),
            None if (unknown := self.store.tokenizer.unknown_count(ids)) is None else round(unknown * share),
        )

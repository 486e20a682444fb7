"""The events of training, as yielded by the trainer."""

from __future__ import annotations

from dataclasses import dataclass

from textgen.scoring.metrics import Metrics


@dataclass
class Counters:
    """The counters stored in a checkpoint beside the tensors."""

    step: int = 0
    best_loss: float | None = None
    best_step: int | None = None
    worse_evaluations: int = 0
    reductions: int = 0
    loss_sum: float = 0.0
    norm_sum: float = 0.0
    summed: int = 0


@dataclass(frozen=True)
class Tick:
    """One finished step."""

    step: int
    loss: float


@dataclass(frozen=True)
class Logged:
    """Training metrics: means since the last such event."""

    step: int
    epoch: float
    loss: float
    grad_norm: float
    learning_rate: float
    tokens_per_second: float


@dataclass(frozen=True)
class Evaluated:
    """Metrics on the held-out part; `best` if they are the best so far."""

    step: int
    score: Metrics
    best: bool
    final: bool = False


@dataclass(frozen=True)
class Saved:
    """A checkpoint is on disk."""

    step: int


@dataclass(frozen=True)
class Ended:
    """The end of a run or of this session: 'done', 'early stopping', 'interrupted' or 'time'."""

    step: int
    reason: str
    seconds: float


Event = Tick | Logged | Evaluated | Saved | Ended

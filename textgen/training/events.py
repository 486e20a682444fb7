"""What happens while a model trains, as the trainer tells it."""

from __future__ import annotations

from dataclasses import dataclass

from textgen.scoring.metrics import Metrics


@dataclass
class Progress:
    """The counters that a checkpoint stores beside the tensors."""

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
    """One step done."""

    step: int
    loss: float


@dataclass(frozen=True)
class Logged:
    """A line of metrics: means since the last one."""

    step: int
    epoch: float
    loss: float
    grad_norm: float
    learning_rate: float
    tokens_per_second: float


@dataclass(frozen=True)
class Evaluated:
    """Metrics on what is held out; `best` if no earlier ones were better."""

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
    """The end of a run, or of this sitting: 'done', 'early stopping', 'interrupted' or 'time'."""

    step: int
    reason: str
    seconds: float


Event = Tick | Logged | Evaluated | Saved | Ended

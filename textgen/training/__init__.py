"""What happens while a model trains, as the trainer reports it; TensorBoard, as an extra.

Imports no torch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from textgen.errors import needed
from textgen.evaluation import Metrics


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


Report = Callable[[Event], None]


@contextmanager
def reporters(names: Sequence[str], folder: Path) -> Iterator[Report]:
    """A function that passes every event to these tools. Raises TextgenError if one is not installed."""
    if "tensorboard" not in names:
        yield lambda event: None
        return
    with needed("tensorboard"):
        from torch.utils.tensorboard import SummaryWriter
    writer = SummaryWriter(str(folder / "tensorboard"))
    try:
        yield lambda event: _scalars(writer.add_scalar, event)
    finally:
        writer.close()


def _scalars(add: Callable[[str, float, int], None], event: Event) -> None:
    if isinstance(event, Logged):
        for name in ("loss", "grad_norm", "learning_rate", "tokens_per_second"):
            add(f"train/{name}", getattr(event, name), event.step)
    elif isinstance(event, Evaluated):
        for name, value in event.score.to_json().items():
            if isinstance(value, float):
                add(f"eval/{name}", value, event.step)

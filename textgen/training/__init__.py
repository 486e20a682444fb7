"""What training options may not be combined, and what happens while a model trains, as the trainer reports it;
TensorBoard, as an extra. Imports neither torch nor numpy.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from textgen.errors import UsageError, needed
from textgen.options import check, named
from textgen.tasks import TrainOptions, planned, task_of

if TYPE_CHECKING:
    from textgen.evaluation import Metrics


LENGTHS = ("minutes", "epochs", "max_steps")
"""Options that set the length of a run; only one of them may be given."""

CHANGEABLE = ("max_time", "save_total_limit", "early_stopping_patience", "ddp_timeout")
"""Options that may change when a run is resumed."""


def check_training(options: TrainOptions) -> None:
    """Check options against their limits and for conflicts. Raises UsageError."""
    check(options)
    task = task_of(options)
    if isinstance(options, task.options):
        task.check(options)
    lengths = [name for name in LENGTHS if getattr(options, name) is not None]
    if len(lengths) > 1:
        raise UsageError(f"{named(lengths[0])} and {named(lengths[1])} exclude each other; give one of them.")
    for tool in options.report_to:
        if tool != "tensorboard":
            raise UsageError(f"{named('report_to')} must be tensorboard, not {tool!r}.")
    if options.momentum and options.optimizer != "sgd":
        raise UsageError(f"{named('momentum')} goes with {named('optimizer', 'sgd')}, not with {options.optimizer}.")
    watching = (
        named("lr_scheduler", "plateau") if options.lr_scheduler == "plateau" else named("early_stopping_patience")
    )
    watched = options.lr_scheduler == "plateau" or options.early_stopping_patience is not None
    if watched and options.validation_split == 0 and not options.validation_file:
        raise UsageError(f"{watching} needs a held-out part; {named('validation_split', 0)} holds out nothing.")
    refuse_empty_parts(options)


def refuse_empty_parts(options: TrainOptions) -> None:
    """Raise UsageError if the batch size is given and smaller than the number of accumulation steps."""
    if options.batch_size is not None and options.gradient_accumulation_steps > options.batch_size:
        raise UsageError(
            f"{named('gradient_accumulation_steps', options.gradient_accumulation_steps)} is more than the batch has "
            f"lanes ({options.batch_size}).",
            hint=f"{named('batch_size')} sets how many.",
        )


def refuse_few_lanes(processes: int, options: TrainOptions) -> None:
    """Raise UsageError unless every process has a lane of each batch."""
    if planned(options.batch_size) < processes:
        raise UsageError(
            f"{processes} processes divide the lanes of a batch, but it has {options.batch_size}.",
            hint=f"start fewer processes, or give {named('batch_size', 8 * processes)}.",
        )


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

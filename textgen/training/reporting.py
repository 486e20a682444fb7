"""Metrics for other tools, in addition to metrics.jsonl: TensorBoard, an extra."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from textgen.dependencies import needed
from textgen.training.events import Evaluated, Event, Logged

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

"""Display of training progress: a table with a live line on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.text import Text

from textgen.errors import visible
from textgen.formatting import count, short
from textgen.screen import lines_above, say
from textgen.training import Evaluated, Event, Logged, Saved, Tick

if TYPE_CHECKING:
    from textgen.training.start import Training

Show = Callable[[Event], None]


@contextmanager
def display(session: Training, style: str) -> Iterator[Show]:
    """A function that shows events: `rich` (a live table), `plain` lines, or `none`; `auto` is rich on a terminal."""
    if style == "none":
        yield lambda event: None
    elif style == "rich" or (style == "auto" and sys.stderr.isatty()):
        with LiveTable(session) as table, lines_above(table.print_above):
            yield _until_closed(table.show)
    else:
        yield PlainLines(session).show


TITLES = {"loss": "val loss", "perplexity": "val ppl"}
"""The headings of metrics that are not headed by their own name."""

_UNSEEN = (OSError, SystemExit)
"""What is raised when the terminal is gone; `rich` would end the process over it."""


def _until_closed(show: Show) -> Show:
    """The same, until the terminal is closed: training continues, or stops as requested."""
    gone = False

    def shown(event: Event) -> None:
        nonlocal gone
        try:
            if not gone:
                show(event)
        except _UNSEEN:
            gone = True

    return shown


class _Samples:
    """Samples from the model during training, one line each."""

    def __init__(self, session: Training) -> None:
        self._trainer = session.trainer
        self._every = session.options.sample_steps or 0
        self._last = session.options.max_steps

    def at(self, step: int) -> str | None:
        """A line of text, if this step is due for one."""
        if not self._every or (step % self._every and step != self._last):
            return None
        text = self._trainer.objective.sample(self._trainer.model)
        return text and visible(" ".join(text.split()))[:160]


class PlainLines:
    """One line per log entry, evaluation or checkpoint, for files and pipes."""

    def __init__(self, session: Training) -> None:
        self._samples = _Samples(session)
        self._speed = _SpeedWatch(session)

    def show(self, event: Event) -> None:
        self._speed.watch(event)
        if isinstance(event, Logged):
            say(
                f"step={event.step} epoch={event.epoch:.2f} loss={event.loss:.4f} "
                f"learning_rate={event.learning_rate:.2g} tokens_per_second={event.tokens_per_second:.0f}"
            )
        elif isinstance(event, Evaluated):
            mark = " best" if event.best else " final" if event.final else ""
            named = {name.replace("/", "_per_").replace(" ", "_"): text for name, text in event.score.shown().items()}
            metrics = " ".join(f"eval_{name}={text}" for name, text in named.items() if text != "-")
            say(f"step={event.step} {metrics}{mark}")
        elif isinstance(event, Tick) and (text := self._samples.at(event.step)):
            say(f"step={event.step} sample: {text}")
        elif isinstance(event, Saved):
            say(f"step={event.step} saved")


class LiveTable:
    """One row per evaluation, above a live bar with loss, speed and time left."""

    def __init__(self, session: Training) -> None:
        self._console = Console(stderr=True, highlight=False)
        self._samples = _Samples(session)
        self._speed = _SpeedWatch(session)
        self._columns = session.trainer.objective.columns
        self._logged: Logged | None = None
        self._bar = Progress(
            TextColumn("train"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("loss {task.fields[loss]}"),
            TextColumn("{task.fields[speed]} tokens/s"),
            TimeRemainingColumn(),
            TextColumn("left"),
            console=self._console,
            transient=True,
        )
        self._task = self._bar.add_task(
            "train", total=session.options.max_steps, completed=session.trainer.progress.step, loss="-", speed="-"
        )

    def __enter__(self) -> LiveTable:
        named = " ".join(f"{TITLES.get(name, name):>10}" for name in self._columns)
        self._console.print(f"\n[dim]{'step':>8} {'epoch':>6} {'loss':>7} {named} {'tokens/s':>9}[/dim]")
        self._bar.start()
        return self

    def __exit__(self, *error: object) -> None:
        with suppress(*_UNSEEN):
            self._bar.stop()

    def show(self, event: Event) -> None:
        self._speed.watch(event)
        if isinstance(event, Tick):
            self._bar.update(self._task, completed=event.step)
            if text := self._samples.at(event.step):
                self._console.print(Text(f"         {text}", style="dim"), overflow="ellipsis", no_wrap=True)
        elif isinstance(event, Logged):
            self._logged = event
            self._bar.update(self._task, loss=f"{event.loss:.3f}", speed=short(event.tokens_per_second))
        elif isinstance(event, Evaluated):
            self._console.print(self._row(event))

    def print_above(self, text: str) -> None:
        """Print a line above the bar."""
        self._console.print(Text(text))

    def _row(self, event: Evaluated) -> str:
        shown, logged = event.score.shown(), self._logged
        metrics = " ".join(f"{shown[name]:>10}" for name in self._columns)
        if event.final:
            return f"[bold]{'best':>8} {'':14} {metrics}[/bold]"
        before = f"{logged.epoch:6.1f} {logged.loss:7.4f}" if logged else " " * 14
        speed = f"{logged.tokens_per_second:9,.0f}" if logged else ""
        return f"{count(event.step):>8} {before} {metrics} {speed}{'  best' if event.best else ''}"


class _SpeedWatch:
    """Reports once if training is a fifth slower than planned; the plan is kept."""

    def __init__(self, session: Training) -> None:
        seconds = session.estimate.step_seconds
        self._planned = session.trainer.objective.tokens_per_step / seconds if seconds else None
        self._slow = 0

    def watch(self, event: Event) -> None:
        if self._planned is None or not isinstance(event, Logged):
            return
        self._slow = self._slow + 1 if event.tokens_per_second < self._planned / 1.25 else 0
        if self._slow == 3:
            say(
                f"Slower than planned ({event.tokens_per_second:,.0f} tokens/s instead of {self._planned:,.0f}): "
                "training will take longer. --max-time limits the minutes it may take."
            )
            self._planned = None

"""The display of a comparison: its plan, one line per trial and run, and on a terminal a live status line."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from textgen.screen import rewrite_line, say
from textgen.wording import count, duration, plural, short

if TYPE_CHECKING:
    from textgen.contest.contest import Comparison
    from textgen.contest.events import ComparisonEvent
    from textgen.contest.record import Candidate, RunResult

Show = Callable[["ComparisonEvent"], None]


def show_plan(comparison: Comparison) -> None:
    """What all cells share, one line per cell, and the expected time."""
    from textgen.contest.rates import fewest
    from textgen.contest.results import aligned

    record, about = comparison.record, comparison.store.about
    plan, target = record.running[0].plan, record.target_parameters
    lines = {
        "textgen": [f"{record.made_with['textgen']} · torch {record.made_with['torch']}",
                    plural(record.made_with["threads"], "thread")],
        "corpus": [f"{short(sum(about['bytes'].values()))}B",
                   f"{count(about['tokens']['train'])} {record.level} tokens to train on",
                   f"vocabulary of {count(about['vocab_size'])}", f"{short(about['bytes']['validation'])}B held out"],
        "shared": [f"{short(target)} parameters", f"embedding size {count(plan.embedding_size or 0)}",
                   plural(plan.num_layers or 1, "layer"), f"batches of {plan.batch_size} x {plan.seq_length}",
                   f"dropout {plan.dropout:g}"],
        "plan": [f"{plural(len(record.running), 'cell')} x {plural(len(record.seeds), 'seed')}",
                 _rates(record.request["learning_rates"], fewest(record.request["learning_rates"])),
                 f"about {duration(comparison.seconds_left())}", str(comparison.folder)],
    }  # fmt: skip
    for name, parts in lines.items():
        say(f"{name:8}{' · '.join(parts)}")
    head = ["", "cell", "parameters", "of budget", "hidden", "rate", "steps", "one run"]
    rows = [head, *(_planned(candidate, target) for candidate in record.candidates)]
    excluded = [f"{each.name} is excluded: {each.failed}" for each in record.candidates if each.failed]
    say("\n" + "\n".join([*aligned(rows), *excluded]) + "\n")


def _rates(given: list[float], trials: int) -> str:
    if not given:
        return f"at least {trials} learning rates tried for each"
    shown = ", ".join(f"{rate:g}" for rate in given)
    return f"learning rate {shown}" if trials == 0 else f"learning rates {shown} tried for each"


def _planned(candidate: Candidate, target: int) -> list[str]:
    if candidate.failed or candidate.parameters is None:
        return ["", candidate.name, *["-"] * 6]
    plan = candidate.plan
    return [
        "",
        candidate.name,
        count(candidate.parameters),
        f"{candidate.parameters / target:.1%}",
        count(plan.hidden_size or 0),
        f"{candidate.rate or plan.learning_rate:.2g}",
        count(plan.max_steps or 0),
        duration(candidate.expected_seconds or 0.0),
    ]


@contextmanager
def display(comparison: Comparison, quiet: bool) -> Iterator[Show]:
    """A function that shows the events of a comparison."""
    lines = _Lines(comparison, live=sys.stderr.isatty())
    yield (lambda event: None) if quiet else lines.show
    lines.clear()


class _Lines:
    """One line per finished trial or run; on a terminal, a status line below them."""

    def __init__(self, comparison: Comparison, live: bool) -> None:
        self._comparison = comparison
        self._live = live
        self._current = ""
        self._updated, self._started = 0.0, 0.0
        self._took, self._expected = 0.0, 0.0

    def show(self, event: ComparisonEvent) -> None:
        from textgen.contest.events import InTraining, RateChosen, RateTried, RunEnded, TrainingStarted

        if isinstance(event, TrainingStarted):
            self._current = f"{event.name} at {event.rate:g}" if event.trial else f"{event.name} seed {event.seed}"
            self._started = time.monotonic()
        elif isinstance(event, InTraining):
            self._update(event.event.step, event.steps)
        elif isinstance(event, RateTried):
            loss = "failed" if event.loss is None else f"{event.loss:.4f} nats"
            self._line(f"try     {event.name}  {event.rate:g}  {loss}")
        elif isinstance(event, RateChosen):
            rate = "none works" if event.rate is None else f"{event.rate:g}"
            self._line(f"rate    {event.name}  {rate}")
        elif isinstance(event, RunEnded):
            result, left = self._result(event.result), self._time_left(event.name)
            self._line(f"run     {event.name}  seed {event.seed}  {result} · {left}")

    def _result(self, result: RunResult) -> str:
        if result.failed is not None:
            return f"failed: {result.failed}"
        record = self._comparison.record
        return f"{getattr(result, record.metric):.4f} {record.unit} · {duration(result.seconds or 0.0)}"

    def _time_left(self, name: str) -> str:
        """The estimated time left, corrected by how long the runs so far took compared with their estimates."""
        expected = {each.name: each.expected_seconds or 0.0 for each in self._comparison.record.candidates}
        self._took += time.monotonic() - self._started
        self._expected += expected[name]
        left = self._comparison.seconds_left() * self._took / max(1e-9, self._expected)
        return f"about {duration(left)} left" if left else "done"

    def _update(self, step: int, steps: int) -> None:
        if self._live and time.monotonic() - self._updated > 0.2:
            self._updated = time.monotonic()
            rewrite_line(f"        {self._current}  step {count(step)} of {count(steps)}")

    def _line(self, text: str) -> None:
        self.clear()
        say(text)

    def clear(self) -> None:
        """Erase the status line."""
        if self._live:
            rewrite_line("")

"""A contest as it is seen: the plan, a line a trial and a run, and on a terminal one that moves."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from textgen.cli.screen import rewrite_line, say
from textgen.wording import count, duration, plural, short

if TYPE_CHECKING:
    from textgen.contest.contest import Contest
    from textgen.contest.events import ContestEvent

Show = Callable[["ContestEvent"], None]


def show_plan(contest: Contest) -> None:
    """What is equal for all, a line a cell, and how long it will take."""
    from textgen.contest.rates import fewest
    from textgen.contest.results import aligned

    record, about = contest.record, contest.store.about
    first = record.running[0].plan
    lines = {
        "textgen": [f"{record.made_with['textgen']} · torch {record.made_with['torch']}",
                    plural(record.made_with["threads"], "thread")],
        "corpus": [f"{short(sum(about['bytes'].values()))}B",
                   f"{count(about['tokens']['train'])} {record.level} tokens to train on",
                   f"{count(about['vocab_size'])} symbols", f"{short(about['bytes']['validation'])}B held out"],
        "equal": [f"{short(record.target)} parameters", f"symbols of {count(first.embedding_size or 0)} numbers",
                  f"{plural(first.num_layers or 1, 'layer')}", f"batches of {first.batch_size} x {first.seq_length}",
                  f"dropout {first.dropout:g}"],
        "plan": [f"{plural(len(record.running), 'cell')} x {plural(len(record.seeds), 'seed')}",
                 _rates(record.asked["learning_rates"], fewest(record.asked["learning_rates"])),
                 f"about {duration(contest.seconds_left())}", str(contest.folder)],
    }  # fmt: skip
    for name, parts in lines.items():
        say(f"{name:8}{' · '.join(parts)}")
    head = ["", "cell", "parameters", "of budget", "hidden", "rate", "steps", "one run"]
    rows = [head, *[_planned(contest, number) for number in range(len(record.entrants))]]
    out = [f"{entrant.name} is out: {entrant.failed}" for entrant in record.entrants if entrant.failed]
    say("\n" + "\n".join([*aligned(rows), *out]) + "\n")


def _rates(given: list[float], trials: int) -> str:
    if not given:
        return f"{trials} learning rates or more tried for each"
    shown = ", ".join(f"{rate:g}" for rate in given)
    return f"learning rate {shown}" if trials == 0 else f"learning rates {shown} tried for each"


def _planned(contest: Contest, number: int) -> list[str]:
    entrant, target = contest.record.entrants[number], contest.record.target
    if entrant.failed or entrant.parameters is None:
        return ["", entrant.name, "out", *["-"] * 5]
    plan = entrant.plan
    return [
        "",
        entrant.name,
        count(entrant.parameters),
        f"{entrant.parameters / target:.1%}",
        count(plan.hidden_size or 0),
        f"{entrant.rate or plan.learning_rate:.2g}",
        count(plan.max_steps or 0),
        duration(entrant.expected_seconds or 0.0),
    ]


@contextmanager
def display(contest: Contest, quiet: bool) -> Iterator[Show]:
    """A function that shows the events of a contest."""
    lines = _Lines(contest, moving=sys.stderr.isatty())
    yield (lambda event: None) if quiet else lines.show
    lines.clear()


class _Lines:
    """One line for what is done; on a terminal, one below it for what is going on."""

    def __init__(self, contest: Contest, moving: bool) -> None:
        self._contest = contest
        self._moving = moving
        self._what = ""
        self._shown = 0.0
        self._began = 0.0
        self._took, self._expected = 0.0, 0.0

    def show(self, event: ContestEvent) -> None:
        from textgen.contest.events import Began, Chosen, Inside, Ran, Tried

        if isinstance(event, Began):
            self._what = f"{event.name} at {event.rate:g}" if event.trial else f"{event.name} seed {event.seed}"
            self._began = time.monotonic()
        elif isinstance(event, Inside):
            self._move(event.event.step, event.steps)
        elif isinstance(event, Tried):
            loss = "failed" if event.loss is None else f"{event.loss:.4f} nats"
            self._line(f"try     {event.name}  {event.rate:g}  {loss}")
        elif isinstance(event, Chosen):
            rate = "none works" if event.rate is None else f"{event.rate:g}"
            self._line(f"rate    {event.name}  {rate}")
        elif isinstance(event, Ran):
            self._line(f"run     {event.name}  seed {event.seed}  {self._result(event)} · {self._left(event.name)}")

    def _result(self, event: object) -> str:
        from textgen.contest.events import Ran

        assert isinstance(event, Ran)
        outcome = event.outcome
        if outcome.failed is not None:
            return f"failed: {outcome.failed}"
        unit = "bits per byte" if self._contest.record.measure == "bits_per_byte" else "nats per word"
        figure = getattr(outcome, self._contest.record.measure)
        return f"{figure:.4f} {unit} · {duration(outcome.seconds or 0.0)}"

    def _left(self, name: str) -> str:
        """The time that is left, by what was expected and how well that held for the runs so far."""
        entrants = {entrant.name: entrant for entrant in self._contest.record.entrants}
        self._took += time.monotonic() - self._began
        self._expected += entrants[name].expected_seconds or 0.0
        left = self._contest.seconds_left() * self._took / max(1e-9, self._expected)
        return f"about {duration(left)} left" if left else "done"

    def _move(self, step: int, steps: int) -> None:
        if self._moving and time.monotonic() - self._shown > 0.2:
            self._shown = time.monotonic()
            rewrite_line(f"        {self._what}  step {count(step)} of {count(steps)}")

    def _line(self, text: str) -> None:
        self.clear()
        say(text)

    def clear(self) -> None:
        if self._moving:
            rewrite_line("")

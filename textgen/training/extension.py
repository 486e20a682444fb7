"""Extending a run: more steps than planned, with their own learning-rate schedule.

A run is a list of parts, each with a schedule from its first step to its last. Extending a run adds a part after the
newest checkpoint. The parts are committed with the run's arguments before the first new step, so a killed extension is
resumed like any other run.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from textgen.errors import UsageError
from textgen.parameters import named
from textgen.settings import TrainOptions
from textgen.training.checks import LENGTHS
from textgen.training.optimization import schedule


@dataclass(frozen=True)
class Part:
    """Steps `start` to `end` (exclusive) of a run, and their schedule."""

    start: int
    end: int
    learning_rate: float
    warmup_steps: int


def parts_of(arguments: Mapping[str, Any], options: TrainOptions) -> list[Part]:
    """The parts of a run with these arguments, at least one."""
    if stored := arguments.get("parts"):
        return [Part(**part) for part in stored]
    assert options.max_steps is not None and options.learning_rate is not None and options.warmup_steps is not None
    return [Part(0, options.max_steps, options.learning_rate, options.warmup_steps)]


def rate_at(parts: Sequence[Part], options: TrainOptions, step: int, reductions: int) -> float:
    """The learning rate of a step (from 0), by the schedule of the part that contains it."""
    part = next((part for part in reversed(parts) if part.start <= step), parts[0])
    own = replace(
        options, max_steps=part.end - part.start, learning_rate=part.learning_rate, warmup_steps=part.warmup_steps
    )
    return schedule(own, step - part.start, reductions)


def length_given(given: Mapping[str, Any], options: TrainOptions) -> tuple[str, float] | None:
    """The one length option given on resume that changes the plan; `minutes` always does. Raises UsageError for
    several."""
    lengths = {name: given[name] for name in LENGTHS if given.get(name) is not None}
    if len(lengths) > 1:
        first, second, *_ = map(named, lengths)
        raise UsageError(f"{first} and {second} exclude each other; give one of them.")
    changes = ((name, value) for name, value in lengths.items() if name == "minutes" or getattr(options, name) != value)
    return next(changes, None)


def next_part(
    parts: Sequence[Part], options: TrainOptions, step: int, end: int, finished: bool, reductions: int
) -> Part:
    """The part that extends a run from a step to `end`.

    After a finished part the learning rate starts again from that part's peak, with a new warmup. Within a part it
    continues from its current value. Schedules that do not decay keep their rate.
    """
    last = parts[-1]
    if options.lr_scheduler != "cosine":
        return Part(step, end, last.learning_rate, 0)
    if finished:
        return Part(step, end, last.learning_rate, min(200, (end - step) // 20))
    left = last.start + last.warmup_steps - step
    if left > 0:
        return Part(step, end, last.learning_rate, min(left, end - step))
    return Part(step, end, rate_at(parts, options, step, reductions), 0)


def extended(
    arguments: Mapping[str, Any], options: TrainOptions, parts: Sequence[Part], length: tuple[str, float]
) -> tuple[TrainOptions, dict[str, Any]]:
    """The options and arguments of a run whose last part is new; `length` is the option that set its length."""
    lengths: dict[str, Any] = {**dict.fromkeys(LENGTHS), length[0]: length[1], "max_steps": parts[-1].end}
    changed = replace(options, **lengths)
    stored = asdict(replace(changed, max_time=arguments["options"].get("max_time")))
    return changed, {**arguments, "options": stored, "parts": [asdict(part) for part in parts]}


def refuse_no_steps(length: tuple[str, float], step: int, end: int) -> None:
    """Raise UsageError if an extension would add no step."""
    if end > step:
        return
    name, value = length
    raise UsageError(
        f"{named(name, f'{value:g}')} does not extend this run: it has {step:,} steps, and would have {end:,}.",
        hint=f"{named('max_steps', 2 * step)} trains for twice as many steps in total, "
        f"{named('minutes', 10)} for ten more minutes.",
    )

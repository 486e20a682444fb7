"""The closed loop: y(t) comes back as x(t+1).

`closed_loop` generates wherever the rows stay the same from step to step: text and completions, streamed or not, and
sessions (through `textgen.writing.generate.rollout`), and forecasts and sample paths (`textgen.series.loop.roll_out`).

Two places feed outputs back themselves, because they also change the rows of the state between two steps:

- beam search (`textgen.writing.beams.search`): the next step continues from the best rows, some dropped, some repeated;
- `textgen.writing.streams.Streams`: texts join and leave between steps, and the caller asks for each step.

Reading a prompt or a history, scoring and compression feed known values instead of outputs, so they are no closed loop.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, TypeVar

from textgen.stepper import Array

Chosen = TypeVar("Chosen")


def closed_loop(
    step: Callable[[Array, Any], tuple[Array, Any]],
    outputs: Array,
    state: Any,
    choose: Callable[[Array], Chosen],
    feed: Callable[[Chosen], Array],
) -> Iterator[tuple[Chosen, Any]]:
    """Yield what is chosen from the outputs of each time step, with the state that the outputs came with, without end.

    `choose` picks from outputs; `feed` turns what was picked into the next inputs. The first outputs and their state
    are given. A step is only computed once the caller asks for what follows it.
    """
    while True:
        chosen = choose(outputs)
        yield chosen, state
        outputs, state = step(feed(chosen), state)

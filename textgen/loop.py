"""The one loop: y(t) comes back as x(t+1). Texts, completions and forecasts are written by it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TypeVar

Input = TypeVar("Input")
Output = TypeVar("Output")
State = TypeVar("State")
Chosen = TypeVar("Chosen")


def closed_loop(
    step: Callable[[Input, State], tuple[Output, State]],
    output: Output,
    state: State,
    choose: Callable[[Output], Chosen],
    feed: Callable[[Chosen], Input],
) -> Iterator[tuple[Chosen, State]]:
    """From an output and the state that came with it, for ever: what is chosen of each output, and the state it was
    chosen in. `feed` makes the next input of what was chosen. The caller stops by not asking for more."""
    while True:
        chosen = choose(output)
        yield chosen, state
        output, state = step(feed(chosen), state)

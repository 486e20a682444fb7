"""What a torture row is: something that is done many times over, the figure to reach, and the figure reached.

Modules of this folder are imported as `torture.NAME`, with `tests/` on the path; each keeps its rows in a list `ROWS`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Outcome:
    """The figure that a row reached, in words, and whether that is enough."""

    figure: str
    passed: bool


@dataclass(frozen=True)
class Row:
    """One promise put to the test. `run` takes a seed; `where` is "ci" (always) or "torture" (on demand)."""

    id: str
    what: str
    target: str
    run: Callable[[int], Outcome]
    where: str

"""What a law is, and what comes of trying it on a cell."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import torch

from textgen.testing.trial import Trial

BOTH = (torch.float64, torch.float32)
SHAPES = ((1, 1), (2, 5), (5, 3), (3, 2))
"""The (T, B) of most laws. Each size of cell meets the same batch in all of them: some cells prepare for a batch."""
Status = Literal["passed", "failed", "expected", "skipped"]


@dataclass(frozen=True)
class Law:
    """One statement about every cell, and the function that tries it on one case.

    `shapes` are the (T, B) tried, `least` the smallest (T, B, hidden_size) at which the law says something: a broken
    case is made smaller down to that. `one_size`: one size of cell will do. `slow`: takes seconds. `meaning` says what
    a cell that breaks it does to training or sampling.
    """

    name: str
    statement: str
    meaning: str
    test: Callable[[Trial], None]
    shapes: tuple[tuple[int, int], ...]
    least: tuple[int, int, int]
    dtypes: tuple[torch.dtype, ...]
    one_size: bool
    slow: bool


def law(
    meaning: str,
    shapes: tuple[tuple[int, int], ...] = SHAPES,
    least: tuple[int, int, int] = (1, 1, 1),
    dtypes: tuple[torch.dtype, ...] = (torch.float64,),
    one_size: bool = False,
    slow: bool = False,
) -> Callable[[Callable[[Trial], None]], Law]:
    """Make a function of a trial a law: its name is the function's, its statement the function's docstring."""

    def named(test: Callable[[Trial], None]) -> Law:
        return Law(
            test.__name__, " ".join((test.__doc__ or "").split()), meaning, test, shapes, least, dtypes, one_size, slow
        )

    return named


@dataclass(frozen=True)
class Result:
    """What came of one law: its name, a status, the worst deviation seen (None: nothing to measure), and a sentence.

    Status: `passed`, `failed`, `expected` (broken, as the cell declares), or `skipped` (not about this cell).
    `case` is the smallest case that breaks the law, as text; `error` what the cell raised, if it did; `because` what
    else is wrong with the cell and alone makes this law fail, if something is.
    """

    law: str
    status: Status
    deviation: float | None = None
    detail: str = ""
    case: str = ""
    error: BaseException | None = field(default=None, repr=False, compare=False)
    because: str = ""

    def as_json(self) -> dict[str, Any]:
        """The result as JSON holds it; a deviation that is no finite number becomes null."""
        content = {name: value for name, value in asdict(self).items() if name != "error"}
        finite = self.deviation is not None and self.deviation < float("inf")
        return {**content, "deviation": self.deviation if finite else None}


class LawBroken(AssertionError):
    """A cell breaks a law. `cell` is the name of its class, `result` what was found, `law` which law it is."""

    def __init__(self, cell: str, law: Law, result: Result) -> None:
        super().__init__(cell, law, result)
        self.cell, self.law, self.result = cell, law, result

    def __str__(self) -> str:
        return f"{self.cell} breaks the law {self.law.name}\n{explanation(self.law, self.result)}"


def explanation(law: Law, result: Result) -> str:
    """What the law says, what was found in the smallest case, and what that means: a line each.

    The cause comes first where it is another law's.
    """
    lines = {
        "cause": result.because,
        "law": law.statement,
        "found": result.detail,
        "in": result.case,
        "meaning": law.meaning,
    }
    return "\n".join(f"  {name:<8} {text}" for name, text in lines.items() if text)

"""What a law is, and the result of checking one on a cell."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import torch

from textgen.testing.trial import Case

BOTH = (torch.float64, torch.float32)
SHAPES = ((1, 1), (2, 5), (5, 3), (3, 2))
"""The (T, B) of most laws. Each cell size always has the same batch size: some cells prepare for one batch size."""
Status = Literal["passed", "failed", "expected", "skipped"]


@dataclass(frozen=True)
class Law:
    """One statement about every cell, and the function that checks it in one case.

    `meaning` says what breaking it does to training or sampling. `shapes` are the (T, B) to check; `least` is the
    smallest (T, B, hidden_size) at which the law says anything, and so the limit for shrinking a failing case.
    `one_size`: one cell size is enough. `slow`: takes seconds.
    """

    name: str
    statement: str
    meaning: str
    test: Callable[[Case], None]
    shapes: tuple[tuple[int, int], ...] = SHAPES
    least: tuple[int, int, int] = (1, 1, 1)
    dtypes: tuple[torch.dtype, ...] = (torch.float64,)
    one_size: bool = False
    slow: bool = False


def law(meaning: str, **settings: Any) -> Callable[[Callable[[Case], None]], Law]:
    """Turn a function of a `Case` into a law, named like the function; its docstring is the statement.

    `settings` are the other fields of `Law`. A law in one of the modules listed in `textgen.testing.laws` is checked on
    every cell; there is nothing else to register.
    """

    def named(test: Callable[[Case], None]) -> Law:
        return Law(test.__name__, " ".join((test.__doc__ or "").split()), meaning, test, **settings)

    return named


@dataclass(frozen=True)
class Result:
    """The result of one law: its name, a status, the largest deviation (None: nothing was measured), and a sentence.

    Status: `passed`, `failed`, `expected` (failed, as the cell declares), or `skipped` (does not apply to this cell).
    `case` is the smallest failing case, as text; `error` the exception that the cell raised, if any; `cause` another
    fault of the cell that explains this failure, if there is one.
    """

    law: str
    status: Status
    deviation: float | None = None
    detail: str = ""
    case: str = ""
    error: BaseException | None = field(default=None, repr=False, compare=False)
    cause: str = ""

    def as_json(self) -> dict[str, Any]:
        """The result for JSON; a deviation that is not finite becomes null."""
        content = {name: value for name, value in asdict(self).items() if name != "error"}
        finite = self.deviation is not None and self.deviation < float("inf")
        return {**content, "deviation": self.deviation if finite else None}


class LawBroken(AssertionError):
    """A cell breaks a law. `cell` is the name of its class, `law` the law, `result` what was found."""

    def __init__(self, cell: str, law: Law, result: Result) -> None:
        super().__init__(cell, law, result)
        self.cell, self.law, self.result = cell, law, result

    def __str__(self) -> str:
        return f"{self.cell} breaks the law {self.law.name}\n{explanation(self.law, self.result)}"


def explanation(law: Law, result: Result) -> str:
    """What the law says, what was found in the smallest case, and what that means: a line each.

    A cause elsewhere comes first.
    """
    lines = {
        "cause": result.cause,
        "law": law.statement,
        "found": result.detail,
        "in": result.case,
        "meaning": law.meaning,
    }
    return "\n".join(f"  {name:<8} {text}" for name, text in lines.items() if text)

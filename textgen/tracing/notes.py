"""What the rules of tracing are written against: notes of a cell's work, and what a rule is."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

from torch import Tensor

Given = dict[str, Any]


class Notes(Protocol):
    """What is noted of a cell's work. An operand is a tensor, the name of a result, or a number."""

    def note(
        self, op: str, operands: Sequence[Any], like: Tensor, shape: Sequence[int] | None = None, **options: Any
    ) -> str:
        """Note an operation whose result has the type of `like`, and its shape unless another is given."""

    def name(self, tensor: Tensor) -> str:
        """The name of a tensor."""

    def turned(self, tensor: Tensor) -> str | None:
        """The name of the matrix whose transpose this is."""


Rule = Callable[[Notes, Any, Given], Any]
"""Takes the notes, a call's result and its arguments by the names of torch's schema; returns the name under which it
has noted the result: a list of names for several results, in which None is one that nobody may use. None alone: what is
asked for cannot be noted."""


def axis_of(tensor: Tensor, axis: int) -> int:
    """An axis counted from the front."""
    return axis % max(1, tensor.dim())


def by_name(rules: dict[str, Rule]) -> dict[str, Rule]:
    """Rules by each of the names in their key."""
    return {name: rule for names, rule in rules.items() for name in names.split()}

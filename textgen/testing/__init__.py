"""The conformance kit for recurrent cells: checks every law that training and sampling rely on.

A package's whole test file:

    from textgen.testing import parametrize_with_checks
    from textgen_mycell import MyCell

    @parametrize_with_checks([MyCell])
    def test_conformance(check):
        check()

The names below are imported when first used: pytest reads this package in every run of an environment that has it.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from textgen.testing.examination import LAWS, check_cell, parametrize_with_checks, run_laws
    from textgen.testing.law import Law, LawBroken, Result

_HOMES = {
    "check_cell": "examination",
    "run_laws": "examination",
    "parametrize_with_checks": "examination",
    "LAWS": "examination",
    "Law": "law",
    "LawBroken": "law",
    "Result": "law",
}

__all__ = [  # noqa: RUF022 - in the order in which a reader meets them
    "check_cell",
    "run_laws",
    "parametrize_with_checks",
    "LAWS",
    "Law",
    "LawBroken",
    "Result",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'textgen.testing' has no attribute {name!r}")
    value = getattr(import_module(f"textgen.testing.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])

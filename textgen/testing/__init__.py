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
    from textgen.testing.law import Law, LawBroken, Result
    from textgen.testing.runner import LAWS, check_cell, parametrize_with_checks, run_laws

__all__ = ["LAWS", "Law", "LawBroken", "Result", "check_cell", "parametrize_with_checks", "run_laws"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'textgen.testing' has no attribute {name!r}")
    home = "law" if name in ("Law", "LawBroken", "Result") else "runner"
    value = globals()[name] = getattr(import_module(f"textgen.testing.{home}"), name)
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])

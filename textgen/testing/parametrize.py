"""A whole test file in five lines: one pytest test for each cell and each law."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any
from unittest import SkipTest

from textgen import cell_options, plugins
from textgen.cell import Cell
from textgen.cell_options import Scalar
from textgen.testing.examination import declared_failures, raise_if_failed, results_of
from textgen.testing.law import Law, LawBroken
from textgen.testing.laws import selected

CellSpec = type[Cell] | str | tuple[type[Cell] | str, Mapping[str, Scalar]]


@dataclass(frozen=True)
class Check:
    """One law on one cell: call it. `id` names both; `reason` is the cell's reason in `expected_failures`, if any."""

    id: str
    cell: type[Cell]
    options: Mapping[str, Scalar]
    law: Law
    reason: str | None = None

    def __call__(self) -> None:
        """Raises LawBroken if the law is broken, declared or not, and unittest.SkipTest if it does not apply."""
        for result in results_of(self.cell, self.options, [self.law], {}):
            if result.status == "skipped":
                raise SkipTest(result.detail)
            raise_if_failed(self.cell, result)


def checks(cells: Iterable[CellSpec], laws: Iterable[str] | None = None, slow: bool = False) -> list[Check]:
    """A check for each cell and each law: the named laws, or all fast ones, and with `slow` all of them.

    A cell is a class, the name of an installed cell, or a pair of either and options. Raises TextgenError for unknown
    names and options, and for invalid `expected_failures`.
    """
    wanted = selected(laws, slow)
    made = []
    for spec in cells:
        which, options = spec if isinstance(spec, tuple) else (spec, {})
        cell = plugins.cell(which) if isinstance(which, str) else which
        label = which if isinstance(which, str) else which.__name__
        typed = "".join(f",{name}={value}" for name, value in options.items())
        parsed = cell_options.parse(cell, label, options) if options else {}
        declared = declared_failures(cell)
        made += [Check(f"{label}{typed}-{law.name}", cell, parsed, law, declared.get(law.name)) for law in wanted]
    return made


def parametrize_with_checks(
    cells: Iterable[CellSpec], laws: Iterable[str] | None = None, slow: bool = False
) -> Callable[[Any], Any]:
    """Parametrize a test function that takes `check` and calls it: one test for each cell and each law.

    Arguments and errors as for `checks`. A law in the cell's `expected_failures` is a strict xfail.

    Example:
        >>> from textgen import plugins
        >>> @parametrize_with_checks(["gru", ("rnn", {"nonlinearity": "relu"})])
        ... def test_conformance(check):
        ...     check()
    """
    import pytest

    parameters = [pytest.param(check, id=check.id, marks=expectation(check)) for check in checks(cells, laws, slow)]
    decorator: Callable[[Any], Any] = pytest.mark.parametrize("check", parameters)
    return decorator


def expectation(check: Check) -> list[Any]:
    """A strict xfail mark for a law that the cell declares to break; empty for others."""
    import pytest

    if check.reason is None:
        return []
    return [pytest.mark.xfail(reason=f"declared to fail: {check.reason}", strict=True, raises=LawBroken)]

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

Given = type[Cell] | str | tuple[type[Cell] | str, Mapping[str, Scalar]]


@dataclass(frozen=True)
class Check:
    """One law on one cell: call it. `id` names both, `reason` is why the cell says it breaks this law, if it does."""

    id: str
    cell: type[Cell]
    options: Mapping[str, Scalar]
    law: Law
    reason: str | None = None

    def __call__(self) -> None:
        """Raises LawBroken if the law is broken, declared or not, unittest.SkipTest if it is not about this cell."""
        for result in results_of(self.cell, self.options, [self.law], {}):
            if result.status == "skipped":
                raise SkipTest(result.detail)
            raise_if_failed(self.cell, result)


def checks(cells: Iterable[Given], laws: Iterable[str] | None = None, slow: bool = False) -> list[Check]:
    """A check for each cell and each law: those named, or all fast ones, and with `slow` really all.

    A cell is a class, the name of an installed one, or a pair of either and its options. Raises TextgenError for
    names, options and declarations that do not exist.
    """
    wanted = selected(laws, slow)
    made = []
    for given in cells:
        which, options = given if isinstance(given, tuple) else (given, {})
        cell = plugins.cell(which) if isinstance(which, str) else which
        label = which if isinstance(which, str) else which.__name__
        typed = "".join(f",{name}={value}" for name, value in options.items())
        parsed = cell_options.parse(cell, label, options) if options else {}
        declared = declared_failures(cell)
        made += [Check(f"{label}{typed}-{law.name}", cell, parsed, law, declared.get(law.name)) for law in wanted]
    return made


def parametrize_with_checks(
    cells: Iterable[Given], laws: Iterable[str] | None = None, slow: bool = False
) -> Callable[[Any], Any]:
    """Decorate a test function that takes `check` and calls it: it becomes a test for each cell and each law.

    Arguments and errors as for `checks`. A law in the cell's `expected_failures` is an expected failure, and a
    failure if it passes.

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
    """The mark that makes a declared law an expected failure, strictly, or none."""
    import pytest

    if check.reason is None:
        return []
    return [pytest.mark.xfail(reason=f"declared to fail: {check.reason}", strict=True, raises=LawBroken)]

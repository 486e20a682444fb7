"""The pytest plugin: `pytest --textgen-cell NAME` checks the laws on an installed cell, without a test file.

`pytest_addoption` declares the options; `pytest_collection_modifyitems` adds the tests. The rest of textgen
is imported only if an option asks for it: every pytest run in this environment loads this module.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from textgen.testing.runner import Check


def pytest_addoption(parser: pytest.Parser) -> None:
    """Declare --textgen-cell and --textgen-slow."""
    group = parser.getgroup("textgen", "recurrent cells")
    group.addoption(
        "--textgen-cell",
        action="append",
        default=[],
        metavar="NAME",
        help="Check the laws of textgen.testing on this installed cell; may be repeated.",
    )
    group.addoption(
        "--textgen-slow", action="store_true", help="Also check the slow laws: compiling, exporting, importing."
    )


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(session: pytest.Session, config: pytest.Config, items: list[pytest.Item]) -> None:
    """Add the checks of the requested cells to the tests, before anything is deselected."""
    for name in dict.fromkeys(config.getoption("--textgen-cell")):
        suite = CellSuite.from_parent(session, name=name, nodeid=f"textgen-cell/{name}")
        items.extend(suite.collect())


class CellSuite(pytest.Collector):
    """The laws on one installed cell."""

    def collect(self) -> Iterable[pytest.Item]:
        from textgen.errors import TextgenError
        from textgen.testing.runner import checks, expectation

        try:
            found = checks([self.name], slow=self.config.getoption("--textgen-slow"))
        except TextgenError as error:
            raise pytest.UsageError(" ".join(filter(None, [str(error), error.hint]))) from None
        for check in found:
            item = LawItem.from_parent(self, name=check.law.name, check=check)
            for mark in expectation(check):
                item.add_marker(mark)
            yield item


class LawItem(pytest.Item):
    """One law on one cell."""

    def __init__(self, *, check: Check, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.check = check

    def runtest(self) -> None:
        self.check()

    def repr_failure(self, excinfo: pytest.ExceptionInfo[BaseException], style: Any = None) -> Any:
        from textgen.testing.law import LawBroken

        if isinstance(excinfo.value, LawBroken) and excinfo.value.__cause__ is None:
            return str(excinfo.value)
        return super().repr_failure(excinfo, style)

    def reportinfo(self) -> tuple[Path, int | None, str]:
        return Path("textgen-cell") / self.check.id, None, f"{self.check.cell.__name__}: {self.name}"

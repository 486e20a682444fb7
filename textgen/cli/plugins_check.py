"""textgen plugins check: check installed cells against every law that training and sampling rely on."""

from __future__ import annotations

import json
import shutil
import textwrap
import time
from typing import TYPE_CHECKING, Any

import click

from textgen import plugins
from textgen.cli.params import cell_options_of
from textgen.dependencies import require
from textgen.errors import UsageError
from textgen.plugins import PluginError
from textgen.screen import Output, say
from textgen.wording import plural

if TYPE_CHECKING:
    from collections.abc import Iterable

    from textgen.cell import Cell
    from textgen.testing import Result

WIDEST, NARROWEST = 100, 60


@click.command("check", context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.argument("names", nargs=-1, metavar="[NAME]...")
@click.option("-o", "options", nargs=2, multiple=True, metavar="KEY VALUE", help="An option of the cell, as in train.")
@click.option("--law", "laws", multiple=True, metavar="LAW", help="Check only this law; may be repeated.")
@click.option("--slow", is_flag=True, help="Also check the slow laws: compiling, exporting, importing.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.pass_context
def command(
    ctx: click.Context,
    names: tuple[str, ...],
    options: tuple[tuple[str, str], ...],
    laws: tuple[str, ...],
    slow: bool,
    as_json: bool,
) -> None:
    """Check the named cells, or all installed ones, against the laws of recurrent cells.

    For each failure, the smallest failing case is shown, with what it means. The exit code is 1 if any check fails.
    """
    given = cell_options_of(options)
    if given and len(names) != 1:
        raise UsageError("-o is an option of one cell.", hint="textgen plugins check NAME -o KEY VALUE.")
    require("torch", "checking a cell")
    installed = plugins.entries()
    for name in names:
        if name not in installed:
            plugins.owner(name)  # raises, with what is installed
    reporter: Reporter = JsonReporter() if as_json else Reporter()
    cells = by_cell(names or installed, reporter)
    from textgen.testing import run_laws

    for cell, found in cells.items():
        reporter.cell(cell, found, run_laws(cell, given, laws=laws or None, slow=slow))
    reporter.end()
    if reporter.failed:
        ctx.exit(1)


def by_cell(names: Iterable[str], reporter: Reporter) -> dict[type[Cell], list[str]]:
    """Cells with their names, aliases grouped; reports cells that do not load."""
    cells: dict[type[Cell], list[str]] = {}
    for name in dict.fromkeys(names):
        try:
            cells.setdefault(plugins.cell(name), []).append(name)
        except PluginError as error:
            reporter.problem(name, error)
    return cells


class Reporter:
    """Prints results as text, law by law."""

    def __init__(self) -> None:
        self.failed = False
        self.output = Output()
        self.width = min(shutil.get_terminal_size().columns, WIDEST) if self.output.terminal else WIDEST

    def problem(self, name: str, error: PluginError) -> None:
        """A cell that cannot be loaded."""
        self.failed = True
        say(f"Error: {error}")

    def cell(self, cell: type[Cell], names: list[str], results: Iterable[Result]) -> None:
        """All laws on one cell: a line each, then an explanation of each failure."""
        from textgen.testing import LAWS
        from textgen.testing.law import explanation

        laws = {law.name: law for law in LAWS}
        owner, started = plugins.owner(names[0]), time.monotonic()
        self.output.write(f"{', '.join(names)}: {cell.__name__} from {owner.distribution} {owner.version}\n\n")
        self.line("law", "status", "deviation", "what it says")
        done = []
        for result in results:
            self.line(result.law, result.status, deviation(result), result.detail or laws[result.law].statement)
            done.append(result)
        failed = [result for result in done if result.status == "failed"]
        for result in [result for result in failed if not result.cause]:
            self.output.write(f"\n{result.law} failed\n")
            self.output.write(self.wrapped(explanation(laws[result.law], result)) + "\n")
        if caused := [result for result in failed if result.cause]:
            names_of_laws = ", ".join(result.law for result in caused)
            self.output.write(f"\nfailed for the same reason: {names_of_laws}\n")
            self.output.write(self.wrapped(f"  {'cause':<8} {caused[0].cause}") + "\n")
        self.output.write(f"\n{summary(names[0], done)} in {time.monotonic() - started:.1f} s\n\n")
        self.failed |= bool(failed)

    def line(self, law: str, status: str, measured: str, detail: str) -> None:
        """A row of the table, on one line of the screen."""
        row = f"{law:<20} {status:<9} {measured:>9}"
        if self.width > NARROWEST:
            space = self.width - len(row) - 2
            row += "  " + (textwrap.shorten(detail, space, placeholder="...") if self.output.terminal else detail)
        self.output.write(row.rstrip() + "\n")

    def wrapped(self, text: str) -> str:
        """Wrap lines that begin with a label; continuation lines are indented past the label (11 columns)."""
        lines = (textwrap.wrap(line, self.width, subsequent_indent=" " * 11) for line in text.splitlines())
        return "\n".join("\n".join(line) for line in lines)

    def end(self) -> None:
        """Print whatever comes last."""


def deviation(result: Result) -> str:
    """The largest deviation; - if nothing was measured."""
    return "-" if result.deviation is None else "0" if result.deviation == 0 else f"{result.deviation:.1e}"


def summary(name: str, results: list[Result]) -> str:
    """How many checks a cell passed and failed."""
    count = {status: sum(r.status == status for r in results) for status in ("passed", "failed", "expected", "skipped")}
    parts = [f"{plural(count['passed'], 'check')} passed"]
    parts += [f"{count['failed']} failed"] if count["failed"] else []
    parts += [f"{count['expected']} failed as declared"] if count["expected"] else []
    parts += [f"{count['skipped']} skipped"] if count["skipped"] else []
    return f"{name}: {', '.join(parts)}"


class JsonReporter(Reporter):
    """Prints one JSON array, with an object for each cell."""

    def __init__(self) -> None:
        super().__init__()
        self.content: list[dict[str, Any]] = []

    def problem(self, name: str, error: PluginError) -> None:
        self.failed = True
        self.content.append({"cell": name, "problem": str(error), "laws": []})

    def cell(self, cell: type[Cell], names: list[str], results: Iterable[Result]) -> None:
        laws = [result.as_json() for result in results]
        self.failed |= any(law["status"] == "failed" for law in laws)
        owner = plugins.owner(names[0])
        package = f"{owner.distribution} {owner.version}"
        self.content.append({"cell": names[0], "aliases": names[1:], "package": package, "problem": None, "laws": laws})

    def end(self) -> None:
        self.output.write(json.dumps(self.content) + "\n")

"""textgen plugins: list installed plugins, check cells, create a new package.

`list` loads plugins in a child process: one that ends the process, or hangs, is named, and the others are still shown.
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

import click

from textgen import plugins
from textgen.cli import clashes
from textgen.cli.load_plugins import READY
from textgen.cli.params import cell_options_of, given, json_option, options_of
from textgen.errors import UsageError, require
from textgen.formatting import plural, table
from textgen.options import from_mapping
from textgen.plugin_metadata import KINDS, Entry
from textgen.plugins import PluginError
from textgen.scaffold import CELL_KINDS, Package, ScaffoldOptions, create
from textgen.screen import Output, say

if TYPE_CHECKING:
    from textgen.cells import Cell
    from textgen.testing.law import Result


WIDEST, NARROWEST = 100, 60


@click.command("check")
@click.argument("names", nargs=-1, metavar="[NAME]...")
@click.option("-o", "options", nargs=2, multiple=True, metavar="KEY VALUE", help="An option of the cell, as in train.")
@click.option("--law", "laws", multiple=True, metavar="LAW", help="Check only this law; may be repeated.")
@click.option("--slow", is_flag=True, help="Also check the slow laws: compiling, exporting, importing.")
@json_option
@click.pass_context
def check_command(
    ctx: click.Context,
    names: tuple[str, ...],
    options: tuple[tuple[str, str], ...],
    laws: tuple[str, ...],
    slow: bool,
    as_json: bool,
) -> None:
    """Check cells against the laws of recurrent cells. Without NAME, all installed cells are checked.

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
    from textgen.testing.runner import run_laws

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
        from textgen.testing.law import explanation
        from textgen.testing.runner import LAWS

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


@click.command("new")
@click.argument("name", required=False)
@options_of(ScaffoldOptions)
@click.option("--list", "list_kinds", is_flag=True, help="Show the kinds of cell and when to use each.")
def new_command(name: str | None, list_kinds: bool, **values: Any) -> None:
    """Create a working package textgen-NAME with a cell called NAME."""
    if list_kinds:
        rows = [{"kind": kind.name, "you write": kind.writes, "when": kind.when} for kind in CELL_KINDS.values()]
        Output().write(table(rows, ["kind", "you write", "when"]) + "\n")
        return
    if name is None:
        raise UsageError("no name given.", hint="textgen plugins new mycell; --list shows the kinds of cell.")
    package = create(name, from_mapping(ScaffoldOptions, given(ScaffoldOptions, values)))
    names = package.names
    Output().write(f"{package.folder}\n")
    say(f"cell {names.cell}: {names.class_name}, a {package.kind.base}, in {names.module}.py")
    say("next:")
    for line in next_steps(package):
        say(f"  {line}")


def next_steps(package: Package) -> list[str]:
    """Commands that install the package, then check, train and sample its cell."""
    cell, folder = package.names.cell, package.folder
    place = shlex.quote(str(folder) if folder.is_absolute() else f"./{folder}")
    return [
        f"pip install -e {place}",
        f"textgen plugins check {cell}",
        f"textgen train --cell {cell} stories --minutes 1",
        "textgen sample",
    ]


SECONDS_EACH = 60.0


@click.group("plugins", invoke_without_command=True)
@json_option
@click.option("-v", "--verbose", is_flag=True, help="Show the module of each.")
@click.pass_context
def command(ctx: click.Context, as_json: bool, verbose: bool) -> None:
    """List the installed plugins and what each provides (cells, tasks, models, commands), including broken ones."""
    ctx.obj = (as_json, verbose)
    if ctx.invoked_subcommand is None:
        _list(as_json, verbose)


@command.command("list")
@json_option
@click.option("-v", "--verbose", is_flag=True, help="Show the module of each.")
@click.pass_obj
def list_command(before: tuple[bool, bool], as_json: bool, verbose: bool) -> None:
    """List the installed plugins."""
    _list(before[0] or as_json, before[1] or verbose)


command.add_command(new_command)
command.add_command(check_command)


def _list(as_json: bool, verbose: bool) -> None:
    require("torch", "loading plugins")
    rows = [
        {"name": entry.name, "kind": entry.noun, "package": entry.package, "module": entry.module,
         "status": "failed" if problem else "ok", "reason": problem or entry.notice}
        for entry, problem in examined()
    ]  # fmt: skip
    if as_json:
        Output().write(json.dumps(rows) + "\n")
        return
    columns = ["name", "kind", "package", *(["module"] if verbose else []), "status", "reason"]
    Output().write(table(rows, columns) + "\n")


def examined() -> Iterator[tuple[Entry, str | None]]:
    """Every entry point with its problem, or None."""
    refused = {**dict(plugins.refusals()), **dict(clashes())}
    everything = [entry for kind in KINDS for claims in plugins.entries(kind).values() for entry in claims]
    problems = _load_elsewhere([entry for entry in everything if entry not in refused])
    for entry in everything:
        yield entry, refused.get(entry) or problems.get(entry)


def _load_elsewhere(entries: list[Entry]) -> dict[Entry, str | None]:
    """Load plugins in a child process, restarted for the rest whenever a plugin ends it."""
    problems: dict[Entry, str | None] = {}
    waiting = list(entries)
    while waiting:
        found, end = _answers(waiting)
        problems.update(zip(waiting, found, strict=False))
        if len(found) < len(waiting):
            problems[waiting[len(found)]] = end
        waiting = waiting[len(found) + 1 :]
    return problems


def _answers(entries: list[Entry]) -> tuple[list[str | None], str]:
    """The problem of each plugin, as far as a child process got, and how the process ended."""
    wanted = json.dumps([[e.name, e.module, e.distribution, e.version, e.kind] for e in entries])
    child = subprocess.Popen(
        [sys.executable, "-m", "textgen.cli.load_plugins", wanted],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env=dict(os.environ),
    )
    assert child.stdout is not None
    found: list[str | None] = []
    late = threading.Event()
    while (line := _next_line(child, late)).startswith(b'{"problem"') or line == READY:
        found += [] if line == READY else [json.loads(line)["problem"]]
    child.stdout.close()
    code = child.wait()
    return found, f"it takes longer than {SECONDS_EACH:.0f} s to import" if late.is_set() else _ending(code)


def _next_line(child: subprocess.Popen[bytes], late: threading.Event) -> bytes:
    """The next line of the child; empty at its end. A child that takes too long is killed."""

    def stop() -> None:
        late.set()
        child.kill()

    assert child.stdout is not None
    clock = threading.Timer(SECONDS_EACH, stop)
    clock.start()
    try:
        return child.stdout.readline()
    finally:
        clock.cancel()


def _ending(code: int) -> str:
    how = f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
    return f"it ends the process ({how})"


def print_listed(kind: str, as_json: bool) -> None:
    """Print the plugins of a kind ('cells' or 'models') with their packages, from metadata: none is imported."""
    noun, rows = kind.removesuffix("s"), []
    for name in plugins.names(kind):
        try:
            entry = plugins.owner(name, kind)
            about = f"cannot be used: {entry.refusal}" if entry.refusal else entry.summary
            rows.append({noun: name, "package": entry.package, "about": about})
        except plugins.PluginError as error:
            rows.append({noun: name, "package": "-", "about": str(error)})
    Output().write((json.dumps(rows) if as_json else table(rows, [noun, "package", "about"])) + "\n")

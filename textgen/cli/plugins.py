"""textgen plugins: list the installed plugins, including broken ones.

Plugins are loaded in a child process: one that exits or hangs is reported, and the others are still listed.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator

import click

from textgen import plugins
from textgen.cli import COMMANDS
from textgen.cli.installed_commands import clashes
from textgen.cli.load_plugins import READY
from textgen.cli.plugins_check import command as check_command
from textgen.cli.plugins_new import command as new_command
from textgen.dependencies import require
from textgen.plugin_metadata import KINDS
from textgen.plugins import Entry
from textgen.screen import Output
from textgen.wording import table

SECONDS_EACH = 60.0


@click.group("plugins", invoke_without_command=True, context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option("-v", "--verbose", is_flag=True, help="Show the module of each.")
@click.pass_context
def command(ctx: click.Context, as_json: bool, verbose: bool) -> None:
    """List the installed plugins and what each provides (cells, tasks, models, commands), including broken ones."""
    ctx.obj = (as_json, verbose)
    if ctx.invoked_subcommand is None:
        _list(as_json, verbose)


@command.command("list")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
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
    refused = {**dict(plugins.refusals()), **dict(clashes(COMMANDS))}
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

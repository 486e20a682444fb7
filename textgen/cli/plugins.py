"""textgen plugins: what is installed, and what is broken.

Plugins are loaded in a process of their own: one that ends the process, or hangs, is found out and named, and the
others are still shown.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator

import click

from textgen import plugins
from textgen.cli.plugins_check import command as check_command
from textgen.cli.plugins_new import command as new_command
from textgen.cli.screen import Output, table
from textgen.plugins import Entry

SECONDS_EACH = 60.0


@click.group("plugins", invoke_without_command=True, context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--json", "as_json", is_flag=True, help="As JSON.")
@click.option("-v", "--verbose", is_flag=True, help="Show the module of each.")
@click.pass_context
def command(ctx: click.Context, as_json: bool, verbose: bool) -> None:
    """List the installed plugins with what each brings, broken ones included."""
    ctx.obj = (as_json, verbose)
    if ctx.invoked_subcommand is None:
        _list(as_json, verbose)


@command.command("list")
@click.option("--json", "as_json", is_flag=True, help="As JSON.")
@click.option("-v", "--verbose", is_flag=True, help="Show the module of each.")
@click.pass_obj
def list_command(before: tuple[bool, bool], as_json: bool, verbose: bool) -> None:
    """List the installed plugins."""
    _list(before[0] or as_json, before[1] or verbose)


command.add_command(new_command)
command.add_command(check_command)


def _list(as_json: bool, verbose: bool) -> None:
    rows = [
        {"cell": entry.name, "package": f"{entry.distribution} {entry.version}", "module": entry.module,
         "status": "ok" if problem is None else "failed", "reason": problem or ""}
        for entry, problem in examined()
    ]  # fmt: skip
    if as_json:
        Output().write(json.dumps(rows) + "\n")
        return
    columns = ["cell", "package", *(["module"] if verbose else []), "status", "reason"]
    Output().write(table(rows, columns) + "\n")


def examined() -> Iterator[tuple[Entry, str | None]]:
    """Every entry point with what is wrong with it, or None."""
    refused = {(entry.name, entry.distribution): reason for entry, reason in plugins.refused_claims()}
    everything = [entry for claims in plugins.entries().values() for entry in claims]
    usable = [entry for entry in everything if (entry.name, entry.distribution) not in refused]
    problems = _load_elsewhere(usable)
    for entry in everything:
        yield entry, refused.get((entry.name, entry.distribution)) or problems.get(entry)


def _load_elsewhere(entries: list[Entry]) -> dict[Entry, str | None]:
    """Load plugins in a child process, a new one for the rest whenever one takes it down."""
    problems: dict[Entry, str | None] = {}
    waiting = list(entries)
    while waiting:
        wanted = [[e.name, e.module, e.distribution, e.version] for e in waiting]
        child = [sys.executable, "-m", "textgen.cli.load_plugins", json.dumps(wanted)]
        try:
            done = subprocess.run(child, capture_output=True, timeout=SECONDS_EACH, env=dict(os.environ))
            said, end = done.stdout, f"it ends the process (exit code {done.returncode})"
        except subprocess.TimeoutExpired as error:
            said, end = error.stdout or b"", f"it takes longer than {SECONDS_EACH:.0f} s to import"
        results = [json.loads(line) for line in said.splitlines() if line.startswith(b'{"problem"')]
        for entry, result in zip(waiting, results, strict=False):
            problems[entry] = result["problem"]
        if len(results) < len(waiting):
            problems[waiting[len(results)]] = end
        waiting = waiting[len(results) + 1 :]
    return problems

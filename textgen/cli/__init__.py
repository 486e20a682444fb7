"""The `textgen` command: one module a verb, imported when it is called, so that `--help` costs nothing. Packages may
add verbs (`textgen.cli.installed_commands`)."""

from __future__ import annotations

import errno
import os
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack, redirect_stderr, redirect_stdout
from importlib import import_module
from pathlib import Path
from typing import Any

import click
from click.exceptions import NoSuchCommand
from click.shell_completion import CompletionItem

from textgen import __version__
from textgen.attribution import out_of_memory, summary_of
from textgen.cli import installed_commands
from textgen.cli.screen import ClosedOutput, notices, say
from textgen.dependencies import missing
from textgen.errors import TextgenError
from textgen.parameters import as_flags, spelled_as
from textgen.plugins import attributed, suspects
from textgen.stopping import INTERRUPTED, TERMINATED, Terminated, handling, leave

STARTED = time.monotonic()
"""When the command began, for everything that is promised in minutes."""

VERBS = {
    "train": "Train a model on your text.",
    "sample": "Write text with a trained model.",
    "tokenize": "Tokenize a corpus once, for several runs.",
    "evaluate": "Measure how well a model predicts a text.",
    "predict": "Label texts or forecast series with a trained model.",
    "compare": "Compare cells on your text with equal size and budget.",
    "quantize": "Store the weights of a model in eight bits: a quarter of the size.",
    "compress": "Compress a file with the predictions of a model.",
    "decompress": "Restore a compressed file.",
    "runs": "List training runs with their progress and scores.",
    "cells": "List the recurrent cells that can be trained.",
    "plugins": "List the installed plugins, broken ones included.",
    "env": "Show versions, for a bug report.",
    "completion": "Print a script that completes commands in your shell.",
}


class LazyGroup(click.Group):
    """Knows its verbs and their one-line help; imports a verb's module when it is called. Messages spell parameters as
    flags within it."""

    def main(self, *args: Any, **kwargs: Any) -> Any:
        with spelled_as(as_flags):
            return super().main(*args, **kwargs)

    def list_commands(self, ctx: click.Context) -> list[str]:
        return [*VERBS, *installed_commands.listed(VERBS)]

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if name in VERBS:
            command: click.Command = import_module(f"textgen.cli.{name}").command
            return command
        possible = self.list_commands(ctx)
        try:
            if name in possible:
                return installed_commands.load(name)
        except TextgenError:
            if not ctx.resilient_parsing:
                raise
        if ctx.resilient_parsing or name.startswith("-"):
            return None
        raise NoSuchCommand(name, possibilities=possible, ctx=ctx)

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """Completions from the lines of help alone: no command is imported for them."""
        lines = {**VERBS, **installed_commands.listed(VERBS)}
        found = [CompletionItem(name, help=line) for name, line in lines.items() if name.startswith(incomplete)]
        return [*found, *click.Command.shell_complete(self, ctx, incomplete)]

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(VERBS.items()))
        if more := installed_commands.listed(VERBS):
            with formatter.section("Commands of installed packages"):
                formatter.write_dl(list(more.items()))


@click.group(
    cls=LazyGroup,
    invoke_without_command=True,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.option(
    "-c", "--config", metavar="FILE", help="Read options from a TOML file.  [default: ./textgen.toml, if present]"
)
@click.option("--traceback", is_flag=True, help="Show the Python traceback of an error.")
@click.version_option(__version__, "-V", "--version", prog_name="textgen")
@click.pass_context
def group(ctx: click.Context, config: str | None, traceback: bool) -> None:
    """Train a small recurrent language model on your own text, and write more of it.

    \b
    textgen train notes.txt
    textgen sample --prompt "Dear"
    """
    if traceback:
        os.environ["TEXTGEN_RAISE_ERRORS"] = "1"
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help())
        return
    _refuse_no_place()
    ctx.with_resource(notices())
    from textgen.cli.config import defaults_from

    ctx.default_map = defaults_from(config, group, ctx)


def _refuse_no_place() -> None:
    """Raise TextgenError if the current directory no longer exists: libraries below end the process over it."""
    try:
        Path.cwd()
    except FileNotFoundError:
        raise TextgenError("the current directory no longer exists.", hint="cd to another directory.") from None


def prepare_threads() -> None:
    """Let waiting threads of matrix libraries spin only briefly. Where something else runs beside us, the default
    (to spin long) makes two threads many times slower than one. Must come before torch is imported."""
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", "2000")
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code: 0 done, 1 failed at work, 2 wrong usage, 130 or 143 stopped."""
    prepare_threads()
    with ExitStack() as places:
        if sys.stdout is None:
            places.enter_context(redirect_stdout(ClosedOutput()))
        if sys.stderr is None:
            places.enter_context(redirect_stderr(places.enter_context(Path(os.devnull).open("w"))))
        places.enter_context(handling(leave))
        try:
            return _run(arguments)
        except (KeyboardInterrupt, click.Abort):
            say("Stopped.")
            return INTERRUPTED
        except Terminated:
            say("Stopped.")
            return TERMINATED


def _run(arguments: Sequence[str] | None) -> int:
    try:
        code = group.main(arguments, prog_name="textgen", standalone_mode=False, auto_envvar_prefix="TEXTGEN")
        return code if isinstance(code, int) else 0
    except SystemExit as end:  # click's way to end quietly when whoever read our output has had enough
        if error := _by_plugin(end):
            return complain(error)
        if isinstance(end.code, str):
            say(f"Error: {end.code}")
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    except click.Abort:
        raise
    except Exception as error:
        if os.environ.get("TEXTGEN_RAISE_ERRORS") == "1":
            raise
        return complain(error)


def _by_plugin(error: BaseException) -> TextgenError | None:
    """The exception as the failure of a plugin, if the code of one raised it."""
    return None if isinstance(error, click.ClickException) else attributed(error)


def complain(error: Exception) -> int:
    """Say what is wrong in a sentence, and what to type; returns the exit code."""
    hint, code = None, 1
    error = _by_plugin(error) or missing(error) or error
    if isinstance(error, click.ClickException):
        from textgen.cli.typed_wrong import explained

        said, hint = explained(error)
        message, code = _sentence(said), error.exit_code
    elif isinstance(error, TextgenError):
        message, hint, code = str(error), error.hint, error.exit_code
    elif isinstance(error, OSError):
        message = f"{error.filename or 'the operating system'}: {error.strerror or error}."
        full = error.errno in (errno.ENOSPC, errno.EDQUOT) and error.filename not in (None, "standard output")
        hint = "free some space on that disk; a training goes on with --resume." if full else None
    elif out_of_memory(error):
        message, hint = "out of memory.", "a smaller --batch-size, --seq-length or --hidden-size needs less."
    else:
        message = _sentence(f"internal error: {summary_of(error)}")
        hint = f"{_suspects()}textgen --traceback COMMAND ... shows where; please report it."
    say(f"Error: {message}")
    if hint:
        say(f"Hint: {hint}")
    return code


def _suspects() -> str:
    """What to try first where cells of other packages are loaded, which may be the cause all the same."""
    names = [entry.name for entry in suspects()]
    return f"textgen plugins check {' '.join(names)} finds out whether a plugin is the cause; " if names else ""


def _sentence(message: str) -> str:
    """What others say, in one line that ends as a sentence does."""
    line = " ".join(message.split())
    return line if line.endswith((".", "?", ")")) else f"{line}."

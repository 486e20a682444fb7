"""The `textgen` command: one module per command, imported when it is called, so that `--help` costs nothing.

Commands of installed packages are listed from their metadata and imported when they are called.
"""

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
from textgen import plugins as installed_plugins
from textgen.distributed import ElsewhereError, is_launched, rank, world
from textgen.errors import TextgenError, missing, out_of_memory, summary_of
from textgen.options import as_flags, spelled_as
from textgen.plugin_metadata import Entry
from textgen.plugins import PluginError, attributed, suspects
from textgen.screen import ClosedOutput, notices, say, silence, spoken
from textgen.signals import INTERRUPTED, TERMINATED, Terminated, handling, leave

STARTED = time.monotonic()
"""When the command began, for time limits that include start-up."""

COMMANDS = {
    "train": "Train a model on your text.",
    "sample": "Generate text with a trained model.",
    "tokenize": "Tokenize a corpus once, for several runs.",
    "evaluate": "Measure how good a model is.",
    "predict": "Predict with a model that does not generate text.",
    "serve": "Serve models over HTTP, as OpenAI's API does, with their states.",
    "compare": "Compare cells on your text with equal size and budget.",
    "quantize": "Store the weights of a model in fewer bits: a quarter or half of the size.",
    "export": "Write a model as a web page, a JavaScript module or an ONNX graph.",
    "pull": "Download a model from the Hugging Face Hub.",
    "push": "Upload a model to the Hugging Face Hub.",
    "compress": "Compress a file with the predictions of a model.",
    "decompress": "Restore a compressed file.",
    "runs": "List training runs with their progress and losses.",
    "cells": "List the recurrent cells that can be trained.",
    "models": "List the pretrained models that training can start from.",
    "plugins": "List the installed plugins, broken ones included.",
    "env": "Show versions, for a bug report.",
    "completion": "Print a script that completes commands in your shell.",
}

SHARED = {
    "decompress": ("textgen.cli.compress", "decompress_command"),
    "pull": ("textgen.cli.hub", "pull_command"),
    "push": ("textgen.cli.hub", "push_command"),
}
"""The commands that share a module with another."""

A_COMMAND = "a click.Command"


def installed_commands() -> dict[str, str]:
    """The commands of installed packages, with one line each; imports no plugin."""
    return {name: _line(name) for name in installed_plugins.names("commands") if name not in COMMANDS}


def _line(name: str) -> str:
    """The line on a command: the package's summary, else the first line of the module; or why it cannot be used."""
    try:
        entry = installed_plugins.owner(name, "commands")
    except PluginError as error:
        return f"Cannot be used: {error}"
    return f"Cannot be used: {entry.refusal}." if entry.refusal else entry.about or entry.summary


def clashes() -> list[tuple[Entry, str]]:
    """The entry points with the name of a built-in command, and what is wrong with that."""
    claims = [entry for each in installed_plugins.entries("commands").values() for entry in each]
    taken = f"is taken by {installed_plugins.OWN_DISTRIBUTION}"
    return [(entry, f"the name {entry.name!r} {taken}") for entry in claims if entry.name in COMMANDS]


class LazyGroup(click.Group):
    """A group that imports the module of a command only when it is called. Within it, messages spell parameters as
    flags."""

    def main(self, *args: Any, **kwargs: Any) -> Any:
        with spelled_as(as_flags):
            return super().main(*args, **kwargs)

    def list_commands(self, ctx: click.Context) -> list[str]:
        return [*COMMANDS, *installed_commands()]

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        command: click.Command
        if name in COMMANDS:
            module, attribute = SHARED.get(name, (f"textgen.cli.{name}", "command"))
            command = getattr(import_module(module), attribute)
            return command
        possible = self.list_commands(ctx)
        try:
            if name in possible:
                command = installed_plugins.registered("commands", name, click.Command, A_COMMAND)
                return command
        except TextgenError:
            if not ctx.resilient_parsing:
                raise
        if ctx.resilient_parsing or name.startswith("-"):
            return None
        raise NoSuchCommand(name, possibilities=possible, ctx=ctx)

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """Completions from the one-line help alone; imports no command."""
        lines = {**COMMANDS, **installed_commands()}
        found = [CompletionItem(name, help=line) for name, line in lines.items() if name.startswith(incomplete)]
        return [*found, *click.Command.shell_complete(self, ctx, incomplete)]

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))
        if more := installed_commands():
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
    try:
        Path.cwd()  # libraries below would end the process
    except FileNotFoundError:
        raise TextgenError("the current directory no longer exists.", hint="cd to another directory.") from None
    ctx.with_resource(notices())
    from textgen.cli.params import defaults_from

    ctx.default_map = defaults_from(config, group, ctx)


def prepare_threads() -> None:
    """Let waiting threads of matrix libraries spin only briefly. While other processes are running, the default (to
    spin long) makes two threads many times slower than one. Call it before torch is imported."""
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", "2000")
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    if is_launched():  # torch would warn that no parameter is unused
        os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code: 0 done, 1 failed, 2 usage error, 130 or 143 stopped."""
    prepare_threads()
    with ExitStack() as places:
        if sys.stdout is None:
            places.enter_context(redirect_stdout(ClosedOutput()))
        if sys.stderr is None:
            places.enter_context(redirect_stderr(places.enter_context(Path(os.devnull).open("w"))))
        places.enter_context(handling(leave))
        if rank():
            places.enter_context(silence())
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
    except SystemExit as end:  # how click ends quietly when the reader of our output has closed it
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
    """Print the error as a sentence, with a hint; returns the exit code."""
    hint, code = None, 1
    error = _by_plugin(error) or missing(error) or error
    if isinstance(error, ElsewhereError) or world().is_said_elsewhere(str(error)):
        return code
    if isinstance(error, click.ClickException):
        from textgen.cli.params import explained

        said, hint = explained(error)
        message, code = _sentence(said), error.exit_code
    elif isinstance(error, TextgenError):
        message, hint, code = str(error), error.hint, error.exit_code
    elif isinstance(error, OSError):
        message = f"{error.filename or 'the operating system'}: {error.strerror or error}."
        full = error.errno in (errno.ENOSPC, errno.EDQUOT) and error.filename not in (None, "standard output")
        hint = "free some space on that disk; --resume continues a training run." if full else None
    elif out_of_memory(error):
        message, hint = "out of memory.", "a smaller --batch-size, --seq-length or --hidden-size needs less."
    else:
        message = _sentence(f"internal error: {summary_of(error)}")
        hint = "textgen --traceback COMMAND ... shows where; please report it."
        if loaded := " ".join(entry.name for entry in suspects()):
            hint = f"textgen plugins check {loaded} finds out whether a plugin is the cause; {hint}"
    with spoken():
        say(f"Error{f' on rank {rank()}' if rank() else ''}: {message}")
        if hint:
            say(f"Hint: {hint}")
    return code


def _sentence(message: str) -> str:
    """A message of another library in one line, ending with a full stop."""
    line = " ".join(message.split())
    return line if line.endswith((".", "?", ")")) else f"{line}."

"""Output files of commands: the `--overwrite` option, and the inputs of a command, which it must not replace."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import click

from textgen.cli.config import LOCAL
from textgen.errors import TextgenError
from textgen.outputs import OutputFile, OutputKind
from textgen.sealed import MANIFEST
from textgen.text.hub import PREFIX
from textgen.text.sources import find_sources

Command = TypeVar("Command", bound=Callable[..., Any])
STDOUT = "-"
"""The name of standard output where a file is expected."""


def overwrite_option(*also: str) -> Callable[[Command], Command]:
    """A decorator that lets a command replace existing outputs: with `--overwrite-output-dir` a folder, else a file."""
    help = (
        "Replace an existing folder that textgen wrote. Inputs are never replaced."
        if "--overwrite-output-dir" in also
        else "Replace an existing file even if this command did not write it. Inputs are never replaced."
    )
    return click.option("--overwrite", *also, "overwrite", is_flag=True, help=help)


def output_file(
    name: str, option: str, kind: OutputKind, inputs: Sequence[str | os.PathLike[str] | None], overwrite: bool
) -> OutputFile:
    """The file that an option names, if it may be written. `inputs` are what the command reads besides its config file.

    Call it before any work. Raises as `OutputFile` does.
    """
    return OutputFile(Path(name), option, kind, tuple(read_by_command(inputs)), overwrite)


def read_by_command(inputs: Sequence[str | os.PathLike[str] | None]) -> Iterator[Path]:
    """Inputs with folders and patterns resolved to files, and the config file of the current command."""
    context = click.get_current_context(silent=True)
    config = context and context.find_root().params.get("config")
    for each in (*inputs, config or LOCAL):
        if each is None or str(each).startswith(PREFIX):
            continue
        path = Path(each)
        if str(each) == STDOUT or path.is_file() or (path / MANIFEST).is_file():
            yield path
            continue
        try:
            yield from (source.path for source in find_sources([str(each)]))
        except TextgenError:  # reported when the input is read
            yield path

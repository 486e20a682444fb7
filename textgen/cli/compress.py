"""textgen compress: a file as small as a model makes it."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import click

from textgen.cli.screen import Output, ReadingProgress, say
from textgen.errors import TextgenError, UsageError
from textgen.wording import count, duration

ENDING = ".tgc"


@click.command("compress", context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.argument("file")
@click.option("-m", "--model", metavar="DIR", help="The model folder.  [default: $TEXTGEN_MODEL, or the latest run]")
@click.option("-o", "--output", metavar="PATH", help="The archive to write.  [default: FILE.tgc]")
@click.option("-f", "--force", is_flag=True, help="Replace the archive if it is there.")
@click.option("-q", "--quiet", is_flag=True, help="Show errors only.")
def command(file: str, model: str | None, output: str | None, force: bool, quiet: bool) -> int:
    """Compress any FILE without loss, by what a model predicts.

    The same model, on the same kind of processor and versions of numpy and torch, brings it back: textgen decompress.
    """
    data, target = read_input(file), free_output(Path(output or file + ENDING), force)
    from textgen.cli.sample import open_model
    from textgen.files import write_output
    from textgen.scoring.compression import compress

    loaded, began = open_model(model, 1), time.monotonic()
    progress = ReadingProgress(not quiet and sys.stderr.isatty())
    try:
        archive = compress(loaded, data, progress)
    finally:
        progress.finish()
    write_output(target, archive)
    if not quiet:
        rate = f" · {8 * len(archive) / len(data):.3f} bits a byte" if data else ""
        took = duration(time.monotonic() - began)
        say(f"{count(len(data))} bytes to {count(len(archive))}{rate} · {took}")
    Output().write(f"{target}\n")
    return 0


def read_input(name: str) -> bytes:
    """The content of a file. Raises UsageError if it is not there or is a folder."""
    path = Path(name)
    if path.is_dir():
        raise UsageError(f"{name!r} is a folder, not a file.")
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise UsageError(f"file {name!r} does not exist.") from None


def free_output(path: Path, force: bool) -> Path:
    """The path, if it may be written. Raises TextgenError if something is there."""
    if path.is_dir():
        raise UsageError(f"{str(path)!r} is a folder, not a file.")
    if path.exists() and not force:
        raise TextgenError(f"{str(path)!r} exists already.", hint="--force replaces it, -o PATH names another.")
    return path

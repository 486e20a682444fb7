"""textgen compress and textgen decompress: lossless compression with the predictions of a model."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import click

from textgen.cli.model_folders import model_folder, open_model
from textgen.cli.params import STDOUT, model_option, output_file, overwrite_option, quiet_option
from textgen.errors import UsageError
from textgen.formatting import count, duration
from textgen.screen import Output, ReadingProgress, say
from textgen.storage.outputs import ANYTHING, ARCHIVE, OutputFile, OutputKind

ENDING = ".tgc"


@click.command("compress")
@click.argument("file")
@model_option
@click.option("-o", "--output", metavar="PATH", help="The archive to write; - is standard output.  [default: FILE.tgc]")
@overwrite_option("-f", "--force")
@quiet_option
def command(file: str, model: str | None, output: str | None, overwrite: bool, quiet: bool) -> int:
    """Compress any FILE losslessly with the predictions of a model.

    textgen decompress restores the file with the same model, on the same kind of processor and with the same versions
    of numpy and torch.
    """
    data = read_input(file)
    target = archive_output(output or file + ENDING, ARCHIVE, file, model, overwrite)
    from textgen.evaluation.compression import compress

    loaded, began = open_model(model, 1), time.monotonic()
    with progress(quiet) as report:
        archive = compress(loaded, data, report)
    if not quiet:
        rate = f" · {8 * len(archive) / len(data):.3f} bits per byte" if data else ""
        took = duration(time.monotonic() - began)
        say(f"{count(len(data))} bytes to {count(len(archive))}{rate} · {took}")
    deliver(archive, target)
    return 0


def read_input(name: str) -> bytes:
    """The content of a file. Raises UsageError if it does not exist or is a folder."""
    path = Path(name)
    if path.is_dir():
        raise UsageError(f"{name!r} is a folder, not a file.")
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise UsageError(f"file {name!r} does not exist.") from None


def archive_output(name: str, kind: OutputKind, file: str, model: str | None, overwrite: bool) -> OutputFile | None:
    """Where the result goes, None for standard output. Raises as `OutputFile` does."""
    return None if name == STDOUT else output_file(name, "-o", kind, (file, model_folder(model)), overwrite)


@contextmanager
def progress(quiet: bool) -> Iterator[ReadingProgress]:
    """A progress line on a terminal, removed at the end."""
    report = ReadingProgress(not quiet and sys.stderr.isatty())
    try:
        yield report
    finally:
        report.finish()


def deliver(content: bytes, target: OutputFile | None) -> None:
    """Write the result to its file and print the file's name, or write it to standard output."""
    if target is None:
        Output().write_bytes(content)
    else:
        target.write(content)
        Output().write(f"{target.path}\n")


@click.command("decompress")
@click.argument("archive")
@model_option
@click.option(
    "-o",
    "--output",
    metavar="PATH",
    help="The file to write; - is standard output.  [default: the archive's name without .tgc]",
)
@overwrite_option("-f", "--force")
@quiet_option
def decompress_command(archive: str, model: str | None, output: str | None, overwrite: bool, quiet: bool) -> int:
    """Restore the file that textgen compress made ARCHIVE from, with the same model."""
    if output is None and not archive.endswith(ENDING):
        raise UsageError(f"{archive!r} does not end in {ENDING}.", hint="-o PATH names the file to write.")
    content = read_input(archive)
    target = archive_output(output or archive.removesuffix(ENDING), ANYTHING, archive, model, overwrite)
    from textgen.evaluation.compression import decompress

    with progress(quiet) as report:
        data = decompress(open_model(model, 1), content, repr(archive), report)
    if not quiet:
        say(f"{count(len(content))} bytes to {count(len(data))}")
    deliver(data, target)
    return 0

"""textgen decompress: restore the file that `textgen compress` was given."""

from __future__ import annotations

import sys

import click

from textgen.cli.compress import ENDING, archive_output, deliver, read_input
from textgen.cli.outputs import overwrite_option
from textgen.errors import UsageError
from textgen.outputs import ANYTHING
from textgen.screen import ReadingProgress, say
from textgen.wording import count


@click.command("decompress", context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.argument("archive")
@click.option("-m", "--model", metavar="DIR", help="The model folder.  [default: $TEXTGEN_MODEL, or the latest run]")
@click.option(
    "-o",
    "--output",
    metavar="PATH",
    help="The file to write; - is standard output.  [default: the archive's name without .tgc]",
)
@overwrite_option("-f", "--force")
@click.option("-q", "--quiet", is_flag=True, help="Print errors only.")
def command(archive: str, model: str | None, output: str | None, overwrite: bool, quiet: bool) -> int:
    """Restore the file that textgen compress made ARCHIVE from, with the same model."""
    if output is None and not archive.endswith(ENDING):
        raise UsageError(f"{archive!r} does not end in {ENDING}.", hint="-o PATH names the file to write.")
    content = read_input(archive)
    target = archive_output(output or archive.removesuffix(ENDING), ANYTHING, archive, model, overwrite)
    from textgen.cli.models import open_model
    from textgen.scoring.compression import decompress

    progress = ReadingProgress(not quiet and sys.stderr.isatty())
    try:
        data = decompress(open_model(model, 1), content, repr(archive), progress)
    finally:
        progress.finish()
    if not quiet:
        say(f"{count(len(content))} bytes to {count(len(data))}")
    deliver(data, target)
    return 0

"""textgen decompress: the file that `textgen compress` was given."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from textgen.cli.compress import ENDING, free_output, read_input
from textgen.cli.screen import Output, ReadingProgress, say
from textgen.errors import UsageError
from textgen.wording import count


@click.command("decompress", context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.argument("archive")
@click.option("-m", "--model", metavar="DIR", help="The model folder.  [default: $TEXTGEN_MODEL, or the latest run]")
@click.option("-o", "--output", metavar="PATH", help="The file to write.  [default: the archive's name without .tgc]")
@click.option("-f", "--force", is_flag=True, help="Replace the file if it is there.")
@click.option("-q", "--quiet", is_flag=True, help="Show errors only.")
def command(archive: str, model: str | None, output: str | None, force: bool, quiet: bool) -> int:
    """Bring back what textgen compress made ARCHIVE of, with the same model."""
    if output is None and not archive.endswith(ENDING):
        raise UsageError(f"{archive!r} does not end in {ENDING}.", hint="-o PATH names the file to write.")
    content, target = read_input(archive), free_output(Path(output or archive.removesuffix(ENDING)), force)
    from textgen.cli.sample import open_model
    from textgen.files import write_output
    from textgen.scoring.compression import decompress

    progress = ReadingProgress(not quiet and sys.stderr.isatty())
    try:
        data = decompress(open_model(model, 1), content, repr(archive), progress)
    finally:
        progress.finish()
    write_output(target, data)
    if not quiet:
        say(f"{count(len(content))} bytes to {count(len(data))}")
    Output().write(f"{target}\n")
    return 0

"""textgen compare: compare cells under equal conditions."""

from __future__ import annotations

import json
import signal
import sys
from types import FrameType
from typing import TYPE_CHECKING, Any

import click

from textgen import plugins
from textgen.cli.contest_display import display, show_plan
from textgen.cli.help import layered
from textgen.cli.params import encodings_said, given, options_of
from textgen.cli.typed_wrong import check_corpus
from textgen.contest.settings import DECIDED, CompareOptions, ComparisonRequest, request
from textgen.errors import TextgenError, UsageError
from textgen.options import from_mapping
from textgen.outputs import PLOT, OutputFile
from textgen.screen import Output, ReadingProgress, hush_notes, say, warn
from textgen.stopping import INTERRUPTED, exit_code, handling
from textgen.tasks.language.options import LanguageOptions

if TYPE_CHECKING:
    from textgen.contest.contest import Comparison


COMMON = (
    *("cells", "budget", "seeds", "learning_rates", "output_dir", "dry_run", "as_json", "quiet", "tokenizer"),
    *("text_column", "num_layers", "dropout", "validation_split"),
)


@click.command(
    "compare",
    cls=layered(COMMON, CompareOptions, LanguageOptions),
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.argument("corpus", nargs=-1)
@options_of(CompareOptions)
@options_of(LanguageOptions, leave_out=DECIDED)
@click.option("--dry-run", is_flag=True, help="Print sizes, learning rates and the expected time without training.")
@click.option("--json", "as_json", is_flag=True, help="Print the results as one JSON object.")
@click.option("-q", "--quiet", is_flag=True, help="Print only errors and the results.")
def command(corpus: tuple[str, ...], dry_run: bool, as_json: bool, quiet: bool, **values: Any) -> int:
    """Train several cells on CORPUS under equal conditions, and rank them by how well they predict held-out text.

    All cells get the same text in the same order, the same number of parameters and the same budget. The learning rate
    is tuned for each cell, and each is trained with several seeds. The table goes to standard output; the plot and all
    runs go into the comparison's folder. After an interruption, the same command continues.
    """
    if not corpus:
        raise UsageError("no corpus given.", hint="textgen compare FILE --cells lstm,gru")
    if quiet:
        hush_notes()
    compared = from_mapping(CompareOptions, given(CompareOptions, values))
    trained = {name: value for name, value in values.items() if name not in DECIDED}
    asked = request(compared, from_mapping(LanguageOptions, given(LanguageOptions, trained)))
    for unknown in (spec.cell for spec in asked.cells if spec.cell not in plugins.entries()):
        plugins.owner(unknown)  # raises UsageError; a broken cell is only excluded
    check_corpus("compare", corpus)
    comparison = _prepare(corpus, asked, compared.output_dir, dry_run, quiet)
    if not quiet:
        show_plan(comparison)
    if dry_run:
        return 0
    code = _run(comparison, quiet)
    if code:
        return code
    _draw(comparison, quiet)
    _write(comparison, as_json)
    return 0


def _prepare(
    corpus: tuple[str, ...], asked: ComparisonRequest, output_dir: str | None, dry_run: bool, quiet: bool
) -> Comparison:
    from textgen.contest.prepare import prepare

    reading = ReadingProgress(not quiet and sys.stderr.isatty())
    with encodings_said(not quiet):
        comparison = prepare(corpus, asked, output_dir, reading, dry_run)
        reading.finish()
    for warning in comparison.warnings:
        warn(warning)
    return comparison


def _run(comparison: Comparison, quiet: bool) -> int:
    """Run and show what is left, and stop cleanly on a signal; returns the exit code."""
    received: list[int] = []

    def stop(number: int, frame: FrameType | None) -> None:
        if received and number == signal.SIGINT:
            raise KeyboardInterrupt
        received.append(number)
        comparison.stop = True

    try:
        with handling(stop), display(comparison, quiet) as show:
            for event in comparison.events():
                show(event)
    except KeyboardInterrupt:
        say(f"\nStopped at once. The results so far are in {comparison.folder}; the same command continues.")
        return INTERRUPTED
    if not received:
        return 0
    say(f"Stopped. The results so far are in {comparison.folder}; the same command continues.")
    return exit_code(received[0])


def _draw(comparison: Comparison, quiet: bool) -> None:
    from textgen.contest.plot import PLOT as NAME
    from textgen.contest.plot import draw

    try:
        OutputFile(comparison.folder / NAME, "--output-dir", PLOT)
    except TextgenError as error:
        warn(f"no plot was drawn: {error}")
        return
    drawn = draw(comparison.folder, comparison.record)
    if drawn is None:
        say("No plot without matplotlib. Run pip install 'textgen-lm[plot]', then the same command again.")
    elif not quiet:
        say(f"plot    {drawn}")


def _write(comparison: Comparison, as_json: bool) -> None:
    from textgen.contest.results import table, to_json

    result = json.dumps(to_json(comparison.record)) if as_json else table(comparison.record)
    Output().write(result + "\n")

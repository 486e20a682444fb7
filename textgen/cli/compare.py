"""textgen compare: a fair contest between cells."""

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
from textgen.cli.params import given, options_of
from textgen.cli.screen import Output, ReadingProgress, encodings_said, hush_notes, say, warn
from textgen.cli.typed_wrong import check_corpus
from textgen.contest.settings import DECIDED, ContestOptions, Request, request
from textgen.errors import TextgenError, UsageError
from textgen.options import from_mapping
from textgen.outputs import PLOT, OutputFile
from textgen.settings import TrainOptions
from textgen.stopping import INTERRUPTED, exit_code, handling

if TYPE_CHECKING:
    from textgen.contest.contest import Contest


COMMON = (
    *("cells", "budget", "seeds", "learning_rates", "output_dir", "dry_run", "as_json", "quiet", "tokenizer"),
    *("text_column", "num_layers", "dropout", "validation_split"),
)


@click.command(
    "compare",
    cls=layered(COMMON, ContestOptions, TrainOptions),
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.argument("corpus", nargs=-1)
@options_of(ContestOptions)
@options_of(TrainOptions, leave_out=DECIDED)
@click.option("--dry-run", is_flag=True, help="Read and plan, print sizes, learning rates and expected time, and stop.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as one JSON object.")
@click.option("-q", "--quiet", is_flag=True, help="Print errors and the result only.")
def command(corpus: tuple[str, ...], dry_run: bool, as_json: bool, quiet: bool, **values: Any) -> int:
    """Train several cells on CORPUS under equal conditions, and rank them by how well they predict held-out text.

    All cells get the same text, order, number of parameters and budget. Each is trained at a learning rate tuned for
    it, with several seeds. The table goes to standard output; a plot and all runs go into the folder of the
    comparison. If stopped, the same command continues.
    """
    if not corpus:
        raise UsageError("no corpus given.", hint="textgen compare FILE --cells lstm,gru")
    if quiet:
        hush_notes()
    contest = from_mapping(ContestOptions, given(ContestOptions, values))
    trained = {name: value for name, value in values.items() if name not in DECIDED}
    asked = request(contest, from_mapping(TrainOptions, given(TrainOptions, trained)))
    for competitor in asked.competitors:
        _refuse_unknown(competitor.cell)
    check_corpus("compare", corpus)
    prepared = _prepare(corpus, asked, contest.output_dir, dry_run, quiet)
    if not quiet:
        show_plan(prepared)
    if dry_run:
        return 0
    code = _follow(prepared, quiet)
    if code:
        return code
    _draw(prepared, quiet)
    _write(prepared, as_json)
    return 0


def _refuse_unknown(cell: str) -> None:
    """Raise UsageError for a cell that nobody brings; one that is broken is out of the contest, not in its way."""
    if cell not in plugins.entries():
        plugins.owner(cell)


def _prepare(corpus: tuple[str, ...], asked: Request, output_dir: str | None, dry_run: bool, quiet: bool) -> Contest:
    from textgen.contest.prepare import prepare

    reading = ReadingProgress(not quiet and sys.stderr.isatty())
    with encodings_said(not quiet):
        prepared = prepare(corpus, asked, output_dir, reading, dry_run)
        reading.finish()
    for warning in prepared.warnings:
        warn(warning)
    return prepared


def _follow(contest: Contest, quiet: bool) -> int:
    """Run what is not done, show it, and stop cleanly when asked to; returns the exit code."""
    received: list[int] = []

    def stop(number: int, frame: FrameType | None) -> None:
        if received and number == signal.SIGINT:
            raise KeyboardInterrupt
        received.append(number)
        contest.stop = True

    try:
        with handling(stop), display(contest, quiet) as show:
            for event in contest.events():
                show(event)
    except KeyboardInterrupt:
        say(f"\nLeaving at once; {contest.folder} keeps what was done.")
        return INTERRUPTED
    if not received:
        return 0
    say(f"Stopped; {contest.folder} keeps what was done. The same command goes on.")
    return exit_code(received[0])


def _draw(contest: Contest, quiet: bool) -> None:
    from textgen.contest.plot import PLOT as NAME
    from textgen.contest.plot import draw

    try:
        OutputFile(contest.folder / NAME, "--output-dir", PLOT)
    except TextgenError as error:
        warn(f"no plot is drawn: {error}")
        return
    drawn = draw(contest.folder, contest.record)
    if drawn is None:
        say("No plot without matplotlib: pip install 'textgen-lm[plot]', then the same command draws it.")
    elif not quiet:
        say(f"plot    {drawn}")


def _write(contest: Contest, as_json: bool) -> None:
    from textgen.contest.results import table, to_json

    result = json.dumps(to_json(contest.record)) if as_json else table(contest.record)
    Output().write(result + "\n")

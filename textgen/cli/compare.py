"""textgen compare: cells under equal conditions, shown while they train."""

from __future__ import annotations

import json
import sys
import time
from typing import TYPE_CHECKING, Any

import click

from textgen import plugins
from textgen.cli.params import check_corpus, given, layered, options_of
from textgen.compare import DECIDED, CompareOptions, ComparisonRequest, make_request
from textgen.distributed import rank
from textgen.errors import TextgenError, UsageError
from textgen.formatting import count, duration, plural, short
from textgen.options import from_mapping
from textgen.screen import Output, ReadingProgress, encodings_said, hush_notes, rewrite_line, say, warn
from textgen.signals import INTERRUPTED, exit_code, stopping
from textgen.storage.outputs import PLOT, OutputFile
from textgen.tasks import planned
from textgen.tasks.language.options import LanguageOptions

if TYPE_CHECKING:
    from textgen.compare.comparison import Comparison, ComparisonEvent
    from textgen.compare.results import Candidate, RunResult

COMMON = (
    *("cells", "budget", "seeds", "learning_rates", "output_dir", "dry_run", "as_json", "quiet", "tokenizer"),
    *("text_column", "num_layers", "dropout", "validation_split"),
)


@click.command("compare", cls=layered(COMMON, CompareOptions, LanguageOptions))
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
    asked = make_request(compared, from_mapping(LanguageOptions, given(LanguageOptions, trained)))
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
    if rank() == 0:
        _draw(comparison, quiet)
        _write(comparison, as_json)
    return 0


def _prepare(
    corpus: tuple[str, ...], asked: ComparisonRequest, output_dir: str | None, dry_run: bool, quiet: bool
) -> Comparison:
    from textgen.compare.comparison import prepare

    reading = ReadingProgress(not quiet and sys.stderr.isatty())
    with encodings_said(not quiet):
        comparison = prepare(corpus, asked, output_dir, reading, dry_run)
        reading.finish()
    for warning in comparison.warnings:
        warn(warning)
    return comparison


def _run(comparison: Comparison, quiet: bool) -> int:
    """Run and show what is left, and stop cleanly on a signal; returns the exit code."""
    lines = _Lines(comparison)
    try:
        with stopping(comparison) as received:
            for event in comparison.events():
                if not quiet:
                    lines.show(event)
            lines.clear()
    except KeyboardInterrupt:
        say(f"\nStopped at once. The results so far are in {comparison.folder}; the same command continues.")
        return INTERRUPTED
    if not received:
        return 0
    say(f"Stopped. The results so far are in {comparison.folder}; the same command continues.")
    return exit_code(received[0])


def _draw(comparison: Comparison, quiet: bool) -> None:
    from textgen.compare import plot

    try:
        OutputFile(comparison.folder / plot.PLOT, "--output-dir", PLOT)
    except TextgenError as error:
        warn(f"no plot was drawn: {error}")
        return
    drawn = plot.draw(comparison.folder, comparison.record)
    if drawn is None:
        say("No plot without matplotlib. Run pip install 'textgen-lm[plot]', then the same command again.")
    elif not quiet:
        say(f"plot    {drawn}")


def _write(comparison: Comparison, as_json: bool) -> None:
    from textgen.compare.results import table, to_json

    result = json.dumps(to_json(comparison.record)) if as_json else table(comparison.record)
    Output().write(result + "\n")


def show_plan(comparison: Comparison) -> None:
    """What all cells share, one line per cell, and the expected time."""
    from textgen.compare.comparison import fewest
    from textgen.compare.results import aligned

    record, about = comparison.record, comparison.store.about
    plan, target = record.running[0].plan, record.target_parameters
    lines = {
        "textgen": [f"{record.made_with['textgen']} · torch {record.made_with['torch']}",
                    plural(record.made_with["threads"], "thread")],
        "corpus": [f"{short(sum(about['bytes'].values()))}B",
                   *([comparison.store.documents_shown()] if comparison.store.lines else []),
                   f"{count(about['tokens']['train'])} {record.kind} tokens to train on",
                   f"vocabulary of {count(about['vocab_size'])}", f"{short(about['bytes']['validation'])}B held out"],
        "shared": [f"{short(target)} parameters", f"embedding size {count(planned(plan.embedding_size))}",
                   plural(planned(plan.num_layers), "layer"), f"batches of {plan.batch_size} x {plan.seq_length}",
                   f"dropout {plan.dropout:g}"],
        "plan": [f"{plural(len(record.running), 'cell')} x {plural(len(record.seeds), 'seed')}",
                 _rates(record.request["learning_rates"], fewest(record.request["learning_rates"])),
                 f"about {duration(comparison.seconds_left())}", str(comparison.folder)],
    }  # fmt: skip
    for name, parts in lines.items():
        say(f"{name:8}{' · '.join(parts)}")
    head = ["", "cell", "parameters", "of budget", "hidden", "rate", "steps", "one run"]
    rows = [head, *(_planned(candidate, target) for candidate in record.candidates)]
    excluded = [f"{each.name} is excluded: {each.failed}" for each in record.candidates if each.failed]
    say("\n" + "\n".join([*aligned(rows), *excluded]) + "\n")


def _rates(given: list[float], trials: int) -> str:
    if not given:
        return f"at least {trials} learning rates tried for each"
    shown = ", ".join(f"{rate:g}" for rate in given)
    return f"learning rate {shown}" if trials == 0 else f"learning rates {shown} tried for each"


def _planned(candidate: Candidate, target: int) -> list[str]:
    if candidate.failed or candidate.parameters is None:
        return ["", candidate.name, *["-"] * 6]
    plan = candidate.plan
    return [
        "",
        candidate.name,
        count(candidate.parameters),
        f"{candidate.parameters / target:.1%}",
        count(planned(plan.hidden_size)),
        f"{candidate.rate or plan.learning_rate:.2g}",
        count(planned(plan.max_steps)),
        duration(candidate.expected_seconds or 0.0),
    ]


class _Lines:
    """One line per finished trial or run; on a terminal, a status line below them."""

    def __init__(self, comparison: Comparison) -> None:
        self._comparison = comparison
        self._live = sys.stderr.isatty()
        self._current = ""
        self._updated, self._started = 0.0, 0.0
        self._took, self._expected = 0.0, 0.0

    def show(self, event: ComparisonEvent) -> None:
        from textgen.compare.comparison import InTraining, RateChosen, RateTried, RunEnded, TrainingStarted

        if isinstance(event, TrainingStarted):
            self._current = f"{event.name} at {event.rate:g}" if event.trial else f"{event.name} seed {event.seed}"
            self._started = time.monotonic()
        elif isinstance(event, InTraining):
            self._update(event.event.step, event.steps)
        elif isinstance(event, RateTried):
            loss = "failed" if event.loss is None else f"{event.loss:.4f} nats"
            self._line(f"try     {event.name}  {event.rate:g}  {loss}")
        elif isinstance(event, RateChosen):
            rate = "none works" if event.rate is None else f"{event.rate:g}"
            self._line(f"rate    {event.name}  {rate}")
        elif isinstance(event, RunEnded):
            result, left = self._result(event.result), self._time_left(event.name)
            self._line(f"run     {event.name}  seed {event.seed}  {result} · {left}")

    def _result(self, result: RunResult) -> str:
        if result.failed is not None:
            return f"failed: {result.failed}"
        record = self._comparison.record
        return f"{getattr(result, record.metric):.4f} {record.unit} · {duration(result.seconds or 0.0)}"

    def _time_left(self, name: str) -> str:
        """The estimated time left, corrected by how long the runs so far took compared with their estimates."""
        expected = {each.name: each.expected_seconds or 0.0 for each in self._comparison.record.candidates}
        self._took += time.monotonic() - self._started
        self._expected += expected[name]
        left = self._comparison.seconds_left() * self._took / max(1e-9, self._expected)
        return f"about {duration(left)} left" if left else "done"

    def _update(self, step: int, steps: int) -> None:
        if self._live and time.monotonic() - self._updated > 0.2:
            self._updated = time.monotonic()
            rewrite_line(f"        {self._current}  step {count(step)} of {count(steps)}")

    def _line(self, text: str) -> None:
        self.clear()
        say(text)

    def clear(self) -> None:
        """Erase the status line."""
        if self._live:
            rewrite_line("")

"""textgen train: train a model on a corpus."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from textgen import plugins
from textgen.cli.model_folders import find_latest, find_run, typed_value
from textgen.cli.params import cell_options_of, check_corpus, given, is_typed, layered, options_of
from textgen.data import TokenizerOptions
from textgen.distributed import rank
from textgen.errors import TextgenError, UsageError
from textgen.formatting import count, duration, plural, short
from textgen.options import flag
from textgen.screen import ReadingProgress, hush_notes, say, warn
from textgen.signals import INTERRUPTED, TERMINATED, exit_code, stopping
from textgen.tasks import DEFAULT_MINUTES, TrainOptions, built_in_tasks, options_for, planned, task, task_of
from textgen.training import CHANGEABLE, LENGTHS, check_training

if TYPE_CHECKING:
    from textgen.training import Ended
    from textgen.training.start import Training

PLANNED = (
    *("cell", "hidden_size", "num_layers", "batch_size", "seq_length", "max_steps"),
    *("learning_rate", "layer_decay", "dropout", "embedding_dropout", "weight_drop", "weight_decay", "average_weights"),
    *("warmup_steps", "compile", "dtype", "seed"),
)
COMMON = (
    *("minutes", "cell", "task", "output_dir", "resume_from", "init_from", "tokenizer", "text_column"),
    *("hidden_size", "num_layers", "dropout", "epochs", "learning_rate", "validation_split", "seed"),
)
OPTIONS: tuple[type, ...] = (TrainOptions, *(task.options for task in built_in_tasks()))
NOT_REPEATED = ("minutes", "epochs", "output_dir", "overwrite_output_dir")


def _options_of_task(ctx: click.Context, args: Sequence[str]) -> type | None:
    """The options of the task that is typed, if an installed package brings it."""
    name = typed_value(args, "--task") or ctx.lookup_default("task")
    with suppress(TextgenError):  # raised again when the command runs
        return None if name is None or name in plugins.BUILT_IN_TASKS else task(name).options
    return None


@click.command("train", cls=layered(COMMON, *OPTIONS, extra=_options_of_task))
@click.argument("corpus", nargs=-1)
@options_of(*OPTIONS, leave_out=("cell_options",))
@click.option(
    "-o", "cell_options", nargs=2, multiple=True, metavar="KEY VALUE", help="An option of the cell; may be repeated."
)
@click.option("--resume", "resume_from", is_flag=False, flag_value="latest", default=None, metavar="[RUN]",
              help="Continue a run (default: the latest); --minutes or --max-steps extends it.")  # fmt: skip
@click.option("--dry-run", is_flag=True, help="Read the corpus, print the plan, and stop.")
@click.option(
    "--progress", type=click.Choice(["auto", "rich", "plain", "none"]), default="auto", help="How to show progress."
)
@click.option("-q", "--quiet", is_flag=True, help="Print errors only.")
def command(
    corpus: tuple[str, ...],
    cell_options: tuple[tuple[str, str], ...],
    resume_from: str | None,
    dry_run: bool,
    progress: str,
    quiet: bool,
    **values: Any,
) -> int:
    """Train a model on CORPUS: files, folders, globs, tables, '-' for standard input, hub:OWNER/NAME, a corpus by name
    (such as stories or tiny-shakespeare), or a tokenized folder.

    Given only a corpus, the command benchmarks this machine and plans everything so that it takes 5 minutes. --minutes
    sets another time. Options that you give are kept; only the others are planned.
    """
    classes = (*OPTIONS, *([task(values["task"]).options] if values["task"] else []))
    chosen = {name: value for options in classes for name, value in given(options, values).items()}
    if quiet:
        hush_notes()
    if cell_options:
        chosen["cell_options"] = cell_options_of(cell_options)
    chosen = _settled(chosen, resume_from is not None)
    quiet = quiet or rank() > 0  # rank 0 shows what happens
    style = "none" if quiet else progress
    reading = ReadingProgress(style in ("auto", "rich") and sys.stderr.isatty())
    session = _prepared(corpus, chosen, resume_from, dry_run, reading)
    reading.finish()
    for warning in session.warnings:
        warn(warning)
    if not quiet:
        show_plan(session, repeating_flags(session, corpus, chosen) if resume_from is None else None)
        if resume_from is not None and session.trainer.finished:
            say_finished(session)
    if dry_run:
        return 0
    return follow(session, style)


def _settled(chosen: dict[str, Any], resuming: bool) -> dict[str, Any]:
    """The chosen values: the command line takes precedence over a config file, and a resumed run over both except for
    options typed on the command line."""
    if resuming:
        return {name: value for name, value in chosen.items() if name in CHANGEABLE or is_typed(name)}
    if any(is_typed(name) for name in LENGTHS):
        return {name: value for name, value in chosen.items() if name not in LENGTHS or is_typed(name)}
    return chosen


def _prepared(
    corpus: tuple[str, ...], chosen: dict[str, Any], resume_from: str | None, dry_run: bool, reading: ReadingProgress
) -> Training:
    """A new or resumed run. Errors that can be found without torch are raised before importing it, which takes
    seconds."""
    if resume_from is None:
        if not corpus:
            raise UsageError("no corpus given.", hint="textgen train FILE ..., or --resume to continue a run.")
        options = options_for(chosen)
        check_training(options)
        plugins.owner(options.cell)
        check_corpus("train", corpus)
    elif corpus:
        raise UsageError(
            f"--resume uses the corpus of the run; omit {corpus[0]!r}, or train a new run.",
            hint=f"textgen train {shlex.quote(corpus[0])} --init-from RUN starts a new run from the weights of RUN.",
        )
    else:
        folder = find_run(resume_from) if rank() == 0 else Path(resume_from)

    from textgen.cli import STARTED
    from textgen.training.planner import keep_memory
    from textgen.training.start import resume, start

    keep_memory()
    if resume_from is None:
        return start(corpus, options, STARTED, reading, dry_run=dry_run)
    return resume(folder, chosen, reading, STARTED)


def show_plan(session: Training, again: str | None) -> None:
    """Show what was read, what will be trained, and the flags that repeat the run."""
    options, config, made = session.options, session.config, session.versions
    estimate, steps = session.estimate, planned(options.max_steps)
    device, folder = session.trainer.update.device, str(session.run.folder)
    shape = f"{config.cell} {config.num_layers} x {config.hidden_size}"
    shape += f", {config.members} side by side" if config.members > 1 else ""
    epochs = f"{steps / session.trainer.objective.steps_per_epoch:.1f} epochs"
    took = f"about {duration(estimate.train_seconds)}" if estimate.train_seconds else ""
    took += ": more would not help" if estimate.ends_early else ""
    lines = {
        "textgen": [made["textgen"], f"torch {made['torch']}", device, plural(made["threads"], "thread")],
        "corpus": session.data.described(),
        "files": session.encodings,
        "model": [shape, f"{short(estimate.parameters)} parameters", f"seed {options.seed}"],
        "plan": [f"{count(steps)} steps of {options.batch_size} x {options.seq_length}", epochs, took, folder],
        "ranks": ranks_shown(session),
        "extends": extension_shown(session),
        "again": [again],
        "from": session.notes,
    }
    for name, parts in lines.items():
        if shown := [str(part) for part in parts if part]:
            say(f"{name:8}{' · '.join(shown)}")


def ranks_shown(session: Training) -> list[str]:
    """The plan line of a job with several processes: what a step costs, and whether their number is a good one."""
    from textgen.training.planner import Scaling

    size, batch = session.trainer.world.size, planned(session.options.batch_size)
    if size == 1:
        return []
    each = f"{batch // size} lanes" if batch % size == 0 else f"{batch // size} or {batch // size + 1} lanes"
    lanes = f"{size} processes of {each}"
    if not session.estimate.scaling:
        return [lanes]
    found = Scaling(**session.estimate.scaling)
    step = f"{1000 * found.together:.1f} ms a step, {1000 * found.communication:.1f} ms of it communication"
    return [lanes, step, f"one process takes {1000 * found.alone:.1f} ms", found.advice]


def say_finished(session: Training) -> None:
    """Say that the run is finished, and how to extend it."""
    progress, steps, folder = session.trainer.progress, planned(session.options.max_steps), session.run.folder
    early = "" if progress.step >= steps else f", early stopping after {count(progress.step)}"
    say(f"This run is finished ({count(steps)} steps planned{early}).")
    say(f"To extend it: textgen train --resume {shlex.quote(str(folder))} --minutes 10 (or --max-steps {2 * steps})")


def extension_shown(session: Training) -> list[str]:
    """The plan line of an extended run; empty for other runs."""
    if session.extension is None:
        return []
    part = session.extension.part
    steps = f"{count(part.end - part.start)} more steps, from {count(part.start)} to {count(part.end)}"
    return [steps, f"a new schedule from learning rate {part.learning_rate:.2g}"]


def repeating_flags(session: Training, corpus: Sequence[str], chosen: Mapping[str, Any]) -> str:
    """The flags that repeat this run without a benchmark: the chosen and the planned options."""
    options = session.options
    values = {name: value for name, value in chosen.items() if name not in NOT_REPEATED}
    values |= {"init_from": options.init_from} if options.init_from else {}
    values |= {name: getattr(options, name) for name in PLANNED}
    tokenized = [Path(path) for path in corpus] == [session.data.folder]
    inherited = tokenized or options.init_from in plugins.base_names()
    if not inherited and session.data.tokenizer and isinstance(options, TokenizerOptions):
        values.setdefault("tokenizer", options.tokenizer or session.data.tokenizer.kind)
    return " ".join(typed(name, value) for name, value in values.items())


def typed(name: str, value: Any) -> str:
    """An option as typed on the command line."""
    if isinstance(value, dict):
        return " ".join(f"-o {key} {shlex.quote(str(each))}" for key, each in value.items())
    if isinstance(value, bool):
        return flag(name) if value else flag(f"no_{name}")
    if isinstance(value, list):
        return " ".join(typed(name, each) for each in value)
    return f"{flag(name)} {shlex.quote(str(value))}"


def follow(session: Training, style: str) -> int:
    """Train, show progress, and stop cleanly on a signal; returns the exit code."""
    from textgen.cli.training_display import display
    from textgen.training import Ended, Evaluated

    evaluated: list[Evaluated] = []
    ended: list[Ended] = []
    try:
        with stopping(session.trainer) as received, display(session, style) as show:
            for event in session.events():
                show(event)
                if isinstance(event, Evaluated) and not event.final:
                    evaluated.append(event)
                elif isinstance(event, Ended):
                    ended.append(event)
    except KeyboardInterrupt:
        say(f"\nStopped without saving; {session.run.folder} keeps its last checkpoint.")
        return INTERRUPTED
    end = ended[-1]
    if style != "none" or end.reason in ("interrupted", "time"):
        _farewell(session, end)
    if style != "none" and end.reason not in ("interrupted", "time") and evaluated:
        _judge(session, evaluated[-1].score.criterion)
    if end.reason == "interrupted":
        return exit_code(received[0]) if received else TERMINATED  # another process got the signal
    return 0


def _farewell(session: Training, end: Ended) -> None:
    folder = session.run.folder
    if end.reason in ("interrupted", "time"):
        say(f"Stopped at step {count(end.step)}; saved.")
        say(f"Continue: textgen train --resume {shlex.quote(str(folder))}")
        return
    progress = session.trainer.progress
    if session.estimate.ends_early and session.extension is None:
        minutes = session.options.minutes or DEFAULT_MINUTES
        took = duration(planned(session.estimate.train_seconds))
        say(f"done after about {took} of {minutes:g} min: more would not help (--epochs trains longer)")
    if progress.best_step is not None and progress.best_loss is not None:
        say(f"best at step {count(progress.best_step)} · {duration(end.seconds)} · {folder}")
    else:
        say(f"done · {duration(end.seconds)} · {folder}")
    model = "" if find_latest() == folder else f" -m {shlex.quote(str(folder))}"
    use = 'sample{} --prompt "..."' if task_of(session.options).generates else "predict{} FILE"
    say(f"next: textgen {use.format(model)}")


def _judge(session: Training, last: float) -> None:
    """Report what the evaluations say about the plan; `last` is the criterion of the last one."""
    from textgen.training.guards import best_came_early

    progress = session.trainer.progress
    if progress.best_step is None or progress.best_loss is None:
        warn("No evaluation was better than guessing: training diverged. A lower --learning-rate may help.")
    elif progress.best_step == 0:
        start = session.trainer.objective.starts_as
        warn(f"No evaluation was better than {start}, so that is what the recurrent part of this model gives.")
    elif best_came_early(progress.best_step, progress.best_loss, progress.step, last):
        say(f"best at step {count(progress.best_step)} of {count(progress.step)}: shorter training or more "
            "regularization would give a better model")  # fmt: skip

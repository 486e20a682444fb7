"""From a corpus and options to a run: read, plan, commit the arguments, train. `textgen.train` is the whole of it."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from textgen import cell_options, files, plugins, sealed
from textgen.compiling import compiler
from textgen.config import ModelConfig
from textgen.dropout import keyed_seed
from textgen.errors import TextgenError, UsageError
from textgen.model import Model
from textgen.model_folder import read_config
from textgen.options import from_mapping
from textgen.parameters import named
from textgen.settings import DEFAULT_MINUTES, TrainOptions
from textgen.tasks import LANGUAGE, data_class, with_task
from textgen.tasks.language import LanguageData
from textgen.tasks.task import Data
from textgen.text.bulk import usable_cores
from textgen.text.detection import choosing
from textgen.text.memory import corpora, is_table, spool
from textgen.text.reading import record_of
from textgen.text.sources import gone
from textgen.text.split import Progress, no_progress
from textgen.text.store import TokenStore
from textgen.text.tokenizer import Tokenizer
from textgen.training.checkpoint import ARGUMENTS, Run
from textgen.training.checks import CHANGEABLE, check_training
from textgen.training.events import Event
from textgen.training.extension import Part, extended, length_given, next_part, parts_of, refuse_no_steps
from textgen.training.finetune import Match, adopt, inherited
from textgen.training.machine import ThisMachine, choose_device, compilable
from textgen.training.new_run import RUNS, create_run, next_folder, refuse_occupied
from textgen.training.pace import COMPILE_SECONDS
from textgen.training.plan import Forecast, more_steps, plan, steps_of_epochs
from textgen.training.provenance import changes, made_with, refuse_other_data
from textgen.training.reporting import reporters
from textgen.training.soundness import refuse_small_disk
from textgen.training.stored_step import stored_step
from textgen.training.trainer import Trainer
from textgen.weights import make_model

CACHE = ".tokens"


@dataclass(frozen=True)
class Extension:
    """What a resumed run is to do beyond its plan: the new part, the arguments to commit, the options of before."""

    part: Part
    arguments: dict[str, Any]
    before: TrainOptions


@dataclass
class Session:
    """A training about to run: the trainer and all that was decided on the way."""

    trainer: Trainer
    run: Run
    data: Data
    config: ModelConfig
    options: TrainOptions
    forecast: Forecast
    versions: dict[str, Any]
    warnings: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    encodings: list[str] = field(default_factory=list)
    """What `--encoding auto` found, a phrase for each encoding."""
    extension: Extension | None = None

    def events(self) -> Iterator[Event]:
        """Train, alone in the run folder; yields what happens. Raises TextgenError if another process trains there."""
        with files.lock(self.run.folder):
            self._refuse_another()
            files.clean(self.run.folder)
            self.run.go_back_to(self.trainer.progress.step)
            if self.extension:
                self.run.commit_arguments(self.extension.arguments)
            with reporters(self.options.report_to, self.run.folder) as report, plugins.blamed():
                for event in self.trainer.run():
                    report(event)
                    yield event

    def _refuse_another(self) -> None:
        """Raise TextgenError if the folder now holds the run of someone who replaced this one."""
        arguments = self.run.arguments()
        there: TrainOptions = from_mapping(TrainOptions, arguments["options"])
        known = self.extension.before if self.extension else self.options
        there = replace(there, **{name: getattr(known, name) for name in CHANGEABLE})
        if there != known or arguments["store"] != self.data.key:
            raise TextgenError(f"another process has replaced the run in {str(self.run.folder)!r}.")


def train(corpus: Any, **options: Any) -> Path:
    """Train a model and return its folder, ready for `textgen.load`.

    `corpus` is a file, a folder, a table in memory (a frame of pandas or polars, a table of pyarrow, a data set of
    `datasets`), or a list of those. Options are the fields of `textgen.settings.TrainOptions`; those not given are
    planned so that the call takes `minutes` (default 5). Raises TextgenError in one sentence that names the parameter;
    PluginError, its cause the original exception, where the code of a plugin's cell fails.

    Example:
        >>> folder = train("notes.txt", cell="gru", minutes=10)          # doctest: +SKIP
    """
    began, apart = time.monotonic(), options.get("validation_file")
    held_out = spool(apart) if is_table(apart) else None
    asked = from_mapping(TrainOptions, {**options, "validation_file": None} if held_out else options)
    asked = replace(asked, validation_file=held_out) if held_out else asked
    session = start(corpora("corpus", corpus), asked, began)
    for _ in session.events():
        pass
    return session.run.folder


@plugins.blamed()
def start(
    paths: Sequence[str],
    options: TrainOptions,
    began: float,
    progress: Progress = no_progress,
    dry_run: bool = False,
) -> Session:
    """Prepare a new run; `began` is when the command started, on the clock of `time.monotonic`.

    A dry run plans but does not create the run's folder.
    """
    options = with_task(options)
    check_training(options)
    options = _with_cell_options(inherited(options))
    device = choose_device(options.device)
    torch.set_num_threads(threads := options.threads or usable_cores())
    root = Path(options.output_dir).parent if options.output_dir else RUNS
    refuse_occupied(options, paths)
    with choosing() as encodings:
        data = data_class(options.task or LANGUAGE).prepare(list(paths), options, root / CACHE, progress)
    machine = ThisMachine(data, device)
    deadline = began + 60 * (options.minutes or DEFAULT_MINUTES)
    options, config, forecast = plan(replace(options, threads=threads), data, machine, deadline)
    owner = plugins.owner(options.cell)
    config = replace(
        config, cell_distribution=owner.distribution, cell_version=owner.version, reading=record_of(paths, options)
    )
    task = data.task(options)
    folder = Path(options.output_dir) if options.output_dir else next_folder(root, options.cell, paths[0])
    model, match = initial_model(config, data.tokenizer, options)
    refuse_small_disk(folder, model, options, kept=0)
    stored = data.tokenizer is not None and not dry_run
    step, warnings = stored_step(model, config.cell) if stored else ({}, [])
    run = Run(folder)
    if not dry_run:
        run = create_run(folder, paths, options, config, forecast, data, step, encodings.lasting())
    trainer, made = Trainer(run, task, model, options, device), made_with(options)
    warnings = [*warnings, *_compiler_missed(model, options.cell, forecast), *task.warnings()]
    notes = [f"{options.init_from}: {match}"] if match else []
    return Session(trainer, run, data, config, options, forecast, made, warnings, notes, encodings.described())


def _compiler_missed(model: Model, cell: str, forecast: Forecast) -> list[str]:
    """What a compiler would have gained, where a run is long enough for one and it is not there or does not work."""
    if forecast.compiler_fault:
        return [f"The C++ compiler does not work: {cell} trains, but up to a third slower; {forecast.compiler_fault}"]
    if (forecast.train_seconds or 0) > COMPILE_SECONDS and compilable(model) and compiler() is None:
        return [f"There is no C++ compiler here: {cell} trains, but up to a third slower."]
    return []


def _with_cell_options(options: TrainOptions) -> TrainOptions:
    """The options with every option of the cell, checked. Raises UsageError or PluginError."""
    cell = plugins.cell(options.cell)
    if options.weight_drop and getattr(cell, "recurrent", None) is None:
        raise UsageError(
            f"{named('weight_drop')} works on cells with a recurrent matrix of their own; {options.cell!r} has none."
        )
    return replace(options, cell_options=cell_options.parse(cell, options.cell, options.cell_options))


def initial_model(
    config: ModelConfig, tokenizer: Tokenizer | None, options: TrainOptions
) -> tuple[Model, Match | None]:
    """The model at step 0, its weights drawn from the seed or taken from the model that the options start from."""
    torch.manual_seed(keyed_seed(options.seed, "weights"))
    model = make_model(config)
    for cell in compilable(model):
        cell.compiled = bool(options.compile)
    match = adopt(model, config, tokenizer, options.init_from) if options.init_from and tokenizer else None
    return model, match


@plugins.blamed()
def resume(
    folder: Path, given: Mapping[str, Any], progress: Progress = no_progress, began: float | None = None
) -> Session:
    """Prepare to go on with a run from its newest whole checkpoint, or from the start if it has none.

    `given` are options named anew; only some may change. A length extends the run, or shortens what is left of it, with
    a new learning-rate schedule: `max_steps` and `epochs` are those of the whole run, `minutes` count from `began`, on
    the clock of `time.monotonic`. Raises UsageError for other options, TextgenError if the corpus is no longer what it
    was.
    """
    began = time.monotonic() if began is None else began
    run = Run(folder)
    if not (folder / ARGUMENTS).is_file():
        raise TextgenError(f"there is no run to resume in {str(folder)!r}.", hint="train one: textgen train FILE")
    arguments = run.arguments()
    given = _within(folder, given)
    length = length_given(given, from_mapping(TrainOptions, arguments["options"]))
    options = _resumed_options(arguments["options"], {n: v for n, v in given.items() if not length or n != length[0]})
    device = choose_device(options.device)
    torch.set_num_threads(options.threads or usable_cores())
    data = data_of(run, progress)
    refuse_other_data(arguments.get("digests", {}), data.digests())
    config = read_config(folder)
    checkpoint, wrong = run.latest()
    begun_from = None if checkpoint else options.init_from  # whose weights a checkpoint has no need of
    options_then = replace(options, init_from=begun_from)
    model, _ = initial_model(config, data.tokenizer, options_then)
    trainer = Trainer(run, data.task(options), model, options_then, device)
    refuse_small_disk(folder, model, options, kept=len(run.checkpoints()))
    instead = "An older checkpoint is used." if checkpoint else "The run starts again from step 0."
    warnings = [f"{error} {instead}" for error in wrong]
    if checkpoint is not None:
        trainer.resume(checkpoint)
    now = made_with(options)
    warnings += changes(arguments["made_with"], now)
    session = Session(trainer, run, data, config, options, Forecast(**arguments["forecast"]), now, warnings)
    trainer.follow(parts_of(arguments, options))
    if length is not None:
        _extend(session, arguments, length, began)
    return session


def _extend(session: Session, arguments: Mapping[str, Any], length: tuple[str, float], began: float) -> None:
    """Give a session that goes on with a run a new part of this length. Raises UsageError if it would have no step."""
    trainer, options, data = session.trainer, session.options, session.data
    step, seconds = trainer.progress.step, None
    name, value = length
    if name == "minutes":
        machine = ThisMachine(data, str(trainer.update.device))
        more, seconds = more_steps(options, session.config, data, machine, began + 60 * value)
        end = step + more
    else:
        end = int(value) if name == "max_steps" else steps_of_epochs(value, data, options)
    refuse_no_steps(length, step, end)
    part = next_part(trainer.parts, options, step, end, trainer.finished, trainer.progress.reductions)
    kept = [each for each in trainer.parts if each.start < step]
    session.options, content = extended(arguments, options, [*kept, part], length)
    forecast = replace(session.forecast, step_seconds=seconds, train_seconds=seconds and seconds * (end - step))
    session.forecast = forecast
    session.extension = Extension(part, {**content, "forecast": asdict(forecast)}, options)
    trainer.options = replace(session.options, init_from=trainer.options.init_from)
    trainer.follow([*kept, part])


def _within(folder: Path, given: Mapping[str, Any]) -> dict[str, Any]:
    """What else is given anew. Raises UsageError if another folder than the run's is named, or it is to be replaced."""
    given = dict(given)
    if given.pop("overwrite_output_dir", False):
        raise UsageError(f"--resume and {named('overwrite_output_dir')} exclude each other.")
    other = given.pop("output_dir", None)
    if other is not None and Path(other).resolve() != folder.resolve():
        raise UsageError(f"{named('output_dir', other)} cannot change on --resume (the run is in {str(folder)!r}).")
    return given


def _resumed_options(stored: Mapping[str, Any], given: Mapping[str, Any]) -> TrainOptions:
    before: TrainOptions = from_mapping(TrainOptions, stored)
    if again := given.get("cell_options"):
        parsed = cell_options.parse(plugins.cell(before.cell), before.cell, again)
        given = {**given, "cell_options": {**before.cell_options, **{name: parsed[name] for name in again}}}
    options: TrainOptions = from_mapping(TrainOptions, {**stored, **given})
    for name, value in given.items():
        if name not in CHANGEABLE and getattr(options, name) != getattr(before, name):
            raise UsageError(
                f"{named(name, str(value))} cannot change on --resume (the run has {getattr(before, name)}).",
                hint=f"leave it out, or start a new run from these weights with {named('init_from', 'RUN')}.",
            )
    return options


def data_of(run: Run, progress: Progress = no_progress) -> Data:
    """What a run learns from, made again from its corpus where it is gone. Raises TextgenError if the corpus is no
    longer what it was."""
    arguments, cache = run.arguments(), run.folder.parent / CACHE
    key, paths = arguments["store"], arguments["corpus"]
    options: TrainOptions = from_mapping(TrainOptions, arguments["options"])
    kind = data_class(options.task or LANGUAGE)
    if (cache / key).is_dir():
        try:
            return kind.open(cache / key)
        except sealed.DamagedError:
            if gone(paths):
                raise
    elif lost := gone(paths):
        raise TextgenError(f"the tokens of this run are gone from {str(cache / key)!r}, and its corpus came {lost}.")
    with choosing(arguments.get("encodings")):
        data = kind.prepare(paths, options, cache, progress)
    if data.key != key:
        raise TextgenError(
            f"the corpus has changed since this run began ({', '.join(paths)}).", hint="train a new run."
        )
    return data


def store_of(run: Run) -> TokenStore:
    """The tokens of a run that models language. Raises TextgenError as `data_of`, and for another task."""
    data = data_of(run)
    if not isinstance(data, LanguageData):
        raise TextgenError(f"{str(run.folder)!r} is not a language model.")
    return data.store


def training_ids_of(folder: Path) -> npt.NDArray[np.integer]:
    """The ids of the text that a run was trained on, a boundary before each document. Raises TextgenError if they are
    gone, and for a model that has learned none."""
    try:
        ids = data_of(Run(folder)).written()
    except TextgenError as error:
        raise TextgenError(f"the training text of {str(folder)!r} is not available: {error}") from error
    if not len(ids):
        raise TextgenError(f"{str(folder)!r} has learned no text.")
    return ids

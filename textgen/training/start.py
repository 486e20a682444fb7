"""Start, resume and extend a run. `textgen.train` is all of it."""

from __future__ import annotations

import logging
import time
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from textgen import cells, plugins
from textgen.cells.engine import compiler
from textgen.data.encodings import choosing
from textgen.data.parquet_table import corpora, is_table, spool
from textgen.data.recipes import Progress
from textgen.data.store import no_progress
from textgen.data.tokenizers.base import Tokenizer
from textgen.distributed import DEFAULT_TIMEOUT, World, world
from textgen.errors import TextgenError, UsageError
from textgen.model import ModelConfig, read_config
from textgen.model.bases import record_of
from textgen.model.stack import Model, keyed_seed
from textgen.model.weights import make_model
from textgen.options import changed, named
from textgen.storage import ARGUMENTS, TOKENS, filesystem
from textgen.tasks import DEFAULT_MINUTES, TrainOptions, options_for, task_of
from textgen.tasks.data import TaskData
from textgen.threads import usable_cores
from textgen.tracing import stored_step
from textgen.training import CHANGEABLE, LENGTHS, Evaluated, Event, check_training, refuse_few_lanes, reporters
from textgen.training.guards import refuse_small_disk
from textgen.training.optimization import Part, next_part, parts_of
from textgen.training.planner import (
    COMPILE_SECONDS,
    Estimate,
    ThisMachine,
    choose_device,
    compilable,
    precision_missed,
    steps_of_epochs,
)
from textgen.training.pretrained import Match, adopt, choose, folder_of, inherited
from textgen.training.runs import (
    RUNS,
    Checkpoint,
    FollowedRun,
    Run,
    arguments_of,
    changes,
    create_run,
    made_with,
    next_folder,
    refuse_occupied,
    refuse_other_data,
)
from textgen.training.stored_data import data_from
from textgen.training.trainer import Trainer

LOG = logging.getLogger("textgen")

LOCK_SECONDS = 15.0
"""How long a job of several processes waits for the lock of its run folder."""


@dataclass(frozen=True)
class Extension:
    """The extension of a resumed run: the new part, the arguments to commit, and the options before it."""

    part: Part
    arguments: dict[str, Any]
    before: TrainOptions


@dataclass
class Training:
    """A training session, ready to run: the trainer and everything decided so far."""

    trainer: Trainer
    run: Run
    data: TaskData
    config: ModelConfig
    options: TrainOptions
    estimate: Estimate
    versions: dict[str, Any]
    warnings: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    encodings: list[str] = field(default_factory=list)
    """The encodings that `--encoding auto` detected, one phrase each."""
    extension: Extension | None = None

    def events(self) -> Generator[Event, None, None]:
        """Train while holding the lock of the run folder; yields events. Raises TextgenError if another job has it."""
        job = self.trainer.world
        with job.taking_part(), self._held(job):
            job.exchange("ready")
            tools = self.options.report_to if job.leads else []
            with reporters(tools, self.run.folder) as report, plugins.blamed():
                for event in self.trainer.run():
                    report(event)
                    yield event

    @contextmanager
    def _held(self, job: World) -> Iterator[None]:
        """The run folder, locked and ready to continue; in rank 0 only. A job that has just lost its launcher may hold
        it for a few seconds more."""
        if not job.leads:
            yield
            return
        with filesystem.lock(self.run.folder, patience=LOCK_SECONDS if job.size > 1 else 0.0):
            self._refuse_another()
            filesystem.clean(self.run.folder)
            self.run.go_back_to(self.trainer.progress.step)
            if self.extension:
                self.run.commit_arguments(self.extension.arguments)
            job.remember(str(self.run.folder.absolute()))
            yield

    def _refuse_another(self) -> None:
        """Raise TextgenError if another process has replaced the run in this folder."""
        arguments = self.run.arguments()
        there = options_for(arguments["options"])
        known = self.extension.before if self.extension else self.options
        there = replace(there, **{name: getattr(known, name) for name in CHANGEABLE})
        if there != known or arguments["store"] != self.data.key:
            raise TextgenError(f"another process has replaced the run in {str(self.run.folder)!r}.")


def train(corpus: Any, **options: Any) -> Path:
    """Train a model and return its folder, ready for `textgen.load`.

    `corpus` is a file, a folder, a table in memory (a frame of pandas or polars, a table of pyarrow, a data set of
    `datasets`), or a list of those. Options are the fields of `textgen.tasks.TrainOptions` and of the task's own
    class, such as `textgen.tasks.language.options.LanguageOptions`; those not given are planned so that the call takes
    `minutes` (default 5). Raises TextgenError in one sentence that names the parameter; PluginError, its cause the
    original exception, where the code of a plugin's cell fails.

    Nothing is printed; the logger "textgen" gets the data, warnings and held-out metrics.

    Example:
        >>> folder = train("notes.txt", cell="gru", minutes=10)          # doctest: +SKIP
    """
    began, apart = time.monotonic(), options.get("validation_file")
    held_out = spool(apart) if is_table(apart) else None
    asked = options_for({**options, "validation_file": None} if held_out else options)
    asked = replace(asked, validation_file=held_out) if held_out else asked
    session = start(corpora("corpus", corpus), asked, began)
    leads = session.trainer.world.leads
    for warning in session.warnings if leads else ():
        LOG.warning(warning)
    LOG.info("%s: %s", session.run.folder, " · ".join([*session.data.described(), *session.notes]))
    for event in session.events():
        if isinstance(event, Evaluated) and leads:
            metrics = ", ".join(f"{name} {value}" for name, value in event.score.shown().items())
            LOG.info("step %d of %d: held-out %s", event.step, session.options.max_steps, metrics)
    return session.run.folder


@plugins.blamed()
def start(
    paths: Sequence[str],
    options: TrainOptions,
    began: float,
    progress: Progress = no_progress,
    dry_run: bool = False,
) -> Training:
    """Prepare a new run; `began` is when the command started, on the clock of `time.monotonic`. Processes that torchrun
    has restarted continue their run instead.

    A dry run plans but does not create the run's folder.
    """
    check_training(options)
    job = world()
    job.connect(options.ddp_timeout)
    with job.taking_part():
        if before := _run_before_restart(job):
            return _resumed(job, Path(before), {}, progress, began)
        job.require_same({"command": "train"})
        return _started(job, paths, options, began, progress, dry_run)


def _run_before_restart(job: World) -> str | None:
    """The folder of the run that this job had begun before its processes were restarted."""

    def found() -> str | None:
        folder = job.remembered()
        return folder if folder and (Path(folder) / ARGUMENTS).is_file() else None

    before: str | None = job.share(found)
    return before


def _started(
    job: World, paths: Sequence[str], options: TrainOptions, began: float, progress: Progress, dry_run: bool
) -> Training:
    choice, note, faults = job.share(lambda: _choice(paths, options, progress))
    options = replace(options, init_from=choice) if choice else options
    asked = options = replace(_with_cell_options(inherited(options)), task=task_of(options).name)
    device = _device(job, options)
    torch.set_num_threads(threads := options.threads or job.threads(usable_cores()))
    root = Path(options.output_dir).parent if options.output_dir else RUNS
    job.share(lambda: refuse_occupied(options, paths))
    with choosing() as encodings:
        data = job.in_turn(lambda: task_of(options).data().prepare(list(paths), options, root / TOKENS, progress))
    _require_same(job, asked, data)
    asked = data.decided(paths, asked)
    deadline = began + 60 * (options.minutes or DEFAULT_MINUTES)
    options, config, estimate = ThisMachine(data, device, job).plan(replace(options, threads=threads), deadline)
    refuse_few_lanes(job.size, options)
    config = _with_origin(config, paths, asked)
    objective = data.objective(options)
    model, match = initial_model(config, data.tokenizer, options)
    made = made_with(replace(options, threads=threads), job.size)
    arguments = arguments_of(paths, asked, options, estimate, data, encodings.lasting(), job.size)
    run, warnings = _new_run(job, root, paths, options, config, data, arguments, model, dry_run)
    trainer = Trainer(run, objective, model, options, device, job)
    missed = precision_missed(options, device) + _compiler_missed(model, options.cell, estimate)
    warnings = [*faults, *warnings, *missed, *objective.warnings()]
    notes = [note] if choice else [f"{options.init_from}: {match}"] if match else []
    return Training(trainer, run, data, config, options, estimate, made, warnings, notes, encodings.described())


def _choice(paths: Sequence[str], options: TrainOptions, progress: Progress) -> tuple[str | None, str, list[str]]:
    """The name of the installed base to start from, if there is one that suits, a phrase about it, and warnings."""
    choice, faults = choose(paths, options, progress)
    return choice.name if choice else None, str(choice), faults


def _device(job: World, options: TrainOptions) -> str:
    """The device of this process, and its process group."""
    device = choose_device(options.device, job.local_rank)
    if device == "mps" and job.size > 1:
        raise UsageError(f"several processes train on cpu or cuda, not on {named('device', device)}.")
    job.join(device)
    return device


def _require_same(job: World, options: TrainOptions, data: TaskData) -> None:
    """Raise TextgenError, naming rank and value, if processes differ in versions, plugins, corpus or options."""
    own = {name: value for name, value in made_with(options).items() if name not in ("processor", "threads")}
    given = {named(name): value for name, value in changed(replace(options, threads=None)).items()}
    job.require_same({**own, **given, "corpus": data.digests()})


def _new_run(
    job: World,
    root: Path,
    paths: Sequence[str],
    options: TrainOptions,
    config: ModelConfig,
    data: TaskData,
    arguments: Mapping[str, Any],
    model: Model,
    dry_run: bool,
) -> tuple[Run, list[str]]:
    """The run folder, created by rank 0 unless this is a dry run, and warnings about the stored step."""
    folder = Path(options.output_dir) if options.output_dir else next_folder(root, options.cell, paths[0])

    def create() -> list[Any]:
        refuse_small_disk(folder, model, options, kept=0)
        if dry_run:
            return [str(folder), []]
        step, warnings = stored_step(model, config.cell)
        if not folder.exists():  # an existing folder holds another run until it is replaced
            job.remember(str(folder.absolute()))
        run = create_run(folder, paths, options, config, data, arguments, step)
        job.remember(str(run.folder.absolute()))
        return [str(run.folder), warnings]

    created, warnings = job.share(create)
    return (Run if job.leads else FollowedRun)(Path(created)), warnings


def _with_origin(config: ModelConfig, paths: Sequence[str], asked: TrainOptions) -> ModelConfig:
    """The config with what the model remembers: its cell's package, how its text was read, and its base."""
    owner, base = plugins.owner(config.cell), asked.init_from
    return replace(
        config,
        cell_distribution=owner.distribution,
        cell_version=owner.version,
        reading=task_of(asked).remembered(list(paths), asked),
        base=record_of(base, folder_of(base)) if base else {},
    )


def _with_cell_options(options: TrainOptions) -> TrainOptions:
    """The options with all options of the cell, checked. Raises UsageError or PluginError."""
    cell = plugins.cell(options.cell)
    if options.weight_drop and getattr(cell, "recurrent", None) is None:
        raise UsageError(f"{named('weight_drop')} needs a cell with a recurrent matrix; {options.cell!r} has none.")
    return replace(options, cell_options=cells.parse(cell, options.cell, options.cell_options))


def initial_model(
    config: ModelConfig, tokenizer: Tokenizer | None, options: TrainOptions
) -> tuple[Model, Match | None]:
    """The model at step 0: its weights drawn from the seed, or copied from the model that training starts from."""
    torch.manual_seed(keyed_seed(options.seed, "weights"))
    model = make_model(config)
    for cell in compilable(model):
        cell.compiled = bool(options.compile)
    match = adopt(model, config, tokenizer, options.init_from) if options.init_from and tokenizer else None
    return model, match


def _compiler_missed(model: Model, cell: str, estimate: Estimate) -> list[str]:
    """A warning if a run is long enough for compilation, but the compiler is missing or does not work."""
    if estimate.compiler_fault:
        return [f"The C++ compiler does not work: {cell} trains, but up to a third slower; {estimate.compiler_fault}"]
    if (estimate.train_seconds or 0) > COMPILE_SECONDS and compilable(model) and compiler() is None:
        return [f"There is no C++ compiler here: {cell} trains, but up to a third slower."]
    return []


@plugins.blamed()
def resume(
    folder: Path, given: Mapping[str, Any], progress: Progress = no_progress, began: float | None = None
) -> Training:
    """Prepare to continue a run from its newest intact checkpoint, or from the start if it has none.

    `given` are the options given now; only some may change. A length extends or shortens the run, with a new
    learning-rate schedule: `max_steps` and `epochs` apply to the whole run, `minutes` count from `began`, on the clock
    of `time.monotonic`. Raises UsageError for other options, TextgenError if the corpus has changed.
    """
    began = time.monotonic() if began is None else began
    job = world()
    job.connect(given.get("ddp_timeout", DEFAULT_TIMEOUT))
    with job.taking_part():
        if _run_before_restart(job):  # it was extended before the restart
            given = {name: value for name, value in given.items() if name not in LENGTHS}
        job.require_same({"command": "train --resume"})
        return _resumed(job, folder, given, progress, began)


def _resumed(job: World, folder: Path, given: Mapping[str, Any], progress: Progress, began: float) -> Training:
    run = Run(folder) if job.leads else FollowedRun(folder)
    where, arguments, stored = job.share(lambda: [str(folder), *_stored(run)])
    folder, config = Path(where), ModelConfig.from_json(stored)
    given = _within(folder, given)
    length = _length_given(given, options_for(arguments["options"]))
    options = _resumed_options(arguments["options"], {n: v for n, v in given.items() if not length or n != length[0]})
    device = _device(job, options)
    threads = _threads_again(job, options, arguments["made_with"])
    torch.set_num_threads(threads)
    data = job.in_turn(lambda: data_from(arguments, folder.parent / TOKENS, progress))
    refuse_other_data(arguments.get("digests", {}), data.digests())
    refuse_few_lanes(job.size, options)
    checkpoint, wrong = _newest(job, run)
    begun_from = None if checkpoint else options.init_from  # a checkpoint has its own weights
    options_then = replace(options, init_from=begun_from)
    model, _ = initial_model(config, data.tokenizer, options_then)
    _require_same(job, options, data)
    trainer = Trainer(run, data.objective(options), model, options_then, device, job)
    job.share(lambda: refuse_small_disk(folder, model, options, kept=len(run.checkpoints())))
    instead = "An older checkpoint is used." if checkpoint else "The run starts again from step 0."
    warnings = [f"{error} {instead}" for error in wrong]
    if checkpoint is not None:
        trainer.resume(checkpoint)
    now = made_with(replace(options, threads=threads), job.size)
    warnings += precision_missed(options, device) + changes(arguments["made_with"], now)
    session = Training(trainer, run, data, config, options, Estimate(**arguments["estimate"]), now, warnings)
    trainer.follow(parts_of(options, arguments))
    if length is not None:
        _extend(session, arguments, length, began)
    return session


def _stored(run: Run) -> tuple[dict[str, Any], dict[str, Any]]:
    """The arguments and the configuration of a run. Raises TextgenError for a folder without a run."""
    if not (run.folder / ARGUMENTS).is_file():
        raise TextgenError(f"there is no run to resume in {str(run.folder)!r}.", hint="train one: textgen train FILE")
    return run.arguments(), read_config(run.folder).to_json()


def _threads_again(job: World, options: TrainOptions, made: Mapping[str, Any]) -> int:
    """The threads of a resumed run: as many as before, unless the number of processes has changed."""
    share = job.threads(usable_cores())
    return options.threads or share if made.get("processes", 1) == job.size else share


def _newest(job: World, run: Run) -> tuple[Checkpoint | None, list[TextgenError]]:
    """The newest intact checkpoint, as rank 0 reads it, and the errors of newer ones."""
    checkpoint, wrong = run.latest()
    about = job.share(lambda: checkpoint and {"step": checkpoint.step, "state": checkpoint.state})
    return about and Checkpoint.received(job.broadcast, checkpoint, **about), wrong


def _within(folder: Path, given: Mapping[str, Any]) -> dict[str, Any]:
    """The options given on resume, without the folder. Raises UsageError for another folder, or if it is to be
    replaced."""
    given = dict(given)
    if given.pop("overwrite_output_dir", False):
        raise UsageError(f"--resume and {named('overwrite_output_dir')} exclude each other.")
    other = given.pop("output_dir", None)
    if other is not None and Path(other).resolve() != folder.resolve():
        raise UsageError(f"{named('output_dir', other)} cannot change on --resume (the run is in {str(folder)!r}).")
    return given


def _resumed_options(stored: Mapping[str, Any], given: Mapping[str, Any]) -> TrainOptions:
    before = options_for(stored)
    if again := given.get("cell_options"):
        parsed = cells.parse(plugins.cell(before.cell), before.cell, again)
        given = {**given, "cell_options": {**before.cell_options, **{name: parsed[name] for name in again}}}
    options = options_for({**stored, **given, "task": before.task})
    for name, value in given.items():
        has, wanted = getattr(before, name), value if name == "task" else getattr(options, name)
        if name not in CHANGEABLE and value != has != wanted:
            raise UsageError(
                f"{named(name, str(value))} cannot change on --resume (the run has {has}).",
                hint=f"leave it out, or start a new run from these weights with {named('init_from', 'RUN')}.",
            )
    return options


def _length_given(given: Mapping[str, Any], options: TrainOptions) -> tuple[str, float] | None:
    """The one length option given on resume that changes the plan; `minutes` always does. Raises UsageError for
    several."""
    lengths = {name: given[name] for name in LENGTHS if given.get(name) is not None}
    if len(lengths) > 1:
        first, second, *_ = map(named, lengths)
        raise UsageError(f"{first} and {second} exclude each other; give one of them.")
    changed = ((name, value) for name, value in lengths.items() if name == "minutes" or getattr(options, name) != value)
    return next(changed, None)


def _extend(session: Training, arguments: Mapping[str, Any], length: tuple[str, float], began: float) -> None:
    """Add a part to a resumed session; `length` is the option that sets where it ends, and its value. Raises UsageError
    if it would have no step."""
    trainer, options, data = session.trainer, session.options, session.data
    step, seconds = trainer.progress.step, None
    name, value = length
    if name == "minutes":
        machine = ThisMachine(data, str(trainer.update.device), trainer.world)
        more, seconds = machine.more_steps(options, session.config, began + 60 * value)
        end = step + more
    else:
        end = int(value) if name == "max_steps" else steps_of_epochs(value, data, options)
    if end <= step:
        raise UsageError(
            f"{named(name, f'{value:g}')} does not extend this run: it has {step:,} steps, and would have {end:,}.",
            hint=f"{named('max_steps', 2 * step)} trains for twice as many steps in total, "
            f"{named('minutes', 10)} for ten more minutes.",
        )
    reductions = trainer.progress.reductions
    part = next_part(trainer.parts, options.lr_scheduler, step, end, trainer.finished, reductions)
    parts = [*(each for each in trainer.parts if each.start < step), part]
    lengths: dict[str, Any] = {**dict.fromkeys(LENGTHS), name: value, "max_steps": end}
    session.options = replace(options, **lengths)
    took = seconds and seconds * (end - step)
    session.estimate = replace(session.estimate, step_seconds=seconds, train_seconds=took, ends_early=False)
    stored = replace(session.options, max_time=arguments["options"].get("max_time"))
    new = {"options": asdict(stored), "parts": [asdict(each) for each in parts], "estimate": asdict(session.estimate)}
    session.extension = Extension(part, {**arguments, **new}, options)
    trainer.options = replace(session.options, init_from=trainer.options.init_from)
    trainer.follow(parts)

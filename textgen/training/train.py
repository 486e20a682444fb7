"""From a corpus and options to a run: read, plan, commit the arguments, train. `textgen.train` is the whole of it."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import torch

from textgen import cell_options, files, plugins
from textgen.compiling import compiler
from textgen.config import ModelConfig
from textgen.disk import sweep
from textgen.dropout import keyed_seed
from textgen.errors import TextgenError, UsageError
from textgen.model_folder import read_config
from textgen.options import flag, from_mapping
from textgen.settings import DEFAULT_MINUTES, TrainOptions, check_training
from textgen.text import corpus
from textgen.text.bulk import usable_cores
from textgen.text.corpus_settings import CorpusOptions
from textgen.text.split import TRAIN, VALIDATION, Progress, no_progress
from textgen.text.store import TokenStore, open_store
from textgen.training.checkpoint import ARGUMENTS, Run, make_model
from textgen.training.events import Event
from textgen.training.finetune import Match, adopt, inherited
from textgen.training.machine import ThisMachine, choose_device, compilable
from textgen.training.new_run import create_run, next_folder, refuse_occupied
from textgen.training.pace import COMPILE_SECONDS
from textgen.training.plan import Forecast, plan
from textgen.training.provenance import changes, made_with, refuse_other_tokens
from textgen.training.reporting import reporters
from textgen.training.sampled_softmax import refuse_few_symbols
from textgen.training.soundness import refuse_small_disk
from textgen.training.stored_step import stored_step
from textgen.training.tasks import LanguageModeling
from textgen.training.trainer import Trainer

CACHE = ".tokens"
CHANGEABLE = ("max_time", "save_total_limit", "early_stopping_patience")
"""Options that a resumed run may be given anew; the others are part of what it is."""


@dataclass
class Session:
    """A training about to run: the trainer and all that was decided on the way."""

    trainer: Trainer
    run: Run
    store: TokenStore
    config: ModelConfig
    options: TrainOptions
    forecast: Forecast
    versions: dict[str, Any]
    warnings: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def events(self) -> Iterator[Event]:
        """Train, alone in the run folder; yields what happens. Raises TextgenError if another process trains there."""
        with files.lock(self.run.folder):
            files.clean(self.run.folder)
            self.run.go_back_to(self.trainer.progress.step)
            with reporters(self.options.report_to, self.run.folder) as report:
                for event in self.trainer.run():
                    report(event)
                    yield event


def train(corpus: str | os.PathLike[str] | Sequence[str | os.PathLike[str]], **options: Any) -> Path:
    """Train a model on files or folders and return its folder, ready for `textgen.load`.

    Options are the fields of `textgen.settings.TrainOptions`; those not given are planned so that the call takes
    `minutes` (default 5). Raises TextgenError or UsageError in one sentence.

    Example:
        >>> folder = train("notes.txt", cell="gru", minutes=10)          # doctest: +SKIP
    """
    paths = [corpus] if isinstance(corpus, (str, os.PathLike)) else list(corpus)
    session = start([os.fspath(path) for path in paths], from_mapping(TrainOptions, options), time.monotonic())
    for _ in session.events():
        pass
    return session.run.folder


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
    check_training(options)
    options = _with_cell_options(inherited(options))
    device = choose_device(options.device)
    torch.set_num_threads(threads := options.threads or usable_cores())
    root = Path(options.output_dir).parent if options.output_dir else Path("runs")
    refuse_occupied(options)
    store = stored_corpus(paths, options, root / CACHE, progress)
    tokens, held_out = len(store.model_tokens(TRAIN)), len(store.model_tokens(VALIDATION))
    if tokens < 2:
        raise TextgenError(f"the training part has {tokens} tokens; that is nothing to learn from.")
    if options.sampled_softmax:
        refuse_few_symbols(options.sampled_softmax, store.tokenizer.vocab_size)
    machine = ThisMachine(options, device)
    options, config, forecast = plan(
        replace(options, threads=threads),
        store.tokenizer.level,
        store.tokenizer.vocab_size,
        tokens,
        held_out,
        machine,
        deadline=began + 60 * (options.minutes or DEFAULT_MINUTES),
    )
    owner = plugins.owner(options.cell)
    config = replace(config, cell_distribution=owner.distribution, cell_version=owner.version)
    task = task_of(store, options)
    folder = Path(options.output_dir) if options.output_dir else next_folder(root, options.cell, paths[0])
    trainer, match = make_trainer(Run(folder), task, config, options, device)
    refuse_small_disk(folder, trainer.model, options, kept=0)
    step, warnings = ({}, []) if dry_run else stored_step(trainer.model, config.cell)
    run = Run(folder) if dry_run else create_run(folder, paths, options, config, forecast, store, step)
    if (forecast.train_seconds or 0) > COMPILE_SECONDS and compilable(trainer.model) and compiler() is None:
        warnings = [*warnings, f"There is no C++ compiler here: {options.cell} trains, but up to a third slower."]
    notes = [f"{options.init_from}: {match}"] if match else []
    return Session(trainer, run, store, config, options, forecast, made_with(options), warnings, notes)


def _with_cell_options(options: TrainOptions) -> TrainOptions:
    """The options with every option of the cell, checked. Raises UsageError or PluginError."""
    cell = plugins.cell(options.cell)
    if options.weight_drop and getattr(cell, "recurrent", None) is None:
        raise UsageError(
            f"--weight-drop works on cells with a recurrent matrix of their own; {options.cell!r} has none."
        )
    return replace(options, cell_options=cell_options.parse(cell, options.cell, options.cell_options))


def task_of(store: TokenStore, options: TrainOptions) -> LanguageModeling:
    """The task of these options. Raises TextgenError if the corpus does not fill one batch."""
    assert options.batch_size and options.seq_length
    return LanguageModeling.of(store, options.batch_size, options.seq_length, options.seed, options.sampled_softmax)


def make_trainer(
    run: Run, task: LanguageModeling, config: ModelConfig, options: TrainOptions, device: str
) -> tuple[Trainer, Match | None]:
    """A trainer at step 0, its weights drawn from the seed or taken from the model that the options start from."""
    torch.manual_seed(keyed_seed(options.seed, "weights"))
    model = make_model(config)
    for cell in compilable(model):
        cell.compiled = bool(options.compile)
    match = adopt(model, task.store.tokenizer, options.init_from) if options.init_from else None
    return Trainer(run, task, model, options, device), match


def stored_corpus(paths: Sequence[str], options: CorpusOptions, cache: Path, progress: Progress) -> TokenStore:
    """The token store of a corpus: the folder given, if it is one, else the cached one, else a new one."""
    if len(paths) == 1 and (Path(paths[0]) / files.MANIFEST).is_file():
        given = [flag(f.name) for f in fields(CorpusOptions) if getattr(options, f.name) != f.default]
        if given:
            raise UsageError(f"{given[0]} was decided when {paths[0]!r} was tokenized; leave it out here.")
        return open_store(Path(paths[0]))
    for place in (cache, cache.parent):
        sweep(place)
    seed = getattr(options, "seed", TrainOptions.seed)
    return corpus.cached_store(corpus.survey(paths, options, seed, progress), cache, progress)


def resume(folder: Path, given: Mapping[str, Any], progress: Progress = no_progress) -> Session:
    """Prepare to go on with a run from its newest whole checkpoint, or from the start if it has none.

    `given` are options named anew; only some may change. Raises UsageError for the others, TextgenError if the corpus
    is no longer what it was.
    """
    run = Run(folder)
    if not (folder / ARGUMENTS).is_file():
        raise TextgenError(f"there is no run to resume in {str(folder)!r}.", hint="train one: textgen train FILE")
    arguments = run.arguments()
    options = _resumed_options(arguments["options"], _within(folder, given))
    device = choose_device(options.device)
    torch.set_num_threads(options.threads or usable_cores())
    store = store_of(run, progress)
    refuse_other_tokens(arguments.get("digests", {}), store)
    config = read_config(folder)
    checkpoint, wrong = run.latest()
    begun_from = None if checkpoint else options.init_from  # whose weights a checkpoint has no need of
    trainer, _ = make_trainer(run, task_of(store, options), config, replace(options, init_from=begun_from), device)
    refuse_small_disk(folder, trainer.model, options, kept=len(run.checkpoints()))
    instead = "An older checkpoint is used." if checkpoint else "The run starts again from step 0."
    warnings = [f"{error} {instead}" for error in wrong]
    if checkpoint is not None:
        trainer.resume(checkpoint)
    now = made_with(options)
    warnings += changes(arguments["made_with"], now)
    return Session(trainer, run, store, config, options, Forecast(**arguments["forecast"]), now, warnings)


def _within(folder: Path, given: Mapping[str, Any]) -> dict[str, Any]:
    """What else is given anew. Raises UsageError if another folder than the run's is named, or it is to be replaced."""
    given = dict(given)
    if given.pop("overwrite_output_dir", False):
        raise UsageError("--resume and --overwrite-output-dir exclude each other.")
    named = given.pop("output_dir", None)
    if named is not None and Path(named).resolve() != folder.resolve():
        raise UsageError(f"--output-dir {named} cannot change on --resume (the run is in {str(folder)!r}).")
    return given


def _resumed_options(stored: Mapping[str, Any], given: Mapping[str, Any]) -> TrainOptions:
    before: TrainOptions = from_mapping(TrainOptions, stored)
    options: TrainOptions = from_mapping(TrainOptions, {**stored, **given})
    for name, value in given.items():
        if name not in CHANGEABLE and getattr(options, name) != getattr(before, name):
            raise UsageError(f"{flag(name)} {value} cannot change on --resume (the run has {getattr(before, name)}).")
    return options


def store_of(run: Run, progress: Progress = no_progress) -> TokenStore:
    """The tokens that a run trains on, made again from its corpus where they are gone. Raises TextgenError if the
    corpus is no longer what it was."""
    arguments, cache = run.arguments(), run.folder.parent / CACHE
    key, paths = arguments["store"], arguments["corpus"]
    if (cache / key).is_dir():
        try:
            return open_store(cache / key)
        except files.DamagedError:
            if "-" in paths:
                raise
    elif "-" in paths:
        raise TextgenError(f"the tokens of this run are gone from {str(cache / key)!r}, and its corpus came by pipe.")
    store = stored_corpus(paths, from_mapping(TrainOptions, arguments["options"]), cache, progress)
    if store.key != key:
        raise TextgenError(
            f"the corpus has changed since this run began ({', '.join(paths)}).", hint="train a new run."
        )
    return store

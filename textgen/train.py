"""From a corpus and options to a run: read, plan, commit the arguments, train. `textgen.train` is the whole of it."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from textgen import cell_options, corpus, files, plugins
from textgen.checkpoint import ARGUMENTS, CONFIG, GENERATION, Run, make_model, read_config
from textgen.config import ModelConfig
from textgen.corpus import TRAIN, VALIDATION, Progress, TokenStore
from textgen.dropout import keyed_seed
from textgen.errors import TextgenError, UsageError
from textgen.language_model import generation_habits
from textgen.machine import ThisMachine, choose_device, usable_cores, versions
from textgen.options import check, flag, from_mapping
from textgen.plan import Forecast, plan
from textgen.settings import DEFAULT_MINUTES, CorpusOptions, TrainOptions
from textgen.tasks import LanguageModeling
from textgen.trainer import Event, Trainer

CACHE = ".tokens"
CHANGEABLE = ("max_time", "save_total_limit", "early_stopping_patience", "output_dir", "overwrite_output_dir")
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

    def events(self) -> Iterator[Event]:
        """Train, alone in the run folder; yields what happens. Raises TextgenError if another process trains there."""
        with files.lock(self.run.folder):
            files.clean(self.run.folder)
            yield from self.trainer.run()


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
    progress: Progress = corpus.no_progress,
    dry_run: bool = False,
) -> Session:
    """Prepare a new run; `began` is when the command started, on the clock of `time.monotonic`.

    A dry run plans but does not create the run's folder.
    """
    check(options)
    cell = plugins.cell(options.cell)
    options = replace(options, cell_options=cell_options.parse(cell, options.cell, options.cell_options))
    if options.weight_drop and getattr(cell, "recurrent", None) is None:
        raise UsageError(
            f"--weight-drop works on cells with a recurrent matrix of their own; {options.cell!r} has none."
        )
    device = choose_device(options.device)
    threads = options.threads or usable_cores()
    torch.set_num_threads(threads)
    root = Path(options.output_dir).parent if options.output_dir else Path("runs")
    refuse_occupied(options)
    store = stored_corpus(paths, options, root / CACHE, progress)
    tokens, held_out = len(store.model_tokens(TRAIN)), len(store.model_tokens(VALIDATION))
    if tokens < 2:
        raise TextgenError(f"the training part has {tokens} tokens; that is nothing to learn from.")
    machine = ThisMachine(options, device)
    deadline = began + 60 * (options.minutes or DEFAULT_MINUTES)
    options, config, forecast = plan(
        replace(options, threads=threads),
        store.tokenizer.level,
        store.tokenizer.vocab_size,
        tokens,
        held_out,
        machine,
        deadline,
    )
    owner = plugins.owner(options.cell)
    config = replace(config, cell_distribution=owner.distribution, cell_version=owner.version)
    task = task_of(store, options)
    folder = Path(options.output_dir) if options.output_dir else _next_folder(root, options.cell, paths[0])
    run = Run(folder) if dry_run else _create_run(folder, paths, options, config, forecast, store)
    trainer = make_trainer(run, task, config, options, device)
    return Session(trainer, run, store, config, options, forecast, versions(threads))


def task_of(store: TokenStore, options: TrainOptions) -> LanguageModeling:
    """The task of these options. Raises TextgenError if the corpus does not fill one batch."""
    assert options.batch_size and options.seq_length
    return LanguageModeling.of(store, options.batch_size, options.seq_length, options.seed)


def make_trainer(run: Run, task: LanguageModeling, config: ModelConfig, options: TrainOptions, device: str) -> Trainer:
    """A trainer at step 0: the weights are drawn from the seed."""
    torch.manual_seed(keyed_seed(options.seed, "weights"))
    return Trainer(run, task, make_model(config), options, device)


def stored_corpus(paths: Sequence[str], options: CorpusOptions, cache: Path, progress: Progress) -> TokenStore:
    """The token store of a corpus: the folder given, if it is one, else the cached one, else a new one."""
    if len(paths) == 1 and (Path(paths[0]) / files.MANIFEST).is_file():
        given = [flag(f) for f in ("tokenizer", "vocab_size", "encoding", "document_separator", "validation_file")
                 if getattr(options, f) is not None]  # fmt: skip
        if given:
            raise UsageError(f"{given[0]} was decided when {paths[0]!r} was tokenized; leave it out here.")
        return corpus.open_store(Path(paths[0]))
    seed = getattr(options, "seed", TrainOptions.seed)
    return corpus.cached_store(corpus.survey(paths, options, seed, progress), cache, progress)


def refuse_occupied(options: TrainOptions) -> None:
    """Raise TextgenError if the output folder is taken and may not, or must not, be replaced."""
    if options.output_dir is None:
        return
    folder = Path(options.output_dir)
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return
    if not options.overwrite_output_dir:
        raise TextgenError(
            f"{str(folder)!r} exists already.",
            hint=f"--resume {folder} goes on with it, --overwrite-output-dir replaces it.",
        )
    if not (folder / ARGUMENTS).is_file():
        raise TextgenError(f"{str(folder)!r} is not a run of textgen and is not going to be replaced.")


def _create_run(
    folder: Path,
    paths: Sequence[str],
    options: TrainOptions,
    config: ModelConfig,
    forecast: Forecast,
    store: TokenStore,
) -> Run:
    """Commit the run folder with everything that is decided, before the first step."""
    if (folder / ARGUMENTS).exists():  # `refuse_occupied` has made sure that it may be replaced
        with files.lock(folder):
            files.remove_folder(folder)
    elif folder.exists():
        folder.rmdir()
    tokenizer = store.tokenizer
    arguments = {
        "corpus": [path if path == "-" else str(Path(path).absolute()) for path in paths],
        "store": store.key,
        "options": asdict(options),
        "forecast": asdict(forecast),
        "made_with": versions(options.threads or 1),
    }
    contents = {
        CONFIG: files.to_json(
            {**config.to_json(), "bos_token_id": tokenizer.boundary, "eos_token_id": tokenizer.boundary}
        ),
        ARGUMENTS: files.to_json(arguments),
        GENERATION: files.to_json(generation_habits(store)),
        "README.md": model_card(config, store, folder.name).encode(),
        **tokenizer.files(),
    }
    return Run.create(folder, contents)


def _next_folder(root: Path, cell: str, path: str) -> Path:
    """runs/CELL-CORPUS-N with the first N that is free."""
    name = "stdin" if path == "-" else Path(path).absolute().name.split(".")[0]
    stem = f"{cell}-{re.sub(r'[^A-Za-z0-9_-]+', '-', name).strip('-') or 'corpus'}"
    number = 1
    while (root / f"{stem}-{number}").exists():
        number += 1
    return root / f"{stem}-{number}"


def model_card(config: ModelConfig, store: TokenStore, name: str) -> str:
    """The model folder's README, with the header that model hubs read."""
    about = store.about
    return f"""---
library_name: textgen
pipeline_tag: text-generation
---

# {name}

A recurrent language model made with textgen: {config.num_layers} x {config.cell}, {config.hidden_size} units,
{config.vocab_size:,} symbols ({about["level"]}), trained on {about["bytes"][TRAIN]:,} bytes of text.

    textgen sample -m {name} --prompt "..."

The loss over time stands in `metrics.jsonl`, every option in `training_args.json`.
"""


def resume(folder: Path, given: Mapping[str, Any], progress: Progress = corpus.no_progress) -> Session:
    """Prepare to go on with a run from its newest whole checkpoint, or from the start if it has none.

    `given` are options named anew; only some may change. Raises UsageError for the others, TextgenError if the corpus
    is no longer what it was.
    """
    run = Run(folder)
    if not (folder / ARGUMENTS).is_file():
        raise TextgenError(f"there is no run to resume in {str(folder)!r}.", hint="train one: textgen train FILE")
    arguments = run.arguments()
    options = _resumed_options(from_mapping(TrainOptions, arguments["options"]), given)
    device = choose_device(options.device)
    torch.set_num_threads(options.threads or usable_cores())
    store = _resumed_store(arguments, options, folder.parent / CACHE, progress)
    config = read_config(folder)
    trainer = make_trainer(run, task_of(store, options), config, options, device)
    checkpoint, wrong = run.latest()
    warnings = [f"{error} An older checkpoint is used." for error in wrong]
    if checkpoint is not None:
        trainer.resume(checkpoint)
    run.keep_metrics_up_to(trainer.progress.step)
    now = versions(options.threads or 1)
    warnings += [
        f"{name} is now {now[name]}, it was {then}: the result will agree in quality, not bit for bit."
        for name, then in arguments["made_with"].items()
        if now.get(name) != then
    ]
    return Session(trainer, run, store, config, options, Forecast(**arguments["forecast"]), now, warnings)


def _resumed_options(options: TrainOptions, given: Mapping[str, Any]) -> TrainOptions:
    for name, value in given.items():
        if name not in CHANGEABLE and value != getattr(options, name):
            raise UsageError(f"{flag(name)} {value} cannot change on --resume (the run has {getattr(options, name)}).")
    return replace(options, **{name: value for name, value in given.items() if name in CHANGEABLE})


def _resumed_store(arguments: Mapping[str, Any], options: TrainOptions, cache: Path, progress: Progress) -> TokenStore:
    key, paths = arguments["store"], arguments["corpus"]
    if (cache / key).is_dir():
        return corpus.open_store(cache / key)
    if "-" in paths:
        raise TextgenError(f"the tokens of this run are gone from {str(cache / key)!r}, and its corpus came by pipe.")
    store = stored_corpus(paths, options, cache, progress)
    if store.key != key:
        raise TextgenError(
            f"the corpus has changed since this run began ({', '.join(paths)}).", hint="train a new run."
        )
    return store

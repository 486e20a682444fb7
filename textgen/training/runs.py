"""Run folders: creating them, saving and loading checkpoints, and recording what a run's bits depend on.

A run folder is a model folder from the start: configuration, tokenizer and arguments are committed before step 1, the
best weights so far are in `model.safetensors`, and `checkpoint-N/` holds everything that is needed to continue.
"""

from __future__ import annotations

import json
import os
import platform
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from importlib import metadata
from itertools import count
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from textgen import __version__, plugins, storage
from textgen.cells.engine import State, compiler, compiler_version
from textgen.data.sources import lasting
from textgen.errors import TextgenError
from textgen.model import CARD, CONFIG, LONGEST_POINTER, WEIGHTS, ModelConfig
from textgen.model.weights import model_tensors, pack, unpack
from textgen.options import changed, named
from textgen.storage import ARGUMENTS, METRICS, filesystem, log_lines
from textgen.storage.filesystem import UNFINISHED
from textgen.tasks import LANGUAGE, TrainOptions
from textgen.tasks.data import TaskData
from textgen.training.planner import Estimate
from textgen.training.stored_data import arguments_in

STATE = "trainer_state.json"
OPTIMIZER = "optimizer.safetensors"
AVERAGE = "average/"

RUNS = Path("runs")
"""The default parent folder of runs. In a folder of this name, the file `latest` names the most recent run."""

PACKAGES = ("torch", "numpy", "sentencepiece")
"""Packages whose versions are recorded for a run."""


@dataclass(frozen=True)
class Checkpoint:
    """Everything that training needs to continue after `step` steps."""

    step: int
    weights: dict[str, Tensor]
    optimizer: dict[str, Tensor]
    hidden: State
    state: dict[str, Any]
    average: dict[str, Tensor] = field(default_factory=dict)

    @classmethod
    def received(
        cls,
        broadcast: Callable[[Mapping[str, Tensor]], dict[str, Tensor]],
        own: Checkpoint | None,
        step: int,
        state: dict[str, Any],
    ) -> Checkpoint:
        """The checkpoint of rank 0, whose tensors `broadcast` gives to every process; `own` is None in the others."""
        weights = broadcast(own.weights if own else {})
        optimizer = broadcast(own.optimizer if own else {})
        hidden = broadcast({str(k): tensor for k, tensor in enumerate(own.hidden)} if own else {})
        average = broadcast(own.average if own else {})
        return cls(step, weights, optimizer, tuple(hidden[str(k)] for k in range(len(hidden))), state, average)


class Run:
    """A run folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @classmethod
    def create(cls, folder: Path, contents: Mapping[str, bytes]) -> Run:
        """Commit a new run folder with everything known before step 1. Raises TextgenError if it exists."""
        try:
            with filesystem.new_folder(folder) as new:
                for name, content in contents.items():
                    new.write(name, content)
        except FileExistsError:
            raise _occupied(folder) from None
        return cls(folder)

    def arguments(self) -> dict[str, Any]:
        """The content of training_args.json, verified against its checksum."""
        return arguments_in(self.folder)

    def commit_arguments(self, arguments: Mapping[str, Any]) -> None:
        """Replace the content of training_args.json atomically."""
        filesystem.replace_in_folder(self.folder, ARGUMENTS, filesystem.to_json(arguments))

    def publish(self, model: nn.Module) -> None:
        """Store these weights as the model of the folder."""
        filesystem.replace_in_folder(self.folder, WEIGHTS, pack(model_tensors(model)))

    def accompany(self, files: Mapping[str, bytes]) -> None:
        """Store files that belong to the published weights."""
        for name, content in files.items():
            filesystem.replace_in_folder(self.folder, name, content)

    def best_weights(self) -> dict[str, Tensor]:
        """The weights published last."""
        return unpack(storage.verified(self.folder, WEIGHTS), str(self.folder / WEIGHTS))

    def checkpoints(self) -> list[int]:
        """The steps of the committed checkpoints, oldest first."""
        return [int(path.name.rpartition("-")[2]) for path in storage.checkpoints(self.folder)]

    def save(self, checkpoint: Checkpoint, keep: int) -> Path:
        """Commit a checkpoint and the metrics so far; then remove the oldest checkpoints beyond `keep`."""
        if (self.folder / METRICS).exists():
            filesystem.append(self.folder / METRICS, b"", durable=True)
        folder = self.folder / f"checkpoint-{checkpoint.step}"
        hidden = {f"hidden/{k}": tensor for k, tensor in enumerate(checkpoint.hidden)}
        average = {f"{AVERAGE}{name}": tensor for name, tensor in checkpoint.average.items()}
        with filesystem.new_folder(folder) as new:
            new.write(WEIGHTS, pack(checkpoint.weights))
            new.write(OPTIMIZER, pack({**checkpoint.optimizer, **average, **hidden}))
            new.write(STATE, filesystem.to_json(checkpoint.state))
        for step in self.checkpoints()[:-keep]:
            filesystem.remove_folder(self.folder / f"checkpoint-{step}")
        return folder

    def load(self, step: int) -> Checkpoint:
        """Read one checkpoint. Raises DamagedError naming the file."""
        folder = self.folder / f"checkpoint-{step}"
        manifest = storage.read_manifest(folder)
        read = {name: storage.verified(folder, name, manifest) for name in (WEIGHTS, OPTIMIZER, STATE)}
        tensors = unpack(read[OPTIMIZER], str(folder / OPTIMIZER))
        names = sorted(key for key in tensors if key.startswith("hidden/"))
        hidden = tuple(tensors.pop(f"hidden/{k}") for k in range(len(names)))
        average = {key.removeprefix(AVERAGE): tensors.pop(key) for key in list(tensors) if key.startswith(AVERAGE)}
        state = storage.parse_json(read[STATE], str(folder / STATE))
        return Checkpoint(step, unpack(read[WEIGHTS], str(folder / WEIGHTS)), tensors, hidden, state, average)

    def latest(self) -> tuple[Checkpoint | None, list[TextgenError]]:
        """The newest intact checkpoint, and the errors of newer, damaged ones."""
        wrong: list[TextgenError] = []
        for step in reversed(self.checkpoints()):
            try:
                return self.load(step), wrong
            except TextgenError as error:
                wrong.append(error)
        return None, wrong

    def go_back_to(self, step: int) -> None:
        """Drop everything after a step that will be repeated: damaged checkpoints, metrics (those of the end of the run
        included) and an incomplete last line. Call it only while holding the folder's lock.

        Raises TextgenError if there is a later intact checkpoint: another process has written it in the meantime.
        """
        for later in [found for found in self.checkpoints() if found > step]:
            try:
                self.load(later)
            except storage.DamagedError:
                filesystem.remove_folder(self.folder / f"checkpoint-{later}")
            else:
                raise TextgenError(
                    f"another process has continued the run in {str(self.folder)!r}.", hint="resume it again."
                )
        path = self.folder / METRICS
        if lines := log_lines(path):
            filesystem.write_file(path, b"".join(line for line in lines if _is_metric_up_to(step, line)))

    def log(self, metrics: Mapping[str, Any]) -> None:
        """Append one line to metrics.jsonl."""
        filesystem.append(self.folder / METRICS, json.dumps(metrics, allow_nan=False).encode() + b"\n")


class FollowedRun(Run):
    """The folder of a run that another process writes, and that this process may not even see."""

    def publish(self, model: nn.Module) -> None:
        """Leave it to rank 0."""

    def save(self, checkpoint: Checkpoint, keep: int) -> Path:
        return self.folder / f"checkpoint-{checkpoint.step}"

    def latest(self) -> tuple[Checkpoint | None, list[TextgenError]]:
        return None, []

    def log(self, metrics: Mapping[str, Any]) -> None:
        """Leave it to rank 0."""


def _is_metric_up_to(step: int, line: bytes) -> bool:
    if step == 0:  # the run starts again
        return False
    try:
        metrics = json.loads(line)
        return line.endswith(b"\n") and metrics["step"] <= step and not metrics.get("final")
    except (ValueError, KeyError, TypeError, AttributeError):
        return False


def create_run(
    folder: Path,
    paths: Sequence[str],
    options: TrainOptions,
    config: ModelConfig,
    data: TaskData,
    arguments: Mapping[str, Any],
    step: Mapping[str, bytes],
) -> Run:
    """Commit the run folder with everything that is decided before step 1; `step` is the file of the stored step.

    If the folder was chosen automatically and another process has created it in the meantime, the next free one is
    used.
    """
    refuse_occupied(options, paths)  # again: another process may have created it during planning
    if options.overwrite_output_dir and (folder / ARGUMENTS).exists():
        with filesystem.lock(folder):
            filesystem.remove_folder(folder)
    elif options.output_dir is not None and folder.exists():
        folder.rmdir()
    ends = {"bos_token_id": data.tokenizer.boundary, "eos_token_id": data.tokenizer.boundary} if data.tokenizer else {}
    contents = {
        CONFIG: filesystem.to_json({**config.to_json(), **ends}),
        ARGUMENTS: filesystem.to_json(arguments),
        **data.files(),
        **step,
    }
    while True:
        try:
            run = Run.create(folder, {**contents, CARD: data.card(config, folder.name).encode()})
            break
        except TextgenError:
            if options.output_dir is not None or not folder.exists():
                raise
            folder = _first_free(folder.parent, folder.name.rpartition("-")[0])
    if folder.parent.absolute().name == RUNS.name:
        _point_to(folder)
    return run


def refuse_occupied(options: TrainOptions, paths: Sequence[str] = ()) -> None:
    """Raise TextgenError if the output folder exists and may not be replaced. Only a run may be, and only if it holds
    no input of this one."""
    if options.output_dir is None:
        return
    folder = Path(options.output_dir)
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return
    if not options.overwrite_output_dir:
        raise _occupied(folder)
    if folder.is_symlink() or not all((folder / name).is_file() for name in (ARGUMENTS, storage.MANIFEST)):
        raise TextgenError(f"{str(folder)!r} is not a run of textgen, so it is not replaced.")
    if foreign := next(_foreign_files(folder), None):
        raise TextgenError(
            f"{str(folder)!r} holds {foreign!r}, which textgen did not write, so it is not replaced.",
            hint=f"move {foreign} to another folder, or choose another {named('output_dir')}.",
        )
    if options.init_from and Path(options.init_from).resolve().is_relative_to(folder.resolve()):
        raise TextgenError(f"{str(folder)!r} is the model this run starts from, so it is not replaced.")
    read = [*paths, *(name for name in (options.validation_file, getattr(options, "tokenizer", None)) if name)]
    if any(Path(path).exists() and Path(path).resolve().is_relative_to(folder.resolve()) for path in read):
        raise TextgenError(f"{str(folder)!r} holds an input of this run and is never replaced.",
                           hint=f"choose another {named('output_dir')}.")  # fmt: skip


def _occupied(folder: Path) -> TextgenError:
    hint = f"--resume {folder} continues it, {named('overwrite_output_dir')} replaces it."
    return TextgenError(f"{str(folder)!r} exists already.", hint=hint)


def _foreign_files(folder: Path) -> Iterator[str]:
    """Files in a run folder that textgen did not write."""
    listed = {*storage.read_manifest(folder)["files"], storage.MANIFEST, METRICS, ".lock", "tensorboard"}
    for path in sorted(folder.iterdir()):
        ours = path.name in listed or UNFINISHED.fullmatch(path.name)
        if path.name.startswith("checkpoint-") and (path / storage.MANIFEST).is_file():
            known = {*storage.read_manifest(path)["files"], storage.MANIFEST}
            yield from (f"{path.name}/{each.name}" for each in sorted(path.iterdir()) if each.name not in known)
        elif not ours:
            yield path.name


def _point_to(folder: Path) -> None:
    """Write the name of a run to the file `latest` beside it, unless that path holds something else."""
    pointer = folder.parent / "latest"
    if os.path.lexists(pointer):
        is_ours = pointer.is_file() and pointer.stat().st_size <= LONGEST_POINTER
        if not is_ours or not re.fullmatch(rb"[^/\n]*\n?", pointer.read_bytes()):
            return
    filesystem.write_file(pointer, (folder.name + "\n").encode())


def arguments_of(
    paths: Sequence[str],
    asked: TrainOptions,
    options: TrainOptions,
    estimate: Estimate,
    data: TaskData,
    encodings: Mapping[str, str],
    processes: int = 1,
) -> dict[str, Any]:
    """The content of training_args.json: `asked` are the options before planning, `encodings` those that `--encoding
    auto` detected, by path."""
    return {
        "corpus": [lasting(path) for path in paths],
        "store": data.key,
        "asked": {**changed(asked), "task": options.task},
        "options": asdict(options),
        "estimate": asdict(estimate),
        "digests": data.digests(),
        "made_with": made_with(options, processes),
        **({"encodings": dict(encodings)} if encodings else {}),
    }


def next_folder(root: Path, cell: str, path: str) -> Path:
    """runs/CELL-CORPUS-N with the first N that is free."""
    name = "stdin" if path == "-" else Path(path).absolute().name.split(".")[0]
    return _first_free(root, f"{cell}-{re.sub(r'[^A-Za-z0-9_-]+', '-', name).strip('-') or 'corpus'}")


def _first_free(root: Path, stem: str) -> Path:
    folders = (root / f"{stem}-{number}" for number in count(1))
    return next(folder for folder in folders if not folder.exists())


def made_with(options: TrainOptions, processes: int = 1) -> dict[str, Any]:
    """Everything recorded for a run with these options; the package of its task only if the task is not built in."""
    owners = {f"package of {options.cell}": plugins.owner(options.cell)}
    task = plugins.owner(options.task or LANGUAGE, "tasks")
    if task.distribution != plugins.OWN_DISTRIBUTION:
        owners[f"package of task {task.name}"] = task
    return versions(options.threads or 1, owners) | {"processes": processes} | compiled_with(options)


def versions(threads: int, owners: Mapping[str, plugins.Entry] | None = None) -> dict[str, Any]:
    """Versions, threads and processor, and the packages that own what a run uses."""
    packages = {name: metadata.version(name) for name in PACKAGES} | {"torch": str(torch.__version__)}
    return {
        "textgen": __version__,
        **packages,
        "python": platform.python_version(),
        **{name: f"{owner.distribution} {owner.version}" for name, owner in (owners or {}).items()},
        "processor": f"{processor()} {torch.backends.cpu.get_cpu_capability()}",
        "threads": threads,
    }


def processor() -> str:
    """The name of the processor, or its architecture."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text(errors="replace").splitlines() if cpuinfo.is_file() else []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return " ".join([platform.machine(), next(names, platform.processor())]).strip()


def compiled_with(options: TrainOptions) -> dict[str, Any]:
    """The version of the compiler, if cells are compiled. Raises TextgenError without a C++ compiler."""
    if not options.compile:
        return {}
    if compiler() is None:
        raise TextgenError(
            "this run compiles its cells, but this machine has no C++ compiler.",
            hint="install g++, or train a new run with --no-compile.",
        )
    return {"compiler": compiler_version()}


def changes(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """The differences, one sentence each."""
    return [
        f"{name} is now {now.get(name, 'none')}, it was {then}: the quality will be the same, but not every bit."
        for name, then in before.items()
        if now.get(name) != then
    ]


def refuse_other_data(recorded: Mapping[str, str], found: Mapping[str, str]) -> None:
    """Raise TextgenError if the corpus now gives different tokens or numbers than at the start of the run."""
    other = [name for name, digest in recorded.items() if found.get(name) != digest]
    if other:
        raise TextgenError(
            f"the corpus gives different tokens than when this run began ({', '.join(other)} differ in SHA-256).",
            hint="train a new run.",
        )

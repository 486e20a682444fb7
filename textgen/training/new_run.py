"""The folder of a new run: its location, what may be replaced, and what is committed before step 1."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from textgen import files, sealed
from textgen.config import ModelConfig
from textgen.disk import UNFINISHED
from textgen.errors import TextgenError
from textgen.model_folder import CONFIG
from textgen.options import changed
from textgen.parameters import named
from textgen.settings import TrainOptions
from textgen.tasks.data import TaskData
from textgen.text.sources import lasting
from textgen.training.checkpoint import ARGUMENTS, METRICS, FolderTakenError, Run
from textgen.training.plan import Estimate
from textgen.training.provenance import made_with

RUNS = Path("runs")
"""The default parent folder of runs. In a folder of this name, the file `latest` names the most recent run."""

LONGEST_NAME = 1024
"""The maximum size of the file `latest`, in bytes: the name of a folder and a line end."""


def refuse_occupied(options: TrainOptions, paths: Sequence[str] = ()) -> None:
    """Raise TextgenError if the output folder exists and may not be replaced. Only a run may be, and only if it holds
    no input of this one."""
    if options.output_dir is None:
        return
    folder = Path(options.output_dir)
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return
    if not options.overwrite_output_dir:
        raise TextgenError(
            f"{str(folder)!r} exists already.",
            hint=f"--resume {folder} continues it, {named('overwrite_output_dir')} replaces it.",
        )
    if folder.is_symlink() or not all((folder / name).is_file() for name in (ARGUMENTS, sealed.MANIFEST)):
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


def _foreign_files(folder: Path) -> Iterator[str]:
    """Files in a run folder that textgen did not write."""
    listed = {*sealed.read_manifest(folder)["files"], sealed.MANIFEST, METRICS, ".lock", "tensorboard"}
    for path in sorted(folder.iterdir()):
        ours = path.name in listed or UNFINISHED.fullmatch(path.name)
        if path.name.startswith("checkpoint-") and (path / sealed.MANIFEST).is_file():
            known = {*sealed.read_manifest(path)["files"], sealed.MANIFEST}
            yield from (f"{path.name}/{each.name}" for each in sorted(path.iterdir()) if each.name not in known)
        elif not ours:
            yield path.name


def create_run(
    folder: Path,
    paths: Sequence[str],
    asked: TrainOptions,
    options: TrainOptions,
    config: ModelConfig,
    estimate: Estimate,
    data: TaskData,
    step: Mapping[str, bytes],
    encodings: Mapping[str, str],
) -> Run:
    """Commit the run folder with everything that is decided before step 1; `step` is the file of the stored step,
    `encodings` those that `--encoding auto` detected, by path.

    If the folder was chosen automatically and another process has created it in the meantime, the next free one is
    used.
    """
    refuse_occupied(options, paths)  # again: another process may have created it during planning
    if options.overwrite_output_dir and (folder / ARGUMENTS).exists():
        with files.lock(folder):
            files.remove_folder(folder)
    elif options.output_dir is not None and folder.exists():
        folder.rmdir()
    ends = {"bos_token_id": data.tokenizer.boundary, "eos_token_id": data.tokenizer.boundary} if data.tokenizer else {}
    arguments = _arguments(paths, asked, options, estimate, data, encodings)
    contents = {
        CONFIG: files.to_json({**config.to_json(), **ends}),
        ARGUMENTS: files.to_json(arguments),
        **data.files(),
        **step,
    }
    while True:
        try:
            run = Run.create(folder, {**contents, "README.md": data.card(config, folder.name).encode()})
            break
        except FolderTakenError:
            if options.output_dir is not None:
                raise
            folder = _first_free(folder.parent, folder.name.rpartition("-")[0])
    if folder.parent.absolute().name == RUNS.name:
        _point_to(folder)
    return run


def _point_to(folder: Path) -> None:
    """Write the name of a run to the file `latest` beside it, unless that path holds something else."""
    pointer = folder.parent / "latest"
    if os.path.lexists(pointer):
        is_ours = pointer.is_file() and pointer.stat().st_size <= LONGEST_NAME
        if not is_ours or not re.fullmatch(rb"[^/\n]*\n?", pointer.read_bytes()):
            return
    files.write_file(pointer, (folder.name + "\n").encode())


def _arguments(
    paths: Sequence[str],
    asked: TrainOptions,
    options: TrainOptions,
    estimate: Estimate,
    data: TaskData,
    encodings: Mapping[str, str],
) -> dict[str, Any]:
    return {
        "corpus": [lasting(path) for path in paths],
        "store": data.key,
        "asked": {**changed(asked), "task": options.task},
        "options": asdict(options),
        "estimate": asdict(estimate),
        "digests": data.digests(),
        "made_with": made_with(options),
        **({"encodings": dict(encodings)} if encodings else {}),
    }


def next_folder(root: Path, cell: str, path: str) -> Path:
    """runs/CELL-CORPUS-N with the first N that is free."""
    name = "stdin" if path == "-" else Path(path).absolute().name.split(".")[0]
    return _first_free(root, f"{cell}-{re.sub(r'[^A-Za-z0-9_-]+', '-', name).strip('-') or 'corpus'}")


def _first_free(root: Path, stem: str) -> Path:
    number = 1
    while (root / f"{stem}-{number}").exists():
        number += 1
    return root / f"{stem}-{number}"

"""Verifying the checksums of every file of a run, its checkpoints and its tokens, and naming all damaged files.

Nothing is changed, and torch is not imported.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from textgen import sealed
from textgen.errors import TextgenError

ARGUMENTS, METRICS, TOKENS = "training_args.json", "metrics.jsonl", ".tokens"


@dataclass
class Verification:
    """The result for a folder: how many files were verified, and a sentence for each damaged one."""

    folder: Path
    files: int = 0
    damaged: list[str] = field(default_factory=list)


def verify_folder(folder: Path) -> Verification:
    """Verify each file in the manifest of a committed folder; a damaged manifest is reported alone."""
    found = Verification(folder)
    try:
        manifest = sealed.read_manifest(folder)
    except TextgenError as error:
        return Verification(folder, 0, [str(error)])
    for name in manifest["files"]:
        try:
            sealed.check_file(folder, name, manifest)
        except TextgenError as error:
            found.damaged.append(str(error))
        found.files += 1
    return found


def verify_run(run: Path) -> Iterator[Verification]:
    """Verify a run: its folder, the log of its metrics, each checkpoint, oldest first, and the tokens that it reads, if
    they still exist. Of any other committed folder (a model, tokens) only its own files are verified."""
    own = verify_folder(run)
    own.damaged += _damaged_lines(run / METRICS)
    yield own
    for checkpoint in checkpoints(run):
        yield verify_folder(checkpoint)
    store = tokens_of(run)
    if store is not None:
        yield verify_folder(store)


def checkpoints(run: Path) -> list[Path]:
    """The checkpoint folders of a run, oldest first."""
    found = [path for path in run.glob("checkpoint-*") if path.is_dir() and path.name[11:].isdecimal()]
    return sorted(found, key=lambda path: int(path.name[11:]))


def tokens_of(run: Path) -> Path | None:
    """The folder of the tokens that a run reads; None if it no longer exists or the run does not name it."""
    try:
        arguments = sealed.read_json(run / ARGUMENTS)
        key, corpus = str(arguments["store"]), [Path(path) for path in arguments["corpus"]]
    except (TextgenError, KeyError, TypeError):
        return None
    if "/" in key or "\\" in key or key in ("", ".", ".."):
        return None
    return next((path for path in (run.parent / TOKENS / key, *corpus) if (path / sealed.MANIFEST).is_file()), None)


def log_lines(path: Path) -> list[bytes]:
    """The lines of a log with their line ends; no lines if there is no log. Raises DamagedError for anything but a
    regular file: links are not followed, and a named pipe does not block."""
    if not path.is_symlink() and not path.exists():
        return []
    with sealed.opened(path, sys.maxsize) as file:
        return file.readlines()


def metrics(run: Path) -> list[dict[str, Any]]:
    """The lines of a run's `metrics.jsonl`; invalid ones are skipped. Raises DamagedError if it is no regular file."""
    lines = []
    for line in log_lines(run / METRICS):
        with suppress(ValueError):
            lines.append(json.loads(line))
    return [line for line in lines if isinstance(line, dict)]


def _damaged_lines(path: Path) -> Iterator[str]:
    """The lines of a log that are not JSON objects. A killed process may leave the last one incomplete."""
    try:
        lines = log_lines(path)
    except TextgenError as error:
        yield str(error)
        return
    for number, line in enumerate(lines, 1):
        try:
            whole = isinstance(json.loads(line), dict)
        except ValueError:
            whole = False
        if not whole and line.endswith(b"\n"):
            yield f"{path} is damaged: line {number} is not a JSON object."

"""Every file of a run, of its checkpoints and of its tokens held to its digest; what is damaged is named, all of it.

Reads and changes nothing, and imports no torch.
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
class Examined:
    """A folder, how many of its files were held to a digest, and a sentence for each that is damaged."""

    folder: Path
    files: int = 0
    damaged: list[str] = field(default_factory=list)


def examine_folder(folder: Path) -> Examined:
    """Check each file that the manifest of a committed folder lists; a damaged manifest is its only finding."""
    found = Examined(folder)
    try:
        manifest = sealed.read_manifest(folder)
    except TextgenError as error:
        return Examined(folder, 0, [str(error)])
    for name in manifest["files"]:
        try:
            sealed.check_file(folder, name, manifest)
        except TextgenError as error:
            found.damaged.append(str(error))
        found.files += 1
    return found


def examine_run(run: Path) -> Iterator[Examined]:
    """Check a run: its own folder, the log of its metrics, each checkpoint, oldest first, and the tokens that it reads,
    if they are kept. Any other committed folder (a model, tokens) is checked alone."""
    own = examine_folder(run)
    own.damaged += _damaged_lines(run / METRICS)
    yield own
    for checkpoint in checkpoints(run):
        yield examine_folder(checkpoint)
    store = tokens_of(run)
    if store is not None:
        yield examine_folder(store)


def checkpoints(run: Path) -> list[Path]:
    """The folders of a run's checkpoints, oldest first."""
    found = [path for path in run.glob("checkpoint-*") if path.is_dir() and path.name[11:].isdecimal()]
    return sorted(found, key=lambda path: int(path.name[11:]))


def tokens_of(run: Path) -> Path | None:
    """The folder of the tokens that a run reads; None where they are not kept, or nothing says which they are."""
    try:
        arguments = sealed.read_json(run / ARGUMENTS)
        key, corpus = str(arguments["store"]), [Path(path) for path in arguments["corpus"]]
    except (TextgenError, KeyError, TypeError):
        return None
    if "/" in key or "\\" in key or key in ("", ".", ".."):
        return None
    return next((path for path in (run.parent / TOKENS / key, *corpus) if (path / sealed.MANIFEST).is_file()), None)


def log_lines(path: Path) -> list[bytes]:
    """The lines of a log with their ends, none where there is no log. Raises DamagedError for what is no regular file:
    a link is not followed, and nobody waits at a named pipe."""
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
    """The lines of a log that are none. The last one may be cut short: a killed process leaves it so."""
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
            yield f"{path} is damaged: line {number} is no table."

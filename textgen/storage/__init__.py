"""Sealed folders: `manifest.json` holds the size and SHA-256 of every file, and its own; strict JSON.

Nothing is read before it is compared with its digest. `verify_run` compares every file of a run, its checkpoints and
its tokens, changes nothing, and names everything that is damaged.
"""

from __future__ import annotations

import errno
import hashlib
import io
import json
import math
import os
import stat
import sys
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

from textgen.errors import TextgenError

MANIFEST, ARGUMENTS, METRICS, TOKENS = "manifest.json", "training_args.json", "metrics.jsonl", ".tokens"

FORMAT_VERSION = 2
"""The version of everything in sealed folders: models, checkpoints, tokens, examples. It is raised with any change."""

JSON_LIMIT, MOST_TABLES = 32 << 20, 1 << 21
"""The largest JSON that is read, in bytes, and how many lists and objects it may have: each takes a hundred bytes."""

_READ_FLAGS = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0)
_PASSING = {errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EACCES, errno.EPERM}  # read errors not due to the file


class DamagedError(TextgenError):
    """A file is missing, truncated or changed; the message names it."""


def finite(text: str) -> float:
    """The float that a JSON number stands for. Raises ValueError if it is too large."""
    number = float(text)
    return number if math.isfinite(number) else refuse_constant(text)


def refuse_constant(name: str) -> NoReturn:
    """Raise ValueError for NaN or Infinity."""
    raise ValueError(f"{name} is not a number")


class DuplicateKeyError(ValueError):
    """A key that occurs twice in a JSON object."""

    def __init__(self, key: str) -> None:
        super().__init__(f"duplicate key {key!r}")
        self.key = key


def unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object with these keys and values. Raises DuplicateKeyError."""
    table = dict(pairs)
    if len(table) < len(pairs):
        raise DuplicateKeyError(next(key for key, n in Counter(key for key, _ in pairs).items() if n > 1))
    return table


def to_json(content: Any) -> bytes:
    """Strict JSON with the keys in the given order and a final newline; lone surrogates, as in file names, escaped."""
    text = json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    return text.encode("utf-8", "backslashreplace")


def seal(about: Mapping[str, Any]) -> bytes:
    """The bytes of a manifest, its own digest last."""
    manifest = {"format_version": FORMAT_VERSION, **about}
    return to_json({**manifest, "sha256": _digest(manifest)})


def _digest(manifest: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(manifest).encode()).hexdigest()


@contextmanager
def opened(path: Path, limit: int) -> Iterator[io.BufferedReader]:
    """A regular file of at most `limit` bytes, opened for reading. Raises DamagedError naming anything else, or a file
    that cannot be read to its end; TextgenError if that is not the fault of the file."""
    try:
        handle = os.open(path, _READ_FLAGS)
        try:
            status = os.fstat(handle)
            if not stat.S_ISREG(status.st_mode):
                raise DamagedError(f"{path} is not a regular file.")
            if status.st_size > limit:
                raise DamagedError(f"{path} is damaged: it has {status.st_size:,} bytes, more than {limit:,}.")
            with os.fdopen(handle, "rb", closefd=False) as file:
                yield file
        finally:
            os.close(handle)
    except FileNotFoundError:
        raise DamagedError(f"{path} is missing.") from None
    except OSError as error:
        kind = TextgenError if error.errno in _PASSING else DamagedError
        raise kind(f"{path} cannot be read: {error.strerror}.") from error


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file. Raises DamagedError naming the file and the error."""
    with opened(path, JSON_LIMIT) as file:
        return parse_json(file.read(), str(path))


def parse_json(data: bytes, name: str) -> dict[str, Any]:
    """A JSON object from bytes: finite numbers, no duplicate keys, bounded depth. Raises DamagedError with the name."""
    if data.count(b"[") + data.count(b"{") > MOST_TABLES:
        raise DamagedError(f"{name} is damaged: it holds more than {MOST_TABLES:,} lists and objects.")
    try:
        content = json.loads(
            data.decode(), parse_float=finite, parse_constant=refuse_constant, object_pairs_hook=unique_keys
        )
    except (ValueError, RecursionError) as error:
        raise DamagedError(f"{name} is damaged: {str(error) or 'nested too deeply'}.") from None
    if not isinstance(content, dict):
        raise DamagedError(f"{name} is damaged: a JSON object is expected, not {type(content).__name__}.")
    return content


def check_version(version: int | None, name: str) -> None:
    """Raise TextgenError, beginning with `name`, unless this textgen reads this format version (None: it has none)."""
    if version != FORMAT_VERSION:
        found = "no format version" if version is None else f"format version {version}"
        raise TextgenError(
            f"{name} has {found}; this textgen reads version {FORMAT_VERSION}.",
            hint="train again with this textgen, or install the textgen-lm that wrote it.",
        )


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of a committed folder, with its structure and digest verified. Raises DamagedError, or TextgenError
    if its format is of another version."""
    path = folder / MANIFEST
    manifest = read_json(path)
    version, files, seal = manifest.get("format_version"), manifest.get("files"), manifest.pop("sha256", None)
    if version is not None and (type(version) is not int or version < 1):
        raise DamagedError(f"{path} is damaged: format_version must be a whole number from 1, not {version!r}.")
    check_version(version, str(path))
    if not isinstance(files, dict):
        raise DamagedError(f"{path} is damaged: it lists no files.")
    for name, entry in files.items():
        if "/" in name or "\\" in name or name in ("", ".", "..") or not name.isprintable():
            raise DamagedError(f"{path} is damaged: {name!r} is not a file name.")
        before = entry.get("before", []) if isinstance(entry, dict) else None
        if not (isinstance(before, list) and all(map(_is_entry, [entry, *before]))):
            raise DamagedError(f"{path} is damaged: it does not describe {name!r}.")
    if seal != _digest(manifest):
        raise DamagedError(f"{path} is damaged: its content does not match its SHA-256.")
    return manifest


def _is_entry(entry: Any) -> bool:
    return isinstance(entry, dict) and type(entry.get("size")) is int and type(entry.get("sha256")) is str


def verified(folder: Path, name: str, manifest: Mapping[str, Any] | None = None, limit: int | None = None) -> bytes:
    """The content of one file of a committed folder, of at most `limit` bytes, with its digest verified.

    Raises DamagedError naming the file.
    """
    known = manifest or read_manifest(folder)
    try:
        return _held(folder, name, known, limit)
    except DamagedError:
        if (now := read_manifest(folder)) == known:
            raise
        return _held(folder, name, now, limit)  # training has replaced the file meanwhile


def _held(folder: Path, name: str, manifest: Mapping[str, Any], limit: int | None) -> bytes:
    allowed = allowed_entries(folder, name, manifest)
    largest = max(entry["size"] for entry in allowed)
    with opened(folder / name, largest if limit is None else min(limit, largest)) as file:
        content = file.read()
    _hold_to(allowed, folder / name, len(content), hashlib.sha256(content).hexdigest())
    return content


def check_file(folder: Path, name: str, manifest: Mapping[str, Any]) -> None:
    """Verify one file in bounded memory, for example before mapping it. Raises DamagedError naming the file."""
    allowed = allowed_entries(folder, name, manifest)
    with opened(folder / name, limit=max(entry["size"] for entry in allowed)) as file:
        digest = hashlib.file_digest(file, "sha256")
        size = file.tell()
    _hold_to(allowed, folder / name, size, digest.hexdigest())


def allowed_entries(folder: Path, name: str, manifest: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The sizes and digests that a file may have: several after an interrupted replacement, else one."""
    entry = manifest["files"].get(name)
    if entry is None:
        raise DamagedError(f"{folder / MANIFEST} does not list {name!r}.")
    return [{"size": each["size"], "sha256": each["sha256"]} for each in (entry, *entry.get("before", []))]


def _hold_to(allowed: list[dict[str, Any]], path: Path, size: int, sha256: str) -> None:
    if any(size == entry["size"] and sha256 == entry["sha256"] for entry in allowed):
        return
    wrong = "its content does not match its SHA-256"
    if size not in [entry["size"] for entry in allowed]:
        wrong = f"it has {size:,} bytes, not {allowed[0]['size']:,}"
    raise DamagedError(f"{path} is damaged: {wrong}.")


def verify(folder: Path) -> dict[str, Any]:
    """Verify every file of a committed folder; returns the manifest. Raises DamagedError naming the first bad file."""
    manifest = read_manifest(folder)
    for name in manifest["files"]:
        check_file(folder, name, manifest)
    return manifest


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
        manifest = read_manifest(folder)
    except TextgenError as error:
        return Verification(folder, 0, [str(error)])
    for name in manifest["files"]:
        try:
            check_file(folder, name, manifest)
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
        arguments = read_json(run / ARGUMENTS)
        key, corpus = str(arguments["store"]), [Path(path) for path in arguments["corpus"]]
    except (TextgenError, KeyError, TypeError):
        return None
    if "/" in key or "\\" in key or key in ("", ".", ".."):
        return None
    return next((path for path in (run.parent / TOKENS / key, *corpus) if (path / MANIFEST).is_file()), None)


def log_lines(path: Path) -> list[bytes]:
    """The lines of a log with their line ends; no lines if there is no log. Raises DamagedError for anything but a
    regular file: links are not followed, and a named pipe does not block."""
    if not path.is_symlink() and not path.exists():
        return []
    with opened(path, sys.maxsize) as file:
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

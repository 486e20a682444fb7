"""Reading sealed folders and strict JSON: the size and SHA-256 of every file are verified, and no code is run.

A damaged file is named. Links are not followed, and only regular files are opened.
"""

from __future__ import annotations

import hashlib
import json
import os
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from textgen.disk import PASSING
from textgen.errors import TextgenError
from textgen.strict_json import finite, refuse_constant, to_json, unique_keys

MANIFEST = "manifest.json"
FORMAT_VERSION = 1
"""The version of everything in sealed folders: models, checkpoints, tokens, examples. It is raised with any change."""

JSON_LIMIT, MOST_TABLES = 32 << 20, 1 << 21
"""The largest JSON that is read, in bytes, and how many lists and objects it may have: each takes a hundred bytes."""
_READ_FLAGS = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0)


class DamagedError(TextgenError):
    """A file is missing, truncated or changed; the message names it."""


def seal(about: Mapping[str, Any]) -> bytes:
    """The bytes of a manifest, its own digest last."""
    manifest = {"format_version": FORMAT_VERSION, **about}
    return to_json({**manifest, "sha256": _digest(manifest)})


def _digest(manifest: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(manifest).encode()).hexdigest()


@contextmanager
def opened(path: Path, limit: int) -> Iterator[BinaryIO]:
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
        kind = TextgenError if error.errno in PASSING else DamagedError
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


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of a committed folder, with its structure and digest verified. Raises DamagedError, or TextgenError
    if its format is of another version."""
    path = folder / MANIFEST
    manifest = read_json(path)
    version, files, seal = manifest.get("format_version"), manifest.get("files"), manifest.pop("sha256", None)
    if type(version) is not int or version < 1:
        raise DamagedError(f"{path} is damaged: format_version must be a whole number from 1, not {version!r}.")
    if version != FORMAT_VERSION:
        hint = "upgrade textgen-lm." if version > FORMAT_VERSION else None
        raise TextgenError(f"{path} has format {version}; this textgen reads format {FORMAT_VERSION}.", hint=hint)
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
    digest, size = hashlib.sha256(), 0
    with opened(folder / name, limit=max(entry["size"] for entry in allowed)) as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
            size += len(chunk)
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
    if size not in [entry["size"] for entry in allowed]:
        raise DamagedError(f"{path} is damaged: it has {size:,} bytes, not {allowed[0]['size']:,}.")
    raise DamagedError(f"{path} is damaged: its content does not match its SHA-256.")


def verify(folder: Path) -> dict[str, Any]:
    """Verify every file of a committed folder; returns the manifest. Raises DamagedError naming the first bad file."""
    manifest = read_manifest(folder)
    for name in manifest["files"]:
        check_file(folder, name, manifest)
    return manifest

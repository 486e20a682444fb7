"""Every durable write of the project, and the reading that trusts nothing.

A file is replaced by writing another beside it, syncing, renaming, and syncing the folder. A folder appears whole: it
is filled under a temporary name, `manifest.json` (the size and SHA-256 of each file, and its own) last, and then
renamed. So what can be seen is complete, and damage is found by its digest and named. Files are data; nothing here
runs anything.
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

from textgen.disk import PASSING, System, naming
from textgen.disk import lock as lock
from textgen.errors import TextgenError
from textgen.strict_json import finite, refuse_constant, unique_keys

MANIFEST = "manifest.json"
FORMAT_VERSION = 1
PIECE = 1 << 16
JSON_LIMIT, MOST_TABLES = 32 << 20, 1 << 21
"""Bytes of the longest JSON that is read, and how many lists and tables it may hold: each takes a hundred bytes."""
_TEMPORARY = ".tmp-"
_READ_FLAGS = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0)


class DamagedError(TextgenError):
    """A file is missing, cut short or changed; the message names it."""


system = System()


class FileWriter:
    """A new file, written in pieces; knows its size and digest. Errors name `target`, which it is going to be."""

    def __init__(self, path: Path, target: Path) -> None:
        self.size = 0
        self._digest = hashlib.sha256()
        self._target = target
        with naming(target):
            self._handle: int | None = system.open(path)

    def write(self, data: bytes) -> None:
        """Append data; a short write is continued, never ignored."""
        assert self._handle is not None
        view = memoryview(data)
        while view:
            with naming(self._target, missing=len(view)):
                written = system.write(self._handle, view[:PIECE])
            self._digest.update(view[:written])
            self.size += written
            view = view[written:]

    def finish(self) -> dict[str, Any]:
        """Sync and close; returns what the manifest says of the file."""
        assert self._handle is not None
        with naming(self._target):
            system.fsync(self._handle)
            handle, self._handle = self._handle, None
            system.close(handle)
        return {"size": self.size, "sha256": self._digest.hexdigest()}

    def abandon(self) -> None:
        """Close the file if it is open; a fault now would only hide the one that led here."""
        if self._handle is not None:
            handle, self._handle = self._handle, None
            with suppress(OSError):
                system.close(handle)


def write_file(path: Path, content: bytes) -> dict[str, Any]:
    """Create or replace one file: whole or not at all. Returns its size and digest."""
    temporary = path.with_name(f".{path.name}{_TEMPORARY}{secrets.token_hex(4)}")
    try:
        writer = FileWriter(temporary, path)
        try:
            writer.write(content)
            entry = writer.finish()
        finally:
            writer.abandon()
        with naming(path):
            system.rename(temporary, path)
    except BaseException:
        with suppress(OSError):
            system.unlink(temporary)
        raise
    with naming(path):
        system.sync_folder(path.parent)
    return entry


def append(path: Path, content: bytes, durable: bool = False) -> None:
    """Add to the end of a file that only grows. Until something durable is added, a power cut may take its end."""
    with naming(path, missing=len(content)):
        handle = system.append(path)
        try:
            view = memoryview(content)
            while view:
                view = view[system.write(handle, view) :]
            if durable:
                system.fsync(handle)
        finally:
            system.close(handle)


class FolderWriter:
    """A folder under construction: `create` files, then leave the `new_folder` block to make it appear."""

    def __init__(self, temporary: Path, target: Path) -> None:
        self._temporary, self._target = temporary, target
        self._open: dict[str, FileWriter] = {}
        self.about: dict[str, Any] = {}

    def create(self, name: str) -> FileWriter:
        """A new file to write to in pieces."""
        self._open[name] = FileWriter(self._temporary / name, self._target / name)
        return self._open[name]

    def write(self, name: str, content: bytes) -> None:
        """A new file in one piece."""
        self.create(name).write(content)

    def finish(self) -> None:
        entries = {name: writer.finish() for name, writer in self._open.items()}
        manifest = FileWriter(self._temporary / MANIFEST, self._target / MANIFEST)
        try:
            manifest.write(_sealed({"format_version": FORMAT_VERSION, "files": entries, **self.about}))
            manifest.finish()
        finally:
            manifest.abandon()
        with naming(self._target):
            system.sync_folder(self._temporary)

    def abandon(self) -> None:
        for writer in self._open.values():
            writer.abandon()


@contextmanager
def new_folder(target: Path) -> Iterator[FolderWriter]:
    """Fill a folder that appears as `target`, whole, when the block ends without an error.

    Raises FileExistsError if target exists: a committed folder is never rewritten.
    """
    make_parents(target.parent)
    if target.exists():
        raise FileExistsError(f"{target} exists already")
    temporary = target.with_name(f".{target.name}{_TEMPORARY}{secrets.token_hex(4)}")
    with naming(target):
        system.mkdir(temporary)
    writer = FolderWriter(temporary, target)
    try:
        yield writer
        writer.finish()
        with naming(target):
            system.rename(temporary, target)
    except BaseException:
        writer.abandon()
        with suppress(OSError):
            _remove_all(temporary)
        raise
    with naming(target):
        system.sync_folder(target.parent)


def make_parents(folder: Path) -> None:
    """Create a folder and those above it, each synced into its parent."""
    if not folder.is_dir():
        make_parents(folder.parent)
        with naming(folder):
            with suppress(FileExistsError):
                system.mkdir(folder)
            system.sync_folder(folder.parent)


def replace_in_folder(folder: Path, name: str, content: bytes) -> None:
    """Replace one file of a committed folder and its line in the manifest.

    Two files cannot be renamed at once, so the manifest first allows both digests, then the file changes, then the
    manifest allows the new one alone. A crash between leaves a folder that verifies, and so do several in a row: what
    was allowed before stays allowed until a replacement is complete.
    """
    manifest = read_manifest(folder)
    new = {"size": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    if name in manifest["files"]:
        manifest["files"][name] = {**new, "before": _allowed(folder, name, manifest)}
        write_file(folder / MANIFEST, _sealed(manifest))
    write_file(folder / name, content)
    manifest["files"][name] = new
    write_file(folder / MANIFEST, _sealed(manifest))


def remove_folder(folder: Path) -> None:
    """Remove a committed folder; it stops being visible in one step, and before its files go."""
    hidden = folder.with_name(f".{folder.name}{_TEMPORARY}{secrets.token_hex(4)}")
    with naming(folder):
        system.rename(folder, hidden)
        system.sync_folder(folder.parent)
        _remove_all(hidden)


def _remove_all(path: Path) -> None:
    """Remove a file, or a folder with all that is in it; links are not followed."""
    if path.is_dir() and not path.is_symlink():
        for each in path.iterdir():
            _remove_all(each)
        system.rmdir(path)
    else:
        system.unlink(path)


def clean(folder: Path) -> None:
    """Remove what interrupted writes left behind. Call it only while holding the folder's lock."""
    for left in folder.glob(f".*{_TEMPORARY}*"):
        with suppress(OSError):
            _remove_all(left)


def to_json(content: Any) -> bytes:
    """Strict, stable JSON: sorted as given, no NaN, a final newline; what is no Unicode (as in a name) escaped."""
    text = json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    return text.encode("utf-8", "backslashreplace")


def _sealed(manifest: Mapping[str, Any]) -> bytes:
    """A manifest as it is stored, its own digest last."""
    return to_json({**manifest, "sha256": _seal(manifest)})


def _seal(manifest: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(manifest).encode()).hexdigest()


@contextmanager
def opened(path: Path, limit: int) -> Iterator[BinaryIO]:
    """A regular file of at most `limit` bytes, for reading. Raises DamagedError naming what is anything else, and
    what cannot be read to its end; TextgenError where that is no fault of the file."""
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
    """A JSON object from a file. Raises DamagedError naming the file and what is wrong."""
    with opened(path, JSON_LIMIT) as file:
        return parse_json(file.read(), str(path))


def parse_json(data: bytes, name: str) -> dict[str, Any]:
    """A JSON object from bytes: finite numbers, no duplicate keys, bounded depth. Raises DamagedError with the name."""
    if data.count(b"[") + data.count(b"{") > MOST_TABLES:
        raise DamagedError(f"{name} is damaged: it holds more than {MOST_TABLES:,} lists and tables.")
    try:
        content = json.loads(
            data.decode(), parse_float=finite, parse_constant=refuse_constant, object_pairs_hook=unique_keys
        )
    except (ValueError, RecursionError) as error:
        raise DamagedError(f"{name} is damaged: {str(error) or 'nested too deeply'}.") from None
    if not isinstance(content, dict):
        raise DamagedError(f"{name} is damaged: a table is expected, not {type(content).__name__}.")
    return content


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of a committed folder, its form and its own digest checked. Raises DamagedError."""
    path = folder / MANIFEST
    manifest = read_json(path)
    version, files, seal = manifest.get("format_version"), manifest.get("files"), manifest.pop("sha256", None)
    if type(version) is not int or version < 1:
        raise DamagedError(f"{path} is damaged: format_version must be a whole number from 1, not {version!r}.")
    if version > FORMAT_VERSION:
        raise TextgenError(
            f"{path} has format {version}; this textgen reads up to {FORMAT_VERSION}.", hint="upgrade textgen-lm."
        )
    if not isinstance(files, dict):
        raise DamagedError(f"{path} is damaged: it lists no files.")
    for name, entry in files.items():
        if "/" in name or "\\" in name or name in ("", ".", "..") or not name.isprintable():
            raise DamagedError(f"{path} is damaged: {name!r} is no file name.")
        before = entry.get("before", []) if isinstance(entry, dict) else None
        if not (isinstance(before, list) and all(map(_is_entry, [entry, *before]))):
            raise DamagedError(f"{path} is damaged: it does not describe {name!r}.")
    if seal != _seal(manifest):
        raise DamagedError(f"{path} is damaged: its content does not match its SHA-256.")
    return manifest


def _is_entry(entry: Any) -> bool:
    return isinstance(entry, dict) and type(entry.get("size")) is int and type(entry.get("sha256")) is str


def verified(folder: Path, name: str, manifest: Mapping[str, Any] | None = None, limit: int | None = None) -> bytes:
    """The content of one file of a committed folder, held to its digest and to `limit` bytes, if that is given.

    Raises DamagedError naming the file."""
    allowed = _allowed(folder, name, manifest or read_manifest(folder))
    largest = max(entry["size"] for entry in allowed)
    with opened(folder / name, largest if limit is None else min(limit, largest)) as file:
        content = file.read()
    _hold_to(allowed, folder / name, len(content), hashlib.sha256(content).hexdigest())
    return content


def check_file(folder: Path, name: str, manifest: Mapping[str, Any]) -> None:
    """As `verified`, in bounded memory, for files that are going to be mapped. Raises DamagedError naming the file."""
    allowed = _allowed(folder, name, manifest)
    digest, size = hashlib.sha256(), 0
    with opened(folder / name, limit=max(entry["size"] for entry in allowed)) as file:
        while piece := file.read(1 << 20):
            digest.update(piece)
            size += len(piece)
    _hold_to(allowed, folder / name, size, digest.hexdigest())


def _allowed(folder: Path, name: str, manifest: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The size and digest that a file may have: one of each, and more after an interrupted replacement."""
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
    """Check every file of a committed folder; returns the manifest. Raises DamagedError naming the first bad file."""
    manifest = read_manifest(folder)
    for name in manifest["files"]:
        check_file(folder, name, manifest)
    return manifest

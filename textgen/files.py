"""Every durable write of the project, and the reading that trusts nothing.

A file is replaced by writing another beside it, syncing, renaming, and syncing the folder. A folder appears whole: it
is filled under a temporary name, `manifest.json` (the size and SHA-256 of each file) last, and then renamed. So what
can be seen is complete, and damage is found by its digest and named. Files are data; nothing here runs anything.
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import shutil
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from textgen.errors import TextgenError

try:
    import fcntl
except ImportError:  # Windows, where two trainings into one folder are not told apart
    fcntl = None  # type: ignore[assignment]

MANIFEST = "manifest.json"
FORMAT_VERSION = 1
PIECE = 1 << 16
JSON_LIMIT = 64 << 20
_TEMPORARY = ".tmp-"
_READ_FLAGS = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0)


class DamagedError(TextgenError):
    """A file is missing, cut short or changed; the message names it."""


class System:
    """The calls by which bytes become durable. Tests put a faulty one in `system`'s place."""

    def open(self, path: Path) -> int:
        return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0), 0o666)

    def write(self, handle: int, data: bytes | memoryview) -> int:
        return os.write(handle, data)

    def fsync(self, handle: int) -> None:
        os.fsync(handle)

    def close(self, handle: int) -> None:
        os.close(handle)

    def rename(self, old: Path, new: Path) -> None:
        old.replace(new)

    def mkdir(self, path: Path) -> None:
        path.mkdir()

    def unlink(self, path: Path) -> None:
        path.unlink()

    def sync_folder(self, path: Path) -> None:
        if os.name == "nt":  # a folder cannot be synced there
            return
        handle = os.open(path, os.O_RDONLY)
        try:
            self.fsync(handle)
        finally:
            os.close(handle)


system = System()


class FileWriter:
    """A new file, written in pieces; knows its size and digest."""

    def __init__(self, path: Path) -> None:
        self.size = 0
        self._digest = hashlib.sha256()
        self._handle: int | None = system.open(path)

    def write(self, data: bytes) -> None:
        """Append data; a short write is continued, never ignored."""
        assert self._handle is not None
        view = memoryview(data)
        while view:
            written = system.write(self._handle, view[:PIECE])
            self._digest.update(view[:written])
            self.size += written
            view = view[written:]

    def finish(self) -> dict[str, Any]:
        """Sync and close; returns what the manifest says of the file."""
        assert self._handle is not None
        system.fsync(self._handle)
        self.abandon()
        return {"size": self.size, "sha256": self._digest.hexdigest()}

    def abandon(self) -> None:
        if self._handle is not None:
            handle, self._handle = self._handle, None
            system.close(handle)


def write_file(path: Path, content: bytes) -> dict[str, Any]:
    """Create or replace one file: whole or not at all. Returns its size and digest."""
    temporary = path.with_name(f".{path.name}{_TEMPORARY}{secrets.token_hex(4)}")
    try:
        writer = FileWriter(temporary)
        try:
            writer.write(content)
            entry = writer.finish()
        finally:
            writer.abandon()
        system.rename(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    system.sync_folder(path.parent)
    return entry


class FolderWriter:
    """A folder under construction: `create` files, then leave the `new_folder` block to make it appear."""

    def __init__(self, temporary: Path) -> None:
        self._temporary = temporary
        self._open: dict[str, FileWriter] = {}
        self.about: dict[str, Any] = {}

    def create(self, name: str) -> FileWriter:
        """A new file to write to in pieces."""
        self._open[name] = FileWriter(self._temporary / name)
        return self._open[name]

    def write(self, name: str, content: bytes) -> None:
        """A new file in one piece."""
        self.create(name).write(content)

    def finish(self) -> None:
        entries = {name: writer.finish() for name, writer in self._open.items()}
        manifest = FileWriter(self._temporary / MANIFEST)
        try:
            manifest.write(to_json({"format_version": FORMAT_VERSION, "files": entries, **self.about}))
            manifest.finish()
        finally:
            manifest.abandon()
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
    system.mkdir(temporary)
    writer = FolderWriter(temporary)
    try:
        yield writer
        writer.finish()
        system.rename(temporary, target)
    except BaseException:
        writer.abandon()
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    system.sync_folder(target.parent)


def make_parents(folder: Path) -> None:
    """Create a folder and those above it, each synced into its parent."""
    if not folder.is_dir():
        make_parents(folder.parent)
        folder.mkdir(exist_ok=True)
        system.sync_folder(folder.parent)


def replace_in_folder(folder: Path, name: str, content: bytes) -> None:
    """Replace one file of a committed folder and its line in the manifest.

    Two files cannot be renamed at once, so the manifest first allows both digests, then the file changes, then the
    manifest allows the new one alone. A crash between leaves a folder that verifies.
    """
    manifest = read_manifest(folder)
    old = manifest["files"].get(name)
    new = {"size": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    if old is not None:
        manifest["files"][name] = {**new, "before": {"size": old["size"], "sha256": old["sha256"]}}
        write_file(folder / MANIFEST, to_json(manifest))
    write_file(folder / name, content)
    manifest["files"][name] = new
    write_file(folder / MANIFEST, to_json(manifest))


def remove_folder(folder: Path) -> None:
    """Remove a committed folder; it stops being visible in one step."""
    hidden = folder.with_name(f".{folder.name}{_TEMPORARY}{secrets.token_hex(4)}")
    system.rename(folder, hidden)
    shutil.rmtree(hidden)


def clean(folder: Path) -> None:
    """Remove what interrupted writes left behind. Call it only while holding the folder's lock."""
    for left in folder.glob(f".*{_TEMPORARY}*"):
        if left.is_dir() and not left.is_symlink():
            shutil.rmtree(left, ignore_errors=True)
        else:
            left.unlink(missing_ok=True)


@contextmanager
def lock(folder: Path) -> Iterator[None]:
    """Hold a folder for writing. Raises TextgenError if another process does; a dead owner frees it."""
    handle = os.open(folder / ".lock", os.O_RDWR | os.O_CREAT, 0o666)
    try:
        try:
            if fcntl is not None:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise TextgenError(f"another process is training into {str(folder)!r}.") from None
        yield
    finally:
        os.close(handle)


def to_json(content: Any) -> bytes:
    """Strict, stable JSON: sorted as given, no NaN, a final newline."""
    return (json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n").encode()


def read_bytes(path: Path, limit: int | None = None, most: int = -1) -> bytes:
    """The first `most` bytes (all, if -1) of a regular file; links, special files and sizes above `limit` refused.

    Raises DamagedError naming the file.
    """
    try:
        handle = os.open(path, _READ_FLAGS)
    except FileNotFoundError:
        raise DamagedError(f"{path} is missing.") from None
    except OSError as error:
        raise DamagedError(f"{path} cannot be read: {error.strerror}.") from error
    with os.fdopen(handle, "rb") as file:
        status = os.fstat(handle)
        if not stat.S_ISREG(status.st_mode):
            raise DamagedError(f"{path} is not a regular file.")
        if limit is not None and status.st_size > limit:
            raise DamagedError(f"{path} has {status.st_size:,} bytes; at most {limit:,} are expected.")
        return file.read(most)


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file. Raises DamagedError naming the file and what is wrong."""
    return parse_json(read_bytes(path, JSON_LIMIT), str(path))


def parse_json(data: bytes, name: str) -> dict[str, Any]:
    """A JSON object from bytes: no NaN, no duplicate keys, bounded depth. Raises DamagedError with the name."""
    try:
        content = json.loads(data.decode(), parse_constant=_refuse_constant, object_pairs_hook=_unique)
    except (ValueError, RecursionError) as error:
        raise DamagedError(f"{name} is damaged: {str(error) or 'nested too deeply'}.") from None
    if not isinstance(content, dict):
        raise DamagedError(f"{name} is damaged: a table is expected, not {type(content).__name__}.")
    return content


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is no number")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    table = dict(pairs)
    if len(table) < len(pairs):
        raise ValueError("a key stands twice")
    return table


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of a committed folder, its form checked. Raises DamagedError."""
    manifest = read_json(folder / MANIFEST)
    files = manifest.get("files")
    if not isinstance(files, dict):
        raise DamagedError(f"{folder / MANIFEST} is damaged: it lists no files.")
    for name, entry in files.items():
        if "/" in name or "\\" in name or name in ("", ".", "..") or "\0" in name:
            raise DamagedError(f"{folder / MANIFEST} is damaged: {name!r} is no file name.")
        for found in (entry, entry.get("before", entry)) if isinstance(entry, dict) else ({},):
            if not (isinstance(found, dict) and type(found.get("size")) is int and type(found.get("sha256")) is str):
                raise DamagedError(f"{folder / MANIFEST} is damaged: it does not describe {name!r}.")
    return manifest


def verified(folder: Path, name: str, manifest: Mapping[str, Any] | None = None) -> bytes:
    """The content of one file of a committed folder, held to its digest. Raises DamagedError naming the file."""
    allowed = _allowed(folder, name, manifest or read_manifest(folder))
    content = read_bytes(folder / name, limit=max(entry["size"] for entry in allowed))
    _hold_to(allowed, folder / name, len(content), hashlib.sha256(content).hexdigest())
    return content


def check_file(folder: Path, name: str, manifest: Mapping[str, Any]) -> None:
    """As `verified`, in bounded memory, for files that are going to be mapped. Raises DamagedError naming the file."""
    allowed = _allowed(folder, name, manifest)
    read_bytes(folder / name, limit=max(entry["size"] for entry in allowed), most=0)
    digest, size = hashlib.sha256(), 0
    with open(folder / name, "rb") as file:
        while piece := file.read(1 << 20):
            digest.update(piece)
            size += len(piece)
    _hold_to(allowed, folder / name, size, digest.hexdigest())


def _allowed(folder: Path, name: str, manifest: Mapping[str, Any]) -> list[dict[str, Any]]:
    entry = manifest["files"].get(name)
    if entry is None:
        raise DamagedError(f"{folder / MANIFEST} does not list {name!r}.")
    return [entry, *([entry["before"]] if "before" in entry else [])]


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

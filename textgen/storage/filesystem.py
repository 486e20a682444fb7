"""Every durable write of the project, with the system calls behind it in one place, so that tests can make each fail.

A file is replaced by writing another beside it, syncing, renaming, and syncing the folder. A folder appears whole:
it is filled under a temporary name, `manifest.json` last, and then renamed. `textgen.storage` reads it back.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import secrets
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

from textgen.errors import TextgenError
from textgen.storage import FORMAT_VERSION, MANIFEST, allowed_entries, read_manifest, seal
from textgen.storage import to_json as to_json

try:
    import fcntl
except ImportError:  # Windows, where two runs that train into one folder are not detected
    fcntl = None  # type: ignore[assignment]

CHUNK = 1 << 16
UNFINISHED = re.compile(r"\..+\.tmp-[0-9a-f]{8}")  # the names of leftovers of killed processes
FULL = {errno.ENOSPC, errno.EDQUOT}  # errors for a full disk or an exhausted quota
SECONDS_KEPT = 86_400.0  # leftovers that are newer may belong to a process that is still writing
_TEMPORARY = ".tmp-"
_NEW = os.O_WRONLY | os.O_CREAT | getattr(os, "O_BINARY", 0) | getattr(os, "O_CLOEXEC", 0)
_DESCRIPTOR = re.compile(r"/dev/std(in|out|err)|/(?:dev|proc/self)/fd/(\d{1,9})")

Opened = TypeVar("Opened")


class System:
    """The calls to the operating system. Tests replace `system` with a faulty one."""

    def open(self, path: Path) -> int:
        return os.open(path, _NEW | os.O_EXCL, 0o666)

    def append(self, path: Path) -> int:
        return os.open(path, _NEW | os.O_APPEND, 0o666)

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

    def rmdir(self, path: Path) -> None:
        path.rmdir()

    def sync_folder(self, path: Path) -> None:
        if os.name == "nt":  # Windows cannot sync a folder
            return
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)

    def free(self, path: Path) -> int:
        """The bytes free for this user on the disk of a folder, which need not exist yet."""
        while not path.is_dir() and path != path.parent:
            path = path.parent
        return shutil.disk_usage(path).free


system = System()


@contextmanager
def naming(path: Path, missing: int = 0) -> Iterator[None]:
    """Make an OSError name the file being written, and on a full disk how many bytes are missing."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        if missing and error.errno in FULL:
            reason += f" ({missing:,} bytes are not written)"
        raise OSError(error.errno, reason, str(path)) from error


class FileWriter:
    """A new file, written in chunks, with its size and digest. Errors name `target`, its final path."""

    def __init__(self, path: Path, target: Path) -> None:
        self.size = 0
        self._digest = hashlib.sha256()
        self._target = target
        with naming(target):
            self._handle: int | None = system.open(path)

    def write(self, data: bytes) -> None:
        """Append data; a short write is continued."""
        assert self._handle is not None
        view = memoryview(data)
        while view:
            with naming(self._target, missing=len(view)):
                written = system.write(self._handle, view[:CHUNK])
            self._digest.update(view[:written])
            self.size += written
            view = view[written:]

    def finish(self) -> dict[str, Any]:
        """Sync and close; returns the entry for the manifest."""
        assert self._handle is not None
        with naming(self._target):
            system.fsync(self._handle)
            handle, self._handle = self._handle, None
            system.close(handle)
        return {"size": self.size, "sha256": self._digest.hexdigest()}

    def abandon(self) -> None:
        """Close the file if it is open. Errors are ignored: they would hide the one that led here."""
        if self._handle is not None:
            handle, self._handle = self._handle, None
            with suppress(OSError):
                system.close(handle)


def write_file(path: Path, content: bytes) -> dict[str, Any]:
    """Create or replace one file, completely or not at all. Returns its size and digest."""
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


def descriptor_of(path: Path) -> int | None:
    """The file descriptor that a path such as /dev/stdout or /dev/fd/3 names; None for any other path."""
    found = _DESCRIPTOR.fullmatch(str(path))
    if found is None:
        return None
    return int(found[2]) if found[2] else ("in", "out", "err").index(found[1])


def write_output(path: Path, content: bytes) -> None:
    """Write an output file that the user named, as `write_file` does.

    A link is kept and its target replaced. A pipe, a terminal or an open file (/dev/stdout) is written to directly.
    """
    if (handle := descriptor_of(path)) is not None:
        with naming(path), open(handle, "wb", closefd=False) as output:
            output.write(content)
        return
    path = path.resolve()
    if path.is_file() or not path.exists():
        write_file(path, content)
    else:
        with naming(path), path.open("wb") as output:
            output.write(content)


def append(path: Path, content: bytes, durable: bool = False) -> None:
    """Append to a file. A power cut may lose what was appended since the last `durable` call."""
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
    """A folder under construction: `create` files, then leave the `new_folder` block to make it visible."""

    def __init__(self, temporary: Path, target: Path) -> None:
        self._temporary, self._target = temporary, target
        self._open: dict[str, FileWriter] = {}
        self.about: dict[str, Any] = {}

    def create(self, name: str) -> FileWriter:
        """A new file to write in chunks."""
        self._open[name] = FileWriter(self._temporary / name, self._target / name)
        return self._open[name]

    def write(self, name: str, content: bytes) -> None:
        """A new file with this content."""
        self.create(name).write(content)

    def finish(self) -> None:
        entries = {name: writer.finish() for name, writer in self._open.items()}
        self.write(MANIFEST, seal({"files": entries, **self.about}))
        self._open[MANIFEST].finish()
        with naming(self._target):
            system.sync_folder(self._temporary)

    def abandon(self) -> None:
        for writer in self._open.values():
            writer.abandon()


@contextmanager
def new_folder(target: Path, replace: bool = False) -> Iterator[FolderWriter]:
    """Fill a folder that appears as `target` when the block ends without an error.

    Raises FileExistsError if target exists. With `replace` that folder is removed once the new one is complete.
    """
    make_parents(target.parent)
    if target.exists() and not replace:
        raise FileExistsError(f"{target} exists already")
    temporary = target.with_name(f".{target.name}{_TEMPORARY}{secrets.token_hex(4)}")
    with naming(target):
        system.mkdir(temporary)
    writer = FolderWriter(temporary, target)
    try:
        yield writer
        writer.finish()
        if replace and target.exists():
            remove_folder(target)
        with naming(target):
            system.rename(temporary, target)
    except BaseException as error:
        writer.abandon()
        with suppress(OSError):
            _remove_all(temporary)
        if isinstance(error, OSError) and error.errno in (errno.ENOTEMPTY, errno.EEXIST):  # another process was faster
            raise FileExistsError(f"{target} exists already") from None
        raise
    with naming(target):
        system.sync_folder(target.parent)


def make_parents(folder: Path) -> None:
    """Create a folder and its missing parents, and sync the parent of each."""
    if not folder.is_dir():
        make_parents(folder.parent)
        with naming(folder):
            with suppress(FileExistsError):
                system.mkdir(folder)
            system.sync_folder(folder.parent)


def replace_in_folder(folder: Path, name: str, content: bytes) -> None:
    """Replace one file of a committed folder and its entry in the manifest.

    Two files cannot be renamed at once. So the manifest first allows both digests, then the file is replaced, then the
    manifest allows only the new digest. After a crash in between, or several in a row, the folder still verifies: a
    digest stays allowed until a replacement is complete.
    """
    manifest = read_manifest(folder)
    new = {"size": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    if name in manifest["files"]:
        manifest["files"][name] = {**new, "before": allowed_entries(folder, name, manifest)}
        write_file(folder / MANIFEST, seal(manifest))
    write_file(folder / name, content)
    manifest["files"][name] = new
    write_file(folder / MANIFEST, seal(manifest))


def remove_folder(folder: Path) -> None:
    """Remove a committed folder. It disappears in one step, before its files are deleted."""
    hidden = folder.with_name(f".{folder.name}{_TEMPORARY}{secrets.token_hex(4)}")
    with naming(folder):
        system.rename(folder, hidden)
        system.sync_folder(folder.parent)
        _remove_all(hidden)


def _remove_all(path: Path) -> None:
    """Remove a file, or a folder with its content; links are not followed."""
    if path.is_dir() and not path.is_symlink():
        for each in path.iterdir():
            _remove_all(each)
        system.rmdir(path)
    else:
        system.unlink(path)


@contextmanager
def lock(folder: Path, patience: float = 0.0) -> Iterator[None]:
    """Lock a folder for writing. Raises TextgenError if another process holds it, and does so for `patience` seconds;
    the lock dies with its process."""
    handle = os.open(folder / ".lock", os.O_RDWR | os.O_CREAT, 0o666)
    try:
        try:
            if fcntl is not None:
                _flock(handle, time.monotonic() + patience)
        except BlockingIOError:
            raise TextgenError(f"another process is training into {str(folder)!r}.") from None
        yield
    finally:
        os.close(handle)


def _flock(handle: int, until: float) -> None:
    """Lock an open file, trying again for some time. Raises BlockingIOError."""
    while True:
        try:
            return fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= until:
                raise
        time.sleep(0.1)


def clean(folder: Path) -> None:
    """Remove leftovers of interrupted writes. Call it only while holding the folder's lock."""
    for left in folder.glob(f".*{_TEMPORARY}*"):
        with suppress(OSError):
            _remove_all(left)


def sweep(folder: Path) -> None:
    """Remove leftovers of killed processes in a folder that several processes write to, if untouched for a day."""
    for left in filter(lambda path: UNFINISHED.fullmatch(path.name), folder.glob(".*.tmp-*")):
        with suppress(OSError):
            touched = max(path.lstat().st_mtime for path in [left, *left.rglob("*")])
            if time.time() - touched > SECONDS_KEPT:
                _remove_all(left)


def cached(folder: Path, open: Callable[[Path], Opened], write: Callable[[], object]) -> Opened:
    """Open a committed folder of a cache; if it is missing or damaged, `write` creates it first.

    Leftovers of killed processes beside it, and beside the cache, are removed.
    """
    for place in (folder.parent, folder.parent.parent):
        sweep(place)
    if folder.is_dir():
        try:
            return open(folder)
        except TextgenError:
            remove_folder(folder)
    with suppress(FileExistsError):  # another process was faster
        write()
    return open(folder)


def cache_key(*parts: object) -> str:
    """A digest of the format version and of everything that a cached folder depends on: JSON values, bytes, arrays."""

    def from_buffer(part: Any) -> list[Any]:
        view = memoryview(part)
        return [view.format, view.shape, hashlib.sha256(view.tobytes()).hexdigest()]

    return hashlib.sha256(json.dumps([FORMAT_VERSION, *parts], default=from_buffer).encode()).hexdigest()[:16]

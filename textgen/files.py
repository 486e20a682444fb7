"""Every durable write of the project.

A file is replaced by writing another beside it, syncing, renaming, and syncing the folder. A folder appears whole: it
is filled under a temporary name, `manifest.json` (the size and SHA-256 of each file, and its own) last, and then
renamed. So what can be seen is complete; how it is read back, `textgen.sealed` says.
"""

from __future__ import annotations

import errno
import hashlib
import json
import re
import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

from textgen.disk import System, naming, sweep
from textgen.disk import lock as lock
from textgen.errors import TextgenError
from textgen.sealed import MANIFEST, allowed_entries, read_manifest, seal
from textgen.strict_json import to_json as to_json

PIECE = 1 << 16
_TEMPORARY = ".tmp-"

Opened = TypeVar("Opened")

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


_DESCRIPTOR = re.compile(r"/dev/std(in|out|err)|/(?:dev|proc/self)/fd/(\d{1,9})")


def descriptor_of(path: Path) -> int | None:
    """The number of the open file that a path such as /dev/stdout or /dev/fd/3 stands for."""
    found = _DESCRIPTOR.fullmatch(str(path))
    if found is None:
        return None
    return int(found[2]) if found[2] else ("in", "out", "err").index(found[1])


def write_output(path: Path, content: bytes) -> None:
    """Write an output that the user named, as `write_file` does.

    A link stays, and the file it points to is replaced. A pipe, a terminal or an open file (/dev/stdout) is written to.
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
            manifest.write(seal({"files": entries, **self.about}))
            manifest.finish()
        finally:
            manifest.abandon()
        with naming(self._target):
            system.sync_folder(self._temporary)

    def abandon(self) -> None:
        for writer in self._open.values():
            writer.abandon()


@contextmanager
def new_folder(target: Path, replace: bool = False) -> Iterator[FolderWriter]:
    """Fill a folder that appears as `target`, whole, when the block ends without an error.

    Raises FileExistsError if target exists. With `replace` that folder is removed, but only once the new one is whole.
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
        if isinstance(error, OSError) and error.errno in (errno.ENOTEMPTY, errno.EEXIST):  # another was faster
            raise FileExistsError(f"{target} exists already") from None
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
        manifest["files"][name] = {**new, "before": allowed_entries(folder, name, manifest)}
        write_file(folder / MANIFEST, seal(manifest))
    write_file(folder / name, content)
    manifest["files"][name] = new
    write_file(folder / MANIFEST, seal(manifest))


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
    """A digest of everything that the content of a cached folder depends on: JSON values, bytes and arrays."""

    def from_buffer(part: Any) -> list[Any]:
        view = memoryview(part)
        return [view.format, view.shape, hashlib.sha256(view.tobytes()).hexdigest()]

    return hashlib.sha256(json.dumps(parts, default=from_buffer).encode()).hexdigest()[:16]

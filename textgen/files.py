"""Every durable write of the project.

To replace a file, a temporary file beside it is written, synced and renamed, and then the folder is synced. A folder is
filled under a temporary name, `manifest.json` last (the size and SHA-256 of each file, and its own SHA-256), and then
renamed. So every visible file and folder is complete. `textgen.sealed` reads them back.
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
from textgen.sealed import FORMAT_VERSION, MANIFEST, allowed_entries, read_manifest, seal
from textgen.strict_json import to_json as to_json

CHUNK = 1 << 16
_TEMPORARY = ".tmp-"

Opened = TypeVar("Opened")

system = System()


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


_DESCRIPTOR = re.compile(r"/dev/std(in|out|err)|/(?:dev|proc/self)/fd/(\d{1,9})")


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


def clean(folder: Path) -> None:
    """Remove leftovers of interrupted writes. Call it only while holding the folder's lock."""
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
    """A digest of the format version and of everything that a cached folder depends on: JSON values, bytes, arrays."""

    def from_buffer(part: Any) -> list[Any]:
        view = memoryview(part)
        return [view.format, view.shape, hashlib.sha256(view.tobytes()).hexdigest()]

    return hashlib.sha256(json.dumps([FORMAT_VERSION, *parts], default=from_buffer).encode()).hexdigest()[:16]

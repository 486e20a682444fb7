"""The calls by which bytes become durable, in one place so that tests can make each of them fail."""

from __future__ import annotations

import errno
import os
import re
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from textgen.errors import TextgenError

try:
    import fcntl
except ImportError:  # Windows, where two trainings into one folder are not told apart
    fcntl = None  # type: ignore[assignment]

FULL = {errno.ENOSPC, errno.EDQUOT}
"""Errors of a disk, or of a person's share of it, that has no place left."""

PASSING = {errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EACCES, errno.EPERM}
"""Errors of reading that say nothing about the file itself."""

_A_DAY = 86_400.0  # seconds
_NEW = os.O_WRONLY | os.O_CREAT | getattr(os, "O_BINARY", 0) | getattr(os, "O_CLOEXEC", 0)


class System:
    """What is asked of the operating system. Tests put a faulty one in the place of `textgen.files.system`."""

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
        if os.name == "nt":  # a folder cannot be synced there
            return
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)

    def free(self, path: Path) -> int:
        """Bytes that a person may still write to the disk of a folder, which need not exist yet."""
        while not path.is_dir() and path != path.parent:
            path = path.parent
        return shutil.disk_usage(path).free


@contextmanager
def naming(path: Path, missing: int = 0) -> Iterator[None]:
    """Let an OSError name the file that was to be written, and on a full disk the bytes that found no place there."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        if missing and error.errno in FULL:
            reason += f" ({missing:,} bytes of it are not written)"
        raise OSError(error.errno, reason, str(path)) from error


UNFINISHED = re.compile(r"\..+\.tmp-[0-9a-f]{8}")
"""The name of what a killed process leaves behind where it was writing (see `textgen.files`)."""


def sweep(folder: Path) -> None:
    """Remove what killed processes left unfinished in a folder that several write to: what nobody touched for a day."""
    for left in filter(lambda path: UNFINISHED.fullmatch(path.name), folder.glob(".*.tmp-*")):
        with suppress(OSError):
            touched = max(path.lstat().st_mtime for path in [left, *left.rglob("*")])
            if time.time() - touched > _A_DAY:
                shutil.rmtree(left) if left.is_dir() else left.unlink()


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

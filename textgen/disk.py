"""The system calls of durable writes, in one place so that tests can make each of them fail."""

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
except ImportError:  # Windows, where two runs that train into one folder are not detected
    fcntl = None  # type: ignore[assignment]

FULL = {errno.ENOSPC, errno.EDQUOT}
"""Errors for a full disk or an exhausted quota."""

PASSING = {errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EACCES, errno.EPERM}
"""Read errors that are not the fault of the file."""

_NEW = os.O_WRONLY | os.O_CREAT | getattr(os, "O_BINARY", 0) | getattr(os, "O_CLOEXEC", 0)


class System:
    """The calls to the operating system. Tests replace `textgen.files.system` with a faulty one."""

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


UNFINISHED = re.compile(r"\..+\.tmp-[0-9a-f]{8}")
"""The names of leftovers of killed processes (see `textgen.files`)."""

SECONDS_KEPT = 86_400.0
"""Leftovers that are newer than this may belong to a process that is still writing."""


def sweep(folder: Path) -> None:
    """Remove leftovers of killed processes in a folder that several processes write to, if untouched for a day."""
    for left in filter(lambda path: UNFINISHED.fullmatch(path.name), folder.glob(".*.tmp-*")):
        with suppress(OSError):
            touched = max(path.lstat().st_mtime for path in [left, *left.rglob("*")])
            if time.time() - touched > SECONDS_KEPT:
                shutil.rmtree(left) if left.is_dir() else left.unlink()


@contextmanager
def lock(folder: Path) -> Iterator[None]:
    """Lock a folder for writing. Raises TextgenError if another process holds it; the lock dies with its process."""
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

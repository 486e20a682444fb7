"""Files that are somewhere: on this disk, behind http, on the Hub, or at any address that fsspec knows.

A file is listed with its size, and copied whole, or a part of it. What fails for a while (a dropped connection, a busy
server, fewer bytes than announced) is tried again, with growing pauses; then the error names the address.
"""

from __future__ import annotations

import http.client
import shutil
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from textgen.data.recipes import PREFIX, find, parse
from textgen.data.sources import READABLE_ENDINGS, find_sources, is_address
from textgen.errors import TextgenError, UsageError
from textgen.options import named
from textgen.storage import filesystem

RETRIES, FIRST_PAUSE, LONGEST_PAUSE = 6, 0.5, 60.0
"""How often an address is tried, the seconds before the second attempt, which double, and the longest pause that a
server may ask for."""

TIMEOUT_SECONDS = 30.0
"""How long a server may say nothing."""

BLOCK = 1 << 20
HTTP = ("http://", "https://")
_BUSY = {408, 425, 429, 500, 502, 503, 504}


@dataclass(frozen=True)
class RemoteFile:
    """A file with its size in bytes, None if its server does not say."""

    address: str
    size: int | None

    @property
    def is_local(self) -> bool:
        return not is_address(self.address)


class _PassingError(Exception):
    """An error that the next attempt may not meet; `pause` is how long the server asks to wait."""

    def __init__(self, reason: str, pause: float = 0.0) -> None:
        super().__init__(reason)
        self.pause = pause


def find_files(paths: Sequence[str]) -> list[RemoteFile]:
    """The files that corpus arguments name: files, folders and patterns of this disk, `hub:` names, and addresses, with
    patterns where the file system behind them has a listing. Raises UsageError or TextgenError, naming the address."""
    found: list[RemoteFile] = []
    if recipe := find(paths):
        raise UsageError(f"{recipe.name!r} is a corpus by name, which is small: omit {named('stream')}.")
    for path in paths:
        if path == "-":
            raise UsageError("a stream reads files; standard input can be read only once.")
        if path.startswith(HTTP):
            found.append(RemoteFile(path, _tried(path, lambda path=path: _http_size(path))))
        elif path.startswith(PREFIX):
            found += _listed(_parquet_of(path))
        elif is_address(path):
            found += _listed(path)
        else:
            sources = find_sources([path])
            found += [RemoteFile(str(source.path.absolute()), source.path.stat().st_size) for source in sources]
    return found


def _parquet_of(typed: str) -> str:
    """The files of a data set on the Hub, which keeps every data set as parquet, too."""
    name, config, split = parse(typed)
    return f"hf://datasets/{name}@refs%2Fconvert%2Fparquet/{config or 'default'}/{split}/*.parquet"


def _listed(address: str) -> list[RemoteFile]:
    """The files behind an address of fsspec: those that match it as a pattern, those of a folder, or the one."""

    def listing() -> list[RemoteFile]:
        import fsspec

        protocol = address.partition("://")[0]
        with _known(address):
            system, path = fsspec.core.url_to_fs(address)
        names = sorted(system.glob(path)) if any(sign in path for sign in "*?[") else [path]
        if len(names) == 1 and system.isdir(names[0]):
            names = sorted(name for name in system.find(names[0]) if name.lower().endswith(READABLE_ENDINGS))
        files = [(name, system.info(name)) for name in names]
        return [RemoteFile(f"{protocol}://{name.lstrip('/') if protocol != 'file' else name}", info.get("size"))
                for name, info in files]  # fmt: skip

    found: list[RemoteFile] = _tried(address, listing)
    if not found:
        raise TextgenError(f"no file is found at {address!r}.")
    return found


@contextmanager
def _known(address: str) -> Iterator[None]:
    """A block that opens the file system of an address. Raises UsageError if fsspec does not know it."""
    try:
        yield
    except (ImportError, ValueError) as error:
        raise UsageError(
            f"{address!r} cannot be opened: {error}.", hint="install the package that it names."
        ) from error


def fetch(file: RemoteFile, target: Path, start: int = 0, stop: int | None = None) -> None:
    """Copy a file, or the bytes from `start` to `stop` of a local one. Raises TextgenError naming the address, if it
    cannot be read, or does not have the size that it had."""
    if file.is_local:
        with Path(file.address).open("rb") as source, target.open("wb") as copy:
            source.seek(start)
            _copied(source, copy, (file.size if stop is None else stop) - start if file.size is not None else None)
        return

    def attempt() -> None:
        with target.open("wb") as copy:
            if file.address.startswith(HTTP):
                _download(file, copy)
            else:
                _copy_from(file, copy)

    _tried(file.address, attempt)


def _tried(address: str, attempt: Any) -> Any:
    """The result of an attempt that may fail for a while. Raises TextgenError with the last reason."""
    pause, reason = FIRST_PAUSE, ""
    for number in range(RETRIES):
        try:
            return attempt()
        except TextgenError:
            raise
        except Exception as error:  # file systems of many kinds may raise anything
            if isinstance(error, OSError) and error.errno in filesystem.FULL:
                raise  # of this disk, which waiting does not help
            passing = _passing(error)
            reason = str(passing or error) or type(error).__name__
            if passing is None:
                break
            if number + 1 < RETRIES:
                time.sleep(min(LONGEST_PAUSE, max(pause, passing.pause)))
                pause *= 2
    reason = reason.strip().rstrip(".")
    raise TextgenError(
        f"{address!r} cannot be read: {reason}.", hint="check the address; a run that has begun can be resumed."
    )


def _passing(error: Exception) -> _PassingError | None:
    """The error, if the next attempt may succeed; None if it cannot."""
    if isinstance(error, _PassingError):
        return error
    if isinstance(error, urllib.error.HTTPError):
        asked = 0.0
        with suppress(ValueError, TypeError):
            asked = float(error.headers.get("Retry-After", 0))
        return _PassingError(f"the server answers {error.code}", asked) if error.code in _BUSY else None
    if isinstance(error, FileNotFoundError | PermissionError | IsADirectoryError):
        return None
    if isinstance(error, OSError | http.client.HTTPException | TimeoutError):
        reason = error.reason if isinstance(error, urllib.error.URLError) else error
        said = reason.strerror if isinstance(reason, OSError) and reason.strerror else str(reason)
        return _PassingError(said or type(error).__name__)
    return None


def _http_size(address: str) -> int | None:
    request = urllib.request.Request(address, method="HEAD")
    with urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS) as answer:
        length = answer.headers.get("Content-Length")
    return int(length) if length and length.isdecimal() else None


def _download(file: RemoteFile, copy: BinaryIO) -> None:
    with urllib.request.urlopen(file.address, timeout=TIMEOUT_SECONDS) as answer:
        length = answer.headers.get("Content-Length")
        wanted = int(length) if length and length.isdecimal() else None
        size = _copied(answer, copy, None)
    _require(size, wanted, "the connection ended")
    _require(size, file.size, "the file has changed, or its server names a wrong size")


def _copy_from(file: RemoteFile, copy: BinaryIO) -> None:
    import fsspec

    system, path = fsspec.core.url_to_fs(file.address)
    with system.open(path, "rb") as source:
        size = _copied(source, copy, None)
    _require(size, file.size, "the file has changed, or its server names a wrong size")


def _copied(source: Any, copy: BinaryIO, wanted: int | None) -> int:
    """Copy at most `wanted` bytes, None for all; returns how many there were."""
    if wanted is None:
        shutil.copyfileobj(source, copy, BLOCK)
        return copy.tell()
    left = wanted
    while left and (block := source.read(min(BLOCK, left))):
        copy.write(block)
        left -= len(block)
    return wanted - left


def _require(size: int, wanted: int | None, reason: str) -> None:
    if wanted is not None and size != wanted:
        raise _PassingError(f"{reason}: {size:,} bytes of {wanted:,} came")

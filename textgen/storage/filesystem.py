"""Every durable write of the project, and which files may be overwritten.

A file is replaced by writing another beside it, syncing, renaming, and syncing the folder. A folder appears whole:
it is filled under a temporary name, `manifest.json` last, and then renamed. `textgen.storage` reads it back.

A file that the command reads is never replaced. Any other file is replaced only if it is empty, if its content shows
that it is an earlier output of the same kind, or if `overwrite` is set. A pipe, a terminal or a device is written to
as it is.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import secrets
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from textgen import storage
from textgen.errors import TextgenError, UsageError
from textgen.storage import (
    FORMAT_VERSION,
    MANIFEST,
    UNFINISHED,
    System,
    allowed_entries,
    naming,
    read_manifest,
    seal,
    sweep,
)
from textgen.storage import lock as lock
from textgen.storage import to_json as to_json

if TYPE_CHECKING:
    from matplotlib.figure import Figure


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


HEAD_BYTES = 4096
PLOT_SOFTWARE = "textgen"
"""The software that the metadata of a plot (PNG) names."""

STATE_FORMAT = "textgen state"
"""The format that the header of a state file names."""

_PNG = b"\x89PNG\r\n\x1a\n"
_STATE_HEADER = f'{{"__metadata__":{{"about":"{{\\"format\\": \\"{STATE_FORMAT}\\"'.encode()

_FORECAST_COLUMNS = ["series", "time", "forecast"]


@dataclass(frozen=True)
class OutputKind:
    """A kind of output: what messages call it, and whether a file that begins with these `HEAD_BYTES` is one."""

    noun: str
    matches: Callable[[bytes], bool]


def _is_forecasts(head: bytes) -> bool:
    """Whether the first line is the csv header of a table of forecasts, or one of its rows as a JSON object."""
    line = head.splitlines()[0]
    if line.startswith(b"{"):
        with suppress(ValueError):
            row = json.loads(line)
            return isinstance(row, dict) and list(row)[:3] == _FORECAST_COLUMNS
    return line.decode(errors="replace").split(",")[:3] == _FORECAST_COLUMNS


PLOT = OutputKind("a plot drawn by textgen", lambda head: head.startswith(_PNG) and b"Software\0textgen" in head)
STATE = OutputKind("a saved state", lambda head: head[8:].startswith(_STATE_HEADER))
ARCHIVE = OutputKind(
    "a compressed archive", lambda head: head.startswith(b"\xd7g") and head[2:3] in b"\x01\x41\x81\xc1"
)
FORECASTS = OutputKind("a table of forecasts", _is_forecasts)
ANYTHING = OutputKind("", lambda head: False)
"""Output that cannot be recognized by its content: an existing file never counts as an earlier output."""


@dataclass(frozen=True)
class OutputFile:
    """A file that an option names for output. `inputs` are the files and folders that the command reads; in such a
    folder, an earlier output of the same kind is not an input.

    Raises UsageError for an input, a folder, or a path in a folder that does not exist, and TextgenError for an
    existing file that must stay.
    """

    path: Path
    option: str
    kind: OutputKind
    inputs: tuple[Path, ...] = ()
    overwrite: bool = False

    def __post_init__(self) -> None:
        self.check()

    def check(self) -> None:
        """Raise, as the constructor does, for what exists now."""
        if descriptor_of(self.path) is not None:
            return
        name = str(self.path)
        with naming(self.path):
            if self.path.is_dir():
                raise UsageError(f"{name!r} is a folder, not a file.")
            if not self.path.resolve().parent.is_dir():
                raise UsageError(f"the folder of {name!r} does not exist.", hint=f"mkdir -p {self.path.parent}")
            if not self.path.is_file():
                return
            with self.path.open("rb") as file:
                head = file.read(HEAD_BYTES)
            is_earlier = not head or self.kind.matches(head)
            folders = [] if is_earlier else [each for each in self.inputs if each.is_dir()]
            if _is_input(self.path, [each for each in self.inputs if not each.is_dir()] + folders):
                raise UsageError(
                    f"{name!r} is an input of this command and is never replaced.",
                    hint=f"choose another file for {self.option}.",
                )
        if not is_earlier and not self.overwrite:
            is_other = f" and is not {self.kind.noun}" if self.kind.noun else ""
            raise TextgenError(
                f"{name!r} exists already{is_other}.",
                hint=f"--overwrite replaces it, or choose another file for {self.option}.",
            )

    def write(self, content: bytes) -> None:
        """Write the file, completely or not at all, if that is still allowed."""
        self.check()
        write_output(self.path, content)


def check_folder(
    folder: Path,
    option: str,
    noun: str,
    is_ours: Callable[[Mapping[str, Any]], bool],
    inputs: Sequence[Path],
    overwrite: bool,
) -> None:
    """Raise TextgenError or UsageError if a folder must not be written: an existing one is replaced only with
    `overwrite`, and only if textgen wrote everything in it and it holds no input.

    `noun` is what messages call such a folder, `is_ours` recognizes one by its manifest.
    """
    name = str(folder)
    if not os.path.lexists(folder):
        return
    if not overwrite:
        raise TextgenError(f"{name!r} exists already.", hint=f"choose another {option}, or add --overwrite.")
    if any(os.path.samestat(ours, read) for ours in _statuses(folder) for each in inputs for read in _statuses(each)):
        raise UsageError(f"{name!r} holds an input of this command and is never replaced.",
                         hint=f"choose another {option}.")  # fmt: skip
    is_sealed = (folder / storage.MANIFEST).is_file() and not folder.is_symlink()
    manifest = storage.read_manifest(folder) if is_sealed else {}
    if not manifest or not is_ours(manifest):
        raise TextgenError(f"{name!r} is not {noun} and is not replaced.", hint=f"choose another {option}.")
    names = {path.name for path in folder.iterdir()} - {*manifest["files"], storage.MANIFEST}
    if strange := sorted(each for each in names if not UNFINISHED.fullmatch(each)):
        raise TextgenError(f"{name!r} holds {strange[0]!r}, which textgen did not write, and is not replaced.",
                           hint=f"move {strange[0]} away, or choose another {option}.")  # fmt: skip


def refuse_same(outputs: Mapping[str, str | None]) -> None:
    """Raise UsageError if two options name the same output file."""
    seen: dict[Path, str] = {}
    for option, name in outputs.items():
        if name is None or name == "-" or descriptor_of(Path(name)) is not None:
            continue
        path = Path(name).resolve()
        if path in seen and (path.is_file() or not path.exists()):
            raise UsageError(f"{seen[path]} and {option} name the same file, {name!r}.")
        seen[path] = option


def _is_input(path: Path, inputs: Iterable[Path]) -> bool:
    """Whether a file is one of the inputs, under any name, or lies in one that is a folder."""
    status = path.stat()
    return any(os.path.samestat(status, other) for each in inputs for other in _statuses(each))


def _statuses(given: Path) -> Iterable[os.stat_result]:
    """The status of an input file, or of every file in an input folder; '-' is standard input."""
    if str(given) == "-":
        with suppress(OSError, ValueError, AttributeError):
            yield os.fstat(sys.stdin.fileno())
        return
    for path in [given, *(given.rglob("*") if given.is_dir() else ())]:
        with suppress(OSError):
            yield path.stat()


def to_png(figure: Figure) -> bytes:
    """A matplotlib figure as the content of a PNG file."""
    content = BytesIO()
    with warnings.catch_warnings():  # about characters that the font lacks
        warnings.simplefilter("ignore")
        figure.savefig(content, format="png", metadata={"Software": PLOT_SOFTWARE})
    return content.getvalue()

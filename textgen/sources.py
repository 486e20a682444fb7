"""Any input as documents of UTF-8 bytes: files, folders, globs and standard input, in any encoding, plain or gzipped.

`find_sources` turns what was typed into a list of files; `read` streams them, as often as wanted, in bounded memory.
Nothing is tidied up: line ends, white space and repeated documents stay as they are.
"""

from __future__ import annotations

import atexit
import glob
import gzip
import io
import os
import re
import shutil
import stat
import sys
import tempfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from textgen import decoding
from textgen.errors import TextgenError, UsageError, did_you_mean

TEXT_ENDINGS = (".txt", ".md", ".text", ".rst")  # what is taken from a folder, packed or not
PACKED_ENDINGS = (".gz",)

READ_BYTES = 1 << 20
PIECE_BYTES = 1 << 20
GZIP_MAGIC = b"\x1f\x8b\x08"  # with the only method there is: two bytes may begin a text in UTF-16


@dataclass(frozen=True)
class SourceOptions:
    r"""How files are read. Raises UsageError for an encoding that is not one of text, or an empty separator.

    `encoding`: None is strict UTF-8, or what a byte-order mark says. If the named encoding is UTF-8, -16 or -32, a
    byte-order mark of any of them overrules it; any other named encoding overrules a mark.
    `document_separator`: divides each file wherever it stands, and is removed. Line ends and empty lines right
    after it go with it, unless it ends in a line end itself; so one on a line of its own leaves documents of whole
    lines. The two characters `\n` stand for a newline, and so `\t` and `\r`.
    `raw`: without an encoding, take bytes as they are (unpacked, but neither checked nor decoded).
    """

    encoding: str | None = None
    document_separator: str | None = None
    raw: bool = False

    def __post_init__(self) -> None:
        if self.encoding is not None:
            decoding.codec(self.encoding)
        if self.document_separator is not None:
            _separator(self.document_separator)


@dataclass(frozen=True)
class Source:
    """One file to read; standard input is a temporary file by then. `name` is what messages call it."""

    path: Path
    name: str


def find_sources(paths: Sequence[str], stdin: BinaryIO | None = None) -> list[Source]:
    """The files meant by `paths`, in their order: files, folders, globs, and `-` for `stdin` (default: the process's).

    A folder gives its text files by ending, recursively, sorted, without hidden ones and without following links to
    folders; a glob gives the files that match, sorted; a file named directly is taken whatever its ending. Raises
    UsageError for what does not exist, TextgenError for what cannot be read or is no regular file.
    """
    spooled: Source | None = None
    found: list[Source] = []
    for path in paths:
        if path != "-":
            found += _files(path)
            continue
        spooled = spooled or _spool(stdin or getattr(sys.stdin, "buffer", None))
        found.append(spooled)
    return found


def read(sources: Sequence[Source], options: SourceOptions) -> Iterator[tuple[int, bytes]]:
    """The documents in order, as (number from 0, piece): non-empty pieces of 1 MiB at most.

    Pieces are valid UTF-8 that ends at a character border (any bytes if raw); joined they are the document exactly.
    A file is one document unless a separator divides it; an empty document gives nothing and uses no number. Raises
    TextgenError naming the file and the byte offset (after unpacking) of what is not text, and at the end if there
    was no text at all.
    """
    number, begun = 0, False
    for source in sources:
        for piece in _divided(source, options):
            if piece:
                begun = True
                yield number, piece
            elif piece is None:
                number, begun = number + begun, False
    if number == 0:
        names = repr(sources[0].name) if len(sources) == 1 else f"of {len(sources)} files"
        raise TextgenError(f"corpus {names} has no text (0 bytes).")


def _files(name: str) -> list[Source]:
    path = Path(name)
    try:
        if not name:  # of which Path would make the current folder
            raise FileNotFoundError
        mode = path.stat().st_mode
    except (FileNotFoundError, NotADirectoryError, ValueError):
        if glob.has_magic(name):
            return _matching(name)
        siblings = (entry.name for entry in path.parent.glob("*"))
        raise UsageError(f"corpus {name!r} does not exist.{did_you_mean(path.name, siblings)}") from None
    except OSError as error:
        raise _unreadable(name, error) from error
    if stat.S_ISDIR(mode):
        return _in_folder(path, name)
    if not stat.S_ISREG(mode):
        kind = "named pipe" if stat.S_ISFIFO(mode) else "socket" if stat.S_ISSOCK(mode) else "device"
        raise TextgenError(f"{name!r} is a {kind}, not a file.", hint="send it to standard input and name it -.")
    return [Source(path, name)]


def _in_folder(folder: Path, name: str) -> list[Source]:
    def refuse(error: OSError) -> None:
        raise _unreadable(str(error.filename), error) from error

    endings = TEXT_ENDINGS + tuple(text + packed for text in TEXT_ENDINGS for packed in PACKED_ENDINGS)
    paths: list[Path] = []
    for parent, folders, files in os.walk(folder, onerror=refuse):
        folders[:] = [child for child in folders if not child.startswith(".")]
        texts = (child for child in files if child.lower().endswith(endings) and not child.startswith("."))
        paths += (Path(parent, child) for child in texts)
    if not paths:
        *most, last = TEXT_ENDINGS
        raise TextgenError(f"no {', '.join(most)} or {last} file in {name!r}.")
    return [source for path in sorted(paths, key=lambda path: path.parts) for source in _files(str(path))]


def _matching(pattern: str) -> list[Source]:
    """Like glob.glob, but `**` does not follow links, since a loop of them would never end."""
    parts = Path(pattern).parts
    fixed = next(index for index, part in enumerate(parts) if glob.has_magic(part))
    root, rest = Path(*parts[:fixed]), [*parts[fixed:], *["*"][: parts[-1] == "**"]]
    hidden = any(part.startswith(".") for part in rest)
    try:
        paths = [path for path in root.glob("/".join(rest)) if not path.is_dir()]
    except ValueError as error:
        raise UsageError(f"{pattern!r} is not a pattern: {error}.") from None
    visible = {path for path in paths if hidden or not any(p.startswith(".") for p in path.relative_to(root).parts)}
    if not visible:
        raise UsageError(f"no file matches {pattern!r}.")
    return [source for path in sorted(visible, key=lambda path: path.parts) for source in _files(str(path))]


def _spool(stdin: BinaryIO | None) -> Source:
    """Standard input in a temporary file, since a corpus is read several times; removed when the process ends."""
    if stdin is None or stdin.isatty():
        raise UsageError("'-' reads a corpus from a pipe, not from a terminal.", hint="cat FILE | textgen train -")
    try:
        with tempfile.NamedTemporaryFile(prefix="textgen-", delete=False) as file:
            atexit.register(Path(file.name).unlink, missing_ok=True)
            shutil.copyfileobj(stdin, file, READ_BYTES)
    except OSError as error:
        raise _unreadable("standard input", error) from error
    return Source(Path(file.name), "standard input")


def _unreadable(name: str, error: OSError) -> TextgenError:
    return TextgenError(f"cannot read {name!r}: {error.strerror or error}.")


@contextmanager
def _opened(source: Source) -> Iterator[io.BufferedIOBase]:
    """The file, unpacked if its first bytes say so; whatever fails in reading it names the file."""
    try:
        with source.path.open("rb") as file:
            packed = file.read(len(GZIP_MAGIC)) == GZIP_MAGIC
            file.seek(0)
            with gzip.GzipFile(fileobj=file) if packed else file as stream:
                yield stream
    except EOFError:
        raise TextgenError(f"{source.name!r} is a damaged gzip file (it ends too early).") from None
    except (gzip.BadGzipFile, zlib.error) as error:
        raise TextgenError(f"{source.name!r} is a damaged gzip file ({error}).") from None
    except OSError as error:
        raise _unreadable(source.name, error) from error


def _divided(source: Source, options: SourceOptions) -> Iterator[bytes | None]:
    """The pieces of a file, with None after each document."""
    with _opened(source) as stream:
        raw = options.raw and options.encoding is None
        blocks = iter(lambda: stream.read(READ_BYTES), b"")
        if not raw:
            head = stream.read(decoding.HEAD_BYTES)
            stream.seek(0)
            blocks = decoding.to_utf8(blocks, head, source.name, options.encoding)
        parts = _split(blocks, options.document_separator) if options.document_separator else blocks
        for part in parts:
            yield from _cut(part) if part else [part]
    yield None


def _split(blocks: Iterator[bytes], typed: str) -> Iterator[bytes | None]:
    """The same bytes with None for each separator, also where one crosses the border of two blocks."""
    separator = _separator(typed)
    line_ends = b"" if separator.endswith((b"\n", b"\r")) else b"\r\n"
    rest, dropped = b"", b""
    for block in blocks:
        *ended, rest = (rest + block).split(separator)
        for part in ended:
            yield part.lstrip(dropped)
            yield None
            dropped = line_ends
        sure = max(0, _border(rest, len(rest) - len(separator) + 1))  # beyond it a separator may have begun
        begin = rest[:sure].lstrip(dropped)
        yield begin
        rest, dropped = rest[sure:], b"" if begin else dropped
    yield rest.lstrip(dropped)


def _separator(typed: str) -> bytes:
    try:
        separator = re.sub(r"\\([ntr])", lambda escape: {"n": "\n", "t": "\t", "r": "\r"}[escape[1]], typed).encode()
    except UnicodeEncodeError:
        raise UsageError(f"the document separator {typed!r} is not Unicode text.") from None
    if not separator:
        raise UsageError("the document separator '' is empty.")
    return separator


def _cut(data: bytes) -> Iterator[bytes]:
    start = 0
    while len(data) - start > PIECE_BYTES:
        end = _border(data, start + PIECE_BYTES)
        yield data[start:end]
        start = end
    yield data[start:]


def _border(data: bytes, end: int) -> int:
    """The last place at or before `end` where a character of UTF-8 begins; `end` itself in bytes that are not UTF-8."""
    near = range(end, max(end - 4, -1), -1)
    return next((place for place in near if place >= len(data) or data[place] & 0xC0 != 0x80), end)

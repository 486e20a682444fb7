"""Any input as documents of UTF-8 bytes: files, folders, globs, tables, data sets of the Hub and standard input.

`find_sources` turns what was typed into a list of files; `read` streams them, as often as wanted, in bounded memory.
Nothing is tidied up: line ends, white space and repeated documents stay as they are.
"""

from __future__ import annotations

import atexit
import glob
import os
import re
import shutil
import stat
import sys
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain
from pathlib import Path
from typing import BinaryIO

from textgen.errors import TextgenError, UsageError, did_you_mean
from textgen.text import decoding, hub, recipes
from textgen.text.archives import PACKED_ENDINGS, opened, unreadable
from textgen.text.pieces import cut, separator, span, split
from textgen.text.tables import PARQUET, TABLE_ENDINGS, Choose, Row, form_of, parquet_rows, table_rows, texts

TEXT_ENDINGS = (".txt", ".md", ".text", ".rst", *TABLE_ENDINGS)  # what is taken from a folder, packed or not

READ_BYTES = 1 << 20


@dataclass(frozen=True)
class SourceOptions:
    r"""How files are read. Raises UsageError for an encoding that is not one of text, or an empty separator.

    `encoding`: None is strict UTF-8, or what a byte-order mark says. If the named encoding is UTF-8, -16 or -32, a
    byte-order mark of any of them overrules it; any other named encoding overrules a mark.
    `document_separator`: divides each file wherever it stands, and is removed. Line ends and empty lines right
    after it go with it, unless it ends in a line end itself; so one on a line of its own leaves documents of whole
    lines. The two characters `\n` stand for a newline, and so `\t` and `\r`.
    `raw`: without an encoding, take the bytes of a plain file as they are (unpacked, but neither checked nor decoded).
    `may_be_raw`: that could be asked for, and the hint of a message may say so.
    `text_column`: the column of a table to read; None is `text`, or the only one that holds text.
    """

    encoding: str | None = None
    document_separator: str | None = None
    raw: bool = False
    may_be_raw: bool = False
    text_column: str | None = None

    def __post_init__(self) -> None:
        if self.encoding is not None:
            decoding.codec(self.encoding)
        if self.document_separator is not None:
            separator(self.document_separator)


@dataclass(frozen=True)
class Source:
    """One file to read; standard input is a temporary file by then. `name` is what messages call it; `span` is the
    part of the unpacked file that counts, in bytes."""

    path: Path
    name: str
    span: tuple[int, int] | None = None


def find_sources(paths: Sequence[str], stdin: BinaryIO | None = None, text_column: str | None = None) -> list[Source]:
    """The files meant by `paths`, in their order: files, folders, globs, `hub:` names (their `text_column`), and `-`
    for `stdin` (default: the process's).

    A folder gives its text files by ending, recursively, sorted, without hidden ones and without following links to
    folders; a glob gives the files that match, sorted; a file named directly is taken whatever its ending. Raises
    UsageError for what does not exist, TextgenError for what cannot be read or is no regular file.
    """
    spooled: Source | None = None
    found: list[Source] = []
    for path in paths:
        if path.startswith(hub.PREFIX):
            found.append(Source(hub.spool(path, text_column), path))
            continue
        if path != "-":
            found += _files(path)
            continue
        spooled = spooled or _spool(stdin or getattr(sys.stdin, "buffer", None))
        found.append(spooled)
    return found


def refuse_missing(paths: Sequence[str]) -> None:
    """Raise as `find_sources` does for files that are not there, and read nothing."""
    if recipes.find(paths) is None:
        elsewhere = ("-", hub.PREFIX)
        find_sources([path for path in paths if not path.startswith(elsewhere) and not Path(path).is_dir()])


def lasting(path: str) -> str:
    """A path as typed, written so that it means the same from another folder."""
    named = path == "-" or path.startswith(hub.PREFIX) or recipes.find([path]) is not None
    return path if named else str(Path(path).absolute())


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
        raise _missing(path, name) from None
    except OSError as error:
        raise unreadable(name, error) from error
    if stat.S_ISDIR(mode):
        return _in_folder(path, name)
    if not stat.S_ISREG(mode):
        kind = "named pipe" if stat.S_ISFIFO(mode) else "socket" if stat.S_ISSOCK(mode) else "device"
        raise TextgenError(f"{name!r} is a {kind}, not a file.", hint="send it to standard input and name it -.")
    return [Source(path, name)]


def _missing(path: Path, name: str) -> UsageError:
    siblings = [entry.name for entry in path.parent.glob("*")] if "\0" not in name else []
    near = did_you_mean(path.name, [*siblings, *recipes.names()])
    likely = re.fullmatch(r"[\w-]+/[\w.-]+", name) and not path.parent.is_dir()
    return UsageError(
        f"corpus {name!r} does not exist.{near}", hint=f"a data set of the Hub is hub:{name}." if likely else None
    )


def _in_folder(folder: Path, name: str) -> list[Source]:
    def refuse(error: OSError) -> None:
        raise unreadable(str(error.filename), error) from error

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
        raise unreadable("standard input", error) from error
    return Source(Path(file.name), "standard input")


def _divided(source: Source, options: SourceOptions) -> Iterator[bytes | None]:
    """The pieces of a file, with None after each document."""
    with opened(source.path, source.name) as stream:
        if form := form_of(source.path.name):
            table = partial(_rows, stream, form, source, options)
            for text in texts(table, options.text_column, source.name):
                yield from _pieces([text], options)
                yield None
        else:
            raw = options.raw and options.encoding is None
            yield from _pieces(_text_blocks(stream, source, options, raw), options)
    yield None


def read_rows(source: Source, options: SourceOptions, choose: Choose) -> Iterator[Row]:
    """The rows of a table, with the columns that are chosen. Raises TextgenError for a file that is no table."""
    form = form_of(source.path.name)
    if not form:
        *most, last = TABLE_ENDINGS
        raise TextgenError(f"{source.name!r} is not a table: its name ends in none of {', '.join(most)} and {last}.")
    with opened(source.path, source.name) as stream:
        yield from _rows(stream, form, source, options, choose)


def _rows(stream: BinaryIO, form: str, source: Source, options: SourceOptions, choose: Choose) -> Iterator[Row]:
    if form == PARQUET:
        return parquet_rows(stream, source.name, choose)
    return table_rows(_text_blocks(stream, source, options, False), form, source.name, choose)


def _pieces(blocks: Iterable[bytes], options: SourceOptions) -> Iterator[bytes | None]:
    for part in split(blocks, options.document_separator) if options.document_separator else blocks:
        yield from cut(part) if part else [part]


def _text_blocks(stream: BinaryIO, source: Source, options: SourceOptions, raw: bool) -> Iterator[bytes]:
    """What is read from a file, as UTF-8 unless raw."""
    blocks = iter(lambda: stream.read(READ_BYTES), b"")
    if source.span is not None:
        blocks = filter(None, span(blocks, *source.span, whole_characters=not raw))
    if raw:
        return blocks
    first, size = [], 0
    while size < decoding.HEAD_BYTES and (block := next(blocks, b"")):
        first.append(block)
        size += len(block)
    head = b"".join(first)[: decoding.HEAD_BYTES]
    return decoding.to_utf8(chain(first, blocks), head, source.name, options.encoding, options.may_be_raw)

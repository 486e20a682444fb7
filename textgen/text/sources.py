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
import warnings
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from itertools import chain
from pathlib import Path
from typing import Any, BinaryIO

from textgen.errors import TextgenError, TextgenWarning, UsageError, did_you_mean
from textgen.parameters import named
from textgen.text import decoding, detection, hub, recipes
from textgen.text.archives import COMPRESSED_ENDINGS, opened, unreadable
from textgen.text.csv_table import csv_rows, delimiter_of
from textgen.text.header import DEFAULT_COLUMN, Choose, Header, Row
from textgen.text.json_table import JSON, JSONL, JsonColumns, json_form, json_objects, json_rows
from textgen.text.memory import TableName
from textgen.text.parquet_table import PARQUET, parquet_rows
from textgen.text.pieces import cut, separator, span, split
from textgen.text.tables import TABLE_ENDINGS, as_file, form_of, texts

TEXT_ENDINGS = (".txt", ".md", ".text", ".rst", *TABLE_ENDINGS)  # what is taken from a folder, packed or not

READ_BYTES = 1 << 20
JSON_HEAD = 1 << 20
"""Bytes of a .json file that are looked at to tell whether it is a table."""
IN_MEMORY = "memory:"
"""What stands before the name of a table in memory, where a run says what it was trained on."""


@dataclass(frozen=True)
class SourceOptions:
    r"""How files are read. Raises UsageError for an encoding that is not one of text, or an empty separator.

    `encoding`: None is strict UTF-8, or what a byte-order mark says; `auto` finds the encoding of each file. If the
    named encoding is UTF-8, -16 or -32, a byte-order mark of any of them overrules it; any other named encoding
    overrules a mark, unless it is `from_training`: not asked for, but remembered by a model.
    `document_separator`: divides each file wherever it stands, and is removed. Line ends and empty lines right
    after it go with it, unless it ends in a line end itself; so one on a line of its own leaves documents of whole
    lines. The two characters `\n` stand for a newline, and so for `\t`, `\r`, `\0` and `\\`.
    `raw`: without an encoding, take the bytes of a plain file as they are (unpacked, but neither checked nor decoded).
    `may_be_raw`: that could be asked for, and the hint of a message may say so.
    `text_column`: the column of a table to read; None is `text`, or the only one that holds text.
    `delimiter`: what is between the columns of csv and tsv files; None detects it.
    """

    encoding: str | None = None
    document_separator: str | None = None
    raw: bool = False
    may_be_raw: bool = False
    text_column: str | None = None
    delimiter: str | None = None
    from_training: bool = False

    def __post_init__(self) -> None:
        if self.encoding not in (None, decoding.AUTO):
            decoding.codec(self.encoding)
        if self.document_separator is not None:
            separator(self.document_separator)
        if self.delimiter is not None:
            delimiter_of(self.delimiter)


@dataclass(frozen=True)
class Source:
    """One file to read; standard input is a temporary file by then. `name` is what messages call it; `span` is the
    part of the unpacked file that counts, in bytes. `among` is "texts" for a file that was found beside plain texts, in
    a folder or by a pattern, "tables" for one found beside tables alone, and "" for one that was named."""

    path: Path
    name: str
    span: tuple[int, int] | None = None
    among: str = ""


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
        if isinstance(path, TableName):
            found.append(Source(path.file, path))
            continue
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


def gone(paths: Sequence[str]) -> str | None:
    """Where a corpus came from that cannot be read again, of the paths that `lasting` wrote; None if it can."""
    if "-" in paths:
        return "by pipe"
    return "from memory" if any(path.startswith(IN_MEMORY) for path in paths) else None


def lasting(path: str) -> str:
    """A path as typed, written so that it means the same from another folder."""
    if isinstance(path, TableName):
        return IN_MEMORY + path
    named = path == "-" or path.startswith(hub.PREFIX) or recipes.find([path]) is not None
    return path if named else str(Path(path).absolute())


def read(sources: Sequence[Source], options: SourceOptions) -> Iterator[tuple[int, bytes]]:
    """The documents in order, as (number from 0, piece): non-empty pieces of 1 MiB at most.

    Pieces are valid UTF-8 that ends at a character border (any bytes if raw); joined they are the document exactly.
    A file is one document unless a separator divides it; an empty document gives nothing and uses no number. Raises
    TextgenError naming the file and the byte offset (after unpacking) of what is not text, and at the end if there
    was no text at all.
    """
    empty = True
    for numbered in _numbered(piece for source in sources for piece in _divided(source, options)):
        empty = False
        yield numbered
    if empty:
        names = repr(sources[0].name) if len(sources) == 1 else f"of {len(sources)} files"
        raise TextgenError(f"corpus {names} has no text (0 bytes).")


def documents_of(blocks: Iterable[bytes], options: SourceOptions) -> Iterator[tuple[int, bytes]]:
    """The documents of a text that is there already, as `read` gives those of files."""
    return _numbered(_pieces(blocks, options))


def _numbered(pieces: Iterable[bytes | None]) -> Iterator[tuple[int, bytes]]:
    """Pieces that are not empty, each with the number of its document; None stands after each document."""
    number, begun = 0, False
    for piece in pieces:
        if piece:
            begun = True
            yield number, piece
        elif piece is None:
            number, begun = number + begun, False


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

    endings = TEXT_ENDINGS + tuple(text + suffix for text in TEXT_ENDINGS for suffix in COMPRESSED_ENDINGS)
    paths: list[Path] = []
    for parent, folders, files in os.walk(folder, onerror=refuse):
        folders[:] = [child for child in folders if not child.startswith(".")]
        texts = (child for child in files if child.lower().endswith(endings) and not child.startswith("."))
        paths += (Path(parent, child) for child in texts)
    found = [source for path in sorted(paths, key=lambda path: path.parts) for source in _files(str(path))]
    found = [source for source in found if form_of(source.path.name) != JSON or table_form(source)]
    if not found:
        *most, last = TEXT_ENDINGS
        raise TextgenError(f"no {', '.join(most)} or {last} file in {name!r}.")
    return _together(found)


def _together(sources: list[Source]) -> list[Source]:
    """Files that were found, each knowing what it was found among."""
    among = "tables" if all(table_form(source) for source in sources) else "texts"
    return [replace(source, among=among) for source in sources]


def table_form(source: Source) -> str:
    """The kind of table a file is (`textgen.text.tables.form_of`), or '' for plain text; a .json file is one if it
    holds an array of objects, or JSON lines. Raises TextgenError for a .json file that cannot be read."""
    form = form_of(source.path.name)
    if form != JSON:
        return form
    with opened(source.path, source.name) as stream:
        return json_form(stream.read(JSON_HEAD))


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
    return _together([source for path in sorted(visible, key=lambda path: path.parts) for source in _files(str(path))])


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
    return Source(Path(file.name), detection.STANDARD_INPUT)


def _divided(source: Source, options: SourceOptions) -> Iterator[bytes | None]:
    """The pieces of a file, with None after each document."""
    if form := table_form(source):
        for text in _texts(source, form, options):
            yield from _pieces([text], options)
            yield None
    else:
        raw = options.raw and options.encoding is None
        with opened(source.path, source.name) as stream:
            yield from _pieces(_text_blocks(stream, source, options, raw), options)
    yield None


class _NoText(Exception):
    """A table that was found beside others has no column of text."""


def _texts(source: Source, form: str, options: SourceOptions) -> Iterator[bytes]:
    """The texts of a table; none, with a warning, of one that was found beside others and has no column for them."""

    def rows(choose: Choose) -> Iterator[Row]:
        def choose_here(header: Header) -> list[str]:
            optional = source.among == "texts" or (source.among == "tables" and not header.texts)
            if optional and options.text_column is None and DEFAULT_COLUMN not in header.columns:
                raise _NoText(", ".join(map(repr, header.columns)))
            return choose(header)

        return _rows(source, form, options, choose_here)

    try:
        yield from texts(rows, options.text_column)
    except _NoText as columns:
        left_out = f"{source.name!r} is left out: it has no column 'text'; its columns are {columns}."
        warnings.warn(TextgenWarning(f"{left_out} {named('text_column', 'NAME')} reads another one."), stacklevel=2)


def read_rows(source: Source, options: SourceOptions, choose: Choose) -> Iterator[Row]:
    """The rows of a table, with the columns that are chosen. Raises TextgenError for a file that is no table."""
    form = table_form(source)
    if not form and form_of(source.path.name):
        raise TextgenError(f"{source.name!r} is not a table: it is no JSON array of objects, nor JSON lines.")
    if not form:
        *most, last = TABLE_ENDINGS
        raise TextgenError(f"{source.name!r} is not a table: its name ends in none of {', '.join(most)} and {last}.")
    yield from _rows(source, form, options, choose)


def _rows(source: Source, form: str, options: SourceOptions, choose: Choose) -> Iterator[Row]:
    name = source.name
    if form in (JSON, JSONL):
        status = source.path.stat()
        reading = SourceOptions(options.encoding, from_training=options.from_training)
        columns = _json_columns(source, form, reading, (status.st_size, status.st_mtime_ns))
        yield from json_rows(_json_objects(source, form, options), columns, name, choose)
        return
    with opened(source.path, name) as stream:
        if form == PARQUET:
            yield from parquet_rows(stream, name, choose)
        else:
            delimiter = None if options.delimiter is None else delimiter_of(options.delimiter)
            file = as_file(_text_blocks(stream, source, options, False))
            yield from csv_rows(file, form, name, choose, delimiter)


@lru_cache(maxsize=64)
def _json_columns(source: Source, form: str, reading: SourceOptions, stamp: tuple[int, int]) -> JsonColumns:
    """The columns of all rows; `stamp` changes with the file."""
    return JsonColumns.of(_json_objects(source, form, reading), source.name)


def _json_objects(source: Source, form: str, options: SourceOptions) -> Iterator[tuple[str, dict[str, Any]]]:
    with opened(source.path, source.name) as stream:
        yield from json_objects(as_file(_text_blocks(stream, source, options, False)), form, source.name)


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
    encoding = None if source.name.startswith(hub.PREFIX) else options.encoding
    found = encoding == decoding.AUTO
    if found:
        encoding = detection.chosen(source.path, source.name, partial(_raw_blocks, source))
    known = decoding.Decoding(encoding, found, options.from_training, options.may_be_raw)
    return decoding.to_utf8(chain(first, blocks), head, source.name, known)


def _raw_blocks(source: Source) -> Iterator[bytes]:
    """The bytes of a file that count, read anew."""
    with opened(source.path, source.name) as stream:
        blocks = iter(lambda: stream.read(READ_BYTES), b"")
        yield from blocks if source.span is None else span(blocks, *source.span, whole_characters=False)

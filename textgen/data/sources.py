"""Any input as documents of UTF-8 bytes: files, folders, globs, tables, data sets of the Hub, standard input.

`find_sources` turns the arguments into a list of files; `read` streams them, as often as wanted, in bounded memory,
divided at a separator. Nothing is cleaned up: line ends, white space and repeated documents stay as they are.
`records` reads several columns of every row.
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

from textgen.data import encodings, recipes
from textgen.data.archives import COMPRESSED_ENDINGS, opened, unreadable
from textgen.data.lines import are_items, items
from textgen.data.parquet_table import PARQUET, TableName, parquet_rows
from textgen.data.tables import DEFAULT_COLUMN, TABLE_ENDINGS, Choose, Header, Row, as_file, form_of, texts
from textgen.data.text_tables import (
    JSON,
    JSONL,
    JsonColumns,
    csv_rows,
    delimiter_of,
    json_form,
    json_objects,
    json_rows,
)
from textgen.errors import TextgenError, TextgenWarning, UsageError, did_you_mean, unescape
from textgen.formatting import listed
from textgen.options import named

CHUNK_BYTES = READ_BYTES = 1 << 20
TEXT_ENDINGS = (".txt", ".md", ".text", ".rst", *TABLE_ENDINGS)  # files read from a folder, compressed or not
READABLE_ENDINGS = TEXT_ENDINGS + tuple(text + suffix for text in TEXT_ENDINGS for suffix in COMPRESSED_ENDINGS)
JSON_HEAD = 1 << 20  # bytes of a .json file that decide whether it is a table
IN_MEMORY = "memory:"  # the prefix of tables in memory where a run records its corpus


def split(blocks: Iterable[bytes], typed: str) -> Iterator[bytes | None]:
    """The same bytes with None for each separator, even one that spans two blocks."""
    sign = separator(typed)
    line_ends = b"" if sign.endswith((b"\n", b"\r")) else b"\r\n"
    rest, dropped = b"", b""
    for block in blocks:
        *ended, rest = (rest + block).split(sign)
        for part in ended:
            yield part.lstrip(dropped)
            yield None
            dropped = line_ends
        sure = max(0, border(rest, len(rest) - len(sign) + 1))  # a separator may have begun after it
        begin = rest[:sure].lstrip(dropped)
        yield begin
        rest, dropped = rest[sure:], b"" if begin else dropped
    yield rest.lstrip(dropped)


def separator(typed: str) -> bytes:
    r"""A separator as bytes, with escapes such as `\n` interpreted. Raises UsageError for an empty one."""
    try:
        sign = unescape(typed).encode()
    except UnicodeEncodeError:
        raise UsageError(f"the document separator {typed!r} is not Unicode text.") from None
    if not sign:
        raise UsageError("the document separator '' is empty.")
    return sign


def cut(data: bytes) -> Iterator[bytes]:
    """The same bytes in chunks of at most `CHUNK_BYTES`, each ending at a character boundary."""
    start = 0
    while len(data) - start > CHUNK_BYTES:
        end = border(data, start + CHUNK_BYTES)
        yield data[start:end]
        start = end
    yield data[start:] if start else data


def border(data: bytes, end: int) -> int:
    """The last character boundary of UTF-8 at or before `end`; `end` itself in bytes that are not UTF-8."""
    near = range(end, max(end - 4, -1), -1)
    return next((place for place in near if place >= len(data) or data[place] & 0xC0 != 0x80), end)


def span(blocks: Iterable[bytes], start: int, stop: int, whole_characters: bool) -> Iterator[bytes]:
    """The bytes from `start` to `stop`. With whole characters, both move forward to the next character boundary, so
    that adjacent spans neither lose nor share a byte."""
    at = 0
    for block in blocks:
        begin, end = max(start - at, 0), max(stop - at, 0)
        if begin < len(block):
            while whole_characters and 0 < begin + at == start and begin < len(block) and _continues(block[begin]):
                begin, start = begin + 1, start + 1
            while whole_characters and end < len(block) and end + at == stop and _continues(block[end]):
                end, stop = end + 1, stop + 1
            yield block[begin:end]
        at += len(block)
        if at > stop:
            return


def _continues(byte: int) -> bool:
    return byte & 0xC0 == 0x80


@dataclass(frozen=True)
class SourceOptions:
    r"""How files are read. Raises UsageError for an invalid encoding, delimiter or empty separator.

    Attributes:
        encoding: None means UTF-8, or what a byte-order mark says; `auto` detects the encoding of each file. A mark
            overrides a named encoding of the UTF-8, -16 and -32 family, and any encoding that is `from_training`.
        document_separator: splits a file wherever it occurs, and is removed, together with line ends directly after it
            unless it ends in one. So a separator on its own line leaves documents of whole lines. Escapes such as `\n`
            and `\t` are interpreted.
        raw: without an encoding, read the bytes of a plain file without decoding or checking them.
        may_be_raw: whether hints may suggest reading raw bytes.
        text_column: the column of a table to read; None means `text`, or the only one that holds text.
        delimiter: the delimiter of csv and tsv files; None detects it.
        from_training: whether the encoding was remembered by a model rather than asked for.
        lines: whether each line of plain text is a document, without its line end; blank lines are skipped.
    """

    encoding: str | None = None
    document_separator: str | None = None
    raw: bool = False
    may_be_raw: bool = False
    text_column: str | None = None
    delimiter: str | None = None
    from_training: bool = False
    lines: bool = False

    def __post_init__(self) -> None:
        if self.encoding not in (None, encodings.AUTO):
            encodings.codec(self.encoding)
        if self.document_separator is not None:
            separator(self.document_separator)
        if self.delimiter is not None:
            delimiter_of(self.delimiter)


@dataclass(frozen=True)
class Source:
    """One file to read; standard input is in a temporary file.

    Attributes:
        name: what messages call the file.
        span: the range of bytes to read of the uncompressed file; None for all.
        among: "texts" for a file found in a folder or by a pattern beside plain texts, "tables" for one found beside
            tables only, "" for one named directly.
    """

    path: Path
    name: str
    span: tuple[int, int] | None = None
    among: str = ""


def find_sources(paths: Sequence[str], stdin: BinaryIO | None = None, text_column: str | None = None) -> list[Source]:
    """The files that `paths` name, in order: files, folders, globs, `hub:` names (their `text_column`), and `-` for
    `stdin` (default: that of the process).

    A folder stands for its files with the extensions of texts, recursively, sorted, without hidden files and without
    following links to folders; a glob for the matching files, sorted; a file named directly may have any extension.
    Raises UsageError for what does not exist, TextgenError for what cannot be read or is not a regular file.
    """
    spooled: Source | None = None
    found: list[Source] = []
    for path in paths:
        if isinstance(path, TableName):
            found.append(Source(path.file, path))
        elif path.startswith(recipes.PREFIX):
            found.append(Source(recipes.spool(path, text_column), path))
        elif path == "-":
            spooled = spooled or _spool(stdin or getattr(sys.stdin, "buffer", None))
            found.append(spooled)
        else:
            found += _files(path)
    return found


def is_address(path: str) -> bool:
    """Whether a corpus argument is an address, such as one of http, and not a path."""
    return "://" in path


def refuse_missing(paths: Sequence[str]) -> None:
    """Raise as `find_sources` does for missing files, without reading anything."""
    if recipes.find(paths) is None:
        elsewhere = ("-", recipes.PREFIX)
        here = [path for path in paths if not path.startswith(elsewhere) and not is_address(path)]
        find_sources([path for path in here if not Path(path).is_dir()])


def gone(paths: Sequence[str]) -> str | None:
    """How a corpus that cannot be read again was given, by paths that `lasting` made; None if it can."""
    if "-" in paths:
        return "by pipe"
    return "from memory" if any(path.startswith(IN_MEMORY) for path in paths) else None


def lasting(path: str) -> str:
    """A path argument in a form that means the same from any folder."""
    if isinstance(path, TableName):
        return IN_MEMORY + path
    named = path == "-" or path.startswith(recipes.PREFIX) or is_address(path) or recipes.find([path]) is not None
    return path if named else str(Path(path).absolute())


def read(
    sources: Sequence[Source], options: SourceOptions, documents: list[int] | None = None
) -> Iterator[tuple[int, bytes]]:
    """The documents in order, as (number from 0, chunk), in non-empty chunks of at most 1 MiB. `documents` is extended
    by how many there are in each source.

    Chunks are valid UTF-8 and end at character boundaries (any bytes if raw); joined, they are the document exactly. A
    file is one document unless a separator splits it; an empty document is skipped and not counted. Raises TextgenError
    naming the file and the byte offset (after decompression) of what is not text, and at the end if there was no text.
    """
    total = 0
    for source in sources:
        first = total
        for number, chunk in _numbered(_divided(source, options)):
            yield first + number, chunk
            total = first + number + 1
        if documents is not None:
            documents.append(total - first)
    if not total:
        raise no_content(sources, "text (0 bytes)")


def documents_of(blocks: Iterable[bytes], options: SourceOptions) -> Iterator[tuple[int, bytes]]:
    """The documents of a text in memory, in the form that `read` returns."""
    return _numbered(_plain(blocks, options))


def _numbered(chunks: Iterable[bytes | None]) -> Iterator[tuple[int, bytes]]:
    """The chunks that are not empty, each with the number of its document; None marks the end of a document."""
    number, begun = 0, False
    for chunk in chunks:
        if chunk:
            begun = True
            yield number, chunk
        elif chunk is None:
            number, begun = number + begun, False


def _files(name: str) -> list[Source]:
    path = Path(name)
    try:
        if not name:  # Path("") is the current folder
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
        raise TextgenError(f"{name!r} is a {kind}, not a file.", hint="pipe it to standard input and name it -.")
    return [Source(path, name)]


def _missing(path: Path, name: str) -> UsageError:
    if is_address(name):
        return UsageError(f"{name!r} is an address.", hint=f"{named('stream')} reads files at addresses.")
    siblings = [entry.name for entry in path.parent.glob("*")] if "\0" not in name else []
    near = did_you_mean(path.name, [*siblings, *recipes.names()])
    likely = re.fullmatch(r"[\w-]+/[\w.-]+", name) and not path.parent.is_dir()
    hint = f"to read a data set of the Hub, write hub:{name}." if likely else None
    return UsageError(f"corpus {name!r} does not exist.{near}", hint=hint)


def _in_folder(folder: Path, name: str) -> list[Source]:
    def refuse(error: OSError) -> None:
        raise unreadable(str(error.filename), error) from error

    paths: list[Path] = []
    for parent, folders, files in os.walk(folder, onerror=refuse):
        folders[:] = [child for child in folders if not child.startswith(".")]
        texts = (child for child in files if child.lower().endswith(READABLE_ENDINGS) and not child.startswith("."))
        paths += (Path(parent, child) for child in texts)
    found = [source for path in sorted(paths, key=lambda path: path.parts) for source in _files(str(path))]
    found = [source for source in found if form_of(source.path.name) != JSON or table_form(source)]
    if not found:
        raise TextgenError(f"no {listed(TEXT_ENDINGS)} file in {name!r}.")
    return _together(found)


def _together(sources: list[Source]) -> list[Source]:
    """Files that were found together, with `among` set."""
    among = "tables" if all(table_form(source) for source in sources) else "texts"
    return [replace(source, among=among) for source in sources]


def table_form(source: Source) -> str:
    """The format of a table (`textgen.data.tables.form_of`), or '' for plain text; a .json file is a table if it holds
    an array of objects, or JSON lines. Raises TextgenError for a .json file that cannot be read."""
    form = form_of(source.path.name)
    if form != JSON:
        return form
    with opened(source.path, source.name) as stream:
        return json_form(stream.read(JSON_HEAD))


def _matching(pattern: str) -> list[Source]:
    """Like glob.glob, but `**` does not follow links, which might form a loop."""
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


@lru_cache(maxsize=1)
def _spool(stdin: BinaryIO | None) -> Source:
    """Copy standard input to a temporary file, since a corpus is read several times; removed when the process ends."""
    if stdin is None or stdin.isatty():
        raise UsageError("'-' reads a corpus from a pipe, not from a terminal.", hint="cat FILE | textgen train -")
    try:
        with tempfile.NamedTemporaryFile(prefix="textgen-", delete=False) as file:
            atexit.register(Path(file.name).unlink, missing_ok=True)
            shutil.copyfileobj(stdin, file, READ_BYTES)
    except OSError as error:
        raise unreadable("standard input", error) from error
    return Source(Path(file.name), encodings.STANDARD_INPUT)


def _divided(source: Source, options: SourceOptions) -> Iterator[bytes | None]:
    """The chunks of a file, with None after each document."""
    if form := table_form(source):
        for text in _texts(source, form, options):
            yield from _chunks([text], options)
            yield None
    else:
        raw = options.raw and options.encoding is None
        with opened(source.path, source.name) as stream:
            yield from _plain(_text_blocks(stream, source, options, raw), options)
    yield None


class _NoText(Exception):
    """A table that was found beside other files has no text column."""


def _texts(source: Source, form: str, options: SourceOptions) -> Iterator[bytes]:
    """The texts of a table; one that was found beside other files and has no text column is skipped with a warning."""

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
        skipped = f"{source.name!r} is skipped: it has no column 'text'; its columns are {columns}."
        warnings.warn(TextgenWarning(f"{skipped} {named('text_column', 'NAME')} chooses another one."), stacklevel=2)


def plain_texts(sources: Iterable[Source]) -> list[Source]:
    """The files that are not tables."""
    return [source for source in sources if not table_form(source)]


def hold_items(sources: Sequence[Source], options: SourceOptions) -> bool:
    """Whether every plain text among the files holds one item per line (`textgen.data.lines.are_items`), and there is
    one. Raises as `read`."""
    plain = plain_texts(sources)
    return bool(plain) and all(_holds_items(source, options) for source in plain)


def _holds_items(source: Source, options: SourceOptions) -> bool:
    with opened(source.path, source.name) as stream:
        return are_items(_text_blocks(stream, source, options, options.raw and options.encoding is None))


def read_rows(source: Source, options: SourceOptions, choose: Choose) -> Iterator[Row]:
    """The rows of a table with the chosen columns. Raises TextgenError for a file that is not a table."""
    form = table_form(source)
    if not form:
        json = "it holds neither a JSON array of objects nor JSON lines"
        reason = json if form_of(source.path.name) else f"its name does not end in {listed(TABLE_ENDINGS)}"
        raise TextgenError(f"{source.name!r} is not a table: {reason}.")
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
    """The columns of all rows; `stamp` identifies the version of the file."""
    return JsonColumns.of(_json_objects(source, form, reading), source.name)


def _json_objects(source: Source, form: str, options: SourceOptions) -> Iterator[tuple[str, dict[str, Any]]]:
    with opened(source.path, source.name) as stream:
        yield from json_objects(as_file(_text_blocks(stream, source, options, False)), form, source.name)


def _plain(blocks: Iterable[bytes], options: SourceOptions) -> Iterator[bytes | None]:
    """The chunks of a plain text, with None after each document but the last."""
    if not options.lines:
        yield from _chunks(blocks, options)
        return
    for part in items(blocks):
        yield from cut(part) if part else [part]


def _chunks(blocks: Iterable[bytes], options: SourceOptions) -> Iterator[bytes | None]:
    for part in split(blocks, options.document_separator) if options.document_separator else blocks:
        yield from cut(part) if part else [part]


def _text_blocks(stream: BinaryIO, source: Source, options: SourceOptions, raw: bool) -> Iterator[bytes]:
    """The content of a file, as UTF-8 unless raw."""
    blocks = iter(lambda: stream.read(READ_BYTES), b"")
    if source.span is not None:
        blocks = filter(None, span(blocks, *source.span, whole_characters=not raw))
    if raw:
        return blocks
    first, size = [], 0
    while size < encodings.HEAD_BYTES and (block := next(blocks, b"")):
        first.append(block)
        size += len(block)
    head = b"".join(first)[: encodings.HEAD_BYTES]
    encoding = None if source.name.startswith(recipes.PREFIX) else options.encoding
    found = encoding == encodings.AUTO
    if found:
        encoding = encodings.chosen(source.path, source.name, partial(_raw_blocks, source))
    known = encodings.Decoding(encoding, found, options.from_training, options.may_be_raw)
    return encodings.to_utf8(chain(first, blocks), head, source.name, known)


def _raw_blocks(source: Source) -> Iterator[bytes]:
    """The bytes of a file, or of its span, read from its start."""
    with opened(source.path, source.name) as stream:
        blocks = iter(lambda: stream.read(READ_BYTES), b"")
        yield from blocks if source.span is None else span(blocks, *source.span, whole_characters=False)


def read_records(sources: Sequence[Source], choose: Choose, reading: SourceOptions) -> Iterator[Row]:
    """Every row of several tables; `choose(header)` chooses the columns of each table.

    Raises TextgenError naming the file and row of an error, and at the end if there was no row at all.
    """
    row = None
    for row in chain.from_iterable(read_rows(source, reading, choose) for source in sources):
        yield row
    if row is None:
        raise no_content(sources, "rows")


def no_content(sources: Sequence[Source], what: str) -> TextgenError:
    """The error for a corpus that has no text, or no rows."""
    names = repr(sources[0].name) if len(sources) == 1 else f"of {len(sources)} files"
    return TextgenError(f"corpus {names} has no {what}.")

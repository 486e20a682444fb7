"""Compressed files, known by their first bytes and never by their names, and files that are not text.

gzip, bzip2, xz and zstandard are unpacked while they are read. For other formats the message says how to extract
text.
"""

from __future__ import annotations

import bz2
import gzip
import lzma
import re
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from textgen.errors import TextgenError, needed
from textgen.options import named

COMPRESSED_ENDINGS = (".gz", ".bz2", ".xz", ".zst")
MAGIC_BYTES = 10
_CONTROLS = bytes({*range(0x20), 0x7F} - {*b"\t\n\v\f\r\x1a\x1b"})
_MOST_CONTROLS = 0.05
"""The largest share of control characters in text. UTF-16 and UTF-32 have more, and need a byte-order mark or
--encoding."""

_EXPORT = "save it as plain text first"
_UNPACK_FIRST = "extract it and name the files in it"


def unreadable(name: str, error: OSError) -> TextgenError:
    """The error for a file that the operating system does not let us read."""
    return TextgenError(f"cannot read {name!r}: {error.strerror or error}.")


@contextmanager
def opened(path: Path, name: str) -> Iterator[BinaryIO]:
    """A file opened for sequential reading, decompressed if its first bytes say so.

    Raises TextgenError naming the file (as `name`) for any failure to read it, including those inside the block.
    """
    compression = ""
    try:
        with path.open("rb") as file:
            compression = compression_of(file.read(MAGIC_BYTES))
            file.seek(0)
            if not compression:
                yield file
                return
            with _DECOMPRESS[compression](file) as stream:
                yield stream
    except EOFError:
        raise TextgenError(f"{name!r} is a damaged {compression} file (it ends too early).") from None
    except (gzip.BadGzipFile, zlib.error, lzma.LZMAError) as error:
        raise TextgenError(f"{name!r} is a damaged {compression} file ({error}).") from None
    except OSError as error:
        if compression and error.errno is None:  # raised by the decompressor, not by the operating system
            reason = " ".join(str(error).split()).rstrip(".")
            raise TextgenError(f"{name!r} is a damaged {compression} file ({reason}).") from None
        raise unreadable(name, error) from error


def compression_of(head: bytes) -> str:
    """How a file that begins with these `MAGIC_BYTES` is compressed, or ''. No text begins with these signatures."""
    if head.startswith(b"\x1f\x8b\x08"):  # the first two bytes alone may begin a text in UTF-16
        return "gzip"
    if head.startswith(b"BZh") and head[4:] in (b"1AY&SY", b"\x17rE8P\x90"):
        return "bzip2"
    if head.startswith(b"\xfd7zXZ\x00"):
        return "xz"
    return "zstandard" if head.startswith(b"\x28\xb5\x2f\xfd") else ""


def uncompressed_name(name: str) -> str:
    """A file's name in lower case without a compression suffix."""
    lower = name.lower()
    return next((lower.removesuffix(ending) for ending in COMPRESSED_ENDINGS if lower.endswith(ending)), lower)


def _open_zstandard(file: BinaryIO) -> Any:
    with needed("pyarrow", "reading zstandard files", instead="decompress the file."):
        import pyarrow
    return pyarrow.CompressedInputStream(pyarrow.PythonFile(file, mode="r"), "zstd")


_DECOMPRESS: dict[str, Callable[[BinaryIO], Any]] = {
    "gzip": lambda file: gzip.GzipFile(fileobj=file),
    "bzip2": bz2.BZ2File,
    "xz": lzma.LZMAFile,
    "zstandard": _open_zstandard,
}


@dataclass(frozen=True)
class Format:
    """A file format: what messages call it, and a hint."""

    noun: str
    remedy: str


_PDF = Format("a PDF document", "convert it to plain text, with pdftotext for example")
_ZIP = Format("a zip archive", _UNPACK_FIRST)
_IMAGE = Format("an image", "text recognition (OCR) extracts the text of a scan")
_SOUND = Format("a sound or video file", "a transcript of it is text")
_PROGRAM = Format("a program", "")
_ARRAY = Format("an array of numbers", "")
_OLD_OFFICE = Format("an old Microsoft Office document", _EXPORT)

_BEGINNINGS = {
    b"{\\rtf": Format("a rich-text document (RTF)", _EXPORT),
    b"PK\x03\x04": _ZIP,
    b"PK\x05\x06": _ZIP,
    b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1": _OLD_OFFICE,
    b"7z\xbc\xaf\x27\x1c": Format("a 7z archive", _UNPACK_FIRST),
    b"Rar!\x1a\x07": Format("a rar archive", _UNPACK_FIRST),
    b"\x89PNG\r\n\x1a\n": _IMAGE,
    b"\xff\xd8\xff": _IMAGE,
    b"II*\0": _IMAGE,
    b"MM\0*": _IMAGE,
    b"OggS\0": _SOUND,
    b"fLaC\0": _SOUND,
    b"ID3\x02": _SOUND,
    b"ID3\x03": _SOUND,
    b"ID3\x04": _SOUND,
    b"\x7fELF": _PROGRAM,
    b"MZ\x90\0": _PROGRAM,
    b"\xca\xfe\xba\xbe": _PROGRAM,
    b"\0asm": _PROGRAM,
    b"SQLite format 3\0": Format("an SQLite database", "export a table from it as csv"),
    b"\x93NUMPY": _ARRAY,
    b"\x89HDF\r\n\x1a\n": _ARRAY,
    b"ARROW1\0\0": Format("an Arrow table", "save it as Parquet or csv"),
}
_ALSO_TEXT = {
    b"GIF87a": _IMAGE,
    b"GIF89a": _IMAGE,
    b"AT&TFORM": Format("a DjVu document", _EXPORT),
    b"PAR1": Format("a Parquet table", "a table is read if its name ends in .parquet"),
}
"""Signatures that a text may begin with, so that the file must also look binary."""

_OFFICE = {  # by the names of files in a zip archive
    b"word/": Format("a Word document", _EXPORT),
    b"xl/": Format("an Excel workbook", "save it as csv first"),
    b"ppt/": Format("a PowerPoint presentation", _EXPORT),
    b"mimetypeapplication/epub": Format("an EPUB book", "convert it to plain text first, with Calibre or Pandoc"),
    b"mimetypeapplication/vnd.oasis.opendocument.spreadsheet": Format("a spreadsheet (ODS)", "save it as csv first"),
    b"mimetypeapplication/vnd.oasis.opendocument": Format("an OpenDocument file", _EXPORT),
}
_BY_ENDING = {
    ".docx": _OFFICE[b"word/"],
    ".xlsx": _OFFICE[b"xl/"],
    ".pptx": _OFFICE[b"ppt/"],
    ".epub": _OFFICE[b"mimetypeapplication/epub"],
    ".odt": _OFFICE[b"mimetypeapplication/vnd.oasis.opendocument"],
    ".doc": Format("a Word document", _EXPORT),
    ".xls": _OFFICE[b"xl/"],
    ".ppt": _OFFICE[b"ppt/"],
}
"""By file extension, if the content does not tell which format a container has."""


def format_of(head: bytes, name: str = "") -> Format | None:
    """The format of a file that begins with `head`, None if it may be text. `name` is its file name, if it has one."""
    if head.startswith(b"RIFF") and head[8:12] in (b"WEBP", b"WAVE", b"AVI "):
        return _IMAGE if head[8:12] == b"WEBP" else _SOUND
    if re.match(rb"%PDF-\d\.\d", head):
        return _PDF
    if head[4:8] == b"ftyp" and head[:3] == b"\0\0\0":
        return _SOUND
    if head[257:262] == b"ustar":
        return Format("a tar archive", _UNPACK_FIRST)
    if head[60:68] == b"BOOKMOBI":
        return Format("an e-book (MOBI)", "convert it to plain text first, with Calibre")
    known = _BEGINNINGS | _ALSO_TEXT if looks_binary(head) else _BEGINNINGS
    found = next((format for sign, format in known.items() if head.startswith(sign)), None)
    if found is _ZIP or found is _OLD_OFFICE:
        inside = (format for sign, format in _OFFICE.items() if found is _ZIP and sign in head)
        by_name = (format for ending, format in _BY_ENDING.items() if name.lower().endswith(ending))
        return next(inside, None) or next(by_name, found)
    return found


def refuse_other_formats(head: bytes, name: str, may_be_raw: bool = False) -> None:
    """Raise TextgenError for a file whose first bytes show that it is not text. The hint suggests reading raw bytes if
    that is possible."""
    found = format_of(head, name)
    if found is not None:
        raw = f"{named('tokenizer', 'byte')} reads its raw bytes" if may_be_raw else ""
        remedies = "; ".join(filter(None, (found.remedy, raw)))
        raise TextgenError(f"{name!r} is {found.noun}, not text.", hint=f"{remedies}." if remedies else None)


def looks_binary(head: bytes) -> bool:
    """Whether there are more control characters than in text in any encoding."""
    return len(head) - len(head.translate(None, _CONTROLS)) > _MOST_CONTROLS * len(head)

"""Packed files: gzip, bzip2, xz and zstandard, known by their first bytes and never by their names."""

from __future__ import annotations

import bz2
import gzip
import lzma
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from textgen.dependencies import needed
from textgen.errors import TextgenError

PACKED_ENDINGS = (".gz", ".bz2", ".xz", ".zst")
MAGIC_BYTES = 10


def unreadable(name: str, error: OSError) -> TextgenError:
    """What to say of a file that the machine does not give."""
    return TextgenError(f"cannot read {name!r}: {error.strerror or error}.")


@contextmanager
def opened(path: Path, name: str) -> Iterator[BinaryIO]:
    """The bytes of a file, unpacked if its first bytes say so; give it to `head` and `read`, which never seek.

    Raises TextgenError naming the file (as `name`) for whatever fails in reading it, inside the block as well.
    """
    kind = ""
    try:
        with path.open("rb") as file:
            kind = packed_with(file.read(MAGIC_BYTES))
            file.seek(0)
            if not kind:
                yield file
                return
            with _UNPACK[kind](file) as stream:
                yield stream
    except EOFError:
        raise TextgenError(f"{name!r} is a damaged {kind} file (it ends too early).") from None
    except (gzip.BadGzipFile, zlib.error, lzma.LZMAError) as error:
        raise TextgenError(f"{name!r} is a damaged {kind} file ({error}).") from None
    except OSError as error:
        if kind and error.errno is None:  # said by the unpacker, not by the machine
            raise TextgenError(f"{name!r} is a damaged {kind} file ({_plain(error)}).") from None
        raise unreadable(name, error) from error


def packed_with(head: bytes) -> str:
    """What packed a file that begins with these `MAGIC_BYTES`, or ''. Each sign is one that no text begins with."""
    if head.startswith(b"\x1f\x8b\x08"):  # with the only method there is: two bytes may begin a text in UTF-16
        return "gzip"
    if head.startswith(b"BZh") and head[4:] in (b"1AY&SY", b"\x17rE8P\x90"):
        return "bzip2"
    if head.startswith(b"\xfd7zXZ\x00"):
        return "xz"
    return "zstandard" if head.startswith(b"\x28\xb5\x2f\xfd") else ""


def unpacked_name(name: str) -> str:
    """A file's name in lower case without the ending of a packer."""
    lower = name.lower()
    return next((lower.removesuffix(ending) for ending in PACKED_ENDINGS if lower.endswith(ending)), lower)


def _plain(error: Exception) -> str:
    return " ".join(str(error).split()).rstrip(".")


def _unpack_zstandard(file: BinaryIO) -> Any:
    with needed("pyarrow", "reading zstandard files", instead="unpack the file."):
        import pyarrow
    return pyarrow.CompressedInputStream(pyarrow.PythonFile(file, mode="r"), "zstd")


_UNPACK: dict[str, Callable[[BinaryIO], Any]] = {
    "gzip": lambda file: gzip.GzipFile(fileobj=file),
    "bzip2": bz2.BZ2File,
    "xz": lzma.LZMAFile,
    "zstandard": _unpack_zstandard,
}

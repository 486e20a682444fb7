"""Compressed files: gzip, bzip2, xz and zstandard, recognized by their first bytes and never by their names."""

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

COMPRESSED_ENDINGS = (".gz", ".bz2", ".xz", ".zst")
MAGIC_BYTES = 10


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

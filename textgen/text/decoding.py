"""Text in any encoding converted to UTF-8 in a stream; bytes that are not text are refused with their offset."""

from __future__ import annotations

import codecs
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import chain

from textgen.errors import TextgenError, UsageError, did_you_mean
from textgen.parameters import named
from textgen.text.signatures import looks_binary, refuse_other_formats

HEAD_BYTES = 4096
NUL_SHARE = 0.2  # text in UTF-8 has fewer NUL bytes in its head
READABLE = 0.3  # a text has at least this share of visible ASCII
AUTO = "auto"

BYTE_ORDER_MARKS = {  # UTF-32 first: its little-endian mark begins with that of UTF-16
    "utf-32-le": codecs.BOM_UTF32_LE,
    "utf-32-be": codecs.BOM_UTF32_BE,
    "utf-16-le": codecs.BOM_UTF16_LE,
    "utf-16-be": codecs.BOM_UTF16_BE,
    "utf-8": codecs.BOM_UTF8,
}
WITHOUT_MARK = {"utf-8-sig": "utf-8", "utf-16": "utf-16-le", "utf-32": "utf-32-le"}  # the order nearly all files have
OVERFLOW = "pending buffer overflow"
"""The error for a long unknown escape sequence of ISO-2022: a bare UnicodeError before Python 3.13, and since then a
UnicodeDecodeError that starts at the block instead of the sequence."""
NOT_TEXT = {"base64", "bz2", "hex", "quopri", "rot-13", "uu", "zlib", "idna", "punycode", "undefined"}
NOT_TEXT |= {"unicode-escape", "raw-unicode-escape"}
COMMON = [AUTO, "utf-8", "utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-7", "ascii", "latin-1", "koi8-r", "koi8-u"]
COMMON += ["shift_jis", "euc_jp", "iso2022_jp", "gb2312", "gbk", "gb18030", "hz", "big5", "euc_kr", "johab"]
COMMON += ["mac-roman", *(f"iso-8859-{part}" for part in range(2, 17) if part != 12)]
COMMON += [f"cp{page}" for page in (437, 850, 852, 865, 866, 874, 932, 949, 950, *range(1250, 1259))]


def codec(encoding: str) -> str:
    """Python's name for a text encoding, with a byte order for UTF-16 and UTF-32. Raises UsageError."""
    try:
        name = codecs.lookup(encoding).name
    except (LookupError, ValueError):
        near = did_you_mean(encoding.lower(), COMMON)
        raise UsageError(f"unknown encoding {encoding!r}.{near}") from None
    if name in NOT_TEXT:
        raise UsageError(
            f"{encoding!r} is not an encoding of text files.", hint=f"{named('encoding', 'latin-1')}, for example."
        )
    return WITHOUT_MARK.get(name, name)


@dataclass(frozen=True)
class Decoding:
    """What is known about the encoding of a text.

    Attributes:
        asked: the encoding to use; None for UTF-8 or that of a byte-order mark.
        found: whether `auto` detected it.
        from_training: whether a model remembers it, so that any byte-order mark overrides it.
        may_be_raw: whether hints may suggest reading raw bytes.
    """

    asked: str | None = None
    found: bool = False
    from_training: bool = False
    may_be_raw: bool = False


def to_utf8(blocks: Iterable[bytes], head: bytes, name: str, known: Decoding) -> Iterator[bytes]:
    """The text of `blocks` in UTF-8, one chunk per block, each ending at a character boundary; chunks may be empty.

    `head` is the first HEAD_BYTES of the file, `name` what messages call it. A byte-order mark is not part of the text.
    Raises TextgenError at the first byte that is not text.
    """
    if known.asked is None or known.found:
        refuse_other_formats(head, name, known.may_be_raw)
    encoding = _choose(head, name, known)
    decoder = codecs.getincrementaldecoder(encoding)()
    offset, begun = 0, False
    for block in chain(blocks, [b""]):
        offset += len(block)
        try:
            text = _decode(decoder, block)
            data = (text if begun else text.removeprefix("\ufeff")).encode()
        except UnicodeDecodeError as error:  # error.object is what the decoder had buffered, then the block
            byte, place = error.object[error.start], offset - len(error.object) + error.start
            label = shown(encoding) if known.found or encoding in BYTE_ORDER_MARKS else encoding
            message = f"{name!r} is not {label} text (byte 0x{byte:02x} at offset {place})."
            raise TextgenError(message, hint=_remedy(name, known, not block, looks_binary(head))) from None
        except UnicodeEncodeError as error:  # UTF-7 can encode lone surrogates, UTF-8 cannot
            half = f"U+{ord(error.object[error.start]):04X}"
            raise TextgenError(f"{name!r} has half a character ({half}) before offset {offset}.") from None
        begun = begun or bool(text)
        yield data


def _decode(decoder: codecs.IncrementalDecoder, block: bytes) -> str:
    """The text of a block; an empty block marks the end. Raises UnicodeDecodeError."""
    before = decoder.getstate()
    try:
        return decoder.decode(block, not block)
    except UnicodeError as error:
        if isinstance(error, UnicodeDecodeError) and error.reason != OVERFLOW:
            raise
        decoder.setstate(before)  # the error has no position: find it byte by byte
        for index in range(len(block)):
            kept = len(decoder.getstate()[0])
            try:
                decoder.decode(block[index : index + 1])
            except UnicodeError:
                start = len(before[0]) + index - kept
                raise UnicodeDecodeError("", before[0] + block, start, start + 1, str(error)) from None
        raise


def _remedy(name: str, known: Decoding, cut_off: bool, binary: bool) -> str:
    raw = f"{named('tokenizer', 'byte')} reads raw bytes" if known.may_be_raw else ""
    auto, other_name = named("encoding", AUTO), named("encoding", "NAME")
    if binary and known.asked is None and not cut_off:
        return "; ".join(filter(None, ("it looks like a binary file rather than text", raw))) + "."
    if known.found:
        other = f"{auto} chose that from a part of the file; {other_name} overrides it"
    elif known.from_training:
        other = f"that is the encoding of the training text; {other_name} or auto overrides it"
    elif known.asked is None:
        other = f"{auto} detects the encoding of {name!r}"
    else:
        other = f"{auto}, or another {named('encoding')}"
        raw += f" without {named('encoding')}" if raw else ""
    cut = "it ends within a character, as a truncated file does" if cut_off else ""
    return "; ".join(filter(None, (cut, other, raw))) + "."


def shown(encoding: str) -> str:
    """An encoding as messages name it; --encoding accepts that name."""
    if encoding in BYTE_ORDER_MARKS:
        return encoding.upper()
    return encoding.replace("cp125", "windows-125") if encoding.startswith("cp125") else encoding


def _choose(head: bytes, name: str, known: Decoding) -> str:
    """The encoding of a file that begins with `head`: by its byte-order mark, unless another family was asked for."""
    encoding = "utf-8" if known.asked is None else codec(known.asked)
    if encoding not in BYTE_ORDER_MARKS:
        return (marked(head) if known.from_training else None) or encoding
    found = marked(head, None if known.asked is None else encoding[:6])
    if found is None and known.asked is None and _mostly_nul(head):
        _refuse_nul(head, name)
    return found or encoding


def is_utf8(data: bytes) -> bool:
    """Whether bytes are valid UTF-8."""
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True


def marked(head: bytes, first: str | None = None) -> str | None:
    """The encoding of a byte-order mark, None without one; marks of the family `first` are tried first."""
    order = sorted(BYTE_ORDER_MARKS, key=lambda other: first is not None and other[:6] != first)
    return next((encoding for encoding in order if head.startswith(BYTE_ORDER_MARKS[encoding])), None)


def begins_mark(head: bytes) -> bool:
    """Whether `head` may be the start of a byte-order mark that more bytes complete."""
    return any(len(head) < len(mark) and mark.startswith(head) for mark in BYTE_ORDER_MARKS.values())


def _mostly_nul(head: bytes) -> bool:
    return head.count(0) > NUL_SHARE * len(head)


def likely_wide(head: bytes) -> str | None:
    """The likely UTF-16 or UTF-32 encoding of a head without a mark but with many NUL bytes; None for anything else."""
    if not _mostly_nul(head):
        return None
    scores = {wide: _readable(head, wide) for wide in BYTE_ORDER_MARKS if wide != "utf-8"}
    likely = max(scores, key=lambda wide: scores[wide])
    return likely if scores[likely] >= READABLE else None


def _refuse_nul(head: bytes, name: str) -> None:
    """Raises TextgenError naming the likely encoding, or returns if decoding as UTF-8 will report an invalid byte."""
    likely = likely_wide(head)
    if likely is None:
        try:
            codecs.getincrementaldecoder("utf-8")().decode(head)
        except UnicodeDecodeError:
            return
        likely = "utf-8"
    raise TextgenError(
        f"{name!r} does not look like text ({head.count(0) / len(head):.0%} of its first {len(head):,} bytes are NUL).",
        hint=f"{named('encoding', likely)} or auto if it is text, or {named('tokenizer', 'byte')} to read raw bytes.",
    )


def _readable(head: bytes, encoding: str) -> float:
    """The share of visible ASCII among the characters."""
    text = head.decode(encoding, errors="replace")
    return sum(" " <= character <= "~" or character in "\t\r\n" for character in text) / len(text)

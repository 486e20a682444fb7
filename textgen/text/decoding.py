"""Text in any encoding as UTF-8, streamed; what is not text is refused with its place in the file."""

from __future__ import annotations

import codecs
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import chain

from textgen.errors import TextgenError, UsageError, did_you_mean
from textgen.parameters import named
from textgen.text.signatures import looks_binary, refuse_other_formats

HEAD_BYTES = 4096
NUL_SHARE = 0.2  # more NUL bytes than this in the head is no UTF-8 that a person wrote
READABLE = 0.3  # so much visible ASCII is a text
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
"""A long unknown escape sequence of ISO-2022: a bare UnicodeError before Python 3.13, since then a UnicodeDecodeError
that begins with the block instead of the sequence."""
NOT_TEXT = {"base64", "bz2", "hex", "quopri", "rot-13", "uu", "zlib", "idna", "punycode", "undefined"}
NOT_TEXT |= {"unicode-escape", "raw-unicode-escape"}
COMMON = [AUTO, "utf-8", "utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-7", "ascii", "latin-1", "koi8-r", "koi8-u"]
COMMON += ["shift_jis", "euc_jp", "iso2022_jp", "gb2312", "gbk", "gb18030", "hz", "big5", "euc_kr", "johab"]
COMMON += ["mac-roman", *(f"iso-8859-{part}" for part in range(2, 17) if part != 12)]
COMMON += [f"cp{page}" for page in (437, 850, 852, 865, 866, 874, 932, 949, 950, *range(1250, 1259))]


def codec(encoding: str) -> str:
    """Python's name of a text encoding, in which UTF-16 and UTF-32 have a byte order. Raises UsageError."""
    try:
        name = codecs.lookup(encoding).name
    except (LookupError, ValueError):
        near = did_you_mean(encoding.lower(), COMMON)
        raise UsageError(f"no encoding is named {encoding!r}.{near}") from None
    if name in NOT_TEXT:
        raise UsageError(
            f"{encoding!r} is not an encoding of text files.", hint=f"{named('encoding', 'latin-1')}, for example."
        )
    return WITHOUT_MARK.get(name, name)


@dataclass(frozen=True)
class Decoding:
    """What is known of a text's encoding: the one `asked` for or None; whether it was `found` by `auto`; whether it
    comes from a model's training, so that any byte-order mark overrules it; and whether raw bytes could be asked for,
    as hints may say."""

    asked: str | None = None
    found: bool = False
    from_training: bool = False
    may_be_raw: bool = False


def to_utf8(blocks: Iterable[bytes], head: bytes, name: str, known: Decoding) -> Iterator[bytes]:
    """The text of `blocks` in UTF-8, one piece a block, each ending at a character border; pieces may be empty.

    `head` is the first HEAD_BYTES of the file, `name` what messages call it. A byte-order mark is no part of the text.
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
        except UnicodeDecodeError as error:  # its object is what the decoder had kept, then the block
            byte, place = error.object[error.start], offset - len(error.object) + error.start
            label = shown(encoding) if known.found or encoding in BYTE_ORDER_MARKS else encoding
            message = f"{name!r} is not {label} text (byte 0x{byte:02x} at offset {place})."
            raise TextgenError(message, hint=_remedy(name, known, not block, looks_binary(head))) from None
        except UnicodeEncodeError as error:  # UTF-7 can write what UTF-8 cannot
            half = f"U+{ord(error.object[error.start]):04X}"
            raise TextgenError(f"{name!r} has half a character ({half}) before offset {offset}.") from None
        begun = begun or bool(text)
        yield data


def _decode(decoder: codecs.IncrementalDecoder, block: bytes) -> str:
    """The text of a block; an empty block is the end. Raises UnicodeDecodeError."""
    before = decoder.getstate()
    try:
        return decoder.decode(block, not block)
    except UnicodeError as error:
        if isinstance(error, UnicodeDecodeError) and error.reason != OVERFLOW:
            raise
        decoder.setstate(before)  # the error does not say where: find the place byte by byte
        for index in range(len(block)):
            kept = len(decoder.getstate()[0])
            try:
                decoder.decode(block[index : index + 1])
            except UnicodeError:
                start = len(before[0]) + index - kept
                raise UnicodeDecodeError("", before[0] + block, start, start + 1, str(error)) from None
        raise


def _remedy(name: str, known: Decoding, cut_off: bool, binary: bool) -> str:
    raw = f"{named('tokenizer', 'byte')} learns raw bytes" if known.may_be_raw else ""
    auto, other_name = named("encoding", AUTO), named("encoding", "NAME")
    if binary and known.asked is None and not cut_off:
        return "; ".join(filter(None, ("it looks like a binary file rather than text", raw))) + "."
    if known.found:
        other = f"{auto} chose that by a part of the file; {other_name} says what it is"
    elif known.from_training:
        other = f"that is the encoding of the training text; {other_name} or auto reads another one"
    elif known.asked is None:
        other = f"{auto} finds the encoding of {name!r}"
    else:
        other = f"{auto}, or another {named('encoding')}"
        raw += f" without {named('encoding')}" if raw else ""
    cut = "it ends within a character, as a file cut off does" if cut_off else ""
    return "; ".join(filter(None, (cut, other, raw))) + "."


def shown(encoding: str) -> str:
    """An encoding as messages name it, which --encoding also takes."""
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


def marked(head: bytes, first: str | None = None) -> str | None:
    """The encoding that a byte-order mark tells, None without one; marks of the family `first` are looked for first."""
    order = sorted(BYTE_ORDER_MARKS, key=lambda other: first is not None and other[:6] != first)
    return next((encoding for encoding in order if head.startswith(BYTE_ORDER_MARKS[encoding])), None)


def begins_mark(head: bytes) -> bool:
    """Whether more bytes could make a byte-order mark of a beginning, or another mark of it."""
    return any(len(head) < len(mark) and mark.startswith(head) for mark in BYTE_ORDER_MARKS.values())


def _mostly_nul(head: bytes) -> bool:
    return head.count(0) > NUL_SHARE * len(head)


def likely_wide(head: bytes) -> str | None:
    """The UTF-16 or UTF-32, without a mark, that text beginning with these NUL bytes is in; None for anything else."""
    if not _mostly_nul(head):
        return None
    scores = {wide: _readable(head, wide) for wide in BYTE_ORDER_MARKS if wide != "utf-8"}
    likely = max(scores, key=lambda wide: scores[wide])
    return likely if scores[likely] >= READABLE else None


def _refuse_nul(head: bytes, name: str) -> None:
    """Raises TextgenError naming the likely encoding, or returns if UTF-8 itself will name a wrong byte."""
    likely = likely_wide(head)
    if likely is None:
        try:
            codecs.getincrementaldecoder("utf-8")().decode(head)
        except UnicodeDecodeError:
            return
        likely = "utf-8"
    raise TextgenError(
        f"{name!r} does not look like text ({head.count(0) / len(head):.0%} of its first {len(head):,} bytes are NUL).",
        hint=f"{named('encoding', likely)} or auto if it is text, or {named('tokenizer', 'byte')} to learn raw bytes.",
    )


def _readable(head: bytes, encoding: str) -> float:
    """The share of visible ASCII among the characters."""
    text = head.decode(encoding, errors="replace")
    return sum(" " <= character <= "~" or character in "\t\r\n" for character in text) / len(text)

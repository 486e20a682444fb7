"""Text in any encoding as UTF-8, streamed; what is not text is refused with its place in the file."""

from __future__ import annotations

import codecs
from collections.abc import Iterator
from itertools import chain

from textgen.errors import TextgenError, UsageError, did_you_mean
from textgen.parameters import named
from textgen.text.signatures import looks_binary, refuse_other_formats

HEAD_BYTES = 4096
NUL_SHARE = 0.2  # more NUL bytes than this in the head is no UTF-8 that a person wrote

BYTE_ORDER_MARKS = {  # UTF-32 first: its little-endian mark begins with that of UTF-16
    "utf-32-le": codecs.BOM_UTF32_LE,
    "utf-32-be": codecs.BOM_UTF32_BE,
    "utf-16-le": codecs.BOM_UTF16_LE,
    "utf-16-be": codecs.BOM_UTF16_BE,
    "utf-8": codecs.BOM_UTF8,
}
WITHOUT_MARK = {"utf-8-sig": "utf-8", "utf-16": "utf-16-le", "utf-32": "utf-32-le"}  # the order nearly all files have
NOT_TEXT = {"base64", "bz2", "hex", "quopri", "rot-13", "uu", "zlib", "idna", "punycode", "undefined"}
NOT_TEXT |= {"unicode-escape", "raw-unicode-escape"}
COMMON = ["utf-8", "utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-7", "ascii", "latin-1", "koi8-r", "koi8-u"]
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


def to_utf8(
    blocks: Iterator[bytes], head: bytes, name: str, asked: str | None, may_be_raw: bool = False
) -> Iterator[bytes]:
    """The text of `blocks` in UTF-8, one piece a block, each ending at a character border; pieces may be empty.

    `head` is the first HEAD_BYTES of the file, `name` what messages call it, `asked` the encoding given or None. A
    byte-order mark is no part of the text. Raises TextgenError at the first byte that is not text; its hint speaks of
    raw bytes where those may be asked for.
    """
    if asked is None:
        refuse_other_formats(head, name, may_be_raw)
    encoding = _choose(head, name, asked)
    decoder = codecs.getincrementaldecoder(encoding)()
    offset, begun = 0, False
    for block in chain(blocks, [b""]):
        offset += len(block)
        try:
            text = _decode(decoder, block)
            data = (text if begun else text.removeprefix("\ufeff")).encode()
        except UnicodeDecodeError as error:  # its object is what the decoder had kept, then the block
            byte, place = error.object[error.start], offset - len(error.object) + error.start
            label = encoding.upper() if encoding in BYTE_ORDER_MARKS else encoding
            message = f"{name!r} is not {label} text (byte 0x{byte:02x} at offset {place})."
            raise TextgenError(message, hint=_remedy(asked, not block, may_be_raw, looks_binary(head))) from None
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
    except UnicodeDecodeError:
        raise
    except UnicodeError as error:  # a wrong escape sequence in ISO-2022 comes without its place: go there byte by byte
        decoder.setstate(before)
        for index in range(len(block)):
            kept = len(decoder.getstate()[0])
            try:
                decoder.decode(block[index : index + 1])
            except UnicodeError:
                start = len(before[0]) + index - kept
                raise UnicodeDecodeError("", before[0] + block, start, start + 1, str(error)) from None
        raise


def _remedy(asked: str | None, cut_off: bool, may_be_raw: bool, binary: bool) -> str:
    raw = f"; {named('tokenizer', 'byte')} learns raw bytes" if may_be_raw else ""
    if cut_off:
        return f"it ends within a character, as a file cut off does{raw}."
    if binary and asked is None:
        return f"it looks like a binary file rather than text{raw}."
    other = f"{named('encoding', 'latin-1')} for older text" if asked is None else f"another {named('encoding')}"
    without = "" if asked is None else f" without {named('encoding')}"
    raw = f", or {named('tokenizer', 'byte')}{without} to learn raw bytes"
    return f"{other}{raw if may_be_raw else ''}."


def _choose(head: bytes, name: str, asked: str | None) -> str:
    """The encoding of a file that begins with `head`: by its byte-order mark, unless another family was asked for."""
    encoding = "utf-8" if asked is None else codec(asked)
    if encoding not in BYTE_ORDER_MARKS:
        return encoding
    own_family_first = sorted(BYTE_ORDER_MARKS, key=lambda other: asked is not None and other[:6] != encoding[:6])
    for marked in own_family_first:
        if head.startswith(BYTE_ORDER_MARKS[marked]):
            return marked
    if asked is None and head.count(0) > NUL_SHARE * len(head):
        _refuse_nul(head, name)
    return encoding


def _refuse_nul(head: bytes, name: str) -> None:
    """Raises TextgenError naming the likely encoding, or returns if UTF-8 itself will name a wrong byte."""
    scores = {wide: _readable(head, wide) for wide in BYTE_ORDER_MARKS if wide != "utf-8"}
    likely = max(scores, key=lambda wide: scores[wide])
    if scores[likely] < 0.3:
        try:
            codecs.getincrementaldecoder("utf-8")().decode(head)
        except UnicodeDecodeError:
            return
        likely = "utf-8"
    raise TextgenError(
        f"{name!r} does not look like text ({head.count(0) / len(head):.0%} of its first {len(head):,} bytes are NUL).",
        hint=f"{named('encoding', likely)} if it is text, or {named('tokenizer', 'byte')} to learn raw bytes.",
    )


def _readable(head: bytes, encoding: str) -> float:
    """The share of visible ASCII among the characters."""
    text = head.decode(encoding, errors="replace")
    return sum(" " <= character <= "~" or character in "\t\r\n" for character in text) / len(text)

"""Text in any encoding as UTF-8, streamed; invalid bytes are refused with their place in the file.

With `--encoding auto` the encoding is found from the bytes. A byte-order mark decides. Without one, a file that is
valid UTF-8 throughout is UTF-8; any other file is judged by its lines that are not ASCII, in one pass and bounded
memory. charset-normalizer measures how plausible a text looks in each encoding. In short texts several Latin
encodings look alike; of these, the one is taken in which the letters are those of a language.
"""

from __future__ import annotations

import codecs
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass, field
from itertools import chain, groupby
from pathlib import Path
from typing import Any

from textgen.data.archives import looks_binary, refuse_other_formats
from textgen.errors import TextgenError, UsageError, did_you_mean, needed
from textgen.formatting import plural
from textgen.options import named

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
ALIKE_CHAOS, ALIKE_COHERENCE = 0.03, 0.1  # candidates whose scores are this close to the best look alike
HANDICAP, LIKE_A_LANGUAGE = 0.03, 0.3
"""How much better than the most common encoding another one must score, and the lowest score that is accepted."""

INSIDE_WORDS = "’‘·-­"
CHUNK = 1024
STANDARD_INPUT = "standard input"
SAMPLE_BYTES = 1 << 16
"""How many bytes of lines that are not ASCII charset-normalizer examines."""


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
        return (marked_encoding(head) if known.from_training else None) or encoding
    found = marked_encoding(head, None if known.asked is None else encoding[:6])
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


def marked_encoding(head: bytes, first: str | None = None) -> str | None:
    """The encoding of a byte-order mark, None without one; marks of the family `first` are tried first."""
    order = sorted(BYTE_ORDER_MARKS, key=lambda other: first is not None and other[:6] != first)
    return next((encoding for encoding in order if head.startswith(BYTE_ORDER_MARKS[encoding])), None)


def begins_mark(head: bytes) -> bool:
    """Whether `head` may be the start of a byte-order mark that more bytes complete."""
    return any(len(head) < len(mark) and mark.startswith(head) for mark in BYTE_ORDER_MARKS.values())


def likely_wide(head: bytes) -> str | None:
    """The likely UTF-16 or UTF-32 encoding of a head without a mark but with many NUL bytes; None for anything else."""

    def visible(encoding: str) -> float:
        """The share of visible ASCII among the characters."""
        text = head.decode(encoding, errors="replace")
        return sum(" " <= character <= "~" or character in "\t\r\n" for character in text) / len(text)

    if not _mostly_nul(head):
        return None
    scores = {wide: visible(wide) for wide in BYTE_ORDER_MARKS if wide != "utf-8"}
    likely = max(scores, key=lambda wide: scores[wide])
    return likely if scores[likely] >= READABLE else None


def _mostly_nul(head: bytes) -> bool:
    return head.count(0) > NUL_SHARE * len(head)


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


WESTERN = (
    "àâæçèéêëîïôœùûüÿ",  # French
    "äöüß",
    "áéíñóúü",  # Spanish
    "àáâãçéêíóôõúü",  # Portuguese
    "àèéìíîòóùú",  # Italian
    "àçèéíïòóúü",  # Catalan
    "åäöé",  # Swedish, Finnish
    "æøåé",  # Danish, Norwegian
    "áæðéíóöþúý",  # Icelandic
    "éëïóöü",  # Dutch
)
CENTRAL = ("ąćęłńóśźż", "áčďéěíňóřšťúůýž", "áäčďéíĺľňóôŕšťúýž", "áéíóöőúüű", "ćčđšž", "ăâîşţ")
TURKISH, BALTIC = ("âçğıi̇îöşüû",), ("ąčęėįšųūž", "āčēģīķļņšūž", "äõöüšž")
LETTERS = {
    "cp1252": WESTERN,
    "iso8859_15": WESTERN,
    "cp850": WESTERN,
    "cp865": WESTERN,
    "mac_roman": WESTERN,
    "cp1250": CENTRAL,
    "iso8859_2": CENTRAL,
    "cp852": CENTRAL,
    "cp1254": TURKISH,
    "cp1257": BALTIC,
}
"""Latin encodings, the most common first, and the letters beyond ASCII of the languages written in them."""

JAPANESE, KANA = ("cp932", "euc_jp"), 0.2
EASTERN = [*JAPANESE, "shift_jis", "euc_kr", "cp949", "gb18030", "big5"]
CANDIDATES = [*LETTERS, "cp1251", "koi8_r", "koi8_u", "iso8859_5", "cp866", "cp1253", "iso8859_7", "cp1255", "cp1256"]
CANDIDATES += EASTERN
"""Encodings of text files. More candidates would mean more wrong answers for short texts."""


def charset_of(sample: bytes, name: str) -> str:
    """Python's name for the encoding of some whole lines. Raises TextgenError if no known encoding fits."""
    with needed("charset_normalizer", named("encoding", "auto")):
        from charset_normalizer import from_bytes
    found = [] if b"\0" in sample else list(from_bytes(sample, chunk_size=CHUNK, cp_isolation=CANDIDATES))
    if not found:
        raise TextgenError(
            f"{name!r} is not text in any encoding that {named('encoding', 'auto')} knows.",
            hint=f"name its encoding with {named('encoding', 'NAME')} if it is text; otherwise leave the file out.",
        )
    alike = [
        match
        for match in found
        if match.chaos <= found[0].chaos + ALIKE_CHAOS and match.coherence >= found[0].coherence - ALIKE_COHERENCE
    ]
    own = _japanese(sample) if found[0].encoding in EASTERN else None
    if own is None and any(match.encoding in LETTERS for match in alike):
        own = _latin(sample)
    return codecs.lookup(own or found[0].encoding).name


def _japanese(sample: bytes) -> str | None:
    """The Japanese encoding in which a text has kana, as all Japanese text does; None if there are few."""
    shares = {}
    for encoding in JAPANESE:
        with suppress(UnicodeDecodeError):
            text = sample.decode(encoding)
            shares[encoding] = sum("\u3041" <= character <= "\u30ff" for character in text) / len(text)
    likely = max(shares, key=lambda encoding: shares[encoding], default="")
    return likely if shares.get(likely, 0.0) >= KANA else None


def _latin(sample: bytes) -> str | None:
    """The Latin encoding in which the letters fit one language best, the more common one in a tie; None if they fit
    in none."""
    scores = {}
    for encoding, alphabets in LETTERS.items():
        with suppress(UnicodeDecodeError):
            scores[encoding] = latin_score(sample.decode(encoding), alphabets)
    likely = max(scores, key=lambda encoding: scores[encoding] + HANDICAP * (encoding == next(iter(LETTERS))))
    return likely if scores[likely] >= LIKE_A_LANGUAGE else None


def latin_score(text: str, alphabets: tuple[str, ...]) -> float:
    """The share of the characters beyond ASCII that belong to the alphabet that covers most of them. Punctuation does
    not count, except inside a word."""
    letters: dict[str, int] = {}
    for before, character, after in zip(" " + text, text, text[1:] + " ", strict=False):
        inside = before.isalpha() and after.isalpha() and character not in INSIDE_WORDS
        if not character.isascii() and (inside or unicodedata.category(character)[0] not in "PZ"):
            letters[character.lower()] = letters.get(character.lower(), 0) + 1
    total = sum(letters.values())
    if not total:
        return 1.0
    return max(sum(letters.get(letter, 0) for letter in alphabet) for alphabet in alphabets) / total


@dataclass
class Choices:
    """The encodings chosen so far, and what messages call the files, by absolute path."""

    encodings: dict[str, str] = field(default_factory=dict)
    names: dict[str, str] = field(default_factory=dict)

    def lasting(self) -> dict[str, str]:
        """What another run needs to read the same text: encodings other than UTF-8, except that of standard input."""
        temporary = {path for path, name in self.names.items() if name == STANDARD_INPUT}
        return {p: encoding for p, encoding in self.encodings.items() if encoding != "utf-8" and p not in temporary}

    def described(self) -> list[str]:
        """A phrase for each chosen encoding; none if every file is UTF-8."""
        read = sorted((shown(self.encodings[path]), name) for path, name in self.names.items())
        if all(label == "UTF-8" for label, _ in read):
            return []
        groups = [(label, [name for _, name in group]) for label, group in groupby(read, key=lambda each: each[0])]
        phrases = []
        for label, names in sorted(groups, key=lambda group: len(group[1])):
            more = f" and {plural(len(names) - 3, 'other file')}" if len(names) > 3 else ""
            phrases.append(f"{', '.join(map(repr, names[:3]))}{more} read as {label}")
        return phrases


_choices: ContextVar[Choices | None] = ContextVar("choices", default=None)


@contextmanager
def choosing(known: Mapping[str, str] | None = None) -> Iterator[Choices]:
    """Within this context, detect the encoding of each file only once; `known` files are not detected. A nested context
    shares the outer one."""
    outer = _choices.get()
    if outer is not None:
        outer.encodings.update(known or {})
        yield outer
        return
    choices = Choices(dict(known or {}))
    token = _choices.set(choices)
    try:
        yield choices
    finally:
        _choices.reset(token)


def chosen(path: Path, name: str, blocks: Callable[[], Iterable[bytes]]) -> str:
    """The encoding of a file, from the context or its `blocks`. Raises TextgenError as `detect` does."""
    choices, key = _choices.get(), str(path.absolute())
    found = (choices and choices.encodings.get(key)) or detect(blocks(), name)
    if choices is not None:
        choices.encodings[key], choices.names[key] = found, name
    return found


def detect(blocks: Iterable[bytes], name: str) -> str:
    """The encoding of a text in blocks. Raises TextgenError if no known encoding fits."""
    blocks = iter(blocks)
    head = b""
    while len(head) < HEAD_BYTES and (block := next(blocks, b"")):
        head += block
    if found := marked_encoding(head) or likely_wide(head[:HEAD_BYTES]):
        return found
    sample = _Sample()
    for block in chain([head], blocks):
        sample.add(block)
    if sample.is_utf8() or sample.mostly_utf8():  # reading reports an invalid byte
        return "utf-8"
    return charset_of(b"".join(sample.lines()), name)


class _Sample:
    """Whether a text is UTF-8, and its first lines that are not ASCII."""

    def __init__(self) -> None:
        self._decoder: Any = codecs.getincrementaldecoder("utf-8")()
        self._rest = b""
        self._lines: list[bytes] = []
        self._size = 0

    def add(self, block: bytes) -> None:
        self._decode(block, False)
        if self._size >= SAMPLE_BYTES or (block.isascii() and not self._rest):
            return
        text = self._rest + block
        end = max(text.rfind(b"\n"), text.rfind(b"\r")) + 1
        if len(text) - end > SAMPLE_BYTES:  # a part of a very long line counts as a line
            end = _last_border(text, len(text)) or len(text)
        self._take(text[:end])
        self._rest = text[end:]

    def _decode(self, block: bytes, final: bool) -> None:
        try:
            if self._decoder is not None:
                self._decoder.decode(block, final)
        except UnicodeDecodeError:
            self._decoder = None

    def _take(self, text: bytes) -> None:
        for line in text.splitlines(keepends=True):
            if (room := SAMPLE_BYTES - self._size) > 0 and not line.isascii():
                self._lines.append(line if len(line) <= room else line[: _last_border(line, room) or room])
                self._size += len(line)

    def is_utf8(self) -> bool:
        self._decode(b"", True)
        return self._decoder is not None

    def mostly_utf8(self) -> bool:
        """Whether most lines are UTF-8: then the others are damaged rather than in another encoding."""
        lines = self.lines()
        return 2 * sum(map(is_utf8, lines)) > len(lines)

    def lines(self) -> list[bytes]:
        """The first lines that are not ASCII, to be called at the end of the text."""
        self._take(self._rest)
        self._rest = b""
        return self._lines


def _last_border(text: bytes, end: int) -> int:
    """The last position up to `end` after a byte that no multibyte encoding uses within a character; 0 if there is
    none."""
    return next((at for at in range(end, 0, -1) if text[at - 1] < 0x30), 0)

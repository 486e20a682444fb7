"""The interface of every tokenizer, and the ones without learned pieces: characters, bytes and words.

`char` has one id for each character of the training text, `byte` one for each byte. Both are lossless on every text.

`word` is not, and exists because published word-level results use it: each word is a token, and so is each line end.
Spaces and tabs only divide words; runs of them collapse, and those at the ends of lines are dropped. A word outside
the vocabulary is `<unk>`. Decoding puts one space between two words. A line ends in `\\n`; `\\r\\n` and `\\r` are
tokens of their own where they are frequent enough, and otherwise count as `\\n`.
"""

from __future__ import annotations

import codecs
import json
import re
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from itertools import chain, pairwise, repeat
from operator import index
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from textgen import options
from textgen.data.encodings import is_utf8
from textgen.errors import TextgenError, UsageError
from textgen.options import displayed, named

Ids = npt.NDArray[np.int32]

CONFIG_FILE = "tokenizer_config.json"
TOKENIZER_CLASS = "textgen"
BLOCK_BYTES = 1 << 20
CODE_POINTS = 0x110000
SURROGATES = slice(0xD800, 0xE000)

BOUNDARY, UNKNOWN, LINE_END, FIRST_WORD = 0, 1, 2, 3
UNKNOWN_WORD = b"<unk>"
LINE_ENDS = (b"\n", b"\r\n", b"\r")
SMALLEST = 3  # `--vocab-size`: the unknown token, the line end and one word
LONGEST = 1000  # bytes; a longer word is always unknown
MOST_COUNTED = 2_000_000  # different words in memory while counting; beyond that the rarest are dropped
_TOKEN = re.compile(rb"[^ \t\r\n]+|\r\n?|\n")


class Tokenizer(ABC):
    """Text to ids and back, exactly: `decode_bytes(encode(text))` is the text's UTF-8, for every text.

    `encode_pieces` and `decode_bytes` also preserve bytes that are not UTF-8. Only `word` loses something
    (see the top of this module).

    Attributes:
        kind: the tokenizer kind, a name in `textgen.data.TOKENIZER_KINDS`.
        in_bulk: whether encoding is slow enough to pay for several processes; `cut` then says where to split a text.
        divides_words: whether a token may be a part of a word, so that a word can be spelled in several ways.
        unit: the unit of text that may be unknown: a character, or a word.
        escape: the id for unseen units, which a model has to learn from replacements; None if nothing can be unseen.
        symbols: the bytes of each token; empty for the boundary and for `unsampled` tokens, except that the unknown
            word stands for `<unk>`.
        vocab_size: how many ids a model predicts: 0 to `vocab_size` - 1.
        boundary: the id that separates documents.
        unsampled: ids that sampling never emits; the boundary is not among them.
    """

    kind: ClassVar[str]
    in_bulk: ClassVar[bool] = False
    divides_words: ClassVar[bool] = False
    unit: ClassVar[str] = "character"
    escape: ClassVar[int | None] = None
    raw_tokens: ClassVar[int] = 0

    def __init__(self, symbols: list[bytes], boundary: int, unsampled: tuple[int, ...] = ()) -> None:
        self.token_bytes = symbols
        self.vocab_size = len(symbols)
        self.boundary = boundary
        self.unsampled = unsampled
        self._bytes_of = symbols + [bytes([byte]) for byte in range(self.raw_tokens)]

    def encode(self, text: str) -> Ids:
        """The ids of a text, shape (T,). Raises TextgenError for a lone surrogate, which is not a character."""
        return np.concatenate([np.empty(0, np.int32), *self.encode_pieces([self.utf8(options.text("text", text))])])

    @staticmethod
    def utf8(text: str) -> bytes:
        """A text in UTF-8. Raises TextgenError for a lone surrogate."""
        try:
            return text.encode()
        except UnicodeEncodeError as error:
            raise TextgenError(
                f"the text holds the lone surrogate U+{ord(text[error.start]):04X} at position {error.start}.",
                hint="it is not a character; it comes from bytes that were not read as UTF-8.",
            ) from None

    def encode_pieces(self, pieces: Iterable[bytes]) -> Iterator[Ids]:
        """The ids of one document, given in consecutive chunks cut at any byte.

        The ids, joined, do not depend on the cuts. Apart from the chunks themselves, memory is bounded.
        """
        return self._encode_blocks(regroup(pieces))

    @abstractmethod
    def _encode_blocks(self, blocks: Iterator[bytes]) -> Iterator[Ids]:
        """`encode_pieces` for chunks of at most `BLOCK_BYTES`."""

    def cut(self, text: bytes) -> int:
        """Where the start of a longer document can be cut so that the parts can be encoded separately; 0 if nowhere."""
        return 0

    def decode_bytes(self, ids: Iterable[int]) -> bytes:
        """The bytes that ids stand for: the exact inverse of encoding. Raises TextgenError for an id out of range."""
        return b"".join([self._bytes_of[value] for value in self._checked(ids)])

    def _checked(self, ids: Iterable[int]) -> list[int]:
        try:
            values = list(map(index, ids.tolist() if isinstance(ids, np.ndarray) else ids))
        except TypeError:
            raise UsageError(f"{named('ids')} must be whole numbers, not {displayed(ids)}.") from None
        if values and not 0 <= min(values) <= max(values) < len(self._bytes_of):
            wrong = next(value for value in values if not 0 <= value < len(self._bytes_of))
            raise TextgenError(f"id {wrong} is not between 0 and {len(self._bytes_of) - 1}.")
        return values

    def decode(self, ids: Iterable[int]) -> str:
        """The text that ids stand for; bytes that are not UTF-8, which a model may generate, become U+FFFD."""
        return self.decode_bytes(ids).decode("utf-8", errors="replace")

    def decoder(self, after: str = "") -> TextDecoder:
        """A decoder for ids that arrive one by one and continue the text `after`."""
        return TextDecoder(self)

    def units(self, text: str) -> list[str]:
        """The units of a text: characters, or words and line ends."""
        return list(text)

    def unknown_count(self, ids: Ids) -> int | None:
        """How many of the ids stand for unknown words; None for a lossless tokenizer."""
        return None

    def model_ids(self, ids: Ids) -> Ids:
        """The ids that a model reads: all but the raw ones (`vocab_size` and above), which only `char` has.

        A raw id is one byte of an unseen character, after the escape. Evaluation counts it as 8 bits.
        """
        return ids[ids < self.vocab_size]

    def raw_count(self, ids: Ids) -> int:
        """How many of the ids are raw, so that `model_ids` drops them."""
        return int(np.count_nonzero(ids >= self.vocab_size))

    def files(self) -> dict[str, bytes]:
        """The files, name to content, from which `load_tokenizer` recreates this tokenizer."""
        config = {
            "tokenizer_class": TOKENIZER_CLASS,
            "kind": self.kind,
            "vocab_size": self.vocab_size,
            **self._settings(),
        }
        return {CONFIG_FILE: json.dumps(config, indent=2, ensure_ascii=False).encode() + b"\n"}

    def _settings(self) -> dict[str, Any]:
        """What a tokenizer kind adds to the configuration, as JSON values."""
        return {}


class TextDecoder:
    """Ids to text, one by one: the strings, joined, are `decode` of all ids, and none ends within a character."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._utf8 = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def add(self, id: int) -> str:
        """The text that one more id completes, possibly empty."""
        return self._utf8.decode(self._tokenizer.decode_bytes([id]))

    @property
    def held(self) -> bytes:
        """The incomplete character at the end of the ids so far, a few bytes at most, for `restore`."""
        return self._utf8.getstate()[0]

    def restore(self, held: bytes) -> None:
        """Make a new decoder continue from `held`. Raises TextgenError if no decoder can hold that."""
        if self._utf8.decode(held) or self.held != held:
            raise TextgenError(f"{held!r} is not the beginning of a character.")

    def finish(self) -> str:
        """The end of the text: U+FFFD for an incomplete character, or nothing. Resets the decoder."""
        return self._utf8.decode(b"", final=True)


def regroup(chunks: Iterable[bytes]) -> Iterator[bytes]:
    """The same bytes in blocks of `BLOCK_BYTES`, the last one shorter, however the chunks were cut."""
    buffer = bytearray()
    for chunk in chunks:
        for start in range(0, len(chunk), BLOCK_BYTES):
            buffer += chunk[start : start + BLOCK_BYTES]
            if len(buffer) >= BLOCK_BYTES:
                yield bytes(buffer[:BLOCK_BYTES])
                del buffer[:BLOCK_BYTES]
    if buffer:
        yield bytes(buffer)


def texts(blocks: Iterable[bytes]) -> Iterator[str]:
    """The text of consecutive blocks of UTF-8; a byte that is not UTF-8 becomes U+DC00 plus its value (PEP 383)."""
    utf8 = codecs.getincrementaldecoder("utf-8")(errors="surrogateescape")
    for block in blocks:
        yield utf8.decode(block)
    if rest := utf8.decode(b"", final=True):
        yield rest


def setting(config: dict[str, Any], name: str, kind: type) -> Any:
    """A value of a tokenizer's configuration. Raises TextgenError naming the file if missing or of a wrong type."""
    if type(config.get(name)) is not kind:
        raise TextgenError(f"{CONFIG_FILE}: {name!r} must be of type {kind.__name__}, not {config.get(name)!r}.")
    return config[name]


class ByteTokenizer(Tokenizer):
    """Ids 0 to 255 are the bytes, 256 is the boundary. Nothing is learned."""

    kind = "byte"

    def __init__(self) -> None:
        super().__init__([bytes([byte]) for byte in range(256)] + [b""], boundary=256)

    @classmethod
    def load(cls, config: dict[str, Any], files: Mapping[str, bytes]) -> ByteTokenizer:
        """The tokenizer; it has no settings."""
        return cls()

    def _encode_blocks(self, blocks: Iterator[bytes]) -> Iterator[Ids]:
        for block in blocks:
            yield np.frombuffer(block, np.uint8).astype(np.int32)


class CharTokenizer(Tokenizer):
    """Id 0 is the boundary, 1 the escape, followed by the characters of the training text by code point.

    An unseen character becomes the escape followed by its UTF-8 bytes as *raw* ids, `vocab_size` + byte, as does a byte
    that is not UTF-8. A model sees the escape only: `model_ids` drops the raw ids.
    """

    kind = "char"
    raw_tokens = 256
    escape = 1

    def __init__(self, characters: str) -> None:
        """`characters`: distinct, ascending, no surrogates."""
        super().__init__([b"", b"", *(c.encode() for c in characters)], boundary=0, unsampled=(self.escape,))
        self.characters = characters
        self._id_of = np.full(CODE_POINTS, self.escape, np.int32)
        self._id_of[_code_points(characters)] = np.arange(2, self.vocab_size, dtype=np.int32)

    @classmethod
    def train(cls, documents: Iterable[Iterable[bytes]]) -> CharTokenizer:
        """The tokenizer of all characters in the documents. Raises TextgenError if there are none."""
        seen = np.zeros(CODE_POINTS, np.bool_)
        for document in documents:
            for text in texts(regroup(document)):
                seen[_code_points(text)] = True
        seen[SURROGATES] = False
        if not seen.any():
            raise TextgenError("there is no text to learn a tokenizer from.")
        return cls("".join(map(chr, np.flatnonzero(seen).tolist())))

    @classmethod
    def load(cls, config: dict[str, Any], files: Mapping[str, bytes]) -> CharTokenizer:
        """The tokenizer whose characters are in `config`. Raises TextgenError if they are not as `train` wrote them."""
        characters = setting(config, "characters", str)
        for before, after in pairwise(characters):
            if before >= after:
                raise TextgenError(
                    f"{CONFIG_FILE}: 'characters' must be distinct and ascending, not {before + after!r}."
                )
        surrogate = next((c for c in characters if SURROGATES.start <= ord(c) < SURROGATES.stop), None)
        if surrogate is not None:
            raise TextgenError(f"{CONFIG_FILE}: 'characters' holds the surrogate U+{ord(surrogate):04X}.")
        return cls(characters)

    def _settings(self) -> dict[str, Any]:
        return {"characters": self.characters}

    def _encode_blocks(self, blocks: Iterator[bytes]) -> Iterator[Ids]:
        for text in texts(blocks):
            points = _code_points(text)
            ids = self._id_of[points]
            unseen = np.flatnonzero(ids == self.escape)
            yield self._with_raw_ids(ids, unseen, points[unseen]) if len(unseen) else ids

    def _with_raw_ids(self, ids: Ids, unseen: npt.NDArray[np.intp], points: npt.NDArray[np.uint32]) -> Ids:
        """The ids with the bytes of its character after each escape, at `unseen`."""
        characters = points.tobytes().decode("utf-32-le", "surrogatepass")
        raw = np.frombuffer(characters.encode("utf-8", "surrogateescape"), np.uint8).astype(np.int32)
        widths = 1 + (points >= 0x80) + (points >= 0x800) + (points >= 0x10000)
        widths[(points >= SURROGATES.start) & (points < SURROGATES.stop)] = 1  # one stray byte each
        return np.insert(ids, np.repeat(unseen + 1, widths), raw + self.vocab_size)


def _code_points(text: str) -> npt.NDArray[np.uint32]:
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.dtype("<u4"))


class WordTokenizer(Tokenizer):
    """Id 0 is the boundary, 1 `<unk>`, 2 the line end, followed by the words, the most frequent first."""

    kind = "word"
    unit = "word"
    escape = UNKNOWN

    def __init__(self, words: list[str]) -> None:
        """`words`: distinct, UTF-8, each a word or a line end other than `\\n`."""
        encoded = [word.encode() for word in words]
        super().__init__([b"", UNKNOWN_WORD, b"\n", *encoded], boundary=BOUNDARY, unsampled=(UNKNOWN,))
        self.words = words
        self._id_of = dict.fromkeys(LINE_ENDS, LINE_END) | {word: k for k, word in enumerate(encoded, FIRST_WORD)}
        self._is_word = [symbol not in (b"", *LINE_ENDS) for symbol in self.token_bytes]
        self._apart = (self._id_of[b"\r"], LINE_END) if "\r" in words else None  # without a space, one line end

    @classmethod
    def train(cls, documents: Iterable[Iterable[bytes]], vocab_size: int) -> WordTokenizer:
        """The most frequent words of the documents: at most `vocab_size` tokens, including `<unk>` and the line end.

        The boundary is extra: published vocabularies have none. Words that are not UTF-8 stay unknown.
        """
        if vocab_size < SMALLEST:
            raise UsageError(f"vocab_size must be at least {SMALLEST} for word, not {vocab_size}.")
        counts = _counted(chain.from_iterable(_split(regroup(document)) for document in documents))
        for given in (b"\n", UNKNOWN_WORD):
            counts.pop(given, None)
        by_rank = sorted((-count, word) for word, count in counts.items() if len(word) <= LONGEST)
        words = [word.decode() for _, word in by_rank if is_utf8(word)]
        if not words:
            raise TextgenError("there is no text to learn a tokenizer from.")
        return cls(words[: vocab_size - 2])

    @classmethod
    def load(cls, config: dict[str, Any], files: Mapping[str, bytes]) -> WordTokenizer:
        """The tokenizer whose words are in `config`. Raises TextgenError if they are not as `train` wrote them."""
        words = setting(config, "words", list)
        for word in words:
            if not _is_word(word):
                raise TextgenError(f"{CONFIG_FILE}: 'words' must hold words without spaces, not {word!r}.")
        if len(set(words)) < len(words):
            twice = next(word for word, count in Counter(words).items() if count > 1)
            raise TextgenError(f"{CONFIG_FILE}: 'words' must be distinct; {twice!r} occurs twice.")
        return cls(words)

    def units(self, text: str) -> list[str]:
        return [match.decode("utf-8", "replace") for match in _TOKEN.findall(text.encode("utf-8", "replace"))]

    def unknown_count(self, ids: Ids) -> int:
        return int(np.count_nonzero(ids == UNKNOWN))

    def decode_bytes(self, ids: Iterable[int]) -> bytes:
        """The text of the ids, with one space between words."""
        is_word, symbols = self._is_word, self.token_bytes
        pairs = pairwise([BOUNDARY, *self._checked(ids)])
        return b"".join(
            b" " + symbols[this]
            if (is_word[before] and is_word[this]) or (before, this) == self._apart
            else symbols[this]
            for before, this in pairs
        )

    def decoder(self, after: str = "") -> TextDecoder:
        return _WordDecoder(self, bool(after) and after[-1] not in " \t\r\n")

    def _settings(self) -> dict[str, Any]:
        return {"words": self.words}

    def _encode_blocks(self, blocks: Iterator[bytes]) -> Iterator[Ids]:
        for found in _split(blocks):
            yield np.fromiter(map(self._id_of.get, found, repeat(UNKNOWN)), np.int32, len(found))


class _WordDecoder(TextDecoder):
    """Knows whether the last token was a word, so that a space precedes the next one."""

    def __init__(self, tokenizer: WordTokenizer, after_word: bool) -> None:
        super().__init__(tokenizer)
        self._first = self._last = UNKNOWN if after_word else BOUNDARY

    def add(self, id: int) -> str:
        before = self._tokenizer.decode_bytes([self._last])
        both = self._tokenizer.decode_bytes([self._last, id])
        self._last = id
        return both[len(before) :].decode()

    @property
    def held(self) -> bytes:
        return b" " if self._tokenizer.decode_bytes([self._last, UNKNOWN])[-6:-5] == b" " else b""

    def restore(self, held: bytes) -> None:
        if held not in (b"", b" "):
            raise TextgenError(f"{held!r} cannot come before a word.")
        self._last = UNKNOWN if held else BOUNDARY

    def finish(self) -> str:
        self._last = self._first
        return ""


def _split(blocks: Iterable[bytes]) -> Iterator[list[bytes]]:
    """The words and line ends of a document, independent of the blocks."""
    rest = b""  # the last word of a block may continue in the next
    for block in blocks:
        found = _TOKEN.findall(rest + block)
        rest = found.pop()[: LONGEST + 1] if found and block[-1:] not in (b" ", b"\t", b"\n") else b""
        yield found
    if rest:
        yield [rest]


def _counted(found: Iterable[list[bytes]]) -> Counter[bytes]:
    counts: Counter[bytes] = Counter()
    dropped = 0
    for words in found:
        counts.update(words)
        while len(counts) > MOST_COUNTED:
            dropped += 1
            counts = Counter({word: count for word, count in counts.items() if count > dropped})
    return counts


def _is_word(value: Any) -> bool:
    if not isinstance(value, str):
        return False
    try:
        word = value.encode()
    except UnicodeEncodeError:
        return False
    return len(word) <= LONGEST and word not in (b"\n", UNKNOWN_WORD) and _TOKEN.fullmatch(word) is not None

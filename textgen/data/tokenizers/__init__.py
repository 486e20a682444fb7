"""Tokenizers: trained on documents, loaded from a model folder; char, byte and word tokenizers.

`char` has one id for each character of the training text, `byte` one for each byte; `bpe` and `unigram`, in
`textgen.data.tokenizers.subword`, learn frequent sequences of characters. These are lossless on every text.

`word` is not, and exists because published word-level results use it: each word is a token, and so is each line end.
Spaces and tabs only divide words; runs of them collapse, and those at the ends of lines are dropped. A word outside
the vocabulary is `<unk>`. Decoding puts one space between two words. A line ends in `\\n`; `\\r\\n` and `\\r` are
tokens of their own where they are frequent enough, and otherwise count as `\\n`.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from itertools import chain, pairwise, repeat
from typing import Any

import numpy as np
import numpy.typing as npt

from textgen import options
from textgen.data import TOKENIZER_KINDS
from textgen.data.encodings import is_utf8
from textgen.data.tokenizers.base import (
    CONFIG_FILE,
    TOKENIZER_CLASS,
    Ids,
    TextDecoder,
    Tokenizer,
    regroup,
    setting,
    texts,
)
from textgen.data.tokenizers.subword import BpeTokenizer, UnigramTokenizer
from textgen.errors import TextgenError, UsageError, did_you_mean
from textgen.options import displayed, named
from textgen.storage import parse_json

BOUNDARY, UNKNOWN, LINE_END, FIRST_WORD = 0, 1, 2, 3
UNKNOWN_WORD = b"<unk>"
LINE_ENDS = (b"\n", b"\r\n", b"\r")
SMALLEST = 3  # `--vocab-size`: the unknown token, the line end and one word
LONGEST = 1000  # bytes; a longer word is always unknown
MOST_COUNTED = 2_000_000  # different words in memory while counting; beyond that the rarest are dropped
_TOKEN = re.compile(rb"[^ \t\r\n]+|\r\n?|\n")


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


__all__ = ["BpeTokenizer", "ByteTokenizer", "CharTokenizer", "Ids", "TextDecoder", "Tokenizer"]
__all__ += ["UnigramTokenizer", "WordTokenizer", "load_tokenizer", "train_tokenizer"]

CODE_POINTS = 0x110000
SURROGATES = slice(0xD800, 0xE000)


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


_SIZED = {cls.kind: cls for cls in (BpeTokenizer, UnigramTokenizer, WordTokenizer)}
_LOADERS = {cls.kind: cls.load for cls in (CharTokenizer, ByteTokenizer, *_SIZED.values())}


def train_tokenizer(kind: str, documents: Iterable[Iterable[bytes]], vocab_size: int = 8000) -> Tokenizer:
    """A tokenizer learned from documents, each a series of chunks cut at any byte. Same text, same tokenizer.

    `kind` is a name in `textgen.data.TOKENIZER_KINDS`. `vocab_size` is the largest vocabulary of a learned kind; `char`
    and `byte` ignore it. Raises UsageError for an unknown kind or an invalid vocabulary size, TextgenError if there is
    no text.

    Example:
        >>> tokenizer = train_tokenizer("char", [[b"ab", b"ba"]])
        >>> tokenizer.encode("abba").tolist(), tokenizer.decode([3, 2])
        ([2, 3, 3, 2], 'ba')
    """
    kind = options.text("kind", kind)
    vocab_size = options.whole_number("vocab_size", vocab_size, 1, 1_000_000)
    documents = _checked(documents)
    if kind == "char":
        return CharTokenizer.train(documents)
    if kind == "byte":
        return ByteTokenizer()
    if kind in _SIZED:
        return _SIZED[kind].train(documents, vocab_size)
    raise UsageError(
        f"unknown tokenizer kind {kind!r}.{did_you_mean(kind, TOKENIZER_KINDS)}",
        hint=f"kinds: {', '.join(TOKENIZER_KINDS)}.",
    )


def _checked(documents: Iterable[Iterable[bytes]]) -> Iterator[Iterator[bytes]]:
    """Documents, checked as they are consumed. Raises UsageError for anything but a series of chunks of bytes."""
    for document in _series(documents, documents):
        yield (options.content("documents", chunk) for chunk in _series(document, documents))


def _series(value: Any, documents: object) -> Iterable[Any]:
    if isinstance(value, (str, bytes, Mapping)) or not isinstance(value, Iterable):
        raise UsageError(f"{named('documents')} must be lists of chunks of bytes, not {displayed(documents)}.")
    return value


def load_tokenizer(files: Mapping[str, bytes]) -> Tokenizer:
    """The tokenizer that `Tokenizer.files` stored; other files are ignored, and no code is run from any of them.

    Raises TextgenError naming a file that is missing, damaged, or contradicts the other.
    """
    config = _read_config(files)
    kind = setting(config, "kind", str)
    if kind not in _LOADERS:
        raise TextgenError(f"{CONFIG_FILE}: 'kind' must be one of {', '.join(TOKENIZER_KINDS)}, not {kind!r}.")
    vocab_size = setting(config, "vocab_size", int)
    tokenizer = _LOADERS[kind](config, files)
    if tokenizer.vocab_size != vocab_size:
        raise TextgenError(f"{CONFIG_FILE}: 'vocab_size' is {vocab_size}, but there are {tokenizer.vocab_size} tokens.")
    return tokenizer


def _read_config(files: Mapping[str, bytes]) -> dict[str, Any]:
    if CONFIG_FILE not in files:
        raise TextgenError(f"{CONFIG_FILE} is missing.")
    config = parse_json(files[CONFIG_FILE], CONFIG_FILE)
    if config.get("tokenizer_class") != TOKENIZER_CLASS:
        found = config.get("tokenizer_class")
        raise TextgenError(f"{CONFIG_FILE}: 'tokenizer_class' must be {TOKENIZER_CLASS!r}, not {found!r}.")
    return config

r"""Words separated by spaces, as in published word-level results: a token for each word and for each line end.

Spaces and tabs only separate words: runs of them collapse, and those at line ends are lost. A word outside the
vocabulary becomes the unknown token, `<unk>`, as does that very word in a text. Everything else is preserved; decoding
puts one space between two words. A line ends in `\n`; `\r\n` and `\r` are separate tokens if they are frequent enough,
and count as `\n` otherwise.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from itertools import chain, pairwise, repeat
from typing import Any

import numpy as np

from textgen.errors import TextgenError, UsageError
from textgen.text.decoding import is_utf8
from textgen.text.symbols import CONFIG_FILE, Ids, TextDecoder, Tokenizer, regroup, setting

BOUNDARY, UNKNOWN, LINE_END, FIRST_WORD = 0, 1, 2, 3
UNKNOWN_WORD = b"<unk>"
LINE_ENDS = (b"\n", b"\r\n", b"\r")
SMALLEST = 3  # `--vocab-size`: the unknown token, the line end and one word
LONGEST = 1000  # bytes; a longer word is always unknown
MOST_COUNTED = 2_000_000  # different words in memory while counting; beyond that the rarest are dropped
_TOKEN = re.compile(rb"[^ \t\r\n]+|\r\n?|\n")


class WordTokenizer(Tokenizer):
    """Id 0 is the boundary, 1 `<unk>`, 2 the line end, followed by the words, the most frequent first."""

    level = "word"
    unit = "word"
    escape = UNKNOWN

    def __init__(self, words: list[str]) -> None:
        """`words`: distinct, UTF-8, each a word or a line end other than `\\n`."""
        encoded = [word.encode() for word in words]
        super().__init__([b"", UNKNOWN_WORD, b"\n", *encoded], boundary=BOUNDARY, unsampled=(UNKNOWN,))
        self.words = words
        self._id_of = dict.fromkeys(LINE_ENDS, LINE_END) | {word: k for k, word in enumerate(encoded, FIRST_WORD)}
        self._is_word = [symbol not in (b"", *LINE_ENDS) for symbol in self.symbols]
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
        is_word, symbols = self._is_word, self.symbols
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

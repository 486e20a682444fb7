r"""Words between blanks, as published word-level figures count them: each word a symbol, and one for each line end.

Blanks (spaces and tabs) only divide words. Runs of them collapse, and those at the ends of lines are gone; a word
outside the vocabulary is the unknown symbol, `<unk>`, as is that very word in a text. All else comes back: between two
words decoding puts one space. A line ends in `\n`; `\r\n` and `\r` are symbols of their own where they are frequent
enough, and else count as `\n`.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from itertools import chain, pairwise, repeat
from typing import Any

import numpy as np

from textgen.errors import TextgenError, UsageError
from textgen.text.symbols import CONFIG_FILE, Decoder, Ids, Tokenizer, regroup, setting

BOUNDARY, UNKNOWN, LINE_END, FIRST_WORD = 0, 1, 2, 3
UNKNOWN_WORD = b"<unk>"
LINE_ENDS = (b"\n", b"\r\n", b"\r")
SMALLEST = 3  # of `--vocab-size`, which counts the unknown symbol, the line end and one word
LONGEST = 1000  # bytes; a longer word is always unknown
MOST_COUNTED = 2_000_000  # different words held while counting; above that the rarest are let go
_SYMBOL = re.compile(rb"[^ \t\r\n]+|\r\n?|\n")


class WordTokenizer(Tokenizer):
    """Id 0 is the boundary, 1 `<unk>`, 2 the line end, then come the words, the most frequent first."""

    level = "word"
    unit = "word"
    escape = UNKNOWN

    def __init__(self, words: list[str]) -> None:
        """`words`: distinct, UTF-8, each one match of a word or of a line end other than `\\n`."""
        encoded = [word.encode() for word in words]
        super().__init__([b"", UNKNOWN_WORD, b"\n", *encoded], boundary=BOUNDARY, unsampled=(UNKNOWN,))
        self.words = words
        self._id_of = dict.fromkeys(LINE_ENDS, LINE_END) | {word: k for k, word in enumerate(encoded, FIRST_WORD)}
        self._is_word = [symbol not in (b"", *LINE_ENDS) for symbol in self.symbols]
        self._apart = (self._id_of[b"\r"], LINE_END) if "\r" in words else None  # without a space they were one end

    @classmethod
    def train(cls, documents: Iterable[Iterable[bytes]], vocab_size: int) -> WordTokenizer:
        """The most frequent words of the documents: `vocab_size` symbols at most, with `<unk>` and the line end.

        The boundary comes on top: published vocabularies have none. Words that are not UTF-8 stay unknown.
        """
        if vocab_size < SMALLEST:
            raise UsageError(f"vocab_size must be at least {SMALLEST} for word, not {vocab_size}.")
        counts = _counted(chain.from_iterable(_symbols(regroup(document)) for document in documents))
        for given in (b"\n", UNKNOWN_WORD):
            counts.pop(given, None)
        by_rank = sorted((-count, word) for word, count in counts.items() if len(word) <= LONGEST)
        words = [word.decode() for _, word in by_rank if _is_text(word)]
        if not words:
            raise TextgenError("there is no text to learn a tokenizer from.")
        return cls(words[: vocab_size - 2])

    @classmethod
    def load(cls, config: dict[str, Any], files: Mapping[str, bytes]) -> WordTokenizer:
        """The tokenizer whose words are in `config`. Raises TextgenError if they are not as `train` wrote them."""
        words = setting(config, "words", list)
        for word in words:
            if not _is_word(word):
                raise TextgenError(f"{CONFIG_FILE}: 'words' must hold words without blanks, not {word!r}.")
        if len(set(words)) < len(words):
            twice = next(word for word, count in Counter(words).items() if count > 1)
            raise TextgenError(f"{CONFIG_FILE}: 'words' must be distinct; {twice!r} stands twice.")
        return cls(words)

    def units(self, text: str) -> list[str]:
        return [match.decode("utf-8", "replace") for match in _SYMBOL.findall(text.encode("utf-8", "replace"))]

    def unknown_count(self, ids: Ids) -> int:
        return int(np.count_nonzero(ids == UNKNOWN))

    def decode_bytes(self, ids: Iterable[int]) -> bytes:
        """The text of the ids: words divided by one space, lines by their ends."""
        is_word, symbols = self._is_word, self.symbols
        pairs = pairwise([BOUNDARY, *self._checked(ids)])
        return b"".join(
            b" " + symbols[this]
            if (is_word[before] and is_word[this]) or (before, this) == self._apart
            else symbols[this]
            for before, this in pairs
        )

    def decoder(self, after: str = "") -> Decoder:
        return _WordDecoder(self, bool(after) and after[-1] not in " \t\r\n")

    def _settings(self) -> dict[str, Any]:
        return {"words": self.words}

    def _encode_blocks(self, blocks: Iterator[bytes]) -> Iterator[Ids]:
        for found in _symbols(blocks):
            yield np.fromiter(map(self._id_of.get, found, repeat(UNKNOWN)), np.int32, len(found))


class _WordDecoder(Decoder):
    """Knows whether a word stands before, from which the next one is divided by a space."""

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
            raise TextgenError(f"{held!r} does not stand before a word.")
        self._last = UNKNOWN if held else BOUNDARY

    def finish(self) -> str:
        self._last = self._first
        return ""


def _symbols(blocks: Iterable[bytes]) -> Iterator[list[bytes]]:
    """The words and line ends of a document, by its content alone."""
    rest = b""  # the last symbol of a block may go on in the next
    for block in blocks:
        found = _SYMBOL.findall(rest + block)
        rest = found.pop()[: LONGEST + 1] if found and block[-1:] not in (b" ", b"\t", b"\n") else b""
        yield found
    if rest:
        yield [rest]


def _counted(found: Iterable[list[bytes]]) -> Counter[bytes]:
    counts: Counter[bytes] = Counter()
    let_go = 0
    for symbols in found:
        counts.update(symbols)
        while len(counts) > MOST_COUNTED:
            let_go += 1
            counts = Counter({word: count for word, count in counts.items() if count > let_go})
    return counts


def _is_text(word: bytes) -> bool:
    try:
        word.decode()
    except UnicodeDecodeError:
        return False
    return True


def _is_word(value: Any) -> bool:
    if not isinstance(value, str):
        return False
    try:
        word = value.encode()
    except UnicodeEncodeError:
        return False
    return len(word) <= LONGEST and word not in (b"\n", UNKNOWN_WORD) and _SYMBOL.fullmatch(word) is not None

"""Tokenizers: learning one from documents, loading one from a model folder, and the kinds `char` and `byte`.

`char` has one id for each character of the training text, `byte` one for each byte; `bpe` and `unigram`, in
`textgen.text.subword`, learn frequent sequences of characters. These are lossless on every text. `word`, in
`textgen.text.words`, is not; it exists to compare with published results.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from textgen import arguments
from textgen.errors import TextgenError, UsageError, did_you_mean
from textgen.parameters import displayed, named
from textgen.sealed import parse_json
from textgen.text.levels import LEVELS
from textgen.text.subword import BpeTokenizer, UnigramTokenizer
from textgen.text.symbols import (
    CONFIG_FILE,
    TOKENIZER_CLASS,
    Ids,
    TextDecoder,
    Tokenizer,
    regroup,
    setting,
    texts,
)
from textgen.text.words import WordTokenizer

__all__ = ["BpeTokenizer", "ByteTokenizer", "CharTokenizer", "Ids", "TextDecoder", "Tokenizer"]
__all__ += ["UnigramTokenizer", "WordTokenizer", "load_tokenizer", "train_tokenizer"]

CODE_POINTS = 0x110000
SURROGATES = slice(0xD800, 0xE000)


class ByteTokenizer(Tokenizer):
    """Ids 0 to 255 are the bytes, 256 is the boundary. Nothing is learned."""

    level = "byte"

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

    level = "char"
    raw_symbols = 256
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


_SIZED = {cls.level: cls for cls in (BpeTokenizer, UnigramTokenizer, WordTokenizer)}
_LOADERS = {cls.level: cls.load for cls in (CharTokenizer, ByteTokenizer, *_SIZED.values())}


def train_tokenizer(level: str, documents: Iterable[Iterable[bytes]], vocab_size: int = 8000) -> Tokenizer:
    """A tokenizer learned from documents, each a series of chunks cut at any byte. Same text, same tokenizer.

    `level` is a name in `textgen.text.levels.LEVELS`. `vocab_size` is the largest vocabulary of a learned kind; `char`
    and `byte` ignore it. Raises UsageError for an unknown kind or an invalid vocabulary size, TextgenError if there is
    no text.

    Example:
        >>> tokenizer = train_tokenizer("char", [[b"ab", b"ba"]])
        >>> tokenizer.encode("abba").tolist(), tokenizer.decode([3, 2])
        ([2, 3, 3, 2], 'ba')
    """
    level = arguments.text("level", level)
    vocab_size = arguments.whole_number("vocab_size", vocab_size, 1, 1_000_000)
    documents = _checked(documents)
    if level == "char":
        return CharTokenizer.train(documents)
    if level == "byte":
        return ByteTokenizer()
    if level in _SIZED:
        return _SIZED[level].train(documents, vocab_size)
    raise UsageError(
        f"unknown tokenizer kind {level!r}.{did_you_mean(level, LEVELS)}", hint=f"kinds: {', '.join(LEVELS)}."
    )


def _checked(documents: Iterable[Iterable[bytes]]) -> Iterator[Iterator[bytes]]:
    """Documents, checked as they are consumed. Raises UsageError for anything but a series of chunks of bytes."""
    for document in _series(documents, documents):
        yield (arguments.content("documents", chunk) for chunk in _series(document, documents))


def _series(value: Any, documents: object) -> Iterable[Any]:
    if isinstance(value, (str, bytes, Mapping)) or not isinstance(value, Iterable):
        raise UsageError(f"{named('documents')} must be lists of chunks of bytes, not {displayed(documents)}.")
    return value


def load_tokenizer(files: Mapping[str, bytes]) -> Tokenizer:
    """The tokenizer that `Tokenizer.files` stored; other files are ignored, and no code is run from any of them.

    Raises TextgenError naming a file that is missing, damaged, or contradicts the other.
    """
    config = _read_config(files)
    level = setting(config, "level", str)
    if level not in _LOADERS:
        raise TextgenError(f"{CONFIG_FILE}: 'level' must be one of {', '.join(LEVELS)}, not {level!r}.")
    vocab_size = setting(config, "vocab_size", int)
    tokenizer = _LOADERS[level](config, files)
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

"""The interface of every tokenizer: text to token ids and back, in chunks of any size, and files to store it in."""

from __future__ import annotations

import codecs
import json
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from operator import index
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from textgen import options
from textgen.errors import TextgenError, UsageError
from textgen.options import displayed, named

Ids = npt.NDArray[np.int32]

CONFIG_FILE = "tokenizer_config.json"
TOKENIZER_CLASS = "textgen"
BLOCK_BYTES = 1 << 20


class Tokenizer(ABC):
    """Text to ids and back, exactly: `decode_bytes(encode(text))` is the text's UTF-8, for every text.

    `encode_pieces` and `decode_bytes` also preserve bytes that are not UTF-8. Only `word` loses something: see
    `textgen.data.tokenizers`.

    Attributes:
        kind: the tokenizer kind, a name in `textgen.data.TOKENIZER_KINDS`.
        in_bulk: whether encoding is slow enough to pay for several processes; `cut` then says where to split a text.
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
    yield utf8.decode(b"", final=True)


def setting(config: dict[str, Any], name: str, kind: type) -> Any:
    """A value of a tokenizer's configuration. Raises TextgenError naming the file if missing or of a wrong type."""
    if type(config.get(name)) is not kind:
        raise TextgenError(f"{CONFIG_FILE}: {name!r} must be of type {kind.__name__}, not {config.get(name)!r}.")
    return config[name]

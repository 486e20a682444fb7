"""What every tokenizer promises: text to ids and back, in pieces of any size, and as the files of a folder."""

from __future__ import annotations

import codecs
import json
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from operator import index
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from textgen import arguments
from textgen.errors import TextgenError, UsageError
from textgen.parameters import displayed, named

Ids = npt.NDArray[np.int32]

CONFIG_FILE = "tokenizer_config.json"
TOKENIZER_CLASS = "textgen"
FORMAT_VERSION = 1
BLOCK_BYTES = 1 << 20


class Tokenizer(ABC):
    """Text to ids and back, exactly: `decode_bytes(encode(text))` is the text's UTF-8, for every text.

    Bytes that are not UTF-8 survive `encode_pieces` and `decode_bytes` as well. The word level alone keeps less: see
    `textgen.text.words`.

    Attributes:
        level: a name in `textgen.text.levels.LEVELS`.
        in_bulk: whether encoding is slow enough for several processes to pay; `cut` then says where to divide.
        unit: what of a text is encoded on its own, so that it can be unknown: a character, or a word.
        escape: the id of what was never seen, which a model has to learn from replacements; None if nothing is unseen.
        symbols: the bytes that each id below `vocab_size` stands for; the boundary and `unsampled` stand for none
            (but the unknown word stands for `<unk>`).
        vocab_size: how many ids a model predicts: 0 to `vocab_size` - 1.
        boundary: the id that divides documents.
        unsampled: ids that sampling never emits; the boundary is not among them.
    """

    level: ClassVar[str]
    in_bulk: ClassVar[bool] = False
    unit: ClassVar[str] = "character"
    escape: ClassVar[int | None] = None
    raw_symbols: ClassVar[int] = 0

    def __init__(self, symbols: list[bytes], boundary: int, unsampled: tuple[int, ...] = ()) -> None:
        self.symbols = symbols
        self.vocab_size = len(symbols)
        self.boundary = boundary
        self.unsampled = unsampled
        self._bytes_of = symbols + [bytes([byte]) for byte in range(self.raw_symbols)]

    def encode(self, text: str) -> Ids:
        """The ids of a text, shape (T,). Raises TextgenError if it holds a lone surrogate, which is no character."""
        return np.concatenate([np.empty(0, np.int32), *self.encode_pieces([self.utf8(arguments.text("text", text))])])

    @staticmethod
    def utf8(text: str) -> bytes:
        """The bytes of a text. Raises TextgenError if it holds a lone surrogate."""
        try:
            return text.encode()
        except UnicodeEncodeError as error:
            raise TextgenError(
                f"the text holds the lone surrogate U+{ord(text[error.start]):04X} at position {error.start}.",
                hint="this is not a character; it comes from bytes that were not read as UTF-8.",
            ) from None

    def encode_pieces(self, pieces: Iterable[bytes]) -> Iterator[Ids]:
        """The ids of one document that comes in consecutive pieces, cut at any byte.

        What is yielded, joined, does not depend on the cuts. Memory is bounded, whatever the length of the document
        (apart from the pieces themselves).
        """
        return self._encode_blocks(regroup(pieces))

    @abstractmethod
    def _encode_blocks(self, blocks: Iterator[bytes]) -> Iterator[Ids]:
        """`encode_pieces`, of pieces of at most `BLOCK_BYTES`."""

    def cut(self, text: bytes) -> int:
        """Where the begin of a longer document may be cut so that both sides can be encoded apart; 0 if nowhere."""
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
        """The text that ids stand for; bytes that are not UTF-8, which a model may well write, become U+FFFD."""
        return self.decode_bytes(ids).decode("utf-8", errors="replace")

    def decoder(self, after: str = "") -> Decoder:
        """A decoder for ids that come one by one and go on from the text `after`."""
        return Decoder(self)

    def units(self, text: str) -> list[str]:
        """The text in its units: characters, or words and line ends."""
        return list(text)

    def unknown_count(self, ids: Ids) -> int | None:
        """How many of the ids stand for words that are lost; None at a level that loses nothing."""
        return None

    def model_ids(self, ids: Ids) -> Ids:
        """The ids that a model is shown: all but the raw ones (`vocab_size` and above, which only char level has).

        A raw id is one byte of an unseen character, after the escape. It counts 8 bits wherever text is scored.
        """
        return ids[ids < self.vocab_size]

    def raw_count(self, ids: Ids) -> int:
        """How many of the ids are raw: the number that `model_ids` drops."""
        return int(np.count_nonzero(ids >= self.vocab_size))

    def files(self) -> dict[str, bytes]:
        """The files of a model folder, name to content, from which `load_tokenizer` makes this tokenizer again."""
        config = {
            "tokenizer_class": TOKENIZER_CLASS,
            "format_version": FORMAT_VERSION,
            "level": self.level,
            "vocab_size": self.vocab_size,
            **self._settings(),
        }
        return {CONFIG_FILE: json.dumps(config, indent=2, ensure_ascii=False).encode() + b"\n"}

    def _settings(self) -> dict[str, Any]:
        """What a level adds to the configuration, as JSON values."""
        return {}


class Decoder:
    """Ids to text as they come: the strings, joined, are `decode` of all ids, and no string ends within a character."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._utf8 = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def add(self, id: int) -> str:
        """The text that one more id completes, possibly none."""
        return self._utf8.decode(self._tokenizer.decode_bytes([id]))

    @property
    def held(self) -> bytes:
        """What the ids so far leave open, a few bytes at most, from which `restore` goes on."""
        return self._utf8.getstate()[0]

    def restore(self, held: bytes) -> None:
        """Make a new decoder one that goes on from `held`. Raises TextgenError if no decoder ever holds that."""
        if self._utf8.decode(held) or self.held != held:
            raise TextgenError(f"{held!r} is no beginning of a character.")

    def finish(self) -> str:
        """What the last ids left open: U+FFFD for a character that was begun, or nothing. The decoder is then new."""
        return self._utf8.decode(b"", final=True)


def regroup(pieces: Iterable[bytes]) -> Iterator[bytes]:
    """The same bytes in blocks of `BLOCK_BYTES`, the last one shorter, however the pieces were cut."""
    buffer = bytearray()
    for piece in pieces:
        for start in range(0, len(piece), BLOCK_BYTES):
            buffer += piece[start : start + BLOCK_BYTES]
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
    """A value of a tokenizer's configuration. Raises TextgenError naming the file if it is missing or another type."""
    if type(config.get(name)) is not kind:
        raise TextgenError(f"{CONFIG_FILE}: {name!r} must be of type {kind.__name__}, not {config.get(name)!r}.")
    return config[name]

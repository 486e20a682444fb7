"""The file format of an archive: what decompression needs to know, and checks that the archive is whole.

Two bytes of magic, one of format, one for the number of lanes if there are several, the number of tokens (7 bits per
byte, low bits first), prefixes of two SHA-256, of the model and of the content (3 bytes each, or 8 with several lanes),
the payload, and the CRC-32 of all that. It is compact because short texts are compressed, too.
"""

from __future__ import annotations

import io
import zlib
from dataclasses import dataclass

from textgen.errors import TextgenError
from textgen.sealed import DamagedError

MAGIC = b"\xd7g"
FORMAT = 1
STORED = 0x80
"""Added to the format if the payload is the content itself."""

LONG = 0x40
"""Added to the format if there are several lanes."""

MOST_TOKENS = 1 << 40


@dataclass(frozen=True)
class Envelope:
    """The parts of an archive. `stored` says that the payload is the content itself.

    `tokens` is how many the model reads; `model` and `content` are SHA-256 digests or, once opened, their prefixes.
    """

    stored: bool
    lanes: int
    tokens: int
    model: bytes
    content: bytes
    payload: bytes

    def seal(self) -> bytes:
        """The archive."""
        form = FORMAT | (STORED if self.stored else 0)
        head = [form] if self.lanes == 1 else [form | LONG, self.lanes]
        tokens = self.tokens
        while tokens >= 0x80:
            head.append(tokens & 0x7F | 0x80)
            tokens >>= 7
        width = _digest_width(self.lanes)
        body = MAGIC + bytes([*head, tokens]) + self.model[:width] + self.content[:width] + self.payload
        return body + zlib.crc32(body).to_bytes(4, "big")

    @classmethod
    def open(cls, archive: bytes, name: str) -> Envelope:
        """Read an archive. Raises DamagedError for one that is not whole, and TextgenError for another format."""
        body, check = archive[:-4], archive[-4:]
        if not archive.startswith(MAGIC):
            raise DamagedError(f"{name} is not an archive that textgen compress wrote.")
        if zlib.crc32(body).to_bytes(4, "big") != check:
            raise DamagedError(f"{name} is damaged: its content does not match its checksum.")
        rest = io.BytesIO(body[len(MAGIC) :])
        form = _byte(rest, name)
        version = form & ~(STORED | LONG)
        if version != FORMAT:
            raise TextgenError(f"{name} has format {version}; this textgen reads {FORMAT}.", hint="upgrade textgen-lm.")
        lanes = _byte(rest, name) if form & LONG else 1
        tokens, shift = 0, 0
        while (byte := _byte(rest, name)) & 0x80:
            tokens, shift = tokens | (byte & 0x7F) << shift, shift + 7
        tokens |= byte << shift
        if not lanes or tokens > MOST_TOKENS:
            raise DamagedError(f"{name} is damaged: it says that it holds {tokens:,} tokens in {lanes} lanes.")
        width = _digest_width(lanes)
        opened = cls(bool(form & STORED), lanes, tokens, rest.read(width), rest.read(width), rest.read())
        if len(opened.content) < width:
            raise DamagedError(f"{name} is damaged: it ends too early.")
        return opened


def _byte(rest: io.BytesIO, name: str) -> int:
    found = rest.read(1)
    if not found:
        raise DamagedError(f"{name} is damaged: it ends too early.")
    return found[0]


def _digest_width(lanes: int) -> int:
    return 3 if lanes == 1 else 8

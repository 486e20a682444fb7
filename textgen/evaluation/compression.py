"""Lossless compression with a model and a range coder, and the format of archives.

A text takes about the bits that `evaluate` gives it. Both sides read the model through the same step, with the same
number of rows on one thread, and so see the same bits. A long text is read in lanes side by side for speed. Each
lane starts cold, which costs some bytes; so there is one for every 2,000 bytes of archive. Data that would not
become smaller is stored as it is. Neural probabilities in an arithmetic coder: Schmidhuber and Heil 1996; Knoll
2014, lstm-compress.

Each token takes its share of an interval of whole numbers; the bytes name one number of the last interval. Interval
ends are kept to 56 bits and a carry runs back into bytes already written. Frequencies sum to at most 2^32, and the
interval never falls below 2^48, so that rounding costs 2^-16 of a token. Range coding: Martin 1979; carries: Witten,
Neal and Cleary 1987, "Arithmetic Coding for Data Compression".

An archive is two bytes of magic, one of format, one for the number of lanes if there are several, the number of
tokens (7 bits a byte, low first), the beginnings of two SHA-256, of the model and of the content (3 bytes each, or 8
with several lanes), the payload, and the CRC-32 of all that.
"""

from __future__ import annotations

import hashlib
import io
import math
import zlib
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from textgen import options
from textgen.data.recipes import Progress
from textgen.data.store import no_progress
from textgen.data.tokenizers.base import Ids, Tokenizer
from textgen.errors import TextgenError
from textgen.evaluation import score_ids
from textgen.generation.language_model import LanguageModel
from textgen.options import named
from textgen.storage import DamagedError
from textgen.threads import one_thread

Cumulative = npt.NDArray[np.uint64]

TOTAL = 1 << 32
_BITS = 56
_WHOLE = 1 << _BITS
_LOW_BYTES = _BITS - 8
_LEAST = 1 << _LOW_BYTES

MAGIC = b"\xd7g"
FORMAT = 1
STORED = 0x80
"""Added to the format if the payload is the content itself."""
LONG = 0x40
"""Added to the format if there are several lanes."""
MOST_TOKENS = 1 << 40
LANE_BYTES = 2000
MOST_LANES = 64
QUICK_LOOK = 65_536
"""How many tokens are scored to estimate the size of the archive."""
STRAY = (64, 192)
"""Start and size, out of 256, of the frequencies that say: this lead byte stands alone. Below them are the 64 bytes
that can follow a lead byte, at 8 bits each, as `evaluate` counts them."""


class RangeEncoder:
    """Symbols in, bytes out."""

    def __init__(self) -> None:
        self._low = 0
        self._range = _WHOLE
        self._bytes = bytearray()

    def encode(self, start: int, size: int, total: int) -> None:
        """Code a symbol that has the frequencies from `start` to `start + size` out of `total` (2^32 at most)."""
        unit = self._range // total
        self._low += unit * start
        self._range = unit * size
        if self._low >= _WHOLE:
            self._carry()
        while self._range < _LEAST:
            self._bytes.append(self._low >> _LOW_BYTES)
            self._low = (self._low << 8) & (_WHOLE - 1)
            self._range <<= 8

    def finish(self) -> bytes:
        """All bytes: the fewest that, followed by zeros, name a number in the interval."""
        for kept in range(0, _BITS + 1, 8):
            step = 1 << (_BITS - kept)
            number = -(-self._low // step) * step
            if number < self._low + self._range:
                break
        self._low = number
        if self._low >= _WHOLE:
            self._carry()
        tail = self._low.to_bytes(_BITS // 8, "big")
        return bytes(self._bytes + tail).rstrip(b"\0")

    def _carry(self) -> None:
        self._low -= _WHOLE
        place = len(self._bytes) - 1
        while self._bytes[place] == 0xFF:
            self._bytes[place] = 0
            place -= 1
        self._bytes[place] += 1


class RangeDecoder:
    """Decodes the bytes of a `RangeEncoder`, given the same frequencies in the same order."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._place = _BITS // 8
        self._code = int.from_bytes(data[: self._place].ljust(self._place, b"\0"), "big")
        self._range = _WHOLE
        self._unit = 1

    def target(self, total: int) -> int:
        """A number below `total` within the frequencies of the next symbol; then `take` that symbol."""
        self._unit = self._range // total
        return min(self._code // self._unit, total - 1)

    def take(self, start: int, size: int) -> None:
        """Advance past the symbol with these frequencies."""
        self._code -= self._unit * start
        self._range = self._unit * size
        while self._range < _LEAST:
            following = self._data[self._place] if self._place < len(self._data) else 0
            self._place += 1
            self._code = (self._code << 8) | following
            self._range <<= 8

    def uniform(self, total: int) -> int:
        """Decode one of `total` equally likely symbols."""
        symbol = self.target(total)
        self.take(symbol, 1)
        return symbol


def cumulative(logits: npt.NDArray[np.float32]) -> Cumulative:
    """Logits (B, V) to cumulative frequencies (B, V + 1): from 0 up to a total of at most 2^32, each symbol at least 1.

    The same logits give the same frequencies. Raises TextgenError if a logit is not finite.
    """
    if not np.isfinite(logits).all():
        raise TextgenError("the model's predictions are not finite.")
    rows, size = logits.shape
    weights = np.exp(logits.astype(np.float64) - logits.max(axis=1, keepdims=True))
    share = (TOTAL - size) / weights.sum(axis=1, keepdims=True)
    ends = np.zeros((rows, size + 1), dtype=np.uint64)
    np.cumsum((weights * share).astype(np.uint64) + np.uint64(1), axis=1, out=ends[:, 1:])
    return ends


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


def compress(model: LanguageModel, data: bytes, progress: Progress = no_progress) -> bytes:
    """Compress any bytes. Raises TextgenError if the model's tokenizer is not lossless for them."""
    model, data = options.writer(model), options.content("data", data)
    tokenizer = model.tokenizer
    ids = np.concatenate([np.empty(0, np.int32), *tokenizer.encode_pieces([data])])
    if tokenizer.decode_bytes(ids) != data:
        raise TextgenError(
            f"the {tokenizer.kind} tokenizer of this model cannot reproduce this text exactly.",
            hint=f"a model trained with {named('tokenizer')} char, byte, bpe or unigram compresses any file.",
        )
    tokens = tokenizer.model_ids(ids)
    lanes = _choose_lanes(model, tokens)
    coded = _encode(model, tokens, lanes, _raw_units(tokenizer, ids), progress)
    stored = len(coded) >= len(data)
    size, payload = (len(data), data) if stored else (len(tokens), coded)
    digests = model_digest(model), hashlib.sha256(data).digest()
    return Envelope(stored, lanes, size, *digests, payload).seal()


def decompress(
    model: LanguageModel, archive: bytes, name: str = "the archive", progress: Progress = no_progress
) -> bytes:
    """Restore the bytes that `compress` was given. `name` is what messages call the archive.

    Raises DamagedError for a damaged archive, and TextgenError for an archive of another model, or from a processor or
    library versions on which the model computes other probabilities.
    """
    model, archive = options.writer(model), options.content("archive", archive)
    opened = Envelope.open(archive, options.text("name", name))
    if not model_digest(model).startswith(opened.model):
        raise TextgenError(
            f"{name} was compressed with another model than this one.", hint="-m DIR names the right one."
        )
    if opened.stored:
        content = opened.payload
    else:
        content = model.tokenizer.decode_bytes(_decode(model, opened, progress))
    if not hashlib.sha256(content).digest().startswith(opened.content):
        raise TextgenError(
            f"{name} cannot be restored: this model computes other probabilities here than where it was compressed.",
            hint="use the same versions of numpy and torch and the same kind of processor.",
        )
    return content


def model_digest(model: LanguageModel) -> bytes:
    """The SHA-256 of a model's weights, configuration and tokenizer. Raises TextgenError if it is in no folder."""
    if not model.digest:
        raise TextgenError("a model must come from a folder to compress with it.")
    return bytes.fromhex(model.digest)


def _choose_lanes(model: LanguageModel, tokens: Ids) -> int:
    """One lane per `LANE_BYTES` that the tokens are expected to take, judging by the first of them."""
    context = np.concatenate([[model.tokenizer.boundary], tokens]).astype(np.int32)
    nats, counted = score_ids(model.stepper, context, warm=0, most=QUICK_LOOK)
    expected = nats / math.log(2) / 8 * len(tokens) / max(1, counted)
    return max(1, min(MOST_LANES, int(expected // LANE_BYTES)))


def _steps(model: LanguageModel, lanes: int, length: int, inputs: Ids) -> Iterator[Cumulative]:
    """The frequencies (lanes, V + 1) at every step; `inputs` (lanes,) is filled by the caller between the steps."""
    inputs[:] = model.begin[-1] if model.begin else model.tokenizer.boundary
    inputs[0] = model.tokenizer.boundary
    state = model.stepper.initial_state(lanes)
    for _ in range(length):
        logits, state = model.stepper.step(inputs, state)
        yield cumulative(logits)


def _encode(model: LanguageModel, tokens: Ids, lanes: int, units: dict[int, bytes], progress: Progress) -> bytes:
    length = -(-len(tokens) // lanes)
    rows = np.full((lanes, length), model.tokenizer.boundary, np.int32)
    rows.reshape(-1)[: len(tokens)] = tokens
    encoder, inputs, every = RangeEncoder(), np.empty(lanes, np.int32), np.arange(lanes)
    with one_thread():
        for at, ends in enumerate(_steps(model, lanes, length, inputs)):
            wanted = rows[:, at]
            starts, stops = ends[every, wanted].tolist(), ends[every, wanted + 1].tolist()
            totals = ends[:, -1].tolist()
            for lane in range(lanes):
                place = lane * length + at
                if place >= len(tokens):
                    break
                encoder.encode(starts[lane], stops[lane] - starts[lane], totals[lane])
                if place in units:
                    _encode_unit(encoder, units[place])
            inputs[:] = wanted
            progress("compressing", at * lanes, len(tokens))
    return encoder.finish()


def _decode(model: LanguageModel, opened: Envelope, progress: Progress) -> Ids:
    tokenizer = model.tokenizer
    lanes, length = opened.lanes, -(-opened.tokens // opened.lanes)
    rows = np.full((lanes, length), tokenizer.boundary, np.int32)
    decoder, inputs, units = RangeDecoder(opened.payload), np.empty(lanes, np.int32), {}
    escape = tokenizer.escape if tokenizer.raw_tokens else None
    with one_thread():
        for at, ends in enumerate(_steps(model, lanes, length, inputs)):
            totals = ends[:, -1].tolist()
            for lane in range(lanes):
                place = lane * length + at
                if place >= opened.tokens:
                    break
                row = ends[lane]
                token = int(np.searchsorted(row, np.uint64(decoder.target(totals[lane])), side="right")) - 1
                decoder.take(int(row[token]), int(row[token + 1]) - int(row[token]))
                rows[lane, at] = token
                if token == escape:
                    units[place] = _decode_unit(decoder)
            inputs[:] = rows[:, at]
            progress("decompressing", at * lanes, opened.tokens)
    return _with_raw_units(tokenizer, rows.reshape(-1)[: opened.tokens], units)


def _raw_units(tokenizer: Tokenizer, ids: Ids) -> dict[int, bytes]:
    """The raw bytes after each escape, by its place among the tokens that the model reads."""
    units: dict[int, bytes] = {}
    raw = np.flatnonzero(ids >= tokenizer.vocab_size)
    places = raw - np.arange(1, len(raw) + 1)
    for place, byte in zip(places.tolist(), (ids[raw] - tokenizer.vocab_size).tolist(), strict=True):
        units[place] = units.get(place, b"") + bytes([byte])
    return units


def _with_raw_units(tokenizer: Tokenizer, tokens: Ids, units: dict[int, bytes]) -> Ids:
    """The inverse of `_raw_units`."""
    places = [place + 1 for place, unit in units.items() for _ in unit]
    values = [tokenizer.vocab_size + byte for unit in units.values() for byte in unit]
    return np.insert(tokens, places, values).astype(np.int32)


def _width(first: int) -> int:
    """The number of bytes of a UTF-8 character with this first byte; 1 if it begins no longer character."""
    return 2 if 0xC2 <= first <= 0xDF else 3 if 0xE0 <= first <= 0xEF else 4 if 0xF0 <= first <= 0xF4 else 1


def _encode_unit(encoder: RangeEncoder, unit: bytes) -> None:
    encoder.encode(unit[0], 1, 256)
    if len(unit) == 1 and _width(unit[0]) > 1:
        encoder.encode(*STRAY, 256)
    for byte in unit[1:]:
        encoder.encode(byte - 0x80, 1, 256)


def _decode_unit(decoder: RangeDecoder) -> bytes:
    unit = bytearray([decoder.uniform(256)])
    for _ in range(_width(unit[0]) - 1):
        following = decoder.target(256)
        if following >= STRAY[0]:
            decoder.take(*STRAY)
            break
        decoder.take(following, 1)
        unit.append(0x80 + following)
    return bytes(unit)

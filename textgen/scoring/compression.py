"""Lossless compression by a model: its probabilities drive a range coder, so a text takes about as many bits as
`evaluate` reports.

Both sides run the same step with the same number of rows on one thread, and so compute the same bits. A long text is
read in parallel lanes for speed. Each lane starts from the initial state, which costs some bytes, so there is one lane
per 2,000 bytes of archive. Data that would not get smaller is stored as it is.

Neural probabilities in an arithmetic coder: Schmidhuber and Heil 1996; Knoll 2014, lstm-compress.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator

import numpy as np

from textgen import arguments
from textgen.errors import TextgenError
from textgen.language_model import LanguageModel
from textgen.parameters import named
from textgen.scoring.coder import Cumulative, RangeDecoder, RangeEncoder, cumulative
from textgen.scoring.envelope import Envelope
from textgen.scoring.evaluate import score_ids
from textgen.text.split import Progress, no_progress
from textgen.text.tokenizer import Ids, Tokenizer
from textgen.threads import one_thread

LANE_BYTES = 2000
MOST_LANES = 64
QUICK_LOOK = 65_536
"""How many tokens are scored to estimate the size of the archive."""

STRAY = (64, 192)
"""Start and size, out of 256, of the frequencies that say: this lead byte stands alone. Below them are the 64 bytes
that can follow a lead byte, at 8 bits each, as `evaluate` counts them."""


def compress(model: LanguageModel, data: bytes, progress: Progress = no_progress) -> bytes:
    """Compress any bytes. Raises TextgenError if the model's tokenizer is not lossless for them."""
    model, data = arguments.writer(model), arguments.content("data", data)
    tokenizer = model.tokenizer
    ids = np.concatenate([np.empty(0, np.int32), *tokenizer.encode_pieces([data])])
    if tokenizer.decode_bytes(ids) != data:
        raise TextgenError(
            f"the {tokenizer.level} tokenizer of this model cannot reproduce this text exactly.",
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
    model, archive = arguments.writer(model), arguments.content("archive", archive)
    opened = Envelope.open(archive, arguments.text("name", name))
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


# --- the tokens ---


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
    escape = tokenizer.escape if tokenizer.raw_symbols else None
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


# --- characters unknown to the model: an escape, then their bytes ---


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

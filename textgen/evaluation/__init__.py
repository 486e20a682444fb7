"""Metrics of language models: loss, perplexity, and bits per byte, which compares across tokenizers.

The state is carried and every token is counted once. To use the processor well a long text is read in several lanes
side by side; each lane first reads `WARM` tokens of the lane before it, uncounted, so that no token is predicted
from a cold state. With one lane the text is read from start to end. `token_scores` gives the score of each token.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from textgen import options as arguments
from textgen.data import Reading
from textgen.data.corpus import text_of
from textgen.data.parquet_table import corpora, is_table
from textgen.data.sources import SourceOptions, documents_of, read
from textgen.data.tokenization import encode_documents
from textgen.data.tokenizers.base import Ids, Tokenizer
from textgen.distributed import ALONE, World
from textgen.errors import TextgenError
from textgen.formatting import figure
from textgen.model.stepper import TokenStepper

if TYPE_CHECKING:
    from textgen.generation.language_model import LanguageModel

LANES = 16
WARM = 1024
CHUNK = 256


class Metrics(Protocol):
    """How well a model does on the held-out part."""

    @property
    def loss(self) -> float:
        """The mean loss, as reported."""

    @property
    def criterion(self) -> float:
        """Decides which weights are kept: lower is better."""

    def to_json(self) -> Mapping[str, Any]:
        """Every metric by name."""

    def shown(self) -> dict[str, str]:
        """The metrics of the training table, as text by name: the task's `columns`."""


@dataclass(frozen=True)
class Score:
    """Total nats of a text, and its size in several units. Unknown characters cost 8 bits per byte.

    With a word tokenizer `unknown` counts the words that were scored as `<unk>`, and nats per character and bits per
    byte are NaN: lost words were not predicted, so these metrics would compare with nothing. Otherwise `unknown` is
    None.
    """

    nats: float
    tokens: int
    characters: int
    bytes: int
    unknown: int | None = None

    @property
    def nats_per_token(self) -> float:
        return self.nats / max(1, self.tokens)

    @property
    def nats_per_character(self) -> float:
        return math.nan if self.unknown is not None else self.nats / max(1, self.characters)

    @property
    def bits_per_byte(self) -> float:
        return math.nan if self.unknown is not None else self.nats / math.log(2) / max(1, self.bytes)

    @property
    def perplexity(self) -> float:
        """exp of the nats per token."""
        return math.exp(min(self.nats_per_token, 700))

    @property
    def loss(self) -> float:
        return self.nats_per_token

    @property
    def criterion(self) -> float:
        return self.nats_per_token

    def shown(self) -> dict[str, str]:
        """The metrics of the training table, as text."""
        perplexity, bits = figure(self.perplexity, 2), figure(self.bits_per_byte)
        return {"loss": figure(self.loss), "perplexity": perplexity, "bits/byte": bits}

    def to_json(self) -> dict[str, float | None]:
        """Every metric by name; None for those that do not exist for this tokenizer."""
        metrics = ("nats_per_token", "nats_per_character", "bits_per_byte", "perplexity")
        values: dict[str, float] = {name: getattr(self, name) for name in metrics}
        return {**{name: value if math.isfinite(value) else None for name, value in values.items()}, **asdict(self)}


def score_ids(
    stepper: TokenStepper,
    ids: Ids,
    lanes: int = LANES,
    warm: int = WARM,
    most: int | None = None,
    job: World = ALONE,
) -> tuple[float, int]:
    """Nats of ids[1:], each given the ids before it, and how many were counted.

    `ids` (N + 1,) begins with context that is not counted. With `most`, only about that many are counted, the first of
    every lane, for a quick estimate of a long text. Several processes divide the lanes.
    """
    length = len(ids) - 1
    if length < 1:
        return 0.0, 0
    lanes = max(1, min(lanes, length // max(1, warm)))
    lane = -(-length // lanes)
    first = np.arange(lanes)[job.lanes(lanes)] * lane
    begin = np.maximum(first - warm, 0)
    end = np.minimum(first + (lane if most is None else min(lane, -(-most // lanes))), length)
    state = stepper.initial_state(len(first))
    nats, counted = 0.0, 0
    for offset in range(0, int((end - begin).max(initial=0)), CHUNK):
        at = begin[:, None] + offset + np.arange(min(CHUNK, int((end - begin).max()) - offset))
        inside = np.minimum(at, length - 1)
        logprobs, state = stepper.score(ids[inside], ids[inside + 1], state)
        counts = (at >= first[:, None]) & (at < end[:, None])
        nats -= float(logprobs[counts].sum())
        counted += int(counts.sum())
    nats_of_each, counted_by_each = zip(*job.exchange([nats, counted]), strict=True)
    return math.fsum(nats_of_each), sum(counted_by_each)


def evaluate(model: LanguageModel, text: Any, lanes: int = LANES, **reading: str | bool | None) -> Score:
    """Score a text, or the documents of a file or folder (a `Path`) or of a table in memory, as `textgen.train` takes
    it. Raises TextgenError for an empty text, and for a lone surrogate, which is not a character.

    Every byte counts once; a character that the model never saw costs an escape and 8 bits per byte. The text is read
    like the training text, for example with its document separator; `reading` overrides encoding, document_separator
    ('' for none), lines or text_column. Bytes are read as UTF-8, invalid ones included, unless there is an encoding.
    """
    model, lanes = arguments.writer(model), arguments.whole_number("lanes", lanes, 1, 4096)
    known = Reading.of(model.config.reading, reading)
    if isinstance(text, os.PathLike) or is_table(text):
        with known.explained():
            sources, options = text_of(corpora("text", text), known)
            encoded = encode_documents(model.tokenizer, read(sources, for_model(model, options)), options.lines)
        return score_encoded(model.stepper, model, *encoded, lanes)
    text = arguments.text("text", text) if isinstance(text, str) else arguments.content("text", text, "text or a path")
    if not text:
        raise TextgenError("there is no text to evaluate (0 bytes).")
    if isinstance(text, str):
        data = model.tokenizer.utf8(text)
    else:
        data = known.decoded(text, "text").encode() if known.encoding else text
    encoded = encode_documents(model.tokenizer, documents_of([data], known.options), known.options.lines)
    return score_encoded(model.stepper, model, *encoded, lanes)


def for_model(model: LanguageModel, options: SourceOptions) -> SourceOptions:
    """How a model reads files: a byte tokenizer takes them as they are."""
    return replace(options, raw=model.tokenizer.kind == "byte" and options.encoding is None)


def score_encoded(
    stepper: TokenStepper,
    model: LanguageModel,
    encoded: Ids,
    size: int,
    characters: int,
    lanes: int = LANES,
    job: World = ALONE,
) -> Score:
    """The score of ids that begin with a boundary and may contain the raw bytes of unknown characters."""
    raw = model.tokenizer.raw_count(encoded)
    nats, tokens = score_ids(stepper, model.in_context(encoded), lanes, job=job)
    unknown = model.tokenizer.unknown_count(encoded)
    return Score(nats + raw * 8 * math.log(2), tokens, characters, size, unknown)


@dataclass(frozen=True)
class TokenScore:
    """A token, its text, and its log-probability in nats given everything before it."""

    token: str
    id: int
    logprob: float


def token_scores(model: LanguageModel, text: str) -> list[TokenScore]:
    """Every token of a text with its log-probability; they add up to -`nats` of `textgen.evaluate(..., lanes=1)`.

    Raises TextgenError for an empty text, and for a lone surrogate, which is not a character.
    """
    model, text = arguments.writer(model), arguments.text("text", text)
    if not text:
        raise TextgenError("there is no text to evaluate (0 bytes).")
    begin = np.array([model.tokenizer.boundary], dtype=np.int32)
    return list(score_tokens(model, np.concatenate([begin, model.tokenizer.encode(text)])))


def score_tokens(model: LanguageModel, encoded: Ids) -> Iterator[TokenScore]:
    """The tokens of ids (N + 1,) after the first, read in one piece.

    An unknown character is one token: its escape, and 8 bits for each of the raw bytes behind it.
    """
    ids = model.in_context(encoded)
    places = np.append(np.flatnonzero(encoded < model.tokenizer.vocab_size), len(encoded))
    state = model.stepper.initial_state(1)
    for start in range(0, len(ids) - 1, CHUNK):
        end = min(start + CHUNK, len(ids) - 1)
        logprobs, state = model.stepper.score(ids[None, start:end], ids[None, start + 1 : end + 1], state)
        for at, logprob in enumerate(logprobs[0].tolist(), start + 1):
            raw = encoded[places[at] + 1 : places[at + 1]].tolist()
            id = int(ids[at])
            yield TokenScore(token_text(model.tokenizer, [id, *raw]), id, logprob - len(raw) * 8 * math.log(2))


def token_text(tokenizer: Tokenizer, ids: Iterable[int]) -> str:
    """The text of a token; <17> if it has none, <0xC3> for each byte of an incomplete character."""
    ids = list(ids)
    data = tokenizer.decode_bytes(ids)
    try:
        return data.decode() or f"<{ids[0]}>"
    except UnicodeDecodeError:
        return "".join(f"<0x{byte:02X}>" for byte in data)

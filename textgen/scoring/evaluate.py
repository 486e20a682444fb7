"""How well a model predicts a text: loss, perplexity, and bits per byte, which compares across tokenizers.

The hidden state is carried and every token counts once. To use the processor well, a long text is read in several
parallel lanes. Each lane first reads the last `WARM` tokens of the lane before it, uncounted, so that no token is
predicted from a cold state. With one lane, the text is read in one piece.
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from textgen import arguments
from textgen.errors import TextgenError
from textgen.stepper import TokenStepper
from textgen.text.corpus import text_of
from textgen.text.encoding import encode_documents
from textgen.text.memory import corpora, is_table
from textgen.text.reading import Reading
from textgen.text.sources import Source, SourceOptions, documents_of, read
from textgen.text.tokenizer import Ids
from textgen.wording import figure

if TYPE_CHECKING:
    from textgen.language_model import LanguageModel

LANES = 16
WARM = 1024
CHUNK = 256


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
    stepper: TokenStepper, ids: Ids, lanes: int = LANES, warm: int = WARM, most: int | None = None
) -> tuple[float, int]:
    """Nats of ids[1:], each given the ids before it, and how many were counted.

    `ids` (N + 1,) begins with context that is not counted. With `most`, only about that many are counted, the first of
    every lane, for a quick estimate of a long text.
    """
    length = len(ids) - 1
    if length < 1:
        return 0.0, 0
    lanes = max(1, min(lanes, length // max(1, warm)))
    lane = -(-length // lanes)
    first = np.arange(lanes) * lane
    begin = np.maximum(first - warm, 0)
    end = np.minimum(first + (lane if most is None else min(lane, -(-most // lanes))), length)
    state = stepper.initial_state(lanes)
    nats, counted = 0.0, 0
    for offset in range(0, int((end - begin).max()), CHUNK):
        at = begin[:, None] + offset + np.arange(min(CHUNK, int((end - begin).max()) - offset))
        inside = np.minimum(at, length - 1)
        logprobs, state = stepper.score(ids[inside], ids[inside + 1], state)
        counts = (at >= first[:, None]) & (at < end[:, None])
        nats -= float(logprobs[counts].sum())
        counted += int(counts.sum())
    return nats, counted


def evaluate(model: LanguageModel, text: Any, lanes: int = LANES, **reading: str | None) -> Score:
    """Score a text, or the documents of a file or folder (a `Path`) or of a table in memory, as `textgen.train` takes
    it. Raises TextgenError for an empty text, and for a lone surrogate, which is not a character.

    Every byte counts once; a character that the model never saw costs an escape and 8 bits per byte. The text is read
    like the training text, for example with its document separator; `reading` overrides encoding, document_separator
    ('' for none) or text_column. Bytes are read as UTF-8, invalid ones included, unless there is an encoding.
    """
    model, lanes = arguments.writer(model), arguments.whole_number("lanes", lanes, 1, 4096)
    known = Reading.of(model.config.reading, reading)
    if isinstance(text, os.PathLike) or is_table(text):
        with known.explained():
            return score_text(model, *text_of(corpora("text", text), known), lanes)
    text = arguments.text("text", text) if isinstance(text, str) else arguments.text_bytes("text", text)
    if not text:
        raise TextgenError("there is no text to evaluate (0 bytes).")
    if isinstance(text, str):
        data = model.tokenizer.utf8(text)
    else:
        data = known.decoded(text, "text").encode() if known.encoding else text
    encoded = encode_documents(model.tokenizer, documents_of([data], known.options))
    return score_encoded(model.stepper, model, *encoded, lanes)


def score_text(model: LanguageModel, sources: Sequence[Source], options: SourceOptions, lanes: int = LANES) -> Score:
    """The score of files. Raises TextgenError that names the place of what is not text."""
    encoded = encode_documents(model.tokenizer, read(sources, for_model(model, options)))
    return score_encoded(model.stepper, model, *encoded, lanes)


def for_model(model: LanguageModel, options: SourceOptions) -> SourceOptions:
    """How a model reads files: a byte tokenizer takes them as they are."""
    return replace(options, raw=model.tokenizer.level == "byte" and options.encoding is None)


def score_encoded(
    stepper: TokenStepper, model: LanguageModel, encoded: Ids, size: int, characters: int, lanes: int = LANES
) -> Score:
    """The score of ids that begin with a boundary and may contain the raw bytes of unknown characters."""
    raw = model.tokenizer.raw_count(encoded)
    nats, tokens = score_ids(stepper, model.in_context(encoded), lanes)
    unknown = model.tokenizer.unknown_count(encoded)
    return Score(nats + raw * 8 * math.log(2), tokens, characters, size, unknown)

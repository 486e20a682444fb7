"""A text's log-probability token by token: what the model expected, and what surprised it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from textgen import arguments
from textgen.errors import TextgenError
from textgen.text.tokenizer import Ids, Tokenizer

if TYPE_CHECKING:
    from textgen.language_model import LanguageModel

CHUNK = 256


@dataclass(frozen=True)
class TokenScore:
    """A token, its text, and its log-probability in nats given everything before it."""

    symbol: str
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

"""Constrained generation: texts that match a regular expression, a Lark grammar or a JSON schema, by llguidance.

Before each draw, the tokens that cannot continue such a text are excluded. So every text matches, or begins one that
does if it is cut off, and each token has the model's own probability compared with the other tokens that fit. That is
not the model's distribution of texts given that they match: a token that fits may lead to where only unlikely ones do.
"""

from __future__ import annotations

import json
from collections.abc import Collection
from typing import Any

import numpy as np
import numpy.typing as npt

from textgen.data.tokenizers.base import Tokenizer
from textgen.errors import TextgenError, UsageError, require
from textgen.generation import CONSTRAINTS, SampleOptions
from textgen.generation.sampling import OUT
from textgen.model.stepper import Logits
from textgen.options import named

MOST_CHARACTERS = 100_000
FUEL: dict[str, Any] = {"initial_lexer_fuel": 2_000_000, "step_lexer_fuel": 400_000, "max_lexer_states": 250_000}
"""How much work a constraint may take, once and for each token."""


def given(options: SampleOptions) -> tuple[str, str] | None:
    """The name and the text of the constraint among sampling options."""
    return next(((name, text) for name in CONSTRAINTS if (text := getattr(options, name)) is not None), None)


class Vocabulary:
    """The tokens of a model as the bytes that they add to a text.

    A constraint reads bytes, so that it allows every token that fits, however a tokenizer would spell the text. The
    tokens of a word tokenizer add a space before them, but for the first.
    """

    def __init__(self, tokenizer: Tokenizer, unsampled: Collection[int], vocab_size: int) -> None:
        """Of a model with `vocab_size` tokens that never draws those in `unsampled`. Raises TextgenError without
        llguidance."""
        require("llguidance")
        from llguidance import LLTokenizer

        self.bytes = LLTokenizer("byte", slices=[])
        self.boundary, self.size = tokenizer.boundary, vocab_size
        drawn = [(id, token) for id, token in enumerate(tokenizer.token_bytes) if token and id not in unsampled]
        self.first = {id: list(token) for id, token in drawn}
        """What each token that can be drawn adds to an empty text."""
        spaced = tokenizer.kind == "word"
        self.later = {id: ([32] * (spaced and not token.isspace())) + list(token) for id, token in drawn}
        """What it adds to a text that ends in a word."""


class Constraint:
    """A constraint on one text, as far as it is written. Raises UsageError for one that cannot be read."""

    def __init__(self, vocabulary: Vocabulary, name: str, text: str) -> None:
        from llguidance import LLMatcher, LLParserLimits

        readers = {
            "regex": LLMatcher.grammar_from_regex,
            "grammar": LLMatcher.grammar_from_lark,
            "json_schema": LLMatcher.grammar_from_json_schema,
        }
        self._vocabulary, self._name = vocabulary, name
        if len(text) > MOST_CHARACTERS:
            raise UsageError(f"{named(name)} has {len(text):,} characters; {MOST_CHARACTERS:,} are allowed.")
        if name == "json_schema":
            try:
                json.loads(text)
            except (ValueError, RecursionError) as error:
                raise self._unreadable(f"it is not JSON ({error})") from None
        read = readers[name](text)
        self._matcher: Any = LLMatcher(vocabulary.bytes, read, log_level=0, limits=LLParserLimits(**FUEL))
        if self._matcher.is_error():
            raise self._unreadable(self._matcher.get_error())
        self._adds = vocabulary.first

    def _unreadable(self, message: str) -> UsageError:
        kind = {"regex": "a regular expression", "grammar": "a grammar", "json_schema": "a JSON schema"}[self._name]
        return UsageError(f"{named(self._name)} is not {kind} that can be used: {_reason(message)}.")

    @property
    def complete(self) -> bool:
        """Whether nothing can be added."""
        return bool(self._matcher.is_stopped())

    def mask(self, logits: Logits) -> Logits:
        """Logits (V,) without the tokens that cannot continue the text. Raises TextgenError if none is left."""
        masked: Logits = np.where(self.allowed(), logits, OUT)
        if not np.isfinite(masked.max()):
            raise TextgenError(f"{named(self._name)} leaves no token that this model writes.")
        return masked

    def allowed(self) -> npt.NDArray[np.bool_]:
        """Which tokens (V,) can continue the text; the boundary can where it may end."""
        matcher = self._matcher
        bits = np.zeros((self._vocabulary.bytes.vocab_size + 31) // 32, dtype=np.int32)
        matcher.unsafe_compute_mask_ptr(bits.ctypes.data, bits.nbytes)
        begins = np.unpackbits(bits.view(np.uint8), bitorder="little").tolist()
        fits = np.zeros(self._vocabulary.size, dtype=bool)
        for id, added in self._adds.items():
            fits[id] = begins[added[0]] and matcher.validate_tokens(added) == len(added)
        if matcher.is_error():
            raise TextgenError(f"{named(self._name)} takes too much work: {_reason(matcher.get_error())}.")
        fits[self._vocabulary.boundary] = matcher.is_accepting()
        return fits

    def take(self, id: int) -> None:
        """Add a token to the text."""
        added = self._adds.get(id, [])
        self._matcher.consume_tokens(added)
        self._adds = self._vocabulary.first if bytes(added).isspace() else self._vocabulary.later


def _reason(message: str) -> str:
    """What is wrong, in a few words of one line."""
    lines = [line.strip() for line in message.split("\n") if line.strip()]
    said = next((line.removeprefix("error: ") for line in lines if line.startswith("error: ")), lines[0])
    return said.split("): ", 1)[-1][:200].rstrip(".")

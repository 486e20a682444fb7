"""Token healing: a prompt that ends inside a word is continued from there.

"the kitch" is read as the tokens of " kit" and "ch", as a model never read "kitchen" while it learned. So the tokens of
the last word of a prompt are given back: the model does not read them, and the text is made to begin with their bytes.
It may begin with the same tokens or with any others that agree, such as the one of " kitchen". What was typed is not
written again.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from functools import cache

import numpy as np
import numpy.typing as npt

from textgen.data.encodings import is_utf8
from textgen.data.tokenizers.base import Tokenizer
from textgen.generation.sampling import OUT
from textgen.model.stepper import Logits

MOST_TOKENS = 12
"""Tokens that are given back at most; a longer word is cut."""


class Healing:
    """Which tokens of a prompt are given back, and which tokens begin a text with their bytes."""

    def __init__(self, tokenizer: Tokenizer, unsampled: Collection[int], vocab_size: int) -> None:
        """Of a model with `vocab_size` tokens that never draws those in `unsampled`."""
        self._tokenizer = tokenizer
        tokens = [*tokenizer.token_bytes, *[b""] * (vocab_size - tokenizer.vocab_size)]
        self._tokens = [b"" if id in unsampled else token for id, token in enumerate(tokens)]
        self.fitting = cache(self._fitting)

    def given_back(self, ids: Sequence[int]) -> tuple[int, bytes]:
        """How many tokens at the end of a prompt are given back, and their bytes: those of its last word.

        None if that would change nothing, as for tokens that are characters, bytes or words; and none if they are not
        text, or if no tokens that are drawn spell them.
        """
        if not self._tokenizer.divides_words:
            return 0, b""
        number, returned = 0, b""
        while number < min(MOST_TOKENS, len(ids)) and not returned[:1].isspace():
            number += 1
            returned = self._tokenizer.token_bytes[ids[-number]] + returned
        return (number, returned) if is_utf8(returned) and self.fitting(returned).any() and returned else (0, b"")

    def _fitting(self, left: bytes) -> npt.NDArray[np.bool_]:
        """Which tokens (V,) can come next where the text still has to spell `left`: those that begin with it, and those
        that spell a part of it which others can complete."""
        fits = np.full(len(self._tokens), not left)
        for id, token in enumerate(self._tokens):
            if token.startswith(left) and token:
                fits[id] = True
            elif token and left.startswith(token):
                fits[id] = self.fitting(left[len(token) :]).any()
        return fits

    def left(self, before: bytes, id: int) -> bytes:
        """What is left to spell after one more token."""
        return before[len(self._tokens[id]) :]

    def adds(self, left: bytes, id: int) -> bool:
        """Whether a token spells more than what is left."""
        return len(self._tokens[id]) > len(left)

    def mask(self, logits: Logits, left: bytes) -> Logits:
        """Logits (V,) without the tokens that do not fit."""
        masked: Logits = np.where(self.fitting(left), logits, OUT)
        return masked

"""Token healing: a prompt that ends inside a word is continued from there.

"the kitch" is read as the tokens of " kit" and "ch", as a model never read "kitchen" while it learned. So the last
token of a prompt is given back: the model does not read it, and the text is made to begin with its bytes. It may begin
with the same token or with any other that agrees, such as the one of "chen". What was typed is not written again.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from functools import cache

import numpy as np
import numpy.typing as npt

from textgen.data import SIZED
from textgen.data.tokenizers.base import Tokenizer
from textgen.generation.sampling import OUT
from textgen.model.stepper import Logits


def given_back(tokenizer: Tokenizer, ids: Sequence[int], unsampled: Collection[int]) -> bytes:
    """The bytes of the last token of a prompt, if it is to be given back; none if that would change nothing.

    Tokens that are characters, bytes or words have no other beginning. A token that is not text, or that is never
    drawn, stays.
    """
    if not ids or tokenizer.kind not in SIZED or ids[-1] in unsampled:
        return b""
    last = tokenizer.decode_bytes([ids[-1]])
    try:
        last.decode()
    except UnicodeDecodeError:
        return b""
    return last


class Healing:
    """Which tokens begin a text with given bytes."""

    def __init__(self, tokenizer: Tokenizer, unsampled: Collection[int], vocab_size: int) -> None:
        """Of a model with `vocab_size` tokens that never draws those in `unsampled`."""
        tokens = [*tokenizer.token_bytes, *[b""] * (vocab_size - tokenizer.vocab_size)]
        self._tokens = [b"" if id in unsampled else token for id, token in enumerate(tokens)]
        self.fitting = cache(self._fitting)

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

    def mask(self, logits: Logits, left: bytes) -> Logits:
        """Logits (V,) without the tokens that do not fit."""
        masked: Logits = np.where(self.fitting(left), logits, OUT)
        return masked

"""Which tokens can continue the bytes before them, so that the output is always valid UTF-8.

A token may stand for some bytes of a character, which other tokens complete. A UTF-8 text is always at one of eight
places: between two characters, or inside one and awaiting certain bytes (The Unicode Standard, table 3-7). The tokens
that can follow each place are computed once per model; a step then costs one look-up and one masking.
"""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
import numpy.typing as npt

from textgen.stepper import Logits
from textgen.text.symbols import Tokenizer
from textgen.writing.sampling import OUT, require_choice

BETWEEN, NOWHERE = 0, -1
"""The place between two characters; the place after bytes that are not UTF-8."""

_EXPECTED: list[list[tuple[int, int, int]]] = [
    [(0x00, 0x7F, BETWEEN), (0xC2, 0xDF, 1), (0xE0, 0xE0, 3), (0xE1, 0xEC, 2), (0xED, 0xED, 4), (0xEE, 0xEF, 2)]
    + [(0xF0, 0xF0, 6), (0xF1, 0xF3, 5), (0xF4, 0xF4, 7)],
    [(0x80, 0xBF, BETWEEN)],
    [(0x80, 0xBF, 1)],
    [(0xA0, 0xBF, 1)],  # after E0: no overlong form
    [(0x80, 0x9F, 1)],  # after ED: no surrogate
    [(0x80, 0xBF, 2)],
    [(0x90, 0xBF, 2)],  # after F0: no overlong form
    [(0x80, 0x8F, 2)],  # after F4: nothing above U+10FFFF
]
"""For each place, the ranges of bytes (first and last) that can follow, and the place after them."""
PLACES = len(_EXPECTED)
_AFTER = [{byte: after for first, last, after in ranges for byte in range(first, last + 1)} for ranges in _EXPECTED]


def place_after(place: int, data: bytes) -> int:
    """The place after these bytes, NOWHERE if they cannot follow."""
    for byte in data:
        if place != NOWHERE:
            place = _AFTER[place].get(byte, NOWHERE)
    return place


class CharacterGuard:
    """Excludes tokens that cannot continue a text.

    `after`, (PLACES, V), holds the place after each token, NOWHERE if it is excluded; `barred`, (PLACES, V), says which
    are. A token that begins a character is kept only where others can complete it, so that every place has a token to
    draw.
    """

    def __init__(self, after: npt.NDArray[np.int8]) -> None:
        """`after` is as above for all bytes that can follow; tokens that lead to no complete character are removed."""
        alive = np.zeros(PLACES, dtype=bool)
        alive[BETWEEN] = True
        for _ in range(PLACES):
            leads_on = (after != NOWHERE) & alive[after]
            alive |= leads_on.any(axis=1)
        self.after = np.where(leads_on, after, np.int8(NOWHERE))
        self.barred = alive[:, None] & ~leads_on

    def mask(self, logits: Logits, held: bytes) -> Logits:
        """Logits (V,) without the tokens that cannot follow `held`, the incomplete character (see `TextDecoder.held`).

        Raises TextgenError if none of the others has a probability.
        """
        masked: Logits = np.where(self.barred[place_after(BETWEEN, held)], OUT, logits)
        require_choice(masked)
        return masked


def character_guard(tokenizer: Tokenizer, unsampled: Collection[int], vocab_size: int) -> CharacterGuard | None:
    """The guard of a model with `vocab_size` tokens that never draws those in `unsampled`.

    None if every token consists of whole characters, and if the tokens cannot spell a single character.
    """
    tokens = [*tokenizer.symbols, *[b""] * (vocab_size - tokenizer.vocab_size)]
    after = np.full((PLACES, vocab_size), NOWHERE, dtype=np.int8)
    for id, token in enumerate(tokens):
        if id not in unsampled and (token or id == tokenizer.boundary):
            places = range(PLACES) if token else [BETWEEN]
            after[list(places), id] = [place_after(place, token) for place in places]
    drawn = [id for id, token in enumerate(tokens) if token and id not in unsampled]
    if (after[BETWEEN, drawn] == BETWEEN).all():
        return None
    guard = CharacterGuard(after)
    return guard if (guard.after[BETWEEN, drawn] != NOWHERE).any() else None

"""Beam search keeps the N likeliest beginnings of a text at each time step.

A text's score is the mean log-probability of its tokens, the boundary that ends it included, so long texts are not
worse for being long. One beam is greedy; with as many beams as there are beginnings the search is exact.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from textgen.data.tokenizers.base import Ids
from textgen.generation import SampleOptions
from textgen.generation.healing import MOST_TOKENS, Healing
from textgen.generation.sampling import (
    BETWEEN,
    OUT,
    CharacterGuard,
    Choice,
    add_bias,
    biases_by_id,
    choice_of,
    log_softmax,
    require_choice,
)
from textgen.model.stepper import Logits, TokenStepper


@dataclass(frozen=True, eq=False)
class Beam:
    """A text of `length` tokens, as its last token and the beam before it, with the sum of its log-probabilities and
    the place (`textgen.generation.sampling`) where it ends; `left` are the bytes that it must still begin with."""

    total: float = 0.0
    length: int = 0
    choice: Choice | None = None
    before: Beam | None = None
    place: int = BETWEEN
    left: bytes = b""

    @property
    def score(self) -> float:
        """Mean log-probability of a token, in nats."""
        return self.total / self.length

    def grown(self, logprob: float, choice: Choice, characters: CharacterGuard | None, healing: Healing | None) -> Beam:
        """The text with one more token."""
        place = BETWEEN if characters is None else int(characters.after[self.place, choice.id])
        left = healing.left(self.left, choice.id) if healing else b""
        return Beam(self.total + logprob, self.length + 1, choice, self, place, left)

    def choices(self) -> list[Choice]:
        """All tokens of the text, in order."""
        found, beam = [], self
        while beam.before is not None and beam.choice is not None:
            found.append(beam.choice)
            beam = beam.before
        return found[::-1]


def search(
    model: TokenStepper,
    prompt: Ids,
    options: SampleOptions,
    boundary: int | None,
    unsampled: tuple[int, ...] = (),
    characters: CharacterGuard | None = None,
    unfit: Sequence[int] = (),
    healing: Healing | None = None,
    left: bytes = b"",
) -> Beam:
    """The best text of at most `max_new_tokens` tokens found after a prompt (T,), T >= 1, with `num_beams` beams.

    A text ends at the boundary or at its maximum length. Tokens in `unsampled`, and those that `characters` excludes,
    are never written, and those in `unfit` do not begin it. With `healing` it begins with the bytes `left`.
    """
    barred_first = (*unsampled, *unfit)
    state = model.initial_state(1)
    if len(prompt) > 1:
        _, state = model.forward(prompt[None, :-1], state)
    ids = prompt[-1:].astype(np.int32)
    biases, live = biases_by_id(options), [Beam(left=left)]
    ended: Beam | None = None
    for length in range(options.max_new_tokens + (MOST_TOKENS if left else 0)):
        stepped, state = model.step(ids, state)
        logits = stepped.astype(np.float64)
        barred = _barred(live, logits.shape[1], barred_first if length == 0 else unsampled, characters, healing)
        logits[barred & ~np.isfinite(logits)] = OUT
        require_choice(np.where(barred, OUT, logits))
        logprobs = np.where(barred, OUT, log_softmax(add_bias(logits, biases)))
        parents, tokens = _likeliest(np.array([[beam.total] for beam in live]) + logprobs, options.num_beams or 1)
        drawn = [choice_of(token, logits[row], options.logprobs) for row, token in zip(parents, tokens, strict=True)]
        added = logprobs[parents, tokens].tolist()
        grown = [live[r].grown(p, c, characters, healing) for r, p, c in zip(parents, added, drawn, strict=True)]
        going = [k for k, token in enumerate(tokens) if token != boundary]
        finished = [beam for beam, token in zip(grown, tokens, strict=True) if token == boundary]
        ended = max(filter(None, [ended, *finished]), key=lambda beam: beam.score, default=None)
        live = [grown[k] for k in going]
        if not live:
            break
        # Here y(t) becomes x(t+1), with the state of the beam that it extends.
        ids, rows = np.array([tokens[k] for k in going], dtype=np.int32), [parents[k] for k in going]
        if rows != list(range(len(logits))):
            state = model.select(state, np.array(rows, dtype=np.intp))
    return max(filter(None, [ended, *live]), key=lambda beam: beam.score)


def _barred(
    live: list[Beam],
    vocab_size: int,
    ids: Sequence[int],
    characters: CharacterGuard | None,
    healing: Healing | None,
) -> npt.NDArray[np.bool_]:
    """Which tokens may not follow each beam, (B, V): these ids, and those that `characters` and `healing`
    exclude."""
    barred = np.zeros((len(live), vocab_size), dtype=bool)
    if characters is not None:
        barred |= characters.barred[[beam.place for beam in live]]
    if healing is not None:
        for row, beam in zip(barred, live, strict=True):
            row |= ~healing.fitting(beam.left)
    barred[:, list(ids)] = True
    return barred


def _likeliest(totals: Logits, wanted: int) -> tuple[list[int], list[int]]:
    """Rows and columns of the largest finite entries, largest first; ties in order of position."""
    flat = totals.ravel()
    if wanted < len(flat):
        threshold = np.partition(flat, -wanted)[-wanted]
        places: npt.NDArray[np.intp] = np.flatnonzero((flat >= threshold) & (flat > -np.inf))
    else:
        places = np.flatnonzero(flat > -np.inf)
    places = places[np.argsort(-flat[places], kind="stable")][:wanted]
    rows, columns = np.divmod(places, totals.shape[1])
    return rows.tolist(), columns.tolist()

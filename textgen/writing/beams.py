"""Beam search: looks for the likeliest text by keeping the N likeliest prefixes at each time step.

A text's score is the mean log-probability of its tokens, including the boundary that ends it, so that long texts are
not penalized. One beam is greedy decoding; with as many beams as there are prefixes, the search is exact.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from textgen.stepper import Logits
from textgen.text.tokenizer import Ids
from textgen.writing.characters import BETWEEN, CharacterGuard
from textgen.writing.sampling import OUT, Choice, add_bias, biases_by_id, choice_of, log_softmax, require_choice
from textgen.writing.sampling_settings import SampleOptions

if TYPE_CHECKING:
    from textgen.language_model import LanguageModel
    from textgen.stepper import TokenStepper
    from textgen.writing.completions import CompletionBuilder


@dataclass(frozen=True, eq=False)
class Beam:
    """A text of `length` tokens, as its last token and the beam before it, with the sum of its log-probabilities and
    the place (`textgen.writing.characters`) where it ends."""

    total: float = 0.0
    length: int = 0
    choice: Choice | None = None
    before: Beam | None = None
    place: int = BETWEEN

    @property
    def score(self) -> float:
        """Mean log-probability of a token, in nats."""
        return self.total / self.length

    def grown(self, logprob: float, choice: Choice, characters: CharacterGuard | None) -> Beam:
        """The text with one more token."""
        place = BETWEEN if characters is None else int(characters.after[self.place, choice.id])
        return Beam(self.total + logprob, self.length + 1, choice, self, place)

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
    empty: bool = False,
) -> Beam:
    """The best text of at most `max_new_tokens` tokens found after a prompt (T,), T >= 1, with `num_beams` beams.

    A text ends at the boundary or at its maximum length. Tokens in `unsampled`, and those that `characters` excludes,
    are never written. With `empty` there is no prompt, and the text cannot end at once.
    """
    barred_first = (*unsampled, boundary) if empty and boundary is not None else unsampled
    state = model.initial_state(1)
    if len(prompt) > 1:
        _, state = model.forward(prompt[None, :-1], state)
    ids = prompt[-1:].astype(np.int32)
    biases, live = biases_by_id(options), [Beam()]
    ended: Beam | None = None
    for length in range(options.max_new_tokens):
        logits, state = model.step(ids, state)
        logits = logits.astype(np.float64)
        barred = _barred(live, logits.shape[1], barred_first if length == 0 else unsampled, characters)
        logits[barred & ~np.isfinite(logits)] = OUT
        require_choice(np.where(barred, OUT, logits))
        logprobs = np.where(barred, OUT, log_softmax(add_bias(logits, biases)))
        parents, tokens = _likeliest(np.array([[beam.total] for beam in live]) + logprobs, options.num_beams or 1)
        grown = [
            live[row].grown(float(logprobs[row, token]), choice_of(token, logits[row], options.logprobs), characters)
            for row, token in zip(parents, tokens, strict=True)
        ]
        going = [k for k, token in enumerate(tokens) if token != boundary]
        ended = _best([ended, *(beam for beam, token in zip(grown, tokens, strict=True) if token == boundary)])
        live = [grown[k] for k in going]
        if not live:
            break
        # Here y(t) becomes x(t+1), with the state of the beam that it extends.
        ids = np.array([tokens[k] for k in going], dtype=np.int32)
        state = _gathered(model, state, [parents[k] for k in going], len(logits))
    best = _best([ended, *live])
    assert best is not None
    return best


def _barred(
    live: list[Beam], vocab_size: int, ids: Sequence[int], characters: CharacterGuard | None
) -> npt.NDArray[np.bool_]:
    """Which tokens may not follow each beam, (B, V): these ids, and those that `characters` excludes."""
    barred = np.zeros((len(live), vocab_size), dtype=bool)
    if characters is not None:
        barred |= characters.barred[[beam.place for beam in live]]
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


def _best(beams: list[Beam | None]) -> Beam | None:
    return max(filter(None, beams), key=lambda beam: beam.score, default=None)


def _gathered(model: TokenStepper, state: object, parents: list[int], rows: int) -> object:
    return state if parents == list(range(rows)) else model.select(state, np.array(parents, dtype=np.intp))


def search_rows(
    model: LanguageModel, encoded: list[Ids], rows: list[CompletionBuilder], options: SampleOptions
) -> Iterator[tuple[int, str]]:
    """Search after each prompt and feed the result to its row; yields (row, piece of text). Stop strings apply."""
    boundary = None if options.ignore_eos else model.tokenizer.boundary
    unsampled = (*model.unsampled, model.tokenizer.boundary) if options.ignore_eos else model.unsampled
    for number, (row, ids) in enumerate(zip(rows, encoded, strict=True)):
        for choice in search(model.stepper, ids, options, boundary, unsampled, model.characters, row.empty).choices():
            yield number, row.take(choice)
            if row.completion.finish_reason is not None:
                break

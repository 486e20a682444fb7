"""Several texts generated together, one token each per time step; texts join and leave in between, as a server's
requests do (continuous batching).

All rows share one product with each matrix, so 64 texts take little longer than a few. Each text has its own options,
noise and end, and does not depend on the contents of the others.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from textgen import arguments
from textgen.errors import UsageError
from textgen.parameters import named
from textgen.stepper import Logits
from textgen.writing.completions import Completion, CompletionBuilder
from textgen.writing.generate import choose_seed, read_on, sampling_options

if TYPE_CHECKING:
    from textgen.language_model import LanguageModel


@dataclass(frozen=True)
class Piece:
    """What a time step added to one text, perhaps nothing; `finish_reason` is 'stop' or 'length' at its end."""

    key: int
    text: str
    finish_reason: str | None


@dataclass
class _Text:
    row: CompletionBuilder
    next: int
    state: Any
    """Its state, until it has a row in the shared one."""


class Streams:
    """Texts in progress. With `exact`, each is bit for bit what `textgen.generate` returns, which is slower. Otherwise
    the number of other texts may decide between two tokens whose probabilities agree to four digits.

    Example:
        >>> streams = Streams(textgen.load("runs/demo"))                       # doctest: +SKIP
        >>> key = streams.add("Once", max_new_tokens=100, seed=1)              # doctest: +SKIP
        >>> while len(streams):                                                # doctest: +SKIP
        ...     for piece in streams.step():
        ...         show(piece.key, piece.text)
    """

    def __init__(self, model: LanguageModel, exact: bool = False) -> None:
        self._model, self._exact = arguments.writer(model), arguments.flag("exact", exact)
        self._texts: dict[int, _Text] = {}
        self._rows: list[int] = []
        self._state: Any = None
        self._added = 0

    def __len__(self) -> int:
        """The number of texts in progress."""
        return len(self._texts)

    def add(self, prompt: str = "", **sampling: Any) -> int:
        """Read a prompt, which the next step begins to continue; returns the text's key.

        Sampling options are those of `textgen.generate`. Raises UsageError for an invalid one.
        """
        prompt = arguments.text("prompt", prompt)
        options = sampling_options(self._model, sampling)
        if options.num_beams is not None:
            raise UsageError(
                f"{named('num_beams', options.num_beams)} cannot stream; textgen.generate gives the whole text."
            )
        ids, stepper = self._model.encode_prompt(prompt), self._model.stepper
        row = CompletionBuilder(self._model, Completion(prompt, choose_seed(options)), options)
        row.sampler.see(ids.tolist())
        if options.max_new_tokens == 0:
            row.completion.finish_reason = "length"
        state = read_on(stepper, ids[None, :-1], stepper.initial_state(1))
        key, self._added = self._added, self._added + 1
        self._texts[key] = _Text(row, int(ids[-1]), state)
        return key

    def remove(self, key: int) -> None:
        """Drop a text. Raises KeyError for one that is not in progress."""
        del self._texts[key]

    def completion(self, key: int) -> Completion:
        """A text in progress, as it is now. Raises KeyError for any other."""
        return self._texts[key].row.completion

    def step(self) -> list[Piece]:
        """Generate one token of every text; returns what each gained, in the order in which they were added.

        A text that has ended leaves.
        """
        going = {key: text for key, text in self._texts.items() if not text.row.ended}
        gained = dict.fromkeys(self._texts, "")
        if going:
            for (key, text), logits in zip(going.items(), self._logits(going), strict=True):
                choice = text.row.sampler.choose(logits)
                text.next = choice.id
                gained[key] = text.row.take(choice)
        pieces = [Piece(key, gained[key], text.row.completion.finish_reason) for key, text in self._texts.items()]
        self._texts = {key: text for key, text in self._texts.items() if not text.row.ended}
        return pieces

    def _logits(self, texts: dict[int, _Text]) -> Iterator[Logits]:
        """Advance these texts by one step; the logits (V,) of the next token of each."""
        stepper = self._model.stepper
        if self._exact:
            for text in texts.values():
                logits, text.state = stepper.step(np.array([text.next], dtype=np.int32), text.state)
                yield logits[0]
            return
        self._gather(texts)
        ids = np.array([text.next for text in texts.values()], dtype=np.int32)
        logits, self._state = stepper.step(ids, self._state)
        yield from logits

    def _gather(self, texts: dict[int, _Text]) -> None:
        """Make the shared state hold one row for each of these texts, in order, and no others."""
        stepper = self._model.stepper
        stay = [place for place, key in enumerate(self._rows) if key in texts]
        states = [texts[key].state for key in texts if key not in self._rows]
        if stay:
            state = self._state
            states.insert(0, state if len(stay) == len(self._rows) else stepper.select(state, np.array(stay, np.intp)))
        self._state = states[0] if len(states) == 1 else stepper.concat(states)
        self._rows = list(texts)

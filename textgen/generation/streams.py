"""`Streams`: many texts in one batch, a token each at a time; they come and go between steps, as a server's users do.

All rows share one product with each matrix, so that 64 texts take little more time than a few. Each text has its own
options, noise and end, and none depends on the others. A text begins with a prompt or continues a session, and may
leave a session behind. Long prompts can be read in chunks, between the steps of the others.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from textgen import options as arguments
from textgen.data.tokenizers.base import Ids
from textgen.errors import TextgenError
from textgen.generation.generate import Completion, CompletionBuilder, choose_seed, heals, read_on, streaming_options
from textgen.generation.sampling import choice_of
from textgen.generation.session import Session
from textgen.model.stepper import Logits

if TYPE_CHECKING:
    from textgen.generation.language_model import LanguageModel

MOST_ROWS = MOST_CHUNK = 1 << 20
TURNS = 4
"""How many prompts take their turn in one chunk."""
SCORED_CHUNK = 64
"""Tokens of a prompt that are scored at a time, since each needs the logits of all tokens."""


@dataclass(frozen=True)
class Piece:
    """What a step added to one text, perhaps nothing. At its end, `finish_reason` is 'stop' or 'length', and `session`
    is the place where the text ended, if it was to be kept; or it is 'error', for a text from which nothing can be
    drawn."""

    key: int
    text: str
    finish_reason: str | None
    session: Session | None = None
    error: TextgenError | None = None


@dataclass
class Text:
    """A text in progress, or one that `Streams.enter` can add."""

    start: Session
    row: CompletionBuilder
    unread: list[int]
    """Tokens of its prompt that are still to be read, but for the last one."""
    next: int
    state: Any
    """Its state, while it has no row in the shared one."""
    recent: deque[int]
    keep: bool
    scored: int | None

    @property
    def completion(self) -> Completion:
        """What has been written."""
        return self.row.completion


class Streams:
    """Texts in progress. With `exact`, each is bit for bit what `textgen.generate` returns, which is slower for many;
    with `exact_rows`, as long as there are no more than that. Otherwise the number of other texts may decide between
    two tokens whose probabilities agree to four digits.

    A prompt is read when it is added, or with `chunk` during the steps: so many tokens in each, so that a long prompt
    keeps nobody waiting.

    Example:
        >>> streams = Streams(textgen.load("runs/demo"))                       # doctest: +SKIP
        >>> key = streams.add("Once", max_new_tokens=100, seed=1)              # doctest: +SKIP
        >>> while len(streams):                                                # doctest: +SKIP
        ...     for piece in streams.step():
        ...         show(piece.key, piece.text)
    """

    def __init__(
        self, model: LanguageModel, exact: bool = False, exact_rows: int = 0, chunk: int | None = None
    ) -> None:
        self._model = arguments.writer(model)
        every, few = arguments.boolean("exact", exact), arguments.whole_number("exact_rows", exact_rows, 0, MOST_ROWS)
        self._exact_rows = MOST_ROWS if every else few
        self._chunk = None if chunk is None else arguments.whole_number("chunk", chunk, 1, MOST_CHUNK)
        self._texts: dict[int, Text] = {}
        self._waiting: deque[int] = deque()
        self._paused: set[int] = set()
        self._rows: list[int] = []
        self._state: Any = None
        self._added = 0

    def __len__(self) -> int:
        """The number of texts in progress."""
        return len(self._texts)

    def add(self, prompt: str | Ids = "", session: Session | None = None, **options: Any) -> int:
        """Add a text: it begins with a prompt, or continues a session after reading the prompt. Returns its key. The
        options are those of `prepare`; raises UsageError for an invalid one."""
        return self.enter(self.prepare(prompt, session, **options))

    def prepare(
        self,
        prompt: str | Ids = "",
        session: Session | None = None,
        keep: bool = False,
        scored: int | None = None,
        **sampling: Any,
    ) -> Text:
        """A text that `enter` can add. Reads no token and changes nothing, so any thread may call it.

        The prompt is text, or token ids (T,). Sampling options are those of `textgen.generate`; a seed forks the
        session. With `keep`, the last `Piece` holds the session, and text that could still change is left to whoever
        continues it. With `scored`, the completion holds the log-probability of each token of the prompt, and so many
        of the likeliest tokens in its place. Raises UsageError for an invalid option.
        """
        options = streaming_options(self._model, sampling)
        heal = heals(options) and scored is None and (keep or options.max_new_tokens != 0)
        if session is None:
            start, ids = Session.unread(self._model, prompt, choose_seed(options), heal=heal)
        else:
            forked = session if options.seed is None else session.fork(options.seed)
            asks = bool(len(prompt)) and bool(self._model.prompt_end)
            start, ids = forked.asking(prompt) if asks else forked.reading(prompt, heal)
        shown = prompt if isinstance(prompt, str) else self._model.tokenizer.decode(prompt)
        completion = Completion(shown, start.seed, prompt_tokens=len(ids) + (session is None))
        row = CompletionBuilder(self._model, completion, options, start.open, keep, start.remember)
        recent = deque((*start.recent, *ids), start.remember)
        row.sampler.see(recent)
        if options.max_new_tokens == 0 and not row.ended:
            completion.finish_reason = "length"
        fed = [start.pending, *ids]
        return Text(start, row, fed[:-1], fed[-1], start.state, recent, keep, scored)

    def enter(self, text: Text) -> int:
        """Add a prepared text, once; returns its key."""
        key, self._added = self._added, self._added + 1
        self._texts[key] = text
        if self._chunk is None:
            self._read(text, len(text.unread))
        elif text.unread:
            self._waiting.append(key)
        return key

    def remove(self, key: int) -> None:
        """Drop a text. Raises KeyError for one that is not in progress."""
        del self._texts[key]
        self._paused.discard(key)

    def pause(self, key: int) -> None:
        """Write no more of a text until `resume`. Raises KeyError for one that is not in progress."""
        text = self._texts[key]
        if key in self._rows:
            text.state = self._model.stepper.select(self._state, np.array([self._rows.index(key)], np.intp))
        self._paused.add(key)

    def resume(self, key: int) -> None:
        """Go on with a text that was paused."""
        self._paused.discard(key)

    @property
    def paused(self) -> frozenset[int]:
        """The texts that are paused."""
        return frozenset(self._paused)

    def completion(self, key: int) -> Completion:
        """A text in progress, as it is now. Raises KeyError for any other."""
        return self._texts[key].completion

    def step(self) -> list[Piece]:
        """Generate one token of every text that is not paused and whose prompt is read; returns what each gained, in
        the order in which they were added. A text that has ended leaves."""
        self._read_waiting()
        read = {key: text for key, text in self._texts.items() if not text.unread and key not in self._paused}
        going = {key: text for key, text in read.items() if not text.row.ended}
        gained = {key: text.row.ready() for key, text in read.items()}
        errors: dict[int, TextgenError] = {}
        if going:
            for (key, text), logits in zip(going.items(), self._logits(going), strict=True):
                try:
                    choice = text.row.sampler.choose(logits)
                except TextgenError as error:  # of this text alone; the others go on
                    errors[key], text.completion.finish_reason = error, "error"
                    continue
                text.next = choice.id
                text.recent.append(choice.id)
                gained[key] += text.row.take(choice)
        pieces = []
        for key, text in read.items():
            reason, session = text.completion.finish_reason, None
            if reason is not None:
                if key not in going and reason == "length" and not text.keep:
                    gained[key] += text.row.end("length")
                session = self._session(key) if text.keep and key not in errors else None
                del self._texts[key]
            pieces.append(Piece(key, gained[key], reason, session, errors.get(key)))
        return pieces

    def _session(self, key: int) -> Session:
        """The place where a text is now."""
        text, stepper = self._texts[key], self._model.stepper
        shared = key in self._rows
        state = stepper.select(self._state, np.array([self._rows.index(key)], np.intp)) if shared else text.state
        start, row = text.start, text.row
        return Session(self._model, state, text.next, start.seed, tuple(text.recent), row.opened(), start.remember)

    def _read_waiting(self) -> None:
        """Read a chunk of the prompts that wait; they take turns."""
        left = self._chunk or 0
        turn = max(1, left // TURNS)
        while left > 0 and self._waiting:
            key = self._waiting.popleft()
            if text := self._texts.get(key):
                left -= self._read(text, min(left, turn))
                if text.unread:
                    self._waiting.append(key)

    def _read(self, text: Text, most: int) -> int:
        """Read up to so many tokens of a prompt; returns how many."""
        stepper, size = self._model.stepper, min(most, len(text.unread))
        if text.scored is None:
            text.state = read_on(stepper, np.array([text.unread[:size]], dtype=np.int32), text.state)
        else:
            targets = [*text.unread[1:], text.next]
            for begin in range(0, size, SCORED_CHUNK):
                ids = text.unread[begin : min(size, begin + SCORED_CHUNK)]
                outputs, text.state = stepper.outputs(np.array([ids], dtype=np.int32), text.state)
                for logits, target in zip(outputs[:, 0], targets[begin:], strict=False):
                    text.completion.prompt_choices.append(choice_of(target, logits, text.scored))
        del text.unread[:size]
        return size

    def _logits(self, texts: dict[int, Text]) -> Iterator[Logits]:
        """Advance these texts by one step; the logits (V,) of the next token of each."""
        stepper = self._model.stepper
        if len(texts) <= self._exact_rows:
            self._separate()
            for text in texts.values():
                logits, text.state = stepper.step(np.array([text.next], dtype=np.int32), text.state)
                yield logits[0]
            return
        self._gather(texts)
        ids = np.array([texts[key].next for key in self._rows], dtype=np.int32)
        logits, self._state = stepper.step(ids, self._state)
        by_key = dict(zip(self._rows, logits, strict=True))
        yield from (by_key[key] for key in texts)

    def _separate(self) -> None:
        """Give each text of the shared state a state of its own."""
        for place, key in enumerate(self._rows):
            if key in self._texts:
                self._texts[key].state = self._model.stepper.select(self._state, np.array([place], np.intp))
        self._rows, self._state = [], None

    def _gather(self, texts: dict[int, Text]) -> None:
        """Make the shared state hold one row for each of these texts, and no others."""
        stepper = self._model.stepper
        stay = [place for place, key in enumerate(self._rows) if key in texts]
        kept, known = [self._rows[place] for place in stay], set(self._rows)
        new = [key for key in texts if key not in known]
        states = [texts[key].state for key in new]
        if stay:
            state = self._state
            states.insert(0, state if len(stay) == len(self._rows) else stepper.select(state, np.array(stay, np.intp)))
        self._state = states[0] if len(states) == 1 else stepper.concat(states)
        self._rows = [*kept, *new]
        for key in new:
            texts[key].state = None

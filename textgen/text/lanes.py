"""The order in which training reads a corpus: a pure function of (seed, epoch, step).

The tokens are taken as a ring, cut into `batch_size` contiguous lanes; each step takes the next window of every lane,
so that the state after one window is the state before the next. Each epoch turns the ring to another start. To
resume, one integer is enough.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from textgen.errors import TextgenError
from textgen.parameters import named
from textgen.text.store import Tokens
from textgen.text.tokenizer import Ids

ESCAPE_RATE = 0.001
"""Share of symbols replaced by the escape symbol, so that a model learns that the unknown can happen."""

SHORTEST = 8
"""The fewest steps of a window that a hint suggests: from fewer, nothing is learned."""

MORE_TEXT = "use a longer text; 10,000 characters give a model something to learn, 100,000 are better."

FRESH_RATE = 0.01
"""Share of windows that a lane begins with a fresh state. A model that only ever read on may not find into a text from
there (benchmarks/penn_treebank.txt: perplexity 701 from fresh states, 258 from a warm one, after one epoch)."""

START_RATE = 0.03
"""Share of windows that begin a text: a fresh state, the boundary, then the start of a document, paragraph or line.
This is what a model reads before it generates, and without these windows it has never met it: the boundaries between
documents are read with the state of the document before, and in a corpus of few documents there are hardly any."""

START_REACH = 2048
"""Tokens, from a random place on, in which a start is looked for."""


def missing_escape(frequencies: npt.NDArray[np.int64], escape: int | None) -> int | None:
    """The escape if a text with these frequencies of symbols (V,) holds too few of it to learn from; None if it holds
    enough, or there is none."""
    return None if escape is None or frequencies[escape] >= ESCAPE_RATE * frequencies.sum() else escape


@dataclass(frozen=True)
class Lanes:
    """Windows of a token array: `batch_size` rows of `seq_length` steps.

    With a `boundary` some windows begin a text, at the start of a document, or else after a blank line or after any
    `line_end`. Raises TextgenError if the tokens do not fill one window of every lane; the hint says what would.
    """

    tokens: Tokens
    batch_size: int
    seq_length: int
    seed: int
    escape: int | None = None
    boundary: int | None = None
    line_end: int | None = None

    def __post_init__(self) -> None:
        need, have = self.batch_size * self.seq_length + 1, len(self.tokens)
        if have >= need:
            return
        length = min(self.seq_length, max(SHORTEST, (have - 1) // self.batch_size))
        batch = max(0, min(self.batch_size, (have - 1) // length))
        fitting = f"{named('batch_size', batch)} {named('seq_length', length)} fits."
        raise TextgenError(
            f"the training part has {have:,} tokens; one batch of {self.batch_size:,} x {self.seq_length:,} needs "
            f"{need:,}.",
            hint=fitting if batch else MORE_TEXT,
        )

    @property
    def lane_length(self) -> int:
        return len(self.tokens) // self.batch_size

    @property
    def steps_per_epoch(self) -> int:
        return self.lane_length // self.seq_length

    def fresh(self, step: int) -> npt.NDArray[np.bool_]:
        """The lanes, (batch_size,), whose carried state is dropped before this step (steps count from 0): all where
        an epoch begins, those that begin a text and go back to their place after it, and now and then another one."""
        if step % self.steps_per_epoch == 0:
            return np.ones(self.batch_size, dtype=bool)
        now_and_then = np.random.default_rng([self.seed, step, 1]).random(self.batch_size) < FRESH_RATE
        return now_and_then | self.starting(step) | self.starting(step - 1)

    def starting(self, step: int) -> npt.NDArray[np.bool_]:
        """The lanes, (batch_size,), whose window of this step begins a text instead of reading on."""
        if self.boundary is None:
            return np.zeros(self.batch_size, dtype=bool)
        return np.random.default_rng([self.seed, step, 2]).random(self.batch_size) < START_RATE

    def window(self, step: int) -> tuple[Ids, Ids]:
        """Inputs and targets of a step, each (seq_length, batch_size): the targets are the inputs one later."""
        epoch, within = divmod(step, self.steps_per_epoch)
        turn = random.Random(f"{self.seed}/{epoch}").randrange(len(self.tokens)) if epoch else 0
        starts = (turn + within * self.seq_length + np.arange(self.batch_size) * self.lane_length) % len(self.tokens)
        ids = np.stack([self._ring(int(start), self.seq_length + 1) for start in starts], axis=1).astype(np.int32)
        for lane in np.flatnonzero(self.starting(step)).tolist():
            ids[:, lane] = self._beginning(np.random.default_rng([self.seed, step, 3, lane]))
        if self.escape is not None:
            noise = np.random.default_rng([self.seed, step]).random(ids.shape, dtype=np.float32)
            ids[(noise < ESCAPE_RATE) & (ids > self.escape)] = self.escape
        return ids[:-1], ids[1:]

    def _beginning(self, random: np.random.Generator) -> Tokens:
        """The boundary and the tokens after a start near a random place, seq_length + 1 in all."""
        origin = int(random.integers(len(self.tokens)))
        near = self._ring(origin, min(START_REACH, len(self.tokens)))
        ends = near == self.line_end
        blank = ends[:-1] & ends[1:] & np.append(~ends[2:], True)  # two line ends and then something else
        for after in (np.flatnonzero(near == self.boundary), np.flatnonzero(blank) + 1, np.flatnonzero(ends)):
            if len(after):
                origin += int(after[0]) + 1
                break
        return np.concatenate([[self.boundary], self._ring(origin % len(self.tokens), self.seq_length)])

    def _ring(self, start: int, length: int) -> Tokens:
        piece = self.tokens[start : start + length]
        missing = length - len(piece)
        return piece if not missing else np.concatenate([piece, self.tokens[:missing]])


def parts(batch: int, number: int) -> list[tuple[int, int]]:
    """The first and last lane of each of `number` nearly equal parts of a batch."""
    edges = [round(part * batch / number) for part in range(number + 1)]
    return list(pairwise(edges))

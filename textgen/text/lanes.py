"""The order in which training reads a corpus: a pure function of (seed, epoch, step).

The tokens form a ring, cut into `batch_size` contiguous lanes; each step reads the next window of every lane, so that
the state after one window is the state before the next. Each epoch starts the ring at another token. One integer is
enough to resume.
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
"""Share of tokens replaced by the escape, so that a model learns that unknown units occur."""

SHORTEST = 8
"""The shortest window that a hint suggests: a model learns nothing from shorter ones."""

MORE_TEXT = "use a longer text; 10,000 characters give a model something to learn, 100,000 are better."

FRESH_RATE = 0.01
"""Share of windows that start from a fresh state. A model that has never done so may predict poorly from one
(benchmarks/penn_treebank.txt: perplexity 701 from fresh states, 258 from a warm one, after one epoch)."""

START_RATE = 0.03
"""Share of windows that begin a text: a fresh state, the boundary, then the start of a document, paragraph or line.
This is what a model reads before it generates. Other windows do not teach it: they read the boundary between documents
with the state of the previous one, and a corpus of few documents has few boundaries."""

START_REACH = 2048
"""Tokens after a random position that are searched for a start."""


def missing_escape(frequencies: npt.NDArray[np.int64], escape: int | None) -> int | None:
    """The escape if a text with these token frequencies (V,) has too few of it to learn from; None if it has enough, or
    the tokenizer has no escape."""
    return None if escape is None or frequencies[escape] >= ESCAPE_RATE * frequencies.sum() else escape


@dataclass(frozen=True)
class Lanes:
    """Windows of a token array: `batch_size` rows of `seq_length` steps.

    With a `boundary` some windows begin a text: at the start of a document, or else after an empty line or after any
    `line_end`. Raises TextgenError if the tokens do not fill one window of every lane, with a hint at sizes that fit.
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
        """The lanes, (batch_size,), whose hidden state is reset before this step (counted from 0): all at the start of
        an epoch, those that begin a text or return to their place after one, and some at random."""
        if step % self.steps_per_epoch == 0:
            return np.ones(self.batch_size, dtype=bool)
        at_random = np.random.default_rng([self.seed, step, 1]).random(self.batch_size) < FRESH_RATE
        return at_random | self.starting(step) | self.starting(step - 1)

    def starting(self, step: int) -> npt.NDArray[np.bool_]:
        """The lanes, (batch_size,), whose window of this step begins a text instead of continuing."""
        if self.boundary is None:
            return np.zeros(self.batch_size, dtype=bool)
        return np.random.default_rng([self.seed, step, 2]).random(self.batch_size) < START_RATE

    def window(self, step: int) -> tuple[Ids, Ids]:
        """Inputs and targets of a step, each (seq_length, batch_size); the targets are the inputs one step later."""
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
        """The boundary and the tokens after a start near a random position, seq_length + 1 in all."""
        origin = int(random.integers(len(self.tokens)))
        near = self._ring(origin, min(START_REACH, len(self.tokens)))
        ends = near == self.line_end
        blank = ends[:-1] & ends[1:] & np.append(~ends[2:], True)  # two line ends followed by something else
        for after in (np.flatnonzero(near == self.boundary), np.flatnonzero(blank) + 1, np.flatnonzero(ends)):
            if len(after):
                origin += int(after[0]) + 1
                break
        return np.concatenate([[self.boundary], self._ring(origin % len(self.tokens), self.seq_length)])

    def _ring(self, start: int, length: int) -> Tokens:
        chunk = self.tokens[start : start + length]
        missing = length - len(chunk)
        return chunk if not missing else np.concatenate([chunk, self.tokens[:missing]])


def parts(batch: int, number: int) -> list[tuple[int, int]]:
    """The first and last lane of each of `number` nearly equal parts of a batch."""
    edges = [round(part * batch / number) for part in range(number + 1)]
    return list(pairwise(edges))

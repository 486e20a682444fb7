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


def missing_escape(frequencies: npt.NDArray[np.int64], escape: int | None) -> int | None:
    """The escape if a text with these frequencies of symbols (V,) holds too few of it to learn from; None if it holds
    enough, or there is none."""
    return None if escape is None or frequencies[escape] >= ESCAPE_RATE * frequencies.sum() else escape


@dataclass(frozen=True)
class Lanes:
    """Windows of a token array: `batch_size` rows of `seq_length` steps.

    Raises TextgenError if the tokens do not fill one window of every lane; the hint says what would.
    """

    tokens: Tokens
    batch_size: int
    seq_length: int
    seed: int
    escape: int | None = None

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
        an epoch begins, and now and then one, so that a model learns to begin."""
        if step % self.steps_per_epoch == 0:
            return np.ones(self.batch_size, dtype=bool)
        return np.random.default_rng([self.seed, step, 1]).random(self.batch_size) < FRESH_RATE

    def window(self, step: int) -> tuple[Ids, Ids]:
        """Inputs and targets of a step, each (seq_length, batch_size): the targets are the inputs one later."""
        epoch, within = divmod(step, self.steps_per_epoch)
        turn = random.Random(f"{self.seed}/{epoch}").randrange(len(self.tokens)) if epoch else 0
        starts = (turn + within * self.seq_length + np.arange(self.batch_size) * self.lane_length) % len(self.tokens)
        ids = np.stack([self._ring(int(start), self.seq_length + 1) for start in starts], axis=1).astype(np.int32)
        if self.escape is not None:
            noise = np.random.default_rng([self.seed, step]).random(ids.shape, dtype=np.float32)
            ids[(noise < ESCAPE_RATE) & (ids > self.escape)] = self.escape
        return ids[:-1], ids[1:]

    def _ring(self, start: int, length: int) -> Tokens:
        piece = self.tokens[start : start + length]
        missing = length - len(piece)
        return piece if not missing else np.concatenate([piece, self.tokens[:missing]])


def parts(batch: int, number: int) -> list[tuple[int, int]]:
    """The first and last lane of each of `number` nearly equal parts of a batch."""
    edges = [round(part * batch / number) for part in range(number + 1)]
    return list(pairwise(edges))

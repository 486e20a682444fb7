"""Encoded pairs and the batches made of them.

An example is boundary, prompt, separator, completion, boundary. The separator is a symbol of its own, the one after
all that the tokenizer has: no text is ever encoded to it. A model reads an example up to its last symbol, and what
counts are its predictions from the separator on: the completion and the boundary that ends it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from textgen.pairs.read import Pair
from textgen.text.encoding import count_characters
from textgen.text.tokenizer import Ids, Tokenizer

IGNORED = -100
"""The target where no prediction counts."""

FRAME = 2
"""What an example adds to its prompt and completion where it is read: the boundary before and the separator."""

POOL = 64
"""Batches whose pairs are sorted by size together, so that those of a batch are of nearly the same size."""

Rows = npt.NDArray[np.intp]


@dataclass(frozen=True)
class Examples:
    """N pairs as ids: `ids` holds prompt, completion, prompt, completion and so on; `sizes` (N, 2) their lengths.

    `bytes`, `characters`, `raw` and `unknown` tell of the completions: what they hold as text, how many bytes of it
    are raw (of characters that the tokenizer never saw), and how many words are lost, None where none can be.
    """

    ids: npt.NDArray[Any]
    sizes: npt.NDArray[np.int64]
    boundary: int
    separator: int
    bytes: int = 0
    characters: int = 0
    raw: int = 0
    unknown: int | None = None

    def __len__(self) -> int:
        return len(self.sizes)

    @cached_property
    def begins(self) -> npt.NDArray[np.int64]:
        """Where each pair begins in `ids`, and where the last one ends: (N + 1,)."""
        ends: npt.NDArray[np.int64] = np.concatenate([[0], np.cumsum(self.sizes.sum(axis=1))]).astype(np.int64)
        return ends

    @cached_property
    def read(self) -> npt.NDArray[np.int64]:
        """How many symbols a model reads of each example: (N,)."""
        total: npt.NDArray[np.int64] = self.sizes.sum(axis=1) + FRAME
        return total

    @property
    def symbols(self) -> int:
        """All symbols that are read."""
        return int(self.read.sum())

    @property
    def counted(self) -> int:
        """All predictions that count: the completions' symbols and an end for each."""
        return int(self.sizes[:, 1].sum()) + len(self)

    @property
    def written(self) -> Ids:
        """The ids of all completions, one after another."""
        is_written = np.repeat(np.tile([False, True], len(self)), self.sizes.ravel())
        found: Ids = np.asarray(self.ids)[is_written].astype(np.int32)
        return found

    def example(self, row: int) -> Ids:
        """One example, whole: (read + 1,)."""
        begin, end = self.begins[row : row + 2].tolist()
        middle = begin + int(self.sizes[row, 0])
        prompt, completion = self.ids[begin:middle], self.ids[middle:end]
        boundary, separator = [self.boundary], [self.separator]
        return np.concatenate([boundary, prompt, separator, completion, boundary]).astype(np.int32)

    def batch(self, rows: Iterable[int], longest: int | None = None) -> tuple[Ids, npt.NDArray[np.int64], Any]:
        """Inputs, targets and prompt targets of some examples, each (T, B), padded behind their ends.

        Targets are `IGNORED` but for the completions, prompt targets but for the prompts and separators. What goes
        beyond `longest` symbols is cut off.
        """
        rows = list(rows)
        size = int(min(self.read[rows].max(), longest or self.read.max()))
        inputs = np.full((size, len(rows)), self.boundary, np.int32)
        targets = np.full((2, size, len(rows)), IGNORED, np.int64)
        for lane, row in enumerate(rows):
            ids = self.example(row)[: size + 1]
            first = int(self.sizes[row, 0]) + 1  # the place of the separator, from which the completion is predicted
            inputs[: len(ids) - 1, lane] = ids[:-1]
            targets[0, first : len(ids) - 1, lane] = ids[first + 1 :]
            targets[1, : min(first, len(ids) - 1), lane] = ids[1 : first + 1]
        return inputs, targets[0], targets[1]


def encode_pairs(tokenizer: Tokenizer, pairs: Iterable[Pair]) -> Examples:
    """Pairs as ids that a model of this tokenizer and one more symbol is shown."""
    ids, sizes = [np.zeros(0, np.int32)], []
    size = characters = raw = unknown = 0
    for pair in pairs:
        prompt, completion = (np.concatenate([*tokenizer.encode_pieces([text]), ids[0]]) for text in pair)
        size, characters = size + len(pair.completion), characters + count_characters(pair.completion)
        raw += tokenizer.raw_count(completion)
        unknown += tokenizer.unknown_count(completion) or 0
        shown = [tokenizer.model_ids(prompt), tokenizer.model_ids(completion)]
        sizes.append([len(each) for each in shown])
        ids += shown
    loses = tokenizer.unknown_count(ids[0]) is not None
    return Examples(
        np.concatenate(ids),
        np.array(sizes, dtype=np.int64).reshape(-1, 2),
        tokenizer.boundary,
        tokenizer.vocab_size,
        size,
        characters,
        raw,
        unknown if loses else None,
    )


@dataclass(frozen=True)
class Order:
    """Which pairs each step of training reads: all of them in every epoch, in an order that only the seed decides.

    The epochs, each in an order of its own, make one endless row. Pools of `POOL` batches (no more than an epoch has)
    are cut from it, sorted by size and divided into batches, which come in any order. So all batches have
    `batch_size` pairs, of nearly one size.
    """

    sizes: npt.NDArray[np.int64]
    batch_size: int
    seed: int

    @property
    def steps_per_epoch(self) -> int:
        """Steps in which each pair is read once, about."""
        return max(1, round(len(self.sizes) / self.batch_size))

    def rows(self, step: int) -> Rows:
        """The pairs of a step, (batch_size,), by their place in `sizes`; a pure function of seed and step."""
        batches = max(1, min(POOL, len(self.sizes) // self.batch_size))
        pool, place = divmod(step, batches)
        chosen: Rows = _pool(self, pool, batches)[place]
        return chosen

    def __hash__(self) -> int:
        return id(self)

    def __eq__(self, other: object) -> bool:
        return self is other


@lru_cache(maxsize=2)
def _pool(order: Order, pool: int, batches: int) -> Rows:
    """The batches of a pool, (batches, batch_size)."""
    count, size = len(order.sizes), batches * order.batch_size
    places = np.arange(pool * size, (pool + 1) * size)
    epochs = {
        epoch: np.random.default_rng([order.seed, epoch]).permutation(count) for epoch in np.unique(places // count)
    }
    rows = np.array([epochs[place // count][place % count] for place in places.tolist()])
    by_size = rows[np.argsort(order.sizes[rows], kind="stable")].reshape(batches, order.batch_size)
    turned: Rows = by_size[np.random.default_rng([order.seed, pool, 1]).permutation(batches)]
    return turned


def side_by_side(sizes: npt.NDArray[np.int64], rows: Rows, symbols: int) -> Iterator[Rows]:
    """The rows in groups of nearly one size, each of at most so many symbols when padded, or of a single row."""
    rows = rows[np.argsort(sizes[rows], kind="stable")]
    begin = 0
    while begin < len(rows):
        end = begin + 1
        while end < len(rows) and (end + 1 - begin) * sizes[rows[end]] <= symbols:
            end += 1
        yield rows[begin:end]
        begin = end

"""Encoded pairs and the batches made of them.

An example is boundary, prompt, separator, completion, boundary. The separator is a token of its own, with the first id
after those of the tokenizer: no text is ever encoded to it. A model reads an example up to its last token; what counts
are its predictions from the separator on: the completion and the boundary that ends it.
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
"""The target of predictions that do not count."""

FRAME = 2
"""Tokens that a model reads besides prompt and completion: the boundary before them and the separator."""

POOL = 64
"""Batches that are sorted by size together, so that the pairs of a batch have nearly the same size."""

Indices = npt.NDArray[np.intp]


@dataclass(frozen=True)
class Examples:
    """N pairs as ids: `ids` holds prompt, completion, prompt, completion and so on; `sizes` (N, 2) their lengths.

    `bytes`, `characters`, `raw` and `unknown` count what the completions hold: their text, the raw bytes among it (of
    characters that the tokenizer never saw), and the unknown words, None if the tokenizer is lossless.
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
        return np.concatenate([[0], np.cumsum(self.sizes.sum(axis=1))]).astype(np.int64)

    @cached_property
    def read(self) -> npt.NDArray[np.int64]:
        """How many tokens a model reads of each example: (N,)."""
        total: npt.NDArray[np.int64] = self.sizes.sum(axis=1) + FRAME
        return total

    @property
    def tokens(self) -> int:
        """The number of tokens read."""
        return int(self.read.sum())

    @property
    def counted(self) -> int:
        """The number of predictions that count: the tokens of the completions and an end for each."""
        return int(self.sizes[:, 1].sum()) + len(self)

    @property
    def written(self) -> Ids:
        """The ids of all completions, concatenated."""
        in_completion = np.repeat(np.tile([False, True], len(self)), self.sizes.ravel())
        ids: Ids = np.asarray(self.ids)[in_completion].astype(np.int32)
        return ids

    def example(self, row: int) -> Ids:
        """The ids of one example: (read + 1,)."""
        begin, end = self.begins[row : row + 2].tolist()
        middle = begin + int(self.sizes[row, 0])
        prompt, completion = self.ids[begin:middle], self.ids[middle:end]
        boundary, separator = [self.boundary], [self.separator]
        return np.concatenate([boundary, prompt, separator, completion, boundary]).astype(np.int32)

    def batch(self, rows: list[int], longest: int | None = None) -> tuple[Ids, npt.NDArray[np.int64], Any]:
        """Inputs, targets and prompt targets of some examples, each (T, B), padded at the end.

        Targets are `IGNORED` except in completions, prompt targets except in prompts and at separators. Examples are
        cut off after `longest` tokens.
        """
        size = int(min(self.read[rows].max(), longest or self.read.max()))
        inputs = np.full((size, len(rows)), self.boundary, np.int32)
        targets = np.full((2, size, len(rows)), IGNORED, np.int64)
        for lane, row in enumerate(rows):
            ids = self.example(row)[: size + 1]
            first = int(self.sizes[row, 0]) + 1  # the separator, from which the completion is predicted
            inputs[: len(ids) - 1, lane] = ids[:-1]
            targets[0, first : len(ids) - 1, lane] = ids[first + 1 :]
            targets[1, : min(first, len(ids) - 1), lane] = ids[1 : first + 1]
        return inputs, targets[0], targets[1]


def encode_pairs(tokenizer: Tokenizer, pairs: Iterable[Pair]) -> Examples:
    """Encode pairs as ids for a model whose vocabulary is that of the tokenizer and a separator."""
    ids, sizes = [np.zeros(0, np.int32)], []
    size = characters = raw = unknown = 0
    for pair in pairs:
        prompt, completion = (np.concatenate([*tokenizer.encode_pieces([text]), ids[0]]) for text in pair)
        size, characters = size + len(pair.completion), characters + count_characters(pair.completion)
        raw += tokenizer.raw_count(completion)
        unknown += tokenizer.unknown_count(completion) or 0
        encoded = [tokenizer.model_ids(prompt), tokenizer.model_ids(completion)]
        sizes.append([len(each) for each in encoded])
        ids += encoded
    lossy = tokenizer.unknown_count(ids[0]) is not None
    return Examples(
        np.concatenate(ids),
        np.array(sizes, dtype=np.int64).reshape(-1, 2),
        tokenizer.boundary,
        tokenizer.vocab_size,
        size,
        characters,
        raw,
        unknown if lossy else None,
    )


@dataclass(frozen=True, eq=False)
class Order:
    """Which pairs each training step reads: all of them in every epoch, in an order that depends only on the seed.

    The epochs, each shuffled, form one endless sequence. It is cut into pools of `POOL` batches (at most an epoch);
    each pool is sorted by size and split into batches, which are shuffled. So all batches have `batch_size` pairs of
    nearly the same size.
    """

    sizes: npt.NDArray[np.int64]
    batch_size: int
    seed: int

    @property
    def steps_per_epoch(self) -> int:
        """Steps in which each pair is read about once."""
        return max(1, round(len(self.sizes) / self.batch_size))

    def rows(self, step: int) -> Indices:
        """The pairs of a step as indices into `sizes`, (batch_size,); a pure function of seed and step."""
        batches = max(1, min(POOL, len(self.sizes) // self.batch_size))
        pool, batch = divmod(step, batches)
        chosen: Indices = _pool(self, pool, batches)[batch]
        return chosen


@lru_cache(maxsize=2)
def _pool(order: Order, pool: int, batches: int) -> Indices:
    """The batches of a pool, (batches, batch_size)."""
    count, size = len(order.sizes), batches * order.batch_size
    first, offset = divmod(pool * size, count)
    epochs = range(first, ((pool + 1) * size - 1) // count + 1)
    shuffled = [np.random.default_rng([order.seed, epoch]).permutation(count) for epoch in epochs]
    rows = np.concatenate(shuffled)[offset : offset + size]
    by_size = rows[np.argsort(order.sizes[rows], kind="stable")].reshape(batches, order.batch_size)
    return by_size[np.random.default_rng([order.seed, pool, 1]).permutation(batches)]


def padded_batches(sizes: npt.NDArray[np.int64], rows: Indices, tokens: int) -> Iterator[Indices]:
    """The rows in batches of similar size, each of at most `tokens` tokens including padding, or of a single row."""
    rows = rows[np.argsort(sizes[rows], kind="stable")]
    begin = 0
    while begin < len(rows):
        end = begin + 1
        while end < len(rows) and (end + 1 - begin) * sizes[rows[end]] <= tokens:
            end += 1
        yield rows[begin:end]
        begin = end

"""Reads pairs from tables: the prompt and the completion in every row."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from textgen.errors import TextgenError
from textgen.text.cells import cell
from textgen.text.header import Header
from textgen.text.records import read_records, require_columns
from textgen.text.sources import Source, SourceOptions
from textgen.text.split import Progress, no_progress

_BATCH = 1 << 16


class Pair(NamedTuple):
    """A prompt and its completion, as UTF-8; neither is empty or only white space."""

    prompt: bytes
    completion: bytes


def read_pairs(sources: Sequence[Source], columns: tuple[str, str], reading: SourceOptions) -> Iterator[Pair]:
    """The pairs of tables in order. Raises UsageError for a table without the columns, TextgenError naming row and
    column of a cell without text."""

    def choose(header: Header) -> list[str]:
        require_columns(header.columns, columns, header.name)
        return list(columns)

    for where, values in read_records(sources, choose, reading):
        yield Pair(*(_text(value, column, where) for value, column in zip(values, columns, strict=True)))


def _text(value: object, column: str, where: str) -> bytes:
    text = cell(value, column, where)
    if not text or text.isspace():
        raise TextgenError(f"{where}: column {column!r} is empty; a pair needs a prompt and a completion.")
    return text


@dataclass(frozen=True)
class PairScan:
    """The result of one pass over pairs: their digest, total bytes, number of distinct characters, and a hash of each
    prompt (N,)."""

    digest: str
    total: int
    distinct: int
    prompts: npt.NDArray[np.uint64]


def scan_pairs(pairs: Iterable[Pair], progress: Progress = no_progress) -> PairScan:
    """Read pairs once."""
    digest = hashlib.sha256()
    characters: set[str] = set()
    total, batch, size, hashes = 0, [], 0, []
    for prompt, completion in pairs:
        digest.update(f"{len(prompt)} {len(completion)} ".encode() + prompt + completion)
        hashes.append(int.from_bytes(hashlib.sha256(prompt).digest()[:8], "little"))
        batch += [prompt, completion]
        size += len(prompt) + len(completion)
        if size >= _BATCH:
            characters.update(b"".join(batch).decode())
            total, size = total + size, 0
            batch.clear()
            progress("reading", total, 0)
    characters.update(b"".join(batch).decode())
    return PairScan(digest.hexdigest(), total + size, len(characters), np.array(hashes, dtype=np.uint64))


def choose_held_out(prompts: npt.NDArray[np.uint64], share: float, seed: int) -> npt.NDArray[np.bool_]:
    """Which of N pairs are held out: prompts are drawn by seed until `share` of the pairs is reached.

    All pairs of a prompt are on the same side, since a prompt seen in training says nothing about new ones. At least
    one pair is trained on.
    """
    distinct, group, sizes = np.unique(prompts, return_inverse=True, return_counts=True)
    order = list(range(len(distinct)))
    random.Random(f"{seed}/pairs held out").shuffle(order)
    before = np.cumsum(sizes[order]) - sizes[order]
    wanted = before < round(share * len(prompts))
    return np.isin(group, np.array(order)[:-1][wanted[:-1]])

"""Which labelled texts are held out: some of every label, whole groups, or some of all texts with several labels."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence

import numpy as np
import numpy.typing as npt

from textgen.errors import TextgenError
from textgen.options import named
from textgen.tasks.data import hold_out, listed

Integers = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]


def held_out_texts(numbers: Integers, groups: Sequence[str], labels: Sequence[str], share: float, seed: int) -> Flags:
    """Which texts are held out, (N,), given the indices of their labels (N,), or which labels each has (N, C), and
    their groups, or none. Raises TextgenError for a single group, and if a label is left without a text to train on."""
    if share == 0:
        return np.zeros(len(numbers), np.bool_)
    if groups:
        chosen = held_out_groups(groups, share, seed)
        held = np.array([group in chosen for group in groups], np.bool_)
        _refuse_unseen(numbers, held, labels)
        return held
    if numbers.ndim == 1:
        return hold_out(numbers, share, seed)
    held = hold_out(np.zeros(len(numbers), np.int64), share, seed)
    for label in numbers.T:
        texts = np.flatnonzero(label)
        if len(texts) and held[texts].all():  # the model must see every label
            held[texts[0]] = False
    return held


def held_out_groups(groups: Iterable[str], share: float, seed: int) -> set[str]:
    """The groups that are held out: a `share` of all, at least one and never all, drawn by seed and name, so that
    neither the order of texts nor their number matters. Raises TextgenError unless there are at least two."""
    names = sorted(set(groups))
    if len(names) < 2:
        raise TextgenError(
            f"every text belongs to the group {names[0]!r}; at least two groups are needed.",
            hint=f"{named('validation_split', 0)} holds out nothing.",
        )
    drawn = sorted(names, key=lambda name: hashlib.sha256(f"{seed}\0{name}".encode()).digest())
    return {*drawn[: min(max(1, round(share * len(names))), len(names) - 1)]}


def _refuse_unseen(numbers: Integers, held: Flags, labels: Sequence[str]) -> None:
    """Raise TextgenError for labels whose texts are all held out."""
    has = np.eye(len(labels), dtype=np.int64)[numbers] if numbers.ndim == 1 else numbers
    unseen = [label for label, seen in zip(labels, has[~held].sum(axis=0).tolist(), strict=True) if not seen]
    if unseen:
        raise TextgenError(
            f"only held-out groups have the label {listed(unseen)}, so there is nothing to learn it from.",
            hint=f"another {named('seed')} holds out other groups, a smaller {named('validation_split')} fewer.",
        )

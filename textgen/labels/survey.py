"""The scan of labelled texts, and the choice of those to hold out: some of every label."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from textgen.errors import TextgenError, did_you_mean
from textgen.labels.read import Labelled
from textgen.text.encoding import count_characters
from textgen.text.split import Progress, Scan, scan

SHOWN_LABELS = 12
"""The most labels that a message lists."""


@dataclass(frozen=True)
class LabelScan:
    """The sorted labels, the index of each text's label (N,), the scan of the text itself, and its number of characters
    and of words separated by spaces."""

    labels: tuple[str, ...]
    numbers: npt.NDArray[np.int64]
    scan: Scan
    characters: int
    words: int


def scan_labels(texts: Iterable[Labelled], progress: Progress, known: Sequence[str] | None = None) -> LabelScan:
    """Read labelled texts once; `known` are the allowed labels, None for any.

    Raises TextgenError for a label that is not known, with its row; without `known`, for fewer than two labels and for
    a label of only one text.
    """
    first: dict[str, tuple[int, str]] = {}
    numbers: list[int] = []
    characters = words = 0

    def chunks() -> Iterator[tuple[int, bytes]]:
        nonlocal characters, words
        done = 0
        for text in texts:
            if known is not None and text.label not in known:
                raise unknown_label(text.where, text.label, known)
            number = len(numbers)
            numbers.append(first.setdefault(text.label, (len(first), text.where))[0])
            for chunk in text.chunks:
                yield number, chunk
                characters, words = characters + count_characters(chunk), words + len(chunk.split())
                done += len(chunk)
                progress("reading", done, 0)

    scanned = scan(chunks())
    if known is None:
        _refuse_few(first, np.bincount(numbers, minlength=len(first)))
    labels = tuple(known) if known is not None else sorted_labels(first)
    index = np.array([labels.index(label) for label in first], dtype=np.int64)
    return LabelScan(labels, index[np.array(numbers, dtype=np.int64)], scanned, characters, words)


def _refuse_few(first: Mapping[str, tuple[int, str]], counts: npt.NDArray[np.int64]) -> None:
    """Raise TextgenError unless there are at least two labels, each of at least two texts."""
    if len(first) == 1:
        raise TextgenError(f"every text has the label {next(iter(first))!r}; at least two labels are needed.")
    for label, (number, where) in first.items():
        if counts[number] == 1:
            raise TextgenError(
                f"only one text has the label {label!r} ({where}); a label needs one to train on and one to hold out."
            )


def unknown_label(where: str, label: str, known: Sequence[str]) -> TextgenError:
    """The error for a label that the model does not know."""
    return TextgenError(
        f"{where} has the label {label!r}, which the model does not know; it knows {listed(known)}."
        f"{did_you_mean(label, known)}"
    )


def sorted_labels(labels: Iterable[str]) -> tuple[str, ...]:
    """Labels in the order in which they are numbered and shown: integers by value, others by name."""
    names = sorted(labels)
    whole = all(name.removeprefix("-").isascii() and name.removeprefix("-").isdigit() for name in names)
    return tuple(sorted(names, key=int) if whole else names)


def listed(labels: Sequence[str]) -> str:
    """Labels as a message lists them: 'neg', 'pos'; of many the first ones."""
    more = f" and {len(labels) - SHOWN_LABELS:,} more" if len(labels) > SHOWN_LABELS else ""
    return ", ".join(map(repr, labels[:SHOWN_LABELS])) + more


def hold_out(numbers: npt.NDArray[np.int64], share: float, seed: int) -> npt.NDArray[np.bool_]:
    """Which texts are held out, (N,), given the indices of their labels (N,): a `share` of every label, drawn by seed,
    at least one and never all."""
    held = np.zeros(len(numbers), np.bool_)
    if share == 0:
        return held
    for label in np.unique(numbers):
        texts = np.flatnonzero(numbers == label)
        count = min(max(1, round(share * len(texts))), len(texts) - 1)
        held[np.random.default_rng([seed, int(label), 3]).permutation(texts)[:count]] = True
    return held

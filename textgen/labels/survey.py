"""What one pass over labelled texts tells, and which of them are held out: some of every label."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from textgen.errors import TextgenError, did_you_mean
from textgen.labels.read import Labelled
from textgen.text.encoding import count_characters
from textgen.text.split import Progress, Scan, scan

SHOWN_LABELS = 12
"""Labels named in a sentence; of more only these."""


@dataclass(frozen=True)
class LabelScan:
    """The labels in order, the number of each text's label (N,), what `textgen.text.split.scan` tells, and the number
    of characters and of words between blanks."""

    labels: tuple[str, ...]
    numbers: npt.NDArray[np.int64]
    scan: Scan
    characters: int
    words: int


def scan_labels(texts: Iterable[Labelled], progress: Progress, known: Sequence[str] | None = None) -> LabelScan:
    """Read labelled texts once; `known` are the labels that may occur, None for all.

    Raises TextgenError for a label that is not known, with its row; where all may occur, for fewer than two labels
    and for one that a single text has.
    """
    places: dict[str, int] = {}
    first: list[str] = []
    numbers: list[int] = []
    characters = words = 0

    def pieces() -> Iterator[tuple[int, bytes]]:
        nonlocal characters, words
        done = 0
        for text in texts:
            if text.label not in places:
                if known is not None and text.label not in known:
                    raise unknown_label(text.where, text.label, known)
                places[text.label] = len(places)
                first.append(text.where)
            number = len(numbers)
            numbers.append(places[text.label])
            for piece in text.pieces:
                yield number, piece
                characters, words = characters + count_characters(piece), words + len(piece.split())
                done += len(piece)
                progress("reading", done, 0)

    scanned = scan(pieces())
    found = list(places)
    if known is None:
        _refuse_few(found, first, np.bincount(numbers, minlength=len(found)))
    labels = tuple(known) if known is not None else sorted_labels(found)
    renumber = np.array([labels.index(label) for label in found], dtype=np.int64)
    return LabelScan(labels, renumber[np.array(numbers, dtype=np.int64)], scanned, characters, words)


def _refuse_few(labels: Sequence[str], first: Sequence[str], counts: npt.NDArray[np.int64]) -> None:
    """Raise TextgenError unless there are two labels, and two texts of each."""
    if len(labels) == 1:
        raise TextgenError(f"every text has the label {labels[0]!r}; at least two labels are needed.")
    for label, where, count in zip(labels, first, counts, strict=True):
        if count == 1:
            raise TextgenError(
                f"only one text has the label {label!r} ({where}); a label needs one to learn from and one to hold out."
            )


def unknown_label(where: str, label: str, known: Sequence[str]) -> TextgenError:
    """The error of a label that a model does not know."""
    return TextgenError(
        f"{where} has the label {label!r}, which the model does not know; it knows {listed(known)}."
        f"{did_you_mean(label, known)}"
    )


def sorted_labels(labels: Iterable[str]) -> tuple[str, ...]:
    """Labels in the order in which they are numbered and shown: whole numbers by value, else by name."""
    names = sorted(labels)
    whole = all(name.removeprefix("-").isascii() and name.removeprefix("-").isdigit() for name in names)
    return tuple(sorted(names, key=int) if whole else names)


def listed(labels: Sequence[str]) -> str:
    """'neg', 'pos'; of many labels the first ones."""
    more = f" and {len(labels) - SHOWN_LABELS:,} more" if len(labels) > SHOWN_LABELS else ""
    return ", ".join(map(repr, labels[:SHOWN_LABELS])) + more


def hold_out(numbers: npt.NDArray[np.int64], share: float, seed: int) -> npt.NDArray[np.bool_]:
    """Which texts are held out, (N,), given the numbers of their labels (N,): `share` of every label, drawn by seed,
    at least one and never all."""
    held = np.zeros(len(numbers), np.bool_)
    if share == 0:
        return held
    for label in np.unique(numbers):
        texts = np.flatnonzero(numbers == label)
        count = min(max(1, round(share * len(texts))), len(texts) - 1)
        held[np.random.default_rng([seed, int(label), 3]).permutation(texts)[:count]] = True
    return held

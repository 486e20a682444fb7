"""The corpus of labelled texts: read once, split, tokenized and stored in a sealed folder."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
import numpy.typing as npt

from textgen import files
from textgen.labels.options import ClassificationOptions
from textgen.labels.read import Labelled, Origin, find_labelled, read_labelled, reading_of
from textgen.labels.survey import LabelScan, hold_out, scan_labels
from textgen.tasks.data import write_examples
from textgen.text.corpus import given_tokenizer
from textgen.text.split import TRAIN, VALIDATION, Progress
from textgen.text.tokenizer import Tokenizer, train_tokenizer

KIND = "labelled texts"
VOCABULARY = 30_000
"""The default maximum vocabulary size."""

LONG_WORDS = 15
"""Above this average number of characters between spaces, the script does not separate words by spaces."""


@dataclass(frozen=True)
class LabelledCorpus:
    """Labelled texts with all decisions about them, not yet encoded."""

    origins: list[Origin]
    validation: list[Origin]
    options: ClassificationOptions
    found: LabelScan
    found_validation: LabelScan | None
    held_out: npt.NDArray[np.bool_]
    level: str
    vocab_size: int
    given: Tokenizer | None

    @classmethod
    def read(cls, paths: Sequence[str], options: ClassificationOptions, progress: Progress) -> Self:
        """Find and read labelled texts once, and choose the held-out part and the tokenizer."""
        reading, column = reading_of(options), options.label_column
        origins = find_labelled(paths, options.text_column, column)
        found = scan_labels(read_labelled(origins, reading, column), progress)
        validation, found_validation, share = [], None, options.validation_split
        if options.validation_file is not None:
            validation, share = find_labelled([options.validation_file], options.text_column, column), 0.0
            found_validation = scan_labels(read_labelled(validation, reading, column), progress, found.labels)
        given = given_tokenizer(options.tokenizer)
        level = given.level if given else options.tokenizer or _level(found)
        size = given.vocab_size if given else options.vocab_size or VOCABULARY
        held_out = hold_out(found.numbers, share, options.seed)
        return cls(origins, validation, options, found, found_validation, held_out, level, size, given)

    @property
    def key(self) -> str:
        """A digest of everything that determines the stored texts."""
        scans = [self.found, *([self.found_validation] if self.found_validation else [])]
        read = [[each.scan.digest, each.scan.sizes, each.numbers.tolist()] for each in scans]
        given = list(self.given.files().values()) if self.given else None
        held_out = np.flatnonzero(self.held_out).tolist()
        return files.cache_key(KIND, read, self.found.labels, held_out, self.level, self.vocab_size, given)

    def texts(self) -> Iterator[tuple[str, Labelled]]:
        """Every text with its part."""
        reading, column = reading_of(self.options), self.options.label_column
        for held, text in zip(self.held_out, read_labelled(self.origins, reading, column), strict=True):
            yield VALIDATION if held else TRAIN, text
        for text in read_labelled(self.validation, reading, column) if self.validation else ():
            yield VALIDATION, text

    def write(self, folder: Path, progress: Progress) -> None:
        """Train the tokenizer on the training part, encode both parts, and commit them to a folder."""
        total = self.found.scan.total + (self.found_validation.scan.total if self.found_validation else 0)
        progress("learning the tokenizer", 0, total)
        training = (text.chunks for part, text in self.texts() if part == TRAIN)
        tokenizer = self.given or train_tokenizer(self.level, training, self.vocab_size)
        parts: dict[str, list[npt.NDArray[np.int32]]] = {TRAIN: [], VALIDATION: []}
        labels: dict[str, list[int]] = {TRAIN: [], VALIDATION: []}
        numbers = {label: number for number, label in enumerate(self.found.labels)}
        boundary = np.array([tokenizer.boundary], np.int32)
        done = 0
        for part, text in self.texts():
            ids = np.concatenate([boundary, *tokenizer.encode_pieces(text.chunks)])
            parts[part].append(tokenizer.model_ids(ids))
            labels[part].append(numbers[text.label])
            done += len(ids)
            progress("encoding", done, total)
        arrays = {part: _arrays(parts[part], labels[part]) for part in parts}
        about = {"labels": list(self.found.labels), "bytes": total}
        write_examples(folder, KIND, self.key, arrays, about, tokenizer.files())


def _level(found: LabelScan) -> str:
    """The default tokenizer kind: words, if spaces separate them."""
    return "word" if found.characters <= LONG_WORDS * found.words else "char"


def _arrays(texts: Sequence[npt.NDArray[np.int32]], labels: Sequence[int]) -> dict[str, npt.NDArray[np.generic]]:
    """The concatenated texts, the end of each, and the indices of their labels."""
    ids = np.concatenate([np.zeros(0, np.int32), *texts])
    ends = np.cumsum([len(text) for text in texts], dtype=np.int64)
    return {"ids": ids, "ends": ends, "labels": np.array(labels, np.int64)}

"""The corpus of pairs, with all decisions about it, and its example store."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from textgen import files, sealed
from textgen.errors import TextgenError
from textgen.pairs.examples import encode_pairs
from textgen.pairs.options import CompletionOptions, columns_of
from textgen.pairs.read import Pair, PairScan, choose_held_out, read_pairs, scan_pairs
from textgen.tasks.data import Arrays, ExampleStore, open_examples, write_examples
from textgen.text.corpus import given_tokenizer
from textgen.text.corpus_settings import choose_tokenizer
from textgen.text.hub import PREFIX
from textgen.text.sources import Source, SourceOptions, find_sources
from textgen.text.split import TRAIN, VALIDATION, Progress
from textgen.text.store import tokenizer_of
from textgen.text.tokenizer import Tokenizer, train_tokenizer

KIND = "pairs"

COUNTS = ("bytes", "characters", "raw", "unknown")
"""What a store records about the completions of a part (see `textgen.pairs.examples.Examples`)."""


@dataclass(frozen=True)
class PairCorpus:
    """Sources of pairs, their split and their tokenizer."""

    sources: list[Source]
    validation: list[Source]
    columns: tuple[str, str]
    reading: SourceOptions
    scan: PairScan
    validation_digest: str
    held_out: npt.NDArray[np.bool_]
    level: str
    vocab_size: int
    given: Tokenizer | None

    @classmethod
    def read(cls, paths: Sequence[str], options: CompletionOptions, progress: Progress) -> PairCorpus:
        """Read tables of pairs and choose the held-out part and the tokenizer, without storing anything.

        Raises TextgenError or UsageError naming file, row and column of what cannot be read.
        """
        columns = columns_of(options)
        sources, reading = sources_of(paths), SourceOptions(options.encoding, delimiter=options.delimiter)
        validation = sources_of([options.validation_file] if options.validation_file else [])
        scan = scan_pairs(read_pairs(sources, columns, reading), progress)
        digest = scan_pairs(read_pairs(validation, columns, reading)).digest if validation else ""
        held_out = choose_held_out(scan.prompts, 0.0 if validation else options.validation_split, options.seed)
        given = given_tokenizer(options.tokenizer)
        level, vocab_size = (given.level, given.vocab_size) if given else choose_tokenizer(options, scan)
        return cls(sources, validation, columns, reading, scan, digest, held_out, level, vocab_size, given)

    @property
    def key(self) -> str:
        """A digest of everything that determines the store."""
        given = list(self.given.files().values()) if self.given else None
        read = [self.scan.digest, self.validation_digest]
        return files.cache_key(KIND, read, self.held_out, self.level, self.vocab_size, given)

    def pairs(self, part: str) -> Iterator[Pair]:
        """The pairs of a part, in order."""
        held = part == VALIDATION
        pairs = read_pairs(self.sources, self.columns, self.reading)
        yield from (pair for pair, out in zip(pairs, self.held_out.tolist(), strict=True) if out == held)
        if held and self.validation:
            yield from read_pairs(self.validation, self.columns, self.reading)

    def write(self, folder: Path, progress: Progress) -> None:
        """Train the tokenizer on the training part, then encode and write both parts."""
        progress("learning the tokenizer", 0, self.scan.total)
        texts = ([text] for pair in self.pairs(TRAIN) for text in pair)
        tokenizer = self.given or train_tokenizer(self.level, texts, self.vocab_size)
        arrays: dict[str, Arrays] = {}
        about: dict[str, dict[str, int | None]] = {}
        dtype = np.uint16 if tokenizer.vocab_size < 1 << 16 else np.uint32
        for part in (TRAIN, VALIDATION):
            progress("encoding", 0, self.scan.total)
            examples = encode_pairs(tokenizer, self.pairs(part))
            arrays[part] = {"ids": examples.ids.astype(dtype), "sizes": examples.sizes}
            about[part] = {name: getattr(examples, name) for name in COUNTS}
        held = list(self.pairs(VALIDATION))
        text = b"".join(text for pair in held for text in pair)
        arrays[VALIDATION]["text"] = np.frombuffer(text, np.uint8)
        arrays[VALIDATION]["text_sizes"] = np.array([[*map(len, pair)] for pair in held], np.int64).reshape(-1, 2)
        write_examples(folder, KIND, self.key, arrays, about, tokenizer.files())


def sources_of(paths: Sequence[str]) -> list[Source]:
    """The tables that paths name. Raises TextgenError for a data set on the Hub."""
    on_hub = next((path for path in paths if path.startswith(PREFIX)), None)
    if on_hub is not None:
        raise TextgenError(f"pairs are not read from the Hub ({on_hub!r}).", hint="name the data set's files instead.")
    return find_sources(paths)


def open_pairs(folder: Path) -> ExampleStore:
    """What `PairCorpus.write` wrote. Raises TextgenError if it is missing or damaged."""
    store, tokenizer = open_examples(folder, KIND), tokenizer_of(folder)
    if not all(_is_consistent(store, part, tokenizer.vocab_size) for part in (TRAIN, VALIDATION)):
        raise sealed.DamagedError(f"{folder} is damaged: its pairs do not have the recorded sizes.")
    return store


def _is_consistent(store: ExampleStore, part: str, vocab_size: int) -> bool:
    """Whether a part has all arrays and counts, and they agree."""
    arrays, about = store.parts[part], store.about.get(part)
    names = ("ids", "sizes", "text", "text_sizes")[: 2 if part == TRAIN else 4]
    if set(arrays) != set(names) or not isinstance(about, dict) or set(about) != set(COUNTS):
        return False
    counted = all(type(value) is int or (value is None and name == "unknown") for name, value in about.items())
    whole = all(arrays[name].dtype.kind in "iu" and not (arrays[name] < 0).any() for name in names)
    pairs = all(arrays[name].ndim == 2 and arrays[name].shape[1] == 2 for name in names[1::2])
    if not (counted and whole and pairs) or any(arrays[name].ndim != 1 for name in names[::2]):
        return False
    filled = all(
        int(arrays[sizes].sum()) == len(arrays[name]) for name, sizes in zip(names[::2], names[1::2], strict=True)
    )
    return filled and not (arrays["ids"] >= vocab_size).any() and len({len(arrays[name]) for name in names[1::2]}) == 1

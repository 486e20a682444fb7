"""Pairs of prompt and completion: read from tables, divided by whole prompts, encoded into examples.

An example is boundary, prompt, separator, completion, boundary. The separator is a token of its own, the one after
all that the tokenizer has: no text is ever encoded to it. A model reads an example up to its last token; its
predictions from the separator on count: the completion and the boundary that ends it.
"""

from __future__ import annotations

import hashlib
import math
import random
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from textgen import storage
from textgen.data import choose_tokenizer
from textgen.data.corpus import given_tokenizer
from textgen.data.recipes import PREFIX, TRAIN, VALIDATION, Progress
from textgen.data.sources import Source, SourceOptions, find_sources, read_records
from textgen.data.store import no_progress, tokenizer_of
from textgen.data.tables import Header, cell, require_columns
from textgen.data.tokenization import count_characters
from textgen.data.tokenizers import train_tokenizer
from textgen.data.tokenizers.base import Ids, Tokenizer
from textgen.errors import TextgenError
from textgen.evaluation import Score
from textgen.model.stepper import TokenStepper
from textgen.tasks.completion.options import CompletionOptions, columns_of
from textgen.tasks.data import IGNORED, Arrays, Encoded, ExampleStore, open_examples

_BATCH = 1 << 16
AT_ONCE = 4096
"""Tokens per batch of an evaluation, padding included."""


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


FRAME = 2
"""Tokens that a model reads besides prompt and completion: the boundary before them and the separator."""

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


KIND = "pairs"

COUNTS = ("bytes", "characters", "raw", "unknown")
"""What a store records about the completions of a part (see `textgen.tasks.completion.reading.Examples`)."""


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
    kind: str
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
        kind, vocab_size = (given.kind, given.vocab_size) if given else choose_tokenizer(options, scan)
        return cls(sources, validation, columns, reading, scan, digest, held_out, kind, vocab_size, given)

    @property
    def depends(self) -> list[object]:
        """Everything that determines the stored pairs."""
        given = list(self.given.files().values()) if self.given else None
        return [[self.scan.digest, self.validation_digest], self.held_out, self.kind, self.vocab_size, given]

    def pairs(self, part: str) -> Iterator[Pair]:
        """The pairs of a part, in order."""
        held = part == VALIDATION
        pairs = read_pairs(self.sources, self.columns, self.reading)
        yield from (pair for pair, out in zip(pairs, self.held_out.tolist(), strict=True) if out == held)
        if held and self.validation:
            yield from read_pairs(self.validation, self.columns, self.reading)

    def encode(self, progress: Progress) -> Encoded:
        """Train the tokenizer on the training part, then encode both parts."""
        progress("learning the tokenizer", 0, self.scan.total)
        texts = ([text] for pair in self.pairs(TRAIN) for text in pair)
        tokenizer = self.given or train_tokenizer(self.kind, texts, self.vocab_size)
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
        return Encoded(arrays, about, tokenizer)


def sources_of(paths: Sequence[str]) -> list[Source]:
    """The tables that paths name. Raises TextgenError for a data set on the Hub."""
    on_hub = next((path for path in paths if path.startswith(PREFIX)), None)
    if on_hub is not None:
        raise TextgenError(f"pairs are not read from the Hub ({on_hub!r}).", hint="name the data set's files instead.")
    return find_sources(paths)


def open_pairs(folder: Path) -> ExampleStore:
    """Open what `CompletionData.cached` stored. Raises TextgenError if it is missing or damaged."""
    store, tokenizer = open_examples(folder, KIND), tokenizer_of(folder)
    if not all(_is_consistent(store, part, tokenizer.vocab_size) for part in (TRAIN, VALIDATION)):
        raise storage.DamagedError(f"{folder} is damaged: its pairs do not have the recorded sizes.")
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


def score_examples(stepper: TokenStepper, examples: Examples, most: int | None = None) -> Score:
    """The score of the completions, each read after its prompt from the initial state; every end counts as a token.

    With `most`, only the first pairs are scored, about so many tokens in total.
    """
    rows = np.arange(len(examples))
    if most is not None:
        rows = rows[: max(1, int(np.searchsorted(np.cumsum(examples.read), most, side="right")))]
    nats, counted = 0.0, 0
    for group in padded_batches(examples.read, rows, AT_ONCE):
        inputs, targets, _ = examples.batch(group.tolist())
        counts = targets != IGNORED
        wanted = np.where(counts, targets, 0).astype(np.int32)
        logprobs, _ = stepper.score(inputs.T, wanted.T, stepper.initial_state(len(group)))
        nats -= math.fsum(logprobs[counts.T])
        counted += int(counts.sum())
    share = counted / max(1, examples.counted)
    return Score(
        nats + examples.raw * 8 * math.log(2) * share,
        counted,
        max(1, round(examples.characters * share)),
        max(1, round(examples.bytes * share)),
        None if examples.unknown is None else round(examples.unknown * share),
    )

"""How a corpus is read: the options, the tokenizer kinds, and the settings that a model keeps from its training.

Imports neither numpy nor torch.
"""

from __future__ import annotations

import math
import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Self

from textgen import options as arguments
from textgen import storage
from textgen.data import encodings, recipes
from textgen.data.archives import opened
from textgen.data.lines import LINE_END
from textgen.data.sources import SourceOptions, find_sources, table_form
from textgen.data.tables import form_of
from textgen.errors import UsageError
from textgen.formatting import listed
from textgen.options import check, flag, named, option

SMALLEST_VOCABULARY = 260  # the smallest `--vocab-size`: one piece besides the bytes
VOCABULARIES = ((200_000, 1000), (2_000_000, 2000), (20_000_000, 4000), (math.inf, 8000))
"""Sizes of a text in bytes, up to which a subword vocabulary of this size suits it."""

WORDS = 10_000  # the default vocabulary size of `word`, which most published results use
COLUMNS = ("text_column", "label_column", "prompt_column", "completion_column")
OF_TABLES = (*COLUMNS, "delimiter")  # settings that apply only to tables


@dataclass(frozen=True)
class TokenizerKind:
    """What the plan needs to know about a tokenizer kind.

    Attributes:
        token: what one token is, in words.
        characters: about how many characters one token stands for.
        sized: whether its vocabulary is learned up to a size, so that `--vocab-size` applies.
    """

    token: str
    characters: float
    sized: bool


TOKENIZER_KINDS = {
    "char": TokenizerKind("a character of the text", 1.0, sized=False),
    "byte": TokenizerKind("a byte", 1.0, sized=False),
    "bpe": TokenizerKind("a frequent piece, found by merging pairs", 3.0, sized=True),
    "unigram": TokenizerKind("a frequent piece, from the likeliest segmentation", 3.0, sized=True),
    "word": TokenizerKind("a word between spaces", 5.0, sized=True),
}

SIZED = tuple(name for name, kind in TOKENIZER_KINDS.items() if kind.sized)


@dataclass(frozen=True)
class FileOptions:
    """How files are read, whatever they are read for."""

    encoding: str | None = option(
        None,
        "Text encoding; auto detects it for each file.",
        metavar="NAME",
        default_text="UTF-8, or what a byte-order mark says",
        section="Corpus",
    )
    delimiter: str | None = option(
        None,
        "Column delimiter of csv and tsv files, such as ';', or tab.",
        metavar="CHARACTER",
        also=("--sep",),
        default_text="detected: ',', ';', a tab or '|'",
    )


@dataclass(frozen=True)
class ReadingOptions(FileOptions):
    """How text is read."""

    document_separator: str | None = option(
        None,
        r"Text that separates documents, such as '<|endoftext|>' or '\n\n'; '' for none.",
        metavar="TEXT",
        default_text="each file is one document",
        section="Corpus",
    )
    text_column: str | None = option(
        None,
        "The text column of a table (csv, tsv, json, jsonl, parquet, Hub).",
        metavar="NAME",
        default_text="text, or the only column that holds text",
    )


@dataclass(frozen=True)
class LineOptions:
    """Whether plain text is read by the line."""

    lines: bool | None = option(
        None,
        "Read plain text so that each line is a document, or each file.",
        default_text="detected: lines if they are titles, names or other short items",
        section="Corpus",
    )


@dataclass(frozen=True)
class SplitOptions:
    """What is held out of training."""

    validation_file: str | None = option(
        None,
        "Evaluate on this file instead of holding out a part of the corpus.",
        metavar="FILE",
        section="Corpus",
    )
    validation_split: float = option(
        0.1,
        "Share of the corpus to hold out: whole documents, or the end of each of a few; 0 holds out nothing.",
        low=0,
        high=0.9,
    )


@dataclass(frozen=True)
class TokenizerOptions:
    """How text is turned into tokens."""

    tokenizer: str | None = option(
        None,
        f"Tokenizer kind: {', '.join(TOKENIZER_KINDS)}; or a folder that holds a tokenizer.",
        metavar="KIND|PATH",
        default_text="chosen from the corpus",
        section="Corpus",
    )
    vocab_size: int | None = option(
        None,
        f"Vocabulary size of a {listed(SIZED)} tokenizer.",
        low=SMALLEST_VOCABULARY,
        high=1_000_000,
        default_text="chosen from the corpus",
    )


@dataclass(frozen=True)
class CorpusOptions(TokenizerOptions, LineOptions, ReadingOptions, SplitOptions):
    """How a corpus of text is read, split and tokenized."""


_UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}


@dataclass(frozen=True)
class StreamOptions:
    """How a corpus is read that is too large for the disk."""

    stream: bool = option(
        False,
        "Read the corpus while training: files of any size, also at http, s3 and other addresses.",
        no="",
        section="Streaming",
    )
    stream_cache: str = option("10G", "Disk space for the tokens of a stream, such as 500M or 10G.", metavar="SIZE")
    stream_sample: int = option(
        32,
        "Megabytes at the beginning of a stream that are read before training: the tokenizer learns from them, and the "
        "documents held out of them judge the model.",
        low=1,
        high=100_000,
    )
    deduplicate: bool = option(False, "Leave out documents of a stream that repeat an earlier one exactly.", no="")
    min_length: int = option(0, "Leave out documents of a stream with fewer characters.", low=0, high=1_000_000_000)
    max_documents: int | None = option(
        None, "Train on the first N documents of a stream only.", low=1, high=10**15, default_text="all"
    )

    def check_stream(self, epochs: float | None) -> None:
        """Raise UsageError for options that do not go together."""
        parse_bytes(named("stream_cache"), self.stream_cache)
        if not self.stream:
            given = [f.name for f in fields(StreamOptions) if getattr(self, f.name) != f.default]
            if given:
                raise UsageError(f"{named(given[0])} goes with {named('stream')}.")
        elif epochs is not None:
            raise UsageError(f"{named('epochs')} does not go with {named('stream')}, whose length is unknown.",
                             hint=f"{named('max_steps')} or {named('minutes')} sets the length.")  # fmt: skip


def parse_bytes(name: str, typed: str) -> int:
    """A number of bytes, such as 500M or 10G. Raises UsageError with the name of the option."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMGT]?)i?B?", typed.strip().upper())
    if found is None:
        raise UsageError(f"{name} must be a size such as 500M or 10G, not {typed!r}.")
    return int(float(found[1]) * _UNITS[found[2]])


def check_reading(options: TokenizerOptions) -> None:
    """Check options against their limits and each other. Raises UsageError."""
    check(options)
    if isinstance(options, CorpusOptions):
        refuse_two_divisions(options.lines, options.document_separator)
    if options.vocab_size is not None and options.tokenizer not in (None, *SIZED):
        raise UsageError(
            f"{named('vocab_size')} goes with {named('tokenizer')} {listed(SIZED)}, not with {options.tokenizer}."
        )


def refuse_two_divisions(lines: bool | None, separator: str | None) -> None:
    """Raise UsageError if a text is to be divided both into lines and at a separator."""
    if lines and separator:
        raise UsageError(
            f"{named('lines')} and {named('document_separator', shlex.quote(separator))} exclude each other."
        )


def choose_tokenizer(options: TokenizerOptions, scan: Any) -> tuple[str, int]:
    """The tokenizer kind and vocabulary size. A long text is tokenized by bpe; a short one, or one in a script of
    thousands of characters, each as informative as a subword, by characters."""
    check_reading(options)
    kind = options.tokenizer
    if options.vocab_size is not None:
        return kind or "bpe", options.vocab_size
    if kind == "word":
        return kind, WORDS
    if kind is None:
        kind = "char" if scan.total < 60_000 or scan.distinct > 1_000 else "bpe"
    return kind, next(size for most, size in VOCABULARIES if scan.total <= most)


YES_OR_NO = ("whole_files", "lines")
"""The settings for reading that are not text."""

DIVISIONS = {"lines": "document_separator", "document_separator": "lines"}
"""Settings that divide a text, with the one that each replaces."""


@dataclass(frozen=True)
class Reading:
    """The settings for reading. `trained` names those that come from training; to override a document separator with
    none, ask for an empty one."""

    encoding: str | None = None
    document_separator: str | None = None
    text_column: str | None = None
    label_column: str | None = None
    prompt_column: str | None = None
    completion_column: str | None = None
    whole_files: bool | None = None
    lines: bool | None = None
    delimiter: str | None = None
    trained: frozenset[str] = frozenset()

    @classmethod
    def of(cls, record: Mapping[str, Any], asked: Mapping[str, Any]) -> Self:
        """The settings that were asked for, and for the others those that a model remembers (`record`). Raises
        UsageError for an unknown or invalid setting, DamagedError for an invalid record."""
        known = {each.name for each in fields(cls)} - {"trained"}
        unknown = next((name for name in asked if name not in known), None)
        if unknown is not None:
            raise UsageError(f"unknown reading option {unknown!r}.", hint=f"options: {', '.join(sorted(known))}.")
        given = {
            name: arguments.boolean(name, value) if name in YES_OR_NO else arguments.text(name, value)
            for name, value in asked.items()
            if value is not None
        }
        replaced = {DIVISIONS.get(name) for name, value in given.items() if value}
        kept = {name: record[name] for name in known & record.keys() - given.keys() - replaced}
        for name, value in kept.items():
            if type(value) is not (bool if name in YES_OR_NO else str):
                raise storage.DamagedError(f"config.json is damaged: the reading option {name} cannot be {value!r}.")
        reading = cls(**{**kept, **given, "trained": frozenset(kept)})
        refuse_two_divisions(reading.lines, reading.document_separator)
        reading.options  # noqa: B018 - raises for invalid values
        return reading

    def asked(self, name: str) -> Any:
        """A setting if it was asked for, else None."""
        return None if name in self.trained else getattr(self, name)

    @property
    def options(self) -> SourceOptions:
        """How files are read. A byte-order mark overrides an encoding from training."""
        separator, first = self.document_separator or None, "encoding" in self.trained
        how: dict[str, Any] = {"text_column": self.text_column, "delimiter": self.delimiter, "from_training": first}
        return SourceOptions(self.encoding, separator, lines=bool(self.lines), **how)

    def said(self, sources: Sequence[str]) -> str | None:
        """A sentence about the settings from training that apply to these inputs; None if there are none. A recipe
        has its own settings."""
        tables = [path.startswith(recipes.PREFIX) or form_of(path) or Path(path).is_dir() for path in sources]
        names = [each.name for each in fields(self) if each.name in self.trained]
        shown = [name for name in names if any(tables) or name not in OF_TABLES]
        if not sources or not shown or recipes.find(sources):
            return None
        values = {name: getattr(self, name) for name in shown}
        typed = [flag(k) if v is True else f"{flag(k)} {shlex.quote(str(v))}" for k, v in values.items()]
        return f"Read as in training: {' '.join(typed)} (options given here override that)."

    @contextmanager
    def explained(self) -> Iterator[None]:
        """Add to an error about a missing column that its name comes from training."""
        try:
            yield
        except UsageError as error:
            names = [name for name in COLUMNS if name in self.trained and getattr(self, name) == error.column]
            name = next(iter([*names, *self.trained & {"delimiter"}]), None)
            if error.column is None or name is None:
                raise
            message = f"{error} The model was trained with {named(name, getattr(self, name))}."
            wanted = "gives that of this table" if name == "delimiter" else "names the column of this table"
            raise UsageError(message, hint=f"{named(name, 'X')} {wanted}.") from None

    def each_line(self, paths: Sequence[str]) -> Iterator[tuple[str, str]]:
        """Every line of some plain files, without its end, after where it is ("line 7 of 'notes.txt'"); an empty one
        after each file. Raises as `find_sources`, and as `decoded`."""
        for source in find_sources(paths):
            with opened(source.path, source.name) as stream:
                text = self.decoded(stream.read(), source.name)
            for number, line in enumerate([*LINE_END.split(text), ""], 1):
                yield f"line {number} of {source.name!r}", line

    def decoded(self, data: bytes, name: str) -> str:
        """A short text from bytes, read like a file. Raises TextgenError naming the byte that is not text."""
        found = self.encoding == encodings.AUTO
        encoding = encodings.chosen(Path(name), name, lambda: [data]) if found else self.encoding
        how = encodings.Decoding(encoding, found, self.options.from_training)
        return b"".join(encodings.to_utf8([data], data[: encodings.HEAD_BYTES], name, how)).decode()


def record_of(paths: Sequence[str], options: Any) -> dict[str, Any]:
    """The reading options of a training run on these paths, as `config.json` records them."""
    if len(paths) == 1 and (Path(paths[0]) / storage.MANIFEST).is_file():
        record: dict[str, Any] = storage.read_manifest(Path(paths[0])).get("reading", {})
        return record
    recipe = recipes.find(paths)
    options = recipe.fill(options) if recipe else options
    names = [each.name for each in fields(Reading) if each.name not in ("whole_files", "trained")]
    return {name: value for name in names if (value := getattr(options, name, None))}


def reads_whole_files(paths: Sequence[str]) -> bool:
    """Whether every text is a file, so that there are no tables."""
    if any(path == "-" or path.startswith(recipes.PREFIX) for path in paths):
        return False
    return not any(table_form(source) for source in find_sources(paths))

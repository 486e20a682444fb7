"""The options for reading and tokenizing a corpus, each declared once with its help and limits."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from textgen.errors import UsageError
from textgen.options import check, option
from textgen.parameters import named
from textgen.text.levels import LEVELS, SIZED, SMALLEST_VOCABULARY, listed

VOCABULARIES = ((200_000, 1000), (2_000_000, 2000), (20_000_000, 4000), (math.inf, 8000))
"""Sizes of a text in bytes, up to which a subword vocabulary of this size suits it."""

WORDS = 10_000
"""The default vocabulary size of `word`, which most published results use."""


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
        section="Text",
    )
    text_column: str | None = option(
        None,
        "The text column of a table (csv, tsv, json, jsonl, parquet, Hub).",
        metavar="NAME",
        default_text="text, or the only column that holds text",
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
        "Share of the corpus to hold out: whole documents, or the end of a single one; 0 holds out nothing.",
        low=0,
        high=0.9,
    )


@dataclass(frozen=True)
class TokenizerOptions:
    """How text is turned into tokens."""

    tokenizer: str | None = option(
        None,
        f"Tokenizer kind: {', '.join(LEVELS)}; or a folder that holds a tokenizer.",
        metavar="KIND|PATH",
        default_text="chosen from the corpus",
        section="Text",
    )
    vocab_size: int | None = option(
        None,
        f"Vocabulary size of a {listed(SIZED)} tokenizer.",
        low=SMALLEST_VOCABULARY,
        high=1_000_000,
        default_text="chosen from the corpus",
    )


@dataclass(frozen=True)
class CorpusOptions(TokenizerOptions, ReadingOptions, SplitOptions):
    """How a corpus of text is read, split and tokenized."""


def check_reading(options: TokenizerOptions) -> None:
    """Check options against their limits and each other. Raises UsageError."""
    check(options)
    if options.vocab_size is not None and options.tokenizer not in (None, *SIZED):
        raise UsageError(
            f"{named('vocab_size')} goes with {named('tokenizer')} {listed(SIZED)}, not with {options.tokenizer}."
        )


def choose_tokenizer(options: TokenizerOptions, scan: Any) -> tuple[str, int]:
    """The tokenizer kind and vocabulary size. A long text is tokenized by bpe; a short one, or one in a script of
    thousands of characters, each as informative as a subword, by characters."""
    check_reading(options)
    level = options.tokenizer
    if options.vocab_size is not None:
        return level or "bpe", options.vocab_size
    if level == "word":
        return level, WORDS
    if level is None:
        level = "char" if scan.total < 60_000 or scan.distinct > 1_000 else "bpe"
    return level, next(size for most, size in VOCABULARIES if scan.total <= most)

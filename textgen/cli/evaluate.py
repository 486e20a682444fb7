"""textgen evaluate: how well a model predicts a text."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from textgen.cli.screen import Output, count
from textgen.errors import TextgenError, UsageError

if TYPE_CHECKING:
    from textgen.evaluate import Score
    from textgen.language_model import LanguageModel


@click.command("evaluate", context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.argument("corpus", nargs=-1)
@click.option("-m", "--model", metavar="DIR", help="The model folder.  [default: $TEXTGEN_MODEL, or the latest run]")
@click.option(
    "--encoding", metavar="NAME", help="Encoding of the text.  [default: UTF-8, or as a byte-order mark says]"
)
@click.option("--document-separator", metavar="TEXT", help="Text that stands between documents.")
@click.option(
    "--lanes", default="16", metavar="N", help="Read in N lanes side by side; 1 reads in one piece.  [default: 16]"
)
@click.option("--threads", default=None, metavar="N", help="Processor threads.  [default: all cores]")
@click.option("--json", "as_json", is_flag=True, help="All figures as one JSON object.")
def command(
    corpus: tuple[str, ...],
    model: str | None,
    encoding: str | None,
    document_separator: str | None,
    lanes: str,
    threads: str | None,
    as_json: bool,
) -> int:
    """Score CORPUS with a model: loss, perplexity, bits per byte. Without CORPUS, the part held out in training.

    Every byte counts once and the state is carried; each lane first reads a thousand symbols, uncounted.
    """
    from textgen.cli.sample import _count, open_model
    from textgen.machine import usable_cores

    width = _count("--lanes", lanes, 4096)
    loaded = open_model(model, _count("--threads", threads, 1024) if threads else usable_cores())
    score = _score(loaded, corpus, model, encoding, document_separator, width)
    if as_json:
        Output().write(json.dumps(score.to_json()) + "\n")
        return 0
    Output().write(
        f"{score.nats_per_token:.4f} nats a symbol · {score.nats_per_character:.4f} nats a character · "
        f"{score.bits_per_byte:.4f} bits a byte · perplexity {score.perplexity:.2f} · "
        f"{count(score.tokens)} symbols, {count(score.characters)} characters, {count(score.bytes)} bytes\n"
    )
    return 0


def _score(
    loaded: LanguageModel,
    corpus: tuple[str, ...],
    model: str | None,
    encoding: str | None,
    document_separator: str | None,
    lanes: int,
) -> Score:
    from textgen.evaluate import score_encoded

    if not corpus:
        if encoding or document_separator:
            raise UsageError("--encoding and --document-separator go with a corpus.")
        return _score_held_out(loaded, model, lanes)
    from textgen.corpus import encode_documents
    from textgen.sources import SourceOptions, find_sources, read

    raw = loaded.tokenizer.level == "byte" and encoding is None
    reading = SourceOptions(encoding=encoding, document_separator=document_separator, raw=raw)
    ids, size, characters = encode_documents(loaded.tokenizer, read(find_sources(corpus), reading))
    return score_encoded(loaded.stepper, loaded, ids, size, characters, lanes)


def _score_held_out(loaded: LanguageModel, model: str | None, lanes: int) -> Score:
    import os

    import numpy as np

    from textgen.checkpoint import Run
    from textgen.cli.train import find_run
    from textgen.corpus import VALIDATION, open_store
    from textgen.evaluate import score_encoded
    from textgen.train import CACHE

    folder = find_run(model or os.environ.get("TEXTGEN_MODEL") or "latest")
    stored: Path = folder.parent / CACHE / str(Run(folder).arguments()["store"])
    if not stored.is_dir():
        raise TextgenError(f"the tokens of {str(folder)!r} are gone ({stored}).", hint="textgen evaluate FILE")
    store = open_store(stored)
    if not store.about["bytes"][VALIDATION]:
        raise TextgenError(f"{str(folder)!r} holds nothing out.", hint="textgen evaluate FILE")
    ids = np.asarray(store.tokens(VALIDATION), dtype=np.int32)
    about = store.about
    return score_encoded(
        loaded.stepper, loaded, ids, about["bytes"][VALIDATION], about["characters"][VALIDATION], lanes
    )

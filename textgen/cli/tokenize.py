"""textgen tokenize: store a corpus as tokens, once for several training runs."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from textgen.cli.params import (
    check_corpus,
    given,
    options_of,
    overwrite_option,
    quiet_option,
    read_by_command,
    whole_number,
)
from textgen.data import CorpusOptions, check_reading
from textgen.distributed import world
from textgen.errors import UsageError
from textgen.formatting import count
from textgen.options import from_mapping
from textgen.screen import Output, ReadingProgress, encodings_said, hush_notes, say
from textgen.storage.outputs import check_folder
from textgen.tasks import TrainOptions


@click.command("tokenize")
@click.argument("corpus", nargs=-1)
@click.option("--output-dir", metavar="DIR", help="The folder to write.  [required]")
@options_of(CorpusOptions)
@click.option(
    "--seed",
    type=whole_number(0, 2**63 - 1),
    default=TrainOptions.seed,
    help=f"Random seed for the held-out part.  [default: {TrainOptions.seed}]",
)
@overwrite_option("--overwrite-output-dir")
@quiet_option
def command(
    corpus: tuple[str, ...], output_dir: str | None, seed: int, overwrite: bool, quiet: bool, **values: Any
) -> int:
    """Train a tokenizer on CORPUS and store the tokens in a folder that `textgen train` accepts as a corpus.

    Under torchrun several processes divide the work. The command continues where a killed one has stopped.
    """
    if quiet:
        hush_notes()
    if not corpus or output_dir is None:
        missing = "--output-dir is missing." if corpus else "no corpus given."
        raise UsageError(missing, hint="textgen tokenize FILE ... --output-dir DIR")
    options = from_mapping(CorpusOptions, given(CorpusOptions, values))
    check_reading(options)
    folder = Path(output_dir)
    check_corpus("tokenize", corpus)
    from textgen.data.corpus import scan_corpus, tokenize
    from textgen.data.store import is_store

    job = world()
    job.connect()
    quiet = quiet or not job.leads
    inputs = list(read_by_command([*corpus, options.validation_file, options.tokenizer]))
    progress = ReadingProgress(not quiet and sys.stderr.isatty())
    with job.taking_part(), encodings_said(not quiet):
        job.share(lambda: check_folder(folder, "--output-dir", "a tokenized corpus", is_store, inputs, overwrite))
        scanned = scan_corpus(corpus, options, seed, progress)
        job.require_same({"corpus": scanned.key()})
        store = tokenize(scanned, folder, progress, overwrite, job)
        progress.finish()
    about = store.about
    if not quiet:
        say(
            f"{count(sum(about['bytes'].values()))} bytes · {store.documents_shown()} · "
            f"{count(about['tokens']['train'])} {about['tokenizer']} tokens to train on, "
            f"{count(about['tokens']['validation'])} held out ({store.held_out_shown()}) · "
            f"vocabulary {count(about['vocab_size'])}"
        )
    if job.leads:
        Output().write(f"{folder}\n")
    return 0

"""textgen evaluate: how well a model predicts a text."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass, fields
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from textgen.cli.help import layered
from textgen.cli.outputs import output_file, overwrite_option
from textgen.cli.params import backend_option, given, options_of, refuse_of_another_task, whole_number
from textgen.cli.screen import Output, encodings_said, reading_said
from textgen.cli.typed_wrong import check_corpus
from textgen.errors import TextgenError, UsageError
from textgen.model_folder import remembered_reading, task_of
from textgen.options import flag
from textgen.outputs import PLOT, OutputFile
from textgen.series.settings import ForecastOptions
from textgen.text.corpus_settings import ReadingOptions
from textgen.text.reading import Reading
from textgen.wording import count

if TYPE_CHECKING:
    from textgen.language_model import LanguageModel
    from textgen.scoring.evaluate import Score
    from textgen.text.encoding import Encoded
    from textgen.text.sources import Source, SourceOptions


OTHER_TASKS = {
    "complete": "textgen.cli.evaluate_pairs",
    "classify": "textgen.cli.evaluate_labels",
    "forecast": "textgen.cli.evaluate_series",
}
"""The tasks whose models are scored in another way, and the module whose `evaluate` takes an `EvaluationRequest`."""

OWN = {
    **dict.fromkeys(("lanes", "per_token", "backend"), ("lm",)),
    **{f.name: ("forecast",) for f in fields(ForecastOptions)},
    "label_column": ("classify",),
    "prompt_column": ("complete",),
    "completion_column": ("complete",),
    "plot": ("classify", "forecast"),
}
"""The options that not every task has, and the tasks that have them."""


@dataclass(frozen=True)
class EvaluationRequest:
    """What was asked of a model."""

    folder: Path
    corpus: tuple[str, ...]
    reading: Reading
    threads: int | None
    as_json: bool
    plot: OutputFile | None
    forecasting: ForecastOptions


COMMON = (
    *("model", "as_json", "plot", "per_token", "encoding", "text_column", "label_column", "prompt_column"),
    *("completion_column", "horizon", "level", "threads", "backend", "overwrite"),
)


@click.command(
    "evaluate",
    cls=layered(COMMON),
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.argument("corpus", nargs=-1)
@click.option("-m", "--model", metavar="DIR", help="The model folder.  [default: $TEXTGEN_MODEL, or the latest run]")
@options_of(ReadingOptions)
@options_of(ForecastOptions)
@click.option(
    "--lanes",
    type=whole_number(1, 4096),
    help="Read the text as N parallel lanes; 1 reads it in one piece.  [default: 16]",
)
@click.option("--threads", type=whole_number(1, 1024), help="Number of CPU threads.  [default: all cores]")
@backend_option
@click.option("--per-token", is_flag=True, help="Show the log-probability of each token; reads the text in one piece.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object; with --per-token, one per token first.")
@click.option("--label-column", metavar="NAME", help="The label column.  [default: as in training]")
@click.option("--prompt-column", metavar="NAME", help="The prompt column.  [default: as in training]")
@click.option("--completion-column", metavar="NAME", help="The completion column.  [default: as in training]")
@click.option("--plot", metavar="FILE", help="Plot the result as PNG: a confusion matrix, or forecasts.")
@overwrite_option()
@encodings_said()
def command(
    corpus: tuple[str, ...],
    model: str | None,
    lanes: int | None,
    threads: int | None,
    backend: str,
    per_token: bool,
    as_json: bool,
    plot: str | None,
    overwrite: bool,
    **values: Any,
) -> int:
    """Measure how well a model predicts CORPUS: loss, perplexity, bits per byte. Without CORPUS, the held-out part of
    the training data is scored; of a corpus given by name, the test part.

    CORPUS is read with the encoding, document separator and columns of training, unless you give others. Every byte
    counts once and the hidden state is carried; each lane first reads a thousand tokens that do not count.
    """
    from textgen.cli.sample import model_folder

    named, forecasting = given(Reading, values), given(ForecastOptions, values)
    if not corpus and named:
        raise UsageError(f"{flag(next(iter(named)))} goes with a corpus.")
    if per_token and lanes not in (None, 1):
        raise UsageError(f"--per-token reads in one piece and excludes --lanes {lanes}.")
    check_corpus("evaluate", corpus)
    task = task_of(folder := model_folder(model))
    own = {"lanes": lanes, "per_token": per_token, "backend": backend != "auto", "plot": plot}
    refuse_of_another_task(task, {**own, **named, **forecasting}, OWN)
    drawn = None if plot is None else output_file(plot, "--plot", PLOT, (*corpus, folder), overwrite)
    reading = remembered_reading(folder, named)
    with reading.explained(), reading_said(reading.said(corpus)):
        asked = EvaluationRequest(folder, corpus, reading, threads, as_json, drawn, ForecastOptions(**forecasting))
        if task in OTHER_TASKS:
            return import_module(OTHER_TASKS[task]).evaluate(asked)  # type: ignore[no-any-return]
        return _of_text(asked, backend, 0 if per_token else lanes or 16)


def _of_text(asked: EvaluationRequest, backend: str, lanes: int) -> int:
    """Score text, or what the run held out, in so many lanes; with 0 symbol by symbol."""
    from textgen.cli.sample import open_model
    from textgen.text.bulk import usable_cores
    from textgen.text.corpus import text_of

    text = text_of(asked.corpus, asked.reading) if asked.corpus else None
    loaded = open_model(str(asked.folder), asked.threads or usable_cores(), backend)
    encoded = _encoded(loaded, *text) if text else _held_out(loaded, asked.folder)
    output = Output()
    score = _score(loaded, encoded, lanes) if lanes else _by_symbol(loaded, encoded, output, asked.as_json)
    output.write((json.dumps(score.to_json()) if asked.as_json else _sentence(score)) + "\n")
    return 0


def _score(loaded: LanguageModel, encoded: Encoded, lanes: int) -> Score:
    from textgen.scoring.evaluate import score_encoded

    return score_encoded(loaded.stepper, loaded, *encoded, lanes)


def _by_symbol(loaded: LanguageModel, encoded: Encoded, output: Output, as_json: bool) -> Score:
    """Write the symbols as they are scored; the score that is returned is their sum."""
    from textgen.scoring.evaluate import Score
    from textgen.scoring.token_scores import score_tokens

    ids, size, characters = encoded
    logprobs: list[float] = []
    if not as_json:
        output.write("  log p      id  symbol\n")
    for symbol in score_tokens(loaded, ids):
        logprobs.append(symbol.logprob)
        line = f"{symbol.logprob:7.4f}  {symbol.id:6}  {symbol.symbol!r}"
        output.write((json.dumps(asdict(symbol), ensure_ascii=False) if as_json else line) + "\n")
    nats = -math.fsum(logprobs)
    if not as_json:
        output.write(f"{-nats:7.4f}  in all\n")
    return Score(nats, len(logprobs), characters, size, loaded.tokenizer.unknown_count(ids))


def _sentence(score: Score) -> str:
    size = f"{count(score.tokens)} tokens, {count(score.characters)} characters, {count(score.bytes)} bytes"
    begin, perplexity = f"{score.nats_per_token:.4f} nats per token", f"perplexity {score.perplexity:.2f}"
    if score.unknown is not None:
        share = score.unknown / max(1, score.tokens)
        return f"{begin} · {perplexity} · {count(score.unknown)} unknown words ({share:.2%}) · {size}"
    return (
        f"{begin} · {score.nats_per_character:.4f} nats per character · {score.bits_per_byte:.4f} bits per byte · "
        f"{perplexity} · {size}"
    )


def _encoded(loaded: LanguageModel, sources: list[Source], reading: SourceOptions) -> Encoded:
    from textgen.scoring.evaluate import for_model
    from textgen.text.encoding import encode_documents
    from textgen.text.sources import read

    return encode_documents(loaded.tokenizer, read(sources, for_model(loaded, reading)))


def _held_out(loaded: LanguageModel, folder: Path) -> Encoded:
    import numpy as np

    from textgen.text.split import VALIDATION
    from textgen.training.checkpoint import Run
    from textgen.training.train import store_of

    try:
        store = store_of(Run(folder))
    except TextgenError as error:
        raise TextgenError(
            f"the held-out part of {str(folder)!r} is not available: {error}", hint="textgen evaluate FILE"
        ) from error
    about = store.about
    if not about["bytes"][VALIDATION]:
        raise TextgenError(f"{str(folder)!r} has no held-out part.", hint="textgen evaluate FILE")
    ids = np.asarray(store.tokens(VALIDATION), dtype=np.int32)
    return ids, about["bytes"][VALIDATION], about["characters"][VALIDATION]

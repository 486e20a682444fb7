"""textgen evaluate, of a model that completes prompts: loss, exact matches and BLEU."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from textgen import sealed
from textgen.cli.screen import Output, ReadingProgress
from textgen.errors import TextgenError, UsageError
from textgen.model_folder import CONFIG
from textgen.wording import count

if TYPE_CHECKING:
    from textgen.cli.evaluate import EvaluationRequest
    from textgen.pairs.evaluate import Outcome
    from textgen.pairs.read import Pair


def evaluate(asked: EvaluationRequest) -> int:
    """Write the completion of every prompt, and say how well they, and those expected, agree with the model."""
    if asked.plot is not None:
        raise UsageError("--plot goes with a model that labels or forecasts.")
    pairs = _read(asked) if asked.corpus else _held_out(asked.folder)
    from textgen.cli.sample import open_model
    from textgen.pairs.evaluate import evaluate_pairs
    from textgen.text.bulk import usable_cores

    model = open_model(str(asked.folder), asked.threads or usable_cores())
    progress = ReadingProgress(sys.stderr.isatty())
    outcome = evaluate_pairs(model, pairs, progress)
    progress.finish()
    Output().write((json.dumps(outcome.to_json()) if asked.as_json else _sentence(outcome)) + "\n")
    return 0


def _sentence(outcome: Outcome) -> str:
    score = outcome.score
    bits = "" if score.unknown is not None else f" · {score.bits_per_byte:.4f} bits per byte"
    return (
        f"{score.nats_per_token:.4f} nats per token of the completions{bits} · "
        f"exact match {outcome.exact / outcome.pairs:.2%} ({count(outcome.exact)} of {count(outcome.pairs)} pairs) · "
        f"BLEU {outcome.bleu:.2f}"
    )


def _read(asked: EvaluationRequest) -> list[Pair]:
    """The pairs of tables, of the columns that the model was trained on. Raises TextgenError or UsageError."""
    from textgen.pairs.read import read_pairs
    from textgen.pairs.survey import sources_of

    prompt, completion = asked.reading.prompt_column, asked.reading.completion_column
    if prompt is None or completion is None:
        raise sealed.DamagedError(f"{asked.folder / CONFIG} is damaged: it names no columns.")
    return list(read_pairs(sources_of(asked.corpus, asked.reading), (prompt, completion), asked.reading.options))


def _held_out(folder: Path) -> list[Pair]:
    from textgen.pairs.data import PairsData
    from textgen.training.checkpoint import Run
    from textgen.training.train import data_of

    try:
        data = data_of(Run(folder))
    except TextgenError as error:
        raise TextgenError(
            f"the held-out part of {str(folder)!r} is not available: {error}", hint="textgen evaluate FILE"
        ) from error
    assert isinstance(data, PairsData)
    if not (pairs := data.held_out_pairs()):
        raise TextgenError(f"{str(folder)!r} has no held-out part.", hint="textgen evaluate FILE")
    return pairs

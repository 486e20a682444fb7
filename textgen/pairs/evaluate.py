"""`textgen evaluate` with a model that completes prompts: loss, exact matches and BLEU."""

from __future__ import annotations

import json
import sys
from typing import cast

from textgen import sealed
from textgen.model_folder import CONFIG
from textgen.pairs.data import CompletionData
from textgen.pairs.quality import Outcome, evaluate_pairs
from textgen.pairs.read import Pair, read_pairs
from textgen.pairs.survey import sources_of
from textgen.screen import Output, ReadingProgress
from textgen.tasks.base import Request
from textgen.wording import count


def evaluate(request: Request) -> None:
    """Generate the completion of every prompt, and print how well they match the expected ones, and their loss."""
    pairs = _read(request) if request.inputs else cast(CompletionData, request.held_out()).held_out_pairs()
    progress = ReadingProgress(sys.stderr.isatty())
    outcome = evaluate_pairs(request.load(), pairs, progress)
    progress.finish()
    Output().write((json.dumps(outcome.to_json()) if request.as_json else _sentence(outcome)) + "\n")


def _sentence(outcome: Outcome) -> str:
    score = outcome.score
    bits = "" if score.unknown is not None else f" · {score.bits_per_byte:.4f} bits per byte"
    return (
        f"{score.nats_per_token:.4f} nats per token of the completions{bits} · "
        f"exact match {outcome.exact / outcome.pairs:.2%} ({count(outcome.exact)} of {count(outcome.pairs)} pairs) · "
        f"BLEU {outcome.bleu:.2f}"
    )


def _read(request: Request) -> list[Pair]:
    """The pairs of tables, of the columns that the model was trained on. Raises TextgenError or UsageError."""
    prompt, completion = request.reading.prompt_column, request.reading.completion_column
    if prompt is None or completion is None:
        raise sealed.DamagedError(f"{request.folder / CONFIG} is damaged: it names no columns.")
    return list(read_pairs(sources_of(request.inputs), (prompt, completion), request.reading.options))

"""`textgen evaluate` with a language model: loss, perplexity and bits per byte."""

from __future__ import annotations

import json
import math
from dataclasses import asdict

import numpy as np

from textgen.data.corpus import text_of
from textgen.data.recipes import VALIDATION
from textgen.data.sources import read
from textgen.data.store import TokenStore
from textgen.data.tokenization import Encoded, encode_documents
from textgen.distributed import world
from textgen.evaluation import Score, for_model, score_encoded, score_tokens
from textgen.formatting import count
from textgen.generation.language_model import LanguageModel
from textgen.generation.language_model import load as load
from textgen.screen import Output
from textgen.tasks import Request
from textgen.tasks.language.options import LanguageEvaluation

LANES = 16


def evaluate(request: Request) -> None:
    """Score text, or the held-out part, and print one line, preceded by a line per token if requested."""
    options: LanguageEvaluation = request.options
    text = text_of(request.inputs, request.reading) if request.inputs else None
    model = load(request.folder, options.backend)
    if text is None:
        encoded = held_out_ids(request.held_out().store)
    else:
        sources, reading = text
        encoded = encode_documents(model.tokenizer, read(sources, for_model(model, reading)), reading.lines)
    output = Output()
    if options.per_token:
        score = _by_token(model, encoded, output, request.as_json)
    else:
        score = score_encoded(model.stepper, model, *encoded, options.lanes or LANES, job=world())
    output.write((json.dumps(score.to_json()) if request.as_json else _sentence(score)) + "\n")


def held_out_ids(store: TokenStore) -> Encoded:
    """The ids, bytes and characters of a run's held-out part."""
    ids = np.asarray(store.tokens(VALIDATION), dtype=np.int32)
    return ids, store.about["bytes"][VALIDATION], store.about["characters"][VALIDATION]


def _by_token(model: LanguageModel, encoded: Encoded, output: Output, as_json: bool) -> Score:
    """Print the tokens as they are scored; returns the total score."""
    ids, size, characters = encoded
    logprobs: list[float] = []
    if not as_json:
        output.write("  log p      id  token\n")
    for token in score_tokens(model, ids):
        logprobs.append(token.logprob)
        line = f"{token.logprob:7.4f}  {token.id:6}  {token.token!r}"
        output.write((json.dumps(asdict(token), ensure_ascii=False) if as_json else line) + "\n")
    nats = -math.fsum(logprobs)
    if not as_json:
        output.write(f"{-nats:7.4f}  in all\n")
    return Score(nats, len(logprobs), characters, size, model.tokenizer.unknown_count(ids))


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

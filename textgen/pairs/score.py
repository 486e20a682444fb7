"""Scores how well a model predicts completions, given their prompts."""

from __future__ import annotations

import math

import numpy as np

from textgen.pairs.examples import IGNORED, Examples, padded_batches
from textgen.scoring.evaluate import Score
from textgen.stepper import TokenStepper

AT_ONCE = 4096
"""Tokens per batch, padding included."""


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

"""The quality of generated completions: loss, exact matches and BLEU."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from textgen.errors import TextgenError
from textgen.language_model import LanguageModel
from textgen.pairs.bleu import bleu, exact_matches
from textgen.pairs.examples import encode_pairs
from textgen.pairs.read import Pair
from textgen.pairs.score import score_examples
from textgen.scoring.evaluate import Score
from textgen.text.split import Progress, no_progress
from textgen.writing.generate import complete, sampling_options

TOGETHER = 64
"""The number of prompts, of similar length, that are completed in one batch."""


@dataclass(frozen=True)
class Outcome:
    """The score of the expected completions, and how well the generated ones match them."""

    score: Score
    pairs: int
    exact: int
    bleu: float

    def to_json(self) -> dict[str, Any]:
        """All metrics by name; `exact_match` is from 0 to 1, `bleu` from 0 to 100."""
        exact = {"exact_match": self.exact / self.pairs, "bleu": self.bleu}
        return {"completion_loss": self.score.nats_per_token, **exact, "pairs": self.pairs, **self.score.to_json()}


def evaluate_pairs(model: LanguageModel, pairs: Sequence[Pair], progress: Progress = no_progress) -> Outcome:
    """Score the completions of pairs, and compare them with those that the model generates greedily. Raises
    TextgenError if there are no pairs."""
    if not pairs:
        raise TextgenError("there are no pairs to evaluate.")
    expected = [pair.completion.decode() for pair in pairs]
    written = write_completions(model, [pair.prompt.decode() for pair in pairs], progress)
    score = score_examples(model.stepper, encode_pairs(model.tokenizer, pairs))
    return Outcome(score, len(pairs), exact_matches(written, expected), bleu(written, expected))


def write_completions(model: LanguageModel, prompts: Sequence[str], progress: Progress = no_progress) -> list[str]:
    """The greedy completion of each prompt, up to the maximum length of the model's generation config."""
    options = sampling_options(model, {"temperature": 0.0, "seed": 0})
    written = [""] * len(prompts)
    order = np.argsort([len(prompt) for prompt in prompts], kind="stable")
    for begin in range(0, len(order), TOGETHER):
        rows = order[begin : begin + TOGETHER].tolist()
        progress("writing", begin, len(order))
        for row, completion in zip(rows, complete(model, [prompts[row] for row in rows], options), strict=True):
            written[row] = completion.text
    return written

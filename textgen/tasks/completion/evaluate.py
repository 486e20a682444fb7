"""How good generated completions are: their loss, exact matches and BLEU.

Corpus BLEU as Papineni et al. 2002 ("BLEU: a Method for Automatic Evaluation of Machine Translation") define it,
with one reference a text, n-grams up to four, no smoothing. Tokens are those that results on CoNaLa are counted in
(Yin and Neubig 2018, after Ling et al. 2016): words of the letters A-Z, digits and `_`, divided where a small letter
meets a capital; every other character that is not white space is a token of its own; and both quotation marks, ' and
", are one.
"""

from __future__ import annotations

import json
import math
import re
import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from textgen import storage
from textgen.data.recipes import Progress
from textgen.data.store import no_progress
from textgen.errors import TextgenError
from textgen.evaluation import Score
from textgen.formatting import count
from textgen.generation.generate import complete, sampling_options
from textgen.generation.language_model import LanguageModel
from textgen.generation.language_model import load as load
from textgen.model import CONFIG
from textgen.screen import Output, ReadingProgress
from textgen.tasks import Request
from textgen.tasks.completion.reading import Pair, encode_pairs, read_pairs, score_examples, sources_of

ORDER = 4
_CAMEL_CASE = re.compile(r"(?<=[a-z])(?=[A-Z])")
_TOKEN = re.compile(r"[A-Za-z0-9_]+|[^\sA-Za-z0-9_]")


def tokens_of(text: str) -> list[str]:
    """The tokens of a text, as described at the top of this module.

    Example:
        >>> tokens_of('sortBy("x_1")')
        ['sort', 'By', '(', '`', 'x_1', '`', ')']
    """
    found: list[str] = _TOKEN.findall(_CAMEL_CASE.sub(" ", text))
    return ["`" if token in "'\"" else token for token in found]


def bleu(generated: Sequence[str], expected: Sequence[str]) -> float:
    """Corpus BLEU of texts (N,) against one reference each, from 0 to 100; 0 if no four tokens in a row agree.

    Raises ValueError without texts, or if the numbers of texts and references differ.

    Example:
        >>> round(bleu(["a b c d e f"], ["a b c d e g"]), 2)
        75.98
    """
    if not generated or len(generated) != len(expected):
        raise ValueError(f"there are {len(generated)} texts for {len(expected)} references")
    shared, possible = [0] * ORDER, [0] * ORDER
    size = size_expected = 0
    for text, reference in zip(map(tokens_of, generated), map(tokens_of, expected), strict=True):
        size, size_expected = size + len(text), size_expected + len(reference)
        for n in range(1, ORDER + 1):
            own, other = _ngrams(text, n), _ngrams(reference, n)
            shared[n - 1] += (own & other).total()
            possible[n - 1] += max(0, len(text) - n + 1)
    if 0 in shared:
        return 0.0
    precision = sum(math.log(part / whole) for part, whole in zip(shared, possible, strict=True)) / ORDER
    brevity = min(0.0, 1 - size_expected / size)
    return 100 * math.exp(precision + brevity)


def _ngrams(tokens: Sequence[str], n: int) -> Counter[tuple[str, ...]]:
    return Counter(zip(*(tokens[start:] for start in range(n)), strict=False))


def exact_matches(generated: Iterable[str], expected: Iterable[str]) -> int:
    """How many texts equal their references, ignoring white space at both ends."""
    return sum(text.strip() == reference.strip() for text, reference in zip(generated, expected, strict=True))


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


def evaluate(request: Request) -> None:
    """Generate the completion of every prompt, and print how well they match the expected ones, and their loss."""
    pairs = _read(request) if request.inputs else request.held_out().held_out_pairs()
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
        raise storage.DamagedError(f"{request.folder / CONFIG} is damaged: it names no columns.")
    return list(read_pairs(sources_of(request.inputs), (prompt, completion), request.reading.options))

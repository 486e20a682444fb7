"""The options that only language modeling has."""

from __future__ import annotations

from dataclasses import dataclass

from textgen.data import CorpusOptions, LineOptions, ReadingOptions, StreamOptions
from textgen.errors import UsageError
from textgen.model import BACKENDS
from textgen.options import named, option
from textgen.tasks import TrainOptions


@dataclass(frozen=True)
class LanguageOptions(StreamOptions, CorpusOptions, TrainOptions):
    """How a language model is trained."""

    sampled_softmax: int | None = option(
        None,
        "Compute the training loss over this many sampled tokens instead of all; for vocabularies of many thousands.",
        low=1,
        high=10_000_000,
        default_text="all",
        section="Optimization",
    )


@dataclass(frozen=True)
class LanguageEvaluation(LineOptions, ReadingOptions):
    """How a language model is evaluated."""

    lanes: int | None = option(
        None,
        "Read the text as N parallel lanes; 1 reads it in one piece.",
        low=1,
        high=4096,
        default_text="16",
        section="Language modeling",
    )
    per_token: bool = option(False, "Show the log-probability of each token; reads the text in one piece.", no="")
    backend: str = option(
        "auto",
        "Backend: numpy, torch, int8 (faster, rounded), or auto (numpy if possible).",
        choices=BACKENDS,
        metavar="NAME",
    )


def refuse_few_tokens(count: int, tokens: int) -> None:
    """Raise UsageError unless the number of candidates is less than the number of tokens."""
    if count >= tokens:
        raise UsageError(
            f"{named('sampled_softmax', f'{count:,}')} must be less than the vocabulary size ({tokens:,}).",
            hint="omit it; it only pays for vocabularies above about ten thousand tokens.",
        )

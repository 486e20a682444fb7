"""The options of sampling, each declared once with its help and limits, and which of them exclude each other.

Imports neither numpy nor torch.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from textgen.errors import UsageError
from textgen.options import Declaration, check, check_value, declared, default, named, option

_BIAS = Declaration("", low=-100, high=100)
DRAWING = (
    *("temperature", "greedy", "top_k", "top_p", "min_p"),
    *("repetition_penalty", "presence_penalty", "frequency_penalty", "max_copy"),
)
"""Options of drawing a token: beam search draws none and excludes them all."""

CONSTRAINTS = ("regex", "grammar", "json_schema")
"""Options that say what a text must match: at most one of them, and no beam search."""


@dataclass(frozen=True)
class SampleOptions:
    """How text is drawn from a model: penalties first, then biases, top-k, top-p, min-p, and temperature last."""

    max_new_tokens: int = option(
        200,
        "Maximum number of tokens to write; -1 continues until a stop or Ctrl-C.",
        low=-1,
        high=1_000_000_000,
        also=("-n", "--max-tokens", "--n-predict", "--length"),
    )
    temperature: float | list[float] = option(
        0.8,
        "Sampling temperature: higher is bolder, 0 is greedy; a list such as 0.5,1,1.5 is cycled through.",
        low=0,
        high=100,
        cycle=True,
        also=("--temp",),
        metavar="X[,X...]",
    )
    greedy: bool = option(False, "Always take the most probable token.")
    top_k: int = option(0, "Sample from the k most probable tokens; 0 is off.", low=0, high=10_000_000)
    top_p: float = option(
        1.0,
        "Sample from the fewest most probable tokens that together have this probability; 1 is off.",
        above=0,
        high=1,
    )
    min_p: float = option(
        0.0, "Exclude tokens less probable than this fraction of the most probable one; 0 is off.", low=0, high=1
    )
    repetition_penalty: float = option(
        1.0,
        "Divide positive logits of recent tokens by this, and multiply negative ones; 1 is off.",
        above=0,
        high=100,
        also=("--repeat-penalty",),
    )
    presence_penalty: float = option(0.0, "Subtract this from the logit of each recent token.", low=-2, high=2)
    frequency_penalty: float = option(
        0.0, "Subtract this from the logit of a recent token for each time it occurred.", low=-2, high=2
    )
    repeat_last_n: int = option(64, "How many tokens back the penalties look.", low=0, high=1_000_000)
    logit_bias: dict[int | str, float] = option(
        {}, r"Add X to the logit of a token: 'e=-5', '\n=2', or '#17=-5' by its id; may be repeated.", metavar="TOKEN=X"
    )
    num_beams: int | None = option(
        None, "Beam search with N beams instead of sampling.", low=1, high=10_000, default_text="off"
    )
    max_copy: int | None = option(
        None,
        "Never copy more than N consecutive characters from the training text.",
        low=1,
        high=1_000_000,
        default_text="off",
    )
    regex: str | None = option(
        None, "Write a text that matches this regular expression.", metavar="REGEX", default_text="off"
    )
    grammar: str | None = option(
        None, "Write a text of the Lark grammar in this file.", metavar="FILE", default_text="off"
    )
    json_schema: str | None = option(
        None, "Write JSON that follows the schema in this file.", metavar="FILE", default_text="off"
    )
    stop: list[str] = option([], r"Stop before this text; \n means a line end; may be repeated.", metavar="TEXT")
    lines: bool = option(False, "Write items of one line: each ends at its line end, and none is blank.")
    heal: bool = option(True, "Continue the last word of a prompt, even if it is not finished.")
    ignore_eos: bool = option(False, "Continue past the end of a document.")
    seed: int | None = option(
        None,
        "Random seed; sample k of several uses seed + k.",
        low=0,
        high=2**63 - 1,
        also=("-s",),
        default_text="random, shown with -v",
        per_call=True,
    )
    logprobs: int | None = option(
        None,
        "Also report the K most probable tokens at each step (with --json).",
        low=0,
        high=1000,
        metavar="K",
        per_call=True,
    )


def check_sampling(options: SampleOptions) -> None:
    """Check options against their limits and against each other. Raises UsageError."""
    check(options)
    if options.greedy and options.temperature not in (SampleOptions.temperature, 0):
        cycle = options.temperature if isinstance(options.temperature, list) else [options.temperature]
        typed = ",".join(f"{value:g}" for value in cycle)
        raise UsageError(f"{named('greedy')} and {named('temperature', typed)} exclude each other.")
    for text in options.stop:
        if not text:
            raise UsageError(f"{named('stop')} is empty; it must be the text to stop at.")
        bad = next((i for i, c in enumerate(text) if 0xD800 <= ord(c) <= 0xDFFF), None)
        if bad is not None:
            raise UsageError(f"{named('stop')} must be UTF-8 text, not {text!r} (character {bad}).")
    for token, bias in options.logit_bias.items():
        if not isinstance(token, str) and type(token) is not int:
            raise UsageError(f"{named('logit_bias')} must name a token by its text or its id, not by {token!r}.")
        check_value(f"{named('logit_bias')} {token!r}", bias, float, _BIAS)
    constrained = [name for name in CONSTRAINTS if getattr(options, name) is not None]
    if len(constrained) + (options.num_beams is not None) > 1:
        first, second = [*map(named, constrained), named("num_beams")][:2]
        raise UsageError(f"{first} and {second} exclude each other.")
    if options.num_beams is not None:
        changed = [f.name for f, _ in declared(SampleOptions) if getattr(options, f.name) != default(f)]
        check_beams(options.num_beams, changed)
        if options.max_new_tokens < 0:
            raise UsageError(
                f"{named('num_beams', options.num_beams)} needs an end, and {named('max_new_tokens', -1)} has none."
            )


def check_beams(beams: int, given: Iterable[str]) -> None:
    """Raise UsageError for the first of the given options that beam search excludes."""
    wrong = next((name for name in given if name in DRAWING), None)
    if wrong:
        raise UsageError(f"{named('num_beams', beams)} draws nothing and excludes {named(wrong)}.")


def defaults_beside(defaults: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """The defaults of a model that still apply beside the given options. Raises UsageError if beam search is given
    together with options of drawing.

    `greedy` and `temperature` are one choice, and so are beam search and all options of drawing: giving one removes the
    other from the defaults.
    """
    replaced = set()
    if given.get("greedy"):
        replaced |= {"temperature"}
    if "temperature" in given:
        replaced |= {"greedy"}
    if given.get("num_beams") is not None:
        check_beams(given["num_beams"], given)
        replaced |= set(DRAWING)
    elif set(given) & set(DRAWING):
        replaced |= {"num_beams"}
    return {name: value for name, value in defaults.items() if name not in replaced}

"""Generation in three layers, each built on the one before: ids (`rollout`), pieces of text (`stream`), and strings
(`generate`).

Nothing here depends on torch or a cell: any `TokenStepper` will do. Several rows run together without padding: a row
with prompt left is fed from its prompt (forced tokens), the others from what was drawn.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from textgen import arguments
from textgen.errors import UsageError
from textgen.loop import closed_loop
from textgen.options import from_mapping, plain
from textgen.parameters import named
from textgen.stepper import Logits, TokenStepper
from textgen.text.tokenizer import Ids
from textgen.writing.beams import search_rows
from textgen.writing.biases import bias_of_ids
from textgen.writing.completions import Completion, CompletionBuilder
from textgen.writing.sampling import Choice, Sampler
from textgen.writing.sampling_settings import SampleOptions, check_sampling, defaults_beside

if TYPE_CHECKING:
    from textgen.language_model import LanguageModel

EXACT_ROWS = 8
"""Up to this many samples run one by one, each bit for bit as if alone; more run together, faster."""


# --- ids ---


def read_on(model: TokenStepper, ids: Ids, state: Any) -> Any:
    """The state after reading ids (B, T), T >= 0."""
    return model.forward(ids, state)[1] if ids.shape[1] else state


def rollout(
    model: TokenStepper, prompts: Sequence[Ids], samplers: Sequence[Sampler], state: Any = None
) -> Iterator[tuple[list[Choice | None], Any]]:
    """Generate tokens for every prompt, without end: each time step yields one Choice per row, None while its prompt
    lasts, and the state that they were drawn from.

    Prompts are ids (T,), T >= 1, of any lengths, and continue from `state`; None is the initial state. To go on from
    a state that was yielded, start another rollout from it, with the ids that were drawn as its prompts.
    """
    shortest = min(len(prompt) for prompt in prompts)
    state = model.initial_state(len(prompts)) if state is None else state
    state = read_on(model, np.stack([prompt[: shortest - 1] for prompt in prompts]), state)
    last = np.array([prompt[shortest - 1] for prompt in prompts], dtype=np.int32)
    logits, state = model.step(last, state)
    rows = _PromptedRows(prompts, samplers, shortest)
    yield from closed_loop(model.step, logits, state, rows.choose, rows.feed)


class _PromptedRows:
    """Rows side by side: each is fed from its prompt while that lasts, and then from its sampler."""

    def __init__(self, prompts: Sequence[Ids], samplers: Sequence[Sampler], position: int) -> None:
        """`position`: how many tokens of every row have been fed."""
        self._prompts, self._samplers, self._position = prompts, samplers, position

    def choose(self, logits: Logits) -> list[Choice | None]:
        """Draw a token for each row whose prompt is over."""
        return [
            None if self._position < len(prompt) else sampler.choose(logits[row])
            for row, (prompt, sampler) in enumerate(zip(self._prompts, self._samplers, strict=True))
        ]

    def feed(self, choices: list[Choice | None]) -> Ids:
        """The next token of each row (B,): the one drawn, or the next of its prompt."""
        ids = [
            prompt[self._position] if choice is None else choice.id
            for prompt, choice in zip(self._prompts, choices, strict=True)
        ]
        self._position += 1
        return np.array(ids, dtype=np.int32)


# --- pieces of text ---


def stream_rows(
    model: LanguageModel, prompts: Sequence[str], options: SampleOptions, completions: Sequence[Completion]
) -> Iterator[tuple[int, str]]:
    """Write the completions of all prompts together; yields (row, piece of text) as they grow."""
    rows = [CompletionBuilder(model, completion, options) for completion in completions]
    if options.max_new_tokens == 0:
        for completion in completions:
            completion.finish_reason = "length"
        return
    encoded = [model.encode_prompt(prompt) for prompt in prompts]
    for row, ids in zip(rows, encoded, strict=True):
        row.sampler.see(int(i) for i in ids)
    if options.num_beams is not None:
        yield from search_rows(model, encoded, rows, options)
        return
    for choices, _ in rollout(model.stepper, encoded, [row.sampler for row in rows]):
        for number, (row, choice) in enumerate(zip(rows, choices, strict=True)):
            if choice is not None and row.completion.finish_reason is None:
                yield number, row.take(choice)
        if all(completion.finish_reason for completion in completions):
            return


def stream(model: LanguageModel, prompt: str = "", **sampling: Any) -> Iterator[str]:
    """Continue a prompt, piece by piece; the joined pieces are what `generate` returns with the same seed.

    Sampling options are the fields of `textgen.settings.SampleOptions`. Raises UsageError at once for an invalid one.
    """
    model, prompt = arguments.writer(model), arguments.text("prompt", prompt)
    options = sampling_options(model, sampling)
    if options.num_beams is not None:
        raise UsageError(
            f"{named('num_beams', options.num_beams)} cannot stream; textgen.generate gives the whole text."
        )
    completion = Completion(prompt, choose_seed(options))
    pieces = stream_rows(model, [prompt], options, [completion])
    return (piece for _, piece in pieces if piece)


# --- strings ---


def complete(model: LanguageModel, prompts: Sequence[str], options: SampleOptions) -> list[Completion]:
    """One completion for each prompt; number k is drawn with seed + k.

    Up to `EXACT_ROWS` completions are computed one by one, so that each is bit for bit what it would be alone.
    """
    check_sampling(options)
    seed = choose_seed(options)
    completions = [Completion(prompt, seed + k) for k, prompt in enumerate(prompts)]
    groups = [[c] for c in completions] if len(completions) <= EXACT_ROWS else [completions]
    for group in groups:
        for _ in stream_rows(model, [completion.prompt for completion in group], options, group):
            pass
    return completions


def generate(model: LanguageModel, prompt: str = "", **sampling: Any) -> str:
    """Generate the text that follows a prompt, without the prompt itself.

    Sampling options are the fields of `textgen.settings.SampleOptions`: temperature, top_p, max_new_tokens, seed,
    stop, and so on. Raises UsageError for an invalid one.
    """
    model, prompt = arguments.writer(model), arguments.text("prompt", prompt)
    return complete(model, [prompt], sampling_options(model, sampling))[0].text


def sampling_options(model: LanguageModel, given: Mapping[str, Any]) -> SampleOptions:
    """The given options, completed by the model's defaults. Raises UsageError for an invalid option.

    Tokens of `logit_bias` become ids. `textgen.writing.sampling_settings.defaults_beside` says which defaults hold.
    """
    given = {name: plain(value) for name, value in given.items()}
    defaults = defaults_beside(model.defaults, given)
    if isinstance(given.get("stop"), str):
        given = {**given, "stop": [given["stop"]]}
    options: SampleOptions = from_mapping(SampleOptions, {**defaults, **given})
    check_sampling(options)
    return replace(options, logit_bias=bias_of_ids(options.logit_bias, model.tokenizer))


def choose_seed(options: SampleOptions) -> int:
    """The seed of the options, or a random one where they have none."""
    return secrets.randbits(31) if options.seed is None else options.seed

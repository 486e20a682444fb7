"""The loop: y(t) comes back as x(t+1). Three storeys, each on the one below: ids, pieces of text, a string.

Nothing here knows torch or a cell: the loop drives whatever has `initial_state`, `forward` and `step` on arrays of
ids. Several rows run together without padding: a row that still has prompt left is fed from it (forced symbols)
instead of from what was drawn.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import numpy.typing as npt

from textgen.options import from_mapping
from textgen.sampling import Choice, Logits, Sampler, check_sampling
from textgen.settings import SampleOptions
from textgen.tokenizer import Ids

if TYPE_CHECKING:
    from textgen.language_model import LanguageModel

EXACT_ROWS = 8
"""Up to this many samples run one by one, each bit for bit its own single run; more run together, faster."""


class Stepper(Protocol):
    """What the loop drives. The state is opaque."""

    def initial_state(self, batch_size: int) -> Any: ...

    def step(self, ids: Ids, state: Any) -> tuple[Logits, Any]:
        """ids (B,) and a state to logits (B, V) and the next state."""

    def forward(self, ids: Ids, state: Any) -> tuple[Logits, Any]:
        """ids (B, T) and a state to the logits after the last of them, (B, V), and the state there."""

    def score(self, ids: Ids, targets: Ids, state: Any) -> tuple[npt.NDArray[np.float64], Any]:
        """ids and targets (B, T) to the log-probability of each target, (B, T) in nats, and the state at the end."""


# --- first storey: ids ---


def rollout(model: Stepper, prompts: Sequence[Ids], samplers: Sequence[Sampler]) -> Iterator[list[Choice | None]]:
    """Draw symbols for every prompt, for ever: each time step gives one Choice a row, None while a prompt lasts.

    Prompts are ids (T,), T >= 1, of any lengths. The caller stops by not asking for more.
    """
    shortest = min(len(prompt) for prompt in prompts)
    state = model.initial_state(len(prompts))
    if shortest > 1:
        _, state = model.forward(np.stack([prompt[: shortest - 1] for prompt in prompts]), state)
    ids = np.array([prompt[shortest - 1] for prompt in prompts], dtype=np.int32)
    position = shortest
    while True:
        logits, state = model.step(ids, state)
        choices: list[Choice | None] = [
            None if position < len(prompt) else sampler.choose(logits[row])
            for row, (prompt, sampler) in enumerate(zip(prompts, samplers, strict=True))
        ]
        yield choices
        # Here y(t) becomes x(t+1): what was drawn, or the next symbol of a prompt that goes on.
        ids = np.array(
            [
                prompt[position] if choice is None else choice.id
                for prompt, choice in zip(prompts, choices, strict=True)
            ],
            dtype=np.int32,
        )
        position += 1


# --- second storey: pieces of text ---


@dataclass
class Completion:
    """One text written by a model, growing while it is streamed. `finish_reason` is 'stop' or 'length' at its end."""

    prompt: str
    seed: int
    text: str = ""
    tokens: int = 0
    finish_reason: str | None = None
    choices: list[Choice] = field(default_factory=list)


class StopScanner:
    """Passes text on up to the stop string that is complete first, holding back what might be the beginning of one.

    What is passed on in all does not depend on how the text is cut into pieces.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = list(stops)
        self._held = ""
        self.stopped = False

    def feed(self, piece: str) -> str:
        """The text that is certain to stand before any stop string."""
        held = self._held + piece
        found = [(at + len(stop), at) for stop in self._stops if (at := held.find(stop)) >= 0]
        if found:
            self.stopped, self._held = True, ""
            return held[: min(found)[1]]
        keep = max((self._overlap(held, stop) for stop in self._stops), default=0)
        self._held = held[len(held) - keep :]
        return held[: len(held) - keep]

    @staticmethod
    def _overlap(text: str, stop: str) -> int:
        """How many characters at the end of the text are a beginning of the stop string."""
        sizes = range(min(len(text), len(stop) - 1), 0, -1)
        return next((size for size in sizes if text.endswith(stop[:size])), 0)

    def finish(self) -> str:
        """What was held back, when the text ends for another reason."""
        held, self._held = self._held, ""
        return held


class _Row:
    """One completion in the making: from choices to text that never splits a character or shows a stop string."""

    def __init__(self, model: LanguageModel, completion: Completion, options: SampleOptions) -> None:
        self.completion = completion
        self._options = options
        self._boundary = model.tokenizer.boundary
        self._decoder = model.tokenizer.decoder()
        self._scanner = StopScanner(options.stop)

    def take(self, choice: Choice) -> str:
        """The text that this symbol makes certain; sets `finish_reason` at the end."""
        if choice.id == self._boundary and not self._options.ignore_eos:
            return self._end("stop")
        self.completion.tokens += 1
        self.completion.choices.append(choice)
        piece = self._scanner.feed(self._decoder.add(choice.id))
        if self._scanner.stopped:
            self.completion.finish_reason = "stop"
        elif self.completion.tokens == self._options.max_new_tokens:
            return self._grow(piece) + self._end("length")
        return self._grow(piece)

    def _end(self, reason: str) -> str:
        self.completion.finish_reason = reason
        rest = self._scanner.feed(self._decoder.finish())
        if self._scanner.stopped:
            self.completion.finish_reason = "stop"
        return self._grow(rest + self._scanner.finish())

    def _grow(self, piece: str) -> str:
        self.completion.text += piece
        return piece


def stream_rows(
    model: LanguageModel, prompts: Sequence[str], options: SampleOptions, completions: Sequence[Completion]
) -> Iterator[tuple[int, str]]:
    """Write all prompts' completions together; yields (row, piece of text) as they grow."""
    rows = [_Row(model, completion, options) for completion in completions]
    if options.max_new_tokens == 0:
        for completion in completions:
            completion.finish_reason = "length"
        return
    encoded = [model.encode_prompt(prompt) for prompt in prompts]
    unsampled = model.unsampled if not options.ignore_eos else (*model.unsampled, model.tokenizer.boundary)
    samplers = [Sampler(options, completion.seed, unsampled) for completion in completions]
    for sampler, ids in zip(samplers, encoded, strict=True):
        sampler.see(int(i) for i in ids)
    for choices in rollout(model.stepper, encoded, samplers):
        for number, (row, choice) in enumerate(zip(rows, choices, strict=True)):
            if choice is not None and row.completion.finish_reason is None:
                yield number, row.take(choice)
        if all(completion.finish_reason for completion in completions):
            return


def stream(model: LanguageModel, prompt: str = "", **sampling: Any) -> Iterator[str]:
    """Write on from a prompt, piece by piece; pieces joined are what `generate` returns with the same seed.

    Sampling options are the fields of `textgen.settings.SampleOptions`. Raises UsageError for a bad one, at once.
    """
    options = _options(model, sampling)
    completion = Completion(prompt, choose_seed(options))
    pieces = stream_rows(model, [prompt], options, [completion])
    return (piece for _, piece in pieces if piece)


# --- third storey: strings ---


def complete(model: LanguageModel, prompts: Sequence[str], options: SampleOptions) -> list[Completion]:
    """One completion for each prompt; number k is drawn with seed + k.

    Up to `EXACT_ROWS` are computed each alone, so that each is bit for bit what it would be without the others.
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
    """The text that follows a prompt (the prompt itself is not repeated).

    Sampling options are the fields of `textgen.settings.SampleOptions`: temperature, top_p, max_new_tokens, seed,
    stop, and so on. Raises UsageError for a bad one.
    """
    return complete(model, [prompt], _options(model, sampling))[0].text


def _options(model: LanguageModel, sampling: dict[str, Any]) -> SampleOptions:
    if isinstance(sampling.get("stop"), str):
        sampling = {**sampling, "stop": [sampling["stop"]]}
    options: SampleOptions = from_mapping(SampleOptions, {**model.defaults, **sampling})
    check_sampling(options)
    return options


def choose_seed(options: SampleOptions) -> int:
    """The seed of the options, or a random one where they have none."""
    return secrets.randbits(31) if options.seed is None else options.seed

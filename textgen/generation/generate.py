"""Generate text: the loop over token ids, incremental decoding, and stop strings.

Nothing here knows torch or a cell: the loop drives whatever has `initial_state`, `forward` and `step` on arrays of
ids. Several rows run together without padding: a row that still has prompt left is fed from it (forced tokens). Text
never splits a character and never shows a stop string.
"""

from __future__ import annotations

import builtins
import json
import secrets
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from textgen import options as arguments
from textgen.data.lines import LINE_END
from textgen.data.tokenizers.base import Ids
from textgen.errors import UsageError
from textgen.generation import SampleOptions, check_sampling, defaults_beside
from textgen.generation.beam import search
from textgen.generation.constraints import Constraint
from textgen.generation.constraints import given as constraint_of
from textgen.generation.sampling import (
    Choice,
    Sampler,
    bias_of_ids,
    without,
)
from textgen.model.stepper import Logits, TokenStepper, closed_loop
from textgen.options import from_mapping, named, plain

if TYPE_CHECKING:
    from textgen.generation.language_model import LanguageModel

LINE_ENDS = ("\n", "\r")
"""What ends an item of one line."""

REMEMBERED = 1024
"""Tokens and characters kept for penalties and for finding copies, unless a caller asks for more."""
EXACT_ROWS = 8
"""Up to this many samples run one by one, each bit for bit as if alone; more run together, faster."""


@dataclass
class Completion:
    """One text written by a model, growing while it is streamed. `finish_reason` is 'stop' or 'length' at its end.

    `unavoidable` counts the tokens that had to copy more of the training text than `max_copy` allows. `prompt_tokens`
    and `prompt_choices`, the tokens read and what the model thought of each, are filled in by
    `textgen.generation.streams.Streams`.
    """

    prompt: str
    seed: int
    text: str = ""
    tokens: int = 0
    finish_reason: str | None = None
    choices: list[Choice] = field(default_factory=list)
    unavoidable: int = 0
    prompt_tokens: int = 0
    prompt_choices: list[Choice] = field(default_factory=list)


class StopScanner:
    """Passes text on up to the first complete stop string, and holds back what might be the beginning of one.

    The text passed on in total does not depend on how the input is cut into pieces.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = list(stops)
        self.held = ""
        self.stopped = False

    def feed(self, piece: str) -> str:
        """The text that is certain to precede any stop string."""
        held = self.held + piece
        found = [(at + len(stop), at) for stop in self._stops if (at := held.find(stop)) >= 0]
        if found:
            self.stopped, self.held = True, ""
            return held[: min(found)[1]]
        keep = max((self._overlap(held, stop) for stop in self._stops), default=0)
        self.held = held[len(held) - keep :]
        return held[: len(held) - keep]

    @staticmethod
    def _overlap(text: str, stop: str) -> int:
        """How many characters at the end of the text are a proper prefix of the stop string."""
        sizes = range(min(len(text), len(stop) - 1), 0, -1)
        return next((size for size in sizes if text.endswith(stop[:size])), 0)

    def finish(self) -> str:
        """The text held back, once the text has ended for another reason."""
        held, self.held = self.held, ""
        return held


@dataclass(frozen=True)
class OpenEnd:
    """The unfinished end of a text: the last characters written, the bytes of an incomplete character, the text held
    back because it may begin a stop string, the state of the noise that tokens are drawn from, and the bytes that the
    model has not read and the text must begin with (`textgen.generation.healing`)."""

    tail: str = ""
    bytes: bytes = b""
    text: str = ""
    noise: dict[str, Any] | None = None
    given_back: builtins.bytes = b""


class CompletionBuilder:
    """Builds one completion token by token, and owns its sampler; starts afresh, or from an open end.

    With `keep_open`, reaching `max_new_tokens` releases nothing that a continuation might still change.
    """

    def __init__(
        self,
        model: LanguageModel,
        completion: Completion,
        options: SampleOptions,
        open: OpenEnd | None = None,
        keep_open: bool = False,
        remember: int = REMEMBERED,
    ) -> None:
        self.completion = completion
        self._remember = max(remember, options.max_copy or 0)
        self._options, self._keep_open = options, keep_open
        self._boundary = model.tokenizer.boundary
        self._model, self._characters = model, model.characters
        self._decoder = model.decoder(completion.prompt)
        self._scanner = StopScanner([*options.stop, *LINE_ENDS] if options.lines else options.stop)
        self._tail = completion.prompt if open is None else open.tail
        self.left = b"" if open is None else open.given_back
        """The bytes that the text must still begin with."""
        self._typed = len((open.bytes + self.left).decode()) if open is not None and self.left else 0
        self._blank = options.lines and (bool(model.prompt_end) or not LINE_END.split(self._tail)[-1].strip())
        unsampled = model.unsampled if not options.ignore_eos else (*model.unsampled, self._boundary)
        self._constraint = constraint_on(model, options)
        self._guard = None if options.max_copy is None else model.copy_guard(options.max_copy)
        self.sampler = Sampler(options, completion.seed, unsampled, self._steered)
        self._ready = ""
        if open is not None:
            self._decoder.restore(open.bytes)
            self._ready = self._scanner.feed(open.text)
            if self._scanner.stopped:
                completion.finish_reason = "stop"
            if open.noise is not None:
                self.sampler.restore(open.noise)
        self.empty = not (self._tail or self._decoder.held or self._scanner.held or self.left or model.prompt_end)
        """Whether there is no text yet, not even a prompt: then the boundary is not drawn, so that no text is empty."""

    @property
    def unfit(self) -> tuple[int, ...]:
        """The tokens that would end an empty text, or a blank line."""
        return self._model.blank_ends if self._blank else (self._boundary,) if self.empty else ()

    def _steered(self, logits: Logits) -> Logits:
        """The logits without the tokens that would end an empty text or line, split a character or copy too much."""
        if self.ended:  # drawn from only because other rows of the batch continue
            return logits
        if self._constraint is not None:
            logits = self._constraint.mask(logits)
        if self.left:
            logits = self._model.healing.mask(logits, self.left)
        fit = without(logits, self.unfit)
        if np.isfinite(fit.max()):
            logits = fit
        if self._characters is not None:
            logits = self._characters.mask(logits, self._decoder.held)
        if self._guard is not None:
            logits, avoided = self._guard.steer(logits, self._tail, self._decoder.held)
            self.completion.unavoidable += not avoided
        return logits

    @property
    def ended(self) -> bool:
        """Whether the text has ended."""
        return self.completion.finish_reason is not None

    def opened(self) -> OpenEnd:
        """The open end of the text as it is now."""
        return OpenEnd(self._tail, self._decoder.held, self._scanner.held, self.sampler.noise(), self.left)

    def ready(self) -> str:
        """Earlier text that has become certain."""
        piece, self._ready = self._ready, ""
        return self._grow(piece)

    def take(self, choice: Choice) -> str:
        """Add a token and return the text that it makes certain; sets `finish_reason` when the text ends. A token that
        only spells what a prompt gave back is not counted."""
        if choice.id == self._boundary and not self._options.ignore_eos:
            return self.end("stop")
        self.empty = False
        before, self.left = self.left, self._model.healing.left(self.left, choice.id) if self.left else b""
        if not before or self._model.healing.adds(before, choice.id):
            self.completion.tokens += 1
            self.completion.choices.append(choice)
        if self._constraint is not None:
            self._constraint.take(choice.id)
        piece = self._scanner.feed(self._read(self._decoder.add(choice.id)))
        if self._scanner.stopped:
            self.completion.finish_reason = "stop"
        elif self._constraint is not None and self._constraint.complete:
            return self._grow(piece) + self.end("stop")
        elif self.completion.tokens == self._options.max_new_tokens:
            self.completion.finish_reason = "length"
            return self._grow(piece) + ("" if self._keep_open else self.end("length"))
        return self._grow(piece)

    def end(self, reason: str) -> str:
        """Release the text held back; ends for this reason, unless the release completes a stop string."""
        self.completion.finish_reason = reason
        rest = self._scanner.feed(self._read(self._model.last_text(self._decoder)))
        if self._scanner.stopped:
            self.completion.finish_reason = "stop"
        return self._grow(rest + self._scanner.finish())

    def _read(self, piece: str) -> str:
        """Remember a piece of text; returns what of it is new, which what a prompt gave back is not."""
        self._tail = (self._tail + piece)[-self._remember :]
        self._blank = self._blank and not piece.strip()
        known = min(self._typed, len(piece))
        self._typed -= known
        return piece[known:]

    def _grow(self, piece: str) -> str:
        self.completion.text += piece
        return piece


def search_rows(
    model: LanguageModel, encoded: list[Ids], rows: list[CompletionBuilder], options: SampleOptions
) -> Iterator[tuple[int, str]]:
    """Search after each prompt and feed the result to its row; yields (row, piece of text). Stop strings apply."""
    boundary = None if options.ignore_eos else model.tokenizer.boundary
    unsampled = (*model.unsampled, model.tokenizer.boundary) if options.ignore_eos else model.unsampled
    for number, (row, ids) in enumerate(zip(rows, encoded, strict=True)):
        healing = model.healing if row.left else None
        best = search(model.stepper, ids, options, boundary, unsampled, model.characters, row.unfit, healing, row.left)
        for choice in best.choices():
            yield number, row.take(choice)
            if row.completion.finish_reason is not None:
                break


def heals(options: SampleOptions) -> bool:
    """Whether a prompt is healed: a constraint is on the text after it, which then begins where it ends."""
    return options.heal and constraint_of(options) is None


def beginning(
    model: LanguageModel, prompt: str | Ids, heal: bool = False, remember: int | None = None
) -> tuple[Ids, OpenEnd]:
    """The ids (T,), T >= 1, that a model reads before it writes, and the open end of a prompt, which is text or ids.

    With `heal`, tokens of the last word may be given back, if there is one before them.
    """
    number, returned = 0, b""
    if isinstance(prompt, str):
        ids, text = model.encode_prompt(prompt), prompt
        if heal:
            number, returned = model.given_back(ids[max(1, len(model.begin)) :].tolist())
    else:
        ids, text = model.framed(prompt), model.tokenizer.decode(prompt)
    tail = text.removesuffix(returned.decode())
    end = OpenEnd(tail[-remember:] if remember else tail, model.decoder(tail).held, given_back=returned)
    return ids[: len(ids) - number], end


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


def stream_rows(
    model: LanguageModel, prompts: Sequence[str], options: SampleOptions, completions: Sequence[Completion]
) -> Iterator[tuple[int, str]]:
    """Write the completions of all prompts together; yields (row, piece of text) as they grow."""
    if options.max_new_tokens == 0:
        for completion in completions:
            completion.finish_reason = "length"
        return
    begun = [beginning(model, prompt, heals(options)) for prompt in prompts]
    encoded = [ids for ids, _ in begun]
    rows = [
        CompletionBuilder(model, completion, options, opened)
        for completion, (_, opened) in zip(completions, begun, strict=True)
    ]
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

    Sampling options are the fields of `textgen.tasks.SampleOptions`. Raises UsageError at once for an invalid one.
    """
    model, prompt = arguments.writer(model), arguments.text("prompt", prompt)
    options = streaming_options(model, sampling)
    completion = Completion(prompt, choose_seed(options))
    pieces = stream_rows(model, [prompt], options, [completion])
    return (piece for _, piece in pieces if piece)


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

    Sampling options are the fields of `textgen.tasks.SampleOptions`: temperature, top_p, max_new_tokens, seed,
    stop, and so on. Raises UsageError for an invalid one.
    """
    model, prompt = arguments.writer(model), arguments.text("prompt", prompt)
    return complete(model, [prompt], sampling_options(model, sampling))[0].text


def constraint_on(model: LanguageModel, options: SampleOptions) -> Constraint | None:
    """The constraint on a text that begins here, if there is one. Raises UsageError for one that cannot be read."""
    found = constraint_of(options)
    return None if found is None else Constraint(model.vocabulary, *found)


def sampling_options(model: LanguageModel, given: Mapping[str, Any]) -> SampleOptions:
    """The given options, completed by the model's defaults. Raises UsageError for an invalid option.

    Tokens of `logit_bias` become ids. `textgen.generation.defaults_beside` says which defaults hold.
    """
    given = {name: plain(value) for name, value in given.items()}
    defaults = defaults_beside(model.defaults, given)
    if isinstance(given.get("stop"), str):
        given = {**given, "stop": [given["stop"]]}
    if isinstance(given.get("json_schema"), Mapping):
        given = {**given, "json_schema": json.dumps(given["json_schema"])}
    options: SampleOptions = from_mapping(SampleOptions, {**defaults, **given})
    check_sampling(options)
    return replace(options, logit_bias=bias_of_ids(options.logit_bias, model.tokenizer))


def streaming_options(model: LanguageModel, given: Mapping[str, Any]) -> SampleOptions:
    """The same for texts that are streamed. Raises UsageError for beam search, too."""
    options = sampling_options(model, given)
    if options.num_beams is not None:
        raise UsageError(
            f"{named('num_beams', options.num_beams)} cannot stream; textgen.generate gives the whole text."
        )
    return options


def choose_seed(options: SampleOptions) -> int:
    """The seed of the options, or a random one where they have none."""
    return secrets.randbits(31) if options.seed is None else options.seed

"""One text in progress: turns tokens into text that never splits a character and never shows a stop string."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from textgen.stepper import Logits
from textgen.writing.sampling import Choice, Sampler, without
from textgen.writing.sampling_settings import SampleOptions

if TYPE_CHECKING:
    from textgen.language_model import LanguageModel


REMEMBERED = 1024
"""Tokens and characters kept for penalties and for finding copies, unless a caller asks for more."""


@dataclass
class Completion:
    """One text written by a model, growing while it is streamed. `finish_reason` is 'stop' or 'length' at its end.

    `unavoidable` counts the tokens that had to copy more of the training text than `max_copy` allows.
    """

    prompt: str
    seed: int
    text: str = ""
    tokens: int = 0
    finish_reason: str | None = None
    choices: list[Choice] = field(default_factory=list)
    unavoidable: int = 0


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
    back because it may begin a stop string, and the state of the noise that tokens are drawn from."""

    tail: str = ""
    bytes: bytes = b""
    text: str = ""
    noise: dict[str, Any] | None = None


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
        self._scanner = StopScanner(options.stop)
        self._tail = completion.prompt if open is None else open.tail
        unsampled = model.unsampled if not options.ignore_eos else (*model.unsampled, self._boundary)
        self._guard = None if options.max_copy is None else model.copy_guard(options.max_copy)
        self.sampler = Sampler(options, completion.seed, unsampled, self._steered)
        self._ready = ""
        if open is not None:
            self._go_on_from(open)
        self.empty = not (self._tail or self._decoder.held or self._scanner.held or model.prompt_end)
        """Whether there is no text yet, not even a prompt: then the boundary is not drawn, so that no text is empty."""

    def _go_on_from(self, open: OpenEnd) -> None:
        self._decoder.restore(open.bytes)
        self._ready = self._scanner.feed(open.text)
        if self._scanner.stopped:
            self.completion.finish_reason = "stop"
        if open.noise is not None:
            self.sampler.restore(open.noise)

    def _steered(self, logits: Logits) -> Logits:
        """The logits without the tokens that would end an empty text, split a character or copy too much."""
        if self.ended:  # drawn from only because other rows of the batch continue
            return logits
        if self.empty:
            logits = without(logits, [self._boundary])
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
        return OpenEnd(self._tail, self._decoder.held, self._scanner.held, self.sampler.noise())

    def ready(self) -> str:
        """Earlier text that has become certain."""
        piece, self._ready = self._ready, ""
        return self._grow(piece)

    def take(self, choice: Choice) -> str:
        """Add a token and return the text that it makes certain; sets `finish_reason` when the text ends."""
        if choice.id == self._boundary and not self._options.ignore_eos:
            return self.end("stop")
        self.empty = False
        self.completion.tokens += 1
        self.completion.choices.append(choice)
        piece = self._scanner.feed(self._read(self._decoder.add(choice.id)))
        if self._scanner.stopped:
            self.completion.finish_reason = "stop"
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
        self._tail = (self._tail + piece)[-self._remember :]
        return piece

    def _grow(self, piece: str) -> str:
        self.completion.text += piece
        return piece

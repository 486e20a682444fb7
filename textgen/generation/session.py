"""Sessions (immutable texts in progress: generate, read on, fork, save, load) and `Streams` (many texts in one batch).

A recurrent model has read a text when it has its state. So a session is that state, the last token (still to be fed)
and the little that sampling and decoding remember. None of it grows with the text, and nothing is ever read again.

`Streams` generates several texts together, a token each at a time: they come and go between time steps, as a
server's users do. All rows share one product with each matrix, so that 64 texts take little more time than a few.
Each has its own options, noise and end, and no text depends on the others.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from textgen import options as arguments
from textgen import storage
from textgen.errors import TextgenError, UsageError
from textgen.generation import SampleOptions
from textgen.generation.generate import (
    REMEMBERED,
    Completion,
    CompletionBuilder,
    OpenEnd,
    StopScanner,
    choose_seed,
    read_on,
    rollout,
    sampling_options,
    streaming_options,
)
from textgen.generation.sampling import Sampler
from textgen.model.stepper import Logits
from textgen.options import from_mapping, named
from textgen.storage import filesystem
from textgen.storage.outputs import STATE, STATE_FORMAT

if TYPE_CHECKING:
    from textgen.generation.language_model import LanguageModel

MOST_REMEMBERED = 1 << 23
FORMAT_VERSION = 1
_HEADER_LIMIT = 1 << 20
_FIELDS: dict[str, Any] = {"format": str, "version": int, "model": str, "pending": int, "seed": int, "remember": int,
                           "bytes": str, "text": str, "noise": dict | None}  # fmt: skip


@dataclass(frozen=True)
class Session:
    """What a model needs to continue a text. A value: every method returns a new session and leaves this one unchanged.

    `state` is the model's state before `pending`, the last token; `seed` is the seed of the noise.

    Example:
        >>> session = Session.begin(model, "Once upon", seed=1)                # doctest: +SKIP
        >>> text, after = session.write(max_new_tokens=100)                    # doctest: +SKIP
        >>> another, _ = session.fork(seed=2).write(max_new_tokens=100)        # doctest: +SKIP
        >>> after.save("here.state")                                           # doctest: +SKIP
    """

    model: LanguageModel
    state: Any
    pending: int
    seed: int
    recent: tuple[int, ...]
    open: OpenEnd
    remember: int = REMEMBERED

    @classmethod
    def begin(
        cls, model: LanguageModel, prompt: str = "", seed: int | None = None, remember: int = REMEMBERED
    ) -> Session:
        """A session that has read a prompt; without a seed it takes a random one.

        `remember` is how many tokens and characters to keep: at least as many as `repeat_last_n` and `max_copy` need.
        """
        model, prompt = arguments.writer(model), arguments.text("prompt", prompt)
        remember = arguments.whole_number("remember", remember, 1, MOST_REMEMBERED)
        chosen = _seed(seed)
        beginning = OpenEnd(prompt[-remember:], model.decoder(prompt).held)
        ids = model.encode_prompt(prompt).tolist()
        blank = cls(model, model.stepper.initial_state(1), ids[0], chosen, (ids[0],), beginning, remember)
        return blank._fed(ids[1:])

    def _fed(self, ids: list[int]) -> Session:
        """The session after these tokens, too."""
        fed = [self.pending, *ids]
        state = read_on(self.model.stepper, np.array([fed[:-1]], dtype=np.int32), self.state)
        return replace(self, state=state, pending=fed[-1], recent=(*self.recent, *ids)[-self.remember :])

    @property
    def rest(self) -> str:
        """Text that is written but not passed on, since it may become part of a stop string. If the model learned raw
        bytes, an incomplete character counts too."""
        return self.open.text + self._begun()

    def _begun(self) -> str:
        decoder = self.model.tokenizer.decoder()
        decoder.restore(self.open.bytes)
        return self.model.last_text(decoder)

    def read(self, text: str) -> Session:
        """The session after a text that someone else wrote; `rest` becomes part of the text before it."""
        text = arguments.text("text", text)
        if not text:
            return self
        tokenizer = self.model.tokenizer
        tail = (self.open.tail + self._begun() + text)[-self.remember :]
        opened = OpenEnd(tail, tokenizer.decoder(text).held, "", self.open.noise)
        return replace(self, open=opened)._fed(tokenizer.model_ids(tokenizer.encode(text)).tolist())

    def ask(self, prompt: str) -> Session:
        """The session after a new prompt alone, for a model that completes prompts; only the noise continues."""
        asked = Session.begin(self.model, prompt, self.seed, self.remember)
        return replace(asked, open=replace(asked.open, noise=self.open.noise))

    def fork(self, seed: int | None = None) -> Session:
        """The same place with other noise: what follows it is independent of what follows here."""
        return replace(self, seed=_seed(seed), open=replace(self.open, noise=None))

    def pieces(
        self, options: SampleOptions, completion: Completion, keep_open: bool = True
    ) -> Iterator[tuple[str, Session]]:
        """Continue: each token's piece of text and the session after it. Stop iterating at any time.

        Without `keep_open`, the end releases all text that is held back, as the end of a text does.
        """
        if options.num_beams is not None:
            raise UsageError(f"{named('num_beams', options.num_beams)} starts from a prompt, not from a state.")
        row = CompletionBuilder(self.model, completion, options, self.open, keep_open, self.remember)
        row.sampler.see(self.recent)
        if completion.finish_reason is not None or options.max_new_tokens == 0:
            completion.finish_reason = completion.finish_reason or "length"
            piece = row.ready() if keep_open or completion.finish_reason == "stop" else row.ready() + row.end("length")
            yield piece, replace(self, open=row.opened())
            return
        recent, prompt = self.recent, np.array([self.pending], dtype=np.int32)
        for (choice,), state in rollout(self.model.stepper, [prompt], [row.sampler], self.state):
            assert choice is not None
            piece = row.ready() + row.take(choice)
            recent = (*recent, choice.id)[-self.remember :]
            opened = row.opened()
            yield piece, replace(self, state=state, pending=choice.id, recent=recent, open=opened)
            if row.ended:
                return

    def stream(self, **sampling: Any) -> Iterator[tuple[str, Session]]:
        """`pieces` for sampling options by name (`textgen.generation.SampleOptions`); a seed forks."""
        options = sampling_options(self.model, sampling)
        start = self.fork(sampling["seed"]) if sampling.get("seed") is not None else self
        return start.pieces(options, Completion("", start.seed))

    def write(self, **sampling: Any) -> tuple[str, Session]:
        """The text that comes next, and the session after it. The options are those of `stream`."""
        text, session = "", self
        for piece, after in self.stream(**sampling):
            text, session = text + piece, after
        return text, session

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the session to a file, whole or not at all."""
        filesystem.write_output(arguments.path("path", path), self.to_bytes())

    def to_bytes(self) -> bytes:
        """The content of a state file: safetensors with a digest of everything in it."""
        from safetensors.numpy import save

        arrays = self.model.stepper.arrays(self.state)
        tensors: dict[str, npt.NDArray[Any]] = {f"state.{k}": np.ascontiguousarray(a) for k, a in enumerate(arrays)}
        tensors["recent"] = np.array(self.recent, dtype=np.int32)
        tensors["tail"] = np.frombuffer(self.open.tail.encode(), dtype=np.uint8)
        about = {
            "format": STATE_FORMAT, "version": FORMAT_VERSION, "model": self.model.digest, "pending": self.pending,
            "seed": self.seed, "remember": self.remember, "bytes": self.open.bytes.hex(), "text": self.open.text,
            "noise": self.open.noise,
        }  # fmt: skip
        digest = hashlib.sha256(json.dumps(about).encode() + save(tensors)).hexdigest()
        content: bytes = save(tensors, {"about": json.dumps({**about, "sha256": digest})})  # one key: order varies
        return content

    @classmethod
    def load(cls, model: LanguageModel, path: str | os.PathLike[str]) -> Session:
        """The session in a file. Raises TextgenError for a file of another model and for a damaged one."""
        model, path = arguments.writer(model), arguments.path("path", path)
        room = sum(array.nbytes for array in model.stepper.arrays(model.stepper.initial_state(1)))
        with storage.opened(path, sys.maxsize) as file:  # whose beginning says what it is, however long it is
            content = file.read(room + 8 * MOST_REMEMBERED + _HEADER_LIMIT + 1)
        try:
            return cls._from_bytes(model, content, str(path))
        except storage.DamagedError:
            raise
        except _OtherModelError as error:
            raise TextgenError(f"{path} {error}", hint=error.hint) from None
        except TextgenError as error:
            raise storage.DamagedError(f"{path} is damaged: {error}") from None
        except ValueError:  # bytes that are not UTF-8
            raise storage.DamagedError(f"{path} is damaged: text in it is not UTF-8.") from None

    @classmethod
    def _from_bytes(cls, model: LanguageModel, content: bytes, name: str) -> Session:
        about = _about(content, name)
        if about["model"] != model.digest:
            raise _OtherModelError(
                "was saved by another model.", hint=f"{named('model')} takes the folder of that one."
            )
        tensors = _tensors(content)
        recent, tail = tensors.pop("recent"), tensors.pop("tail")
        state = model.stepper.from_arrays([tensors[f"state.{k}"] for k in range(len(tensors))])
        opened = OpenEnd(tail.tobytes().decode(), bytes.fromhex(about["bytes"]), about["text"], about["noise"])
        ids = tuple(recent.tolist())
        session = cls(model, state, about["pending"], about["seed"], ids, opened, about["remember"])
        session._check()
        if session.to_bytes() != content:
            raise TextgenError("its content does not match its SHA-256.")
        return session

    def _check(self) -> None:
        """Raise TextgenError for values that no session has."""
        if not all(0 <= id < self.model.config.vocab_size for id in (self.pending, *self.recent)):
            raise TextgenError("it names tokens that do not exist.")
        if not 1 <= self.remember <= MOST_REMEMBERED or not 0 <= self.seed < 2**64:
            raise TextgenError("its numbers are out of range.")
        arrays = self.model.stepper.arrays(self.state)
        if any(np.isnan(array).any() for array in arrays):
            raise TextgenError("its state contains NaN.")
        self._begun()
        StopScanner([]).feed(self.open.text)
        if self.open.noise is not None:
            Sampler(SampleOptions(), 0).restore(self.open.noise)


def _seed(seed: int | None) -> int:
    """The given seed, or a random one. Raises UsageError for an invalid one."""
    return choose_seed(from_mapping(SampleOptions, {"seed": seed}))


class _OtherModelError(TextgenError):
    """The file is intact, but does not belong to this model."""


def _about(content: bytes, name: str) -> dict[str, Any]:
    """What a state file says of itself. Raises TextgenError or DamagedError."""
    if not STATE.matches(content):
        raise _OtherModelError("is not a saved state.", hint="textgen sample --save-state FILE saves one.")
    size = int.from_bytes(content[:8], "little")
    if not 2 <= size <= min(_HEADER_LIMIT, len(content) - 8):
        raise TextgenError("its header is incomplete.")
    metadata = storage.parse_json(content[8 : 8 + size], name).get("__metadata__")
    stored = metadata.get("about") if isinstance(metadata, dict) else None
    about = storage.parse_json(stored.encode("utf-8", "replace"), name) if isinstance(stored, str) else {}
    if type(about.get("version")) is int and about["version"] > FORMAT_VERSION:
        raise _OtherModelError(f"has format {about['version']}; this textgen reads up to {FORMAT_VERSION}.")
    for field, kind in _FIELDS.items():
        if not isinstance(about.get(field), kind) or isinstance(about.get(field), bool):
            raise TextgenError(f"it does not say {field!r}.")
    return about


def _tensors(content: bytes) -> dict[str, npt.NDArray[Any]]:
    import safetensors
    from safetensors.numpy import load

    try:
        tensors: dict[str, npt.NDArray[Any]] = load(content)
    except (safetensors.SafetensorError, KeyError, ValueError, TypeError, AttributeError) as error:
        raise TextgenError(f"{error}.") from None
    names = {"recent", "tail", *(f"state.{k}" for k in range(len(tensors) - 2))}
    if names != set(tensors) or tensors["recent"].dtype != np.int32 or tensors["tail"].dtype != np.uint8:
        raise TextgenError("it does not hold the tensors of a state.")
    return tensors


@dataclass(frozen=True)
class Piece:
    """What a time step added to one text, perhaps nothing; `finish_reason` is 'stop' or 'length' at its end."""

    key: int
    text: str
    finish_reason: str | None


@dataclass
class _Text:
    row: CompletionBuilder
    next: int
    state: Any
    """Its state, until it has a row in the shared one."""


class Streams:
    """Texts in progress. With `exact`, each is bit for bit what `textgen.generate` returns, which is slower. Otherwise
    the number of other texts may decide between two tokens whose probabilities agree to four digits.

    Example:
        >>> streams = Streams(textgen.load("runs/demo"))                       # doctest: +SKIP
        >>> key = streams.add("Once", max_new_tokens=100, seed=1)              # doctest: +SKIP
        >>> while len(streams):                                                # doctest: +SKIP
        ...     for piece in streams.step():
        ...         show(piece.key, piece.text)
    """

    def __init__(self, model: LanguageModel, exact: bool = False) -> None:
        self._model, self._exact = arguments.writer(model), arguments.boolean("exact", exact)
        self._texts: dict[int, _Text] = {}
        self._rows: list[int] = []
        self._state: Any = None
        self._added = 0

    def __len__(self) -> int:
        """The number of texts in progress."""
        return len(self._texts)

    def add(self, prompt: str = "", **sampling: Any) -> int:
        """Read a prompt, which the next step begins to continue; returns the text's key.

        Sampling options are those of `textgen.generate`. Raises UsageError for an invalid one.
        """
        prompt = arguments.text("prompt", prompt)
        options = streaming_options(self._model, sampling)
        ids, stepper = self._model.encode_prompt(prompt), self._model.stepper
        row = CompletionBuilder(self._model, Completion(prompt, choose_seed(options)), options)
        row.sampler.see(ids.tolist())
        if options.max_new_tokens == 0:
            row.completion.finish_reason = "length"
        state = read_on(stepper, ids[None, :-1], stepper.initial_state(1))
        key, self._added = self._added, self._added + 1
        self._texts[key] = _Text(row, int(ids[-1]), state)
        return key

    def remove(self, key: int) -> None:
        """Drop a text. Raises KeyError for one that is not in progress."""
        del self._texts[key]

    def completion(self, key: int) -> Completion:
        """A text in progress, as it is now. Raises KeyError for any other."""
        return self._texts[key].row.completion

    def step(self) -> list[Piece]:
        """Generate one token of every text; returns what each gained, in the order in which they were added.

        A text that has ended leaves.
        """
        going = {key: text for key, text in self._texts.items() if not text.row.ended}
        gained = dict.fromkeys(self._texts, "")
        if going:
            for (key, text), logits in zip(going.items(), self._logits(going), strict=True):
                choice = text.row.sampler.choose(logits)
                text.next = choice.id
                gained[key] = text.row.take(choice)
        pieces = [Piece(key, gained[key], text.row.completion.finish_reason) for key, text in self._texts.items()]
        self._texts = {key: text for key, text in self._texts.items() if not text.row.ended}
        return pieces

    def _logits(self, texts: dict[int, _Text]) -> Iterator[Logits]:
        """Advance these texts by one step; the logits (V,) of the next token of each."""
        stepper = self._model.stepper
        if self._exact:
            for text in texts.values():
                logits, text.state = stepper.step(np.array([text.next], dtype=np.int32), text.state)
                yield logits[0]
            return
        self._gather(texts)
        ids = np.array([text.next for text in texts.values()], dtype=np.int32)
        logits, self._state = stepper.step(ids, self._state)
        yield from logits

    def _gather(self, texts: dict[int, _Text]) -> None:
        """Make the shared state hold one row for each of these texts, in order, and no others."""
        stepper = self._model.stepper
        stay = [place for place, key in enumerate(self._rows) if key in texts]
        states = [texts[key].state for key in texts if key not in self._rows]
        if stay:
            state = self._state
            states.insert(0, state if len(stay) == len(self._rows) else stepper.select(state, np.array(stay, np.intp)))
        self._state = states[0] if len(states) == 1 else stepper.concat(states)
        self._rows = list(texts)

"""Sessions: immutable texts in progress. Generate, read on, fork, save, load.

A recurrent model has read a text when it has its state. So a session is that state, the last token (still to be fed)
and the little that sampling and decoding remember. None of it grows with the text, and nothing is ever read again.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from textgen import options as arguments
from textgen import storage
from textgen.data.tokenizers.base import Ids
from textgen.errors import TextgenError, UsageError
from textgen.generation import SampleOptions
from textgen.generation.generate import (
    REMEMBERED,
    Completion,
    CompletionBuilder,
    OpenEnd,
    StopScanner,
    beginning,
    choose_seed,
    heals,
    read_on,
    rollout,
    sampling_options,
)
from textgen.generation.sampling import Sampler
from textgen.options import from_mapping, named
from textgen.storage import filesystem
from textgen.storage.outputs import STATE, STATE_FORMAT

if TYPE_CHECKING:
    from textgen.generation.language_model import LanguageModel

MOST_REMEMBERED = 1 << 23
FORMAT_VERSION, GIVING_BACK = 1, 2
"""The version of most files, and of those with bytes that are given back."""
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
        cls,
        model: LanguageModel,
        prompt: str = "",
        seed: int | None = None,
        remember: int = REMEMBERED,
        heal: bool = True,
    ) -> Session:
        """A session that has read a prompt; without a seed it takes a random one.

        `remember` is how many tokens and characters to keep: at least as many as `repeat_last_n` and `max_copy` need.
        With `heal`, as in `generate`, the last word is left unread, so that the text may finish it.
        """
        session, ids = cls.unread(model, prompt, seed, remember, heal)
        return session._fed(ids)

    @classmethod
    def unread(
        cls,
        model: LanguageModel,
        prompt: str | Ids = "",
        seed: int | None = None,
        remember: int = REMEMBERED,
        heal: bool = True,
    ) -> tuple[Session, list[int]]:
        """What `begin` returns, before it has read anything but its first token, and the tokens left to read. The
        prompt may be text or token ids (T,)."""
        model = arguments.writer(model)
        remember = arguments.whole_number("remember", remember, 1, MOST_REMEMBERED)
        chosen = _seed(seed)
        prompt = prompt if isinstance(prompt, np.ndarray) else arguments.text("prompt", prompt)
        read, opened = beginning(model, prompt, heal, remember)
        first, *rest = read.tolist()
        return cls(model, model.stepper.initial_state(1), first, chosen, (first,), opened, remember), rest

    def _fed(self, ids: list[int]) -> Session:
        """The session after these tokens, too."""
        if not ids:
            return self
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

    def read(self, text: str, heal: bool = True) -> Session:
        """The session after a text that someone else wrote; `rest` becomes part of the text before it. With `heal` its
        last word is left unread; without, what was given back is read, too."""
        session, ids = self.reading(text, heal)
        return session._fed(ids)

    def reading(self, text: str | Ids, heal: bool = True) -> tuple[Session, list[int]]:
        """What `read` returns, before it has read the text, and its tokens; the text may also be token ids (T,)."""
        tokenizer, unread = self.model.tokenizer, self.open.given_back.decode("utf-8", "replace")
        number, returned = 0, b""
        if isinstance(text, np.ndarray):
            ids, read = [*tokenizer.encode(unread).tolist(), *text.tolist()], unread + tokenizer.decode(text)
        else:
            read = unread + arguments.text("text", text)
            ids = tokenizer.model_ids(tokenizer.encode(read)).tolist() if text or not heal else []
            if heal:
                number, returned = self.model.given_back(ids)
        if not ids:
            return self, []
        tail = (self.open.tail + self._begun() + read.removesuffix(returned.decode()))[-self.remember :]
        opened = OpenEnd(tail, tokenizer.decoder(read).held, "", self.open.noise, returned)
        return replace(self, open=opened), ids[: len(ids) - number]

    def ask(self, prompt: str) -> Session:
        """The session after a new prompt alone, for a model that completes prompts; only the noise continues."""
        session, ids = self.asking(prompt)
        return session._fed(ids)

    def asking(self, prompt: str | Ids) -> tuple[Session, list[int]]:
        """What `ask` returns, before it has read the prompt, and the tokens left to read."""
        asked, ids = Session.unread(self.model, prompt, self.seed, self.remember)
        return replace(asked, open=replace(asked.open, noise=self.open.noise)), ids

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
        if self.open.given_back and not heals(options):
            yield from self.read("", heal=False).pieces(options, completion, keep_open)
            return
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
        if self.open.given_back:
            about |= {"version": GIVING_BACK, "given_back": self.open.given_back.hex()}
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
        return cls.from_bytes(model, content, str(path))

    @classmethod
    def from_bytes(cls, model: LanguageModel, content: bytes, name: str) -> Session:
        """The session in the content of a state file, called `name` in messages. Raises as `load`."""
        with _named_damage(name):
            return cls._from_bytes(model, content, name)

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
        returned = bytes.fromhex(about["given_back"]) if about["version"] == GIVING_BACK else b""
        opened = OpenEnd(
            tail.tobytes().decode(), bytes.fromhex(about["bytes"]), about["text"], about["noise"], returned
        )
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
        if returned := self.open.given_back:
            if not self.model.healing.fitting(returned).any():
                raise TextgenError("no token of the model spells what it gives back.")
            (self.open.bytes + returned).decode()
        StopScanner([]).feed(self.open.text)
        if self.open.noise is not None:
            Sampler(SampleOptions(), 0).restore(self.open.noise)


@contextmanager
def _named_damage(name: str) -> Iterator[None]:
    """Name the state file in what is raised inside."""
    try:
        yield
    except storage.DamagedError:
        raise
    except _OtherModelError as error:
        raise TextgenError(f"{name} {error}", hint=error.hint) from None
    except TextgenError as error:
        raise storage.DamagedError(f"{name} is damaged: {error}") from None
    except ValueError:  # bytes that are not UTF-8
        raise storage.DamagedError(f"{name} is damaged: text in it is not UTF-8.") from None


def model_of_state(content: bytes, name: str) -> str:
    """The digest of the model that a state file says it belongs to. Raises TextgenError, naming the file."""
    with _named_damage(name):
        return str(_about(content, name)["model"])


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
    if type(about.get("version")) is int and about["version"] > GIVING_BACK:
        raise _OtherModelError(f"has format {about['version']}; this textgen reads up to {GIVING_BACK}.")
    for field, kind in {**_FIELDS, **({"given_back": str} if about.get("version") == GIVING_BACK else {})}.items():
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

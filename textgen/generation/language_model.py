"""A trained language model: what `textgen.load` returns and `generate`, `stream` and `evaluate` take."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from textgen import options, storage
from textgen.data import SIZED
from textgen.data.recipes import TRAIN
from textgen.data.store import TokenStore, tokenizer_of
from textgen.data.tokenizers.base import Ids, TextDecoder, Tokenizer
from textgen.errors import TextgenError, require
from textgen.generation.constraints import Vocabulary
from textgen.generation.copies import CopyGuard, CopyIndex, index_of
from textgen.generation.healing import Healing
from textgen.generation.sampling import CharacterGuard, character_guard
from textgen.model import BACKENDS, CARD, GENERATION, STEP, ModelConfig, read_config, require_model, require_weights
from textgen.model.stepper import TokenStepper
from textgen.options import named

if TYPE_CHECKING:
    from textgen.runtime import NumpyStepper

_NO_PART = (CARD, "training_args.json")
"""Files of a model folder that do not affect its predictions."""
_BLANK_END = re.compile(rb"\s*?[\r\n]")
MOST_BEGIN = 1024
"""The most tokens that may frame every prompt; the model reads them before it writes the first one."""
FEW_DOCUMENTS = 10
"""With fewer training documents than this, a model has hardly seen one end, so it never draws the boundary."""
SUBWORD_SAMPLING = {"temperature": 0.7, "min_p": 0.1}
"""Defaults for large vocabularies, in which the many unlikely tokens together spoil a text: cut the tail, sharpen the
rest. A min-p of 0.02 invents four times as many words (`benchmarks/sample_quality.txt`)."""


@dataclass(frozen=True)
class LanguageModel:
    """A tokenizer and a stepper, with the generation config that was stored with them.

    `begin` are the ids before every prompt, `prompt_end` those after it (in a model that completes prompts),
    `unsampled` those never drawn, `defaults` the sampling options of `generation_config.json`. `digest` is the SHA-256,
    in hexadecimal, of the folder's weights, configuration and tokenizer; it is empty for a model that is in no folder,
    whose `folder` is None. A model with `raw_bytes` has learned from bytes that are not UTF-8 and may write such bytes;
    all others write only text.
    """

    config: ModelConfig
    tokenizer: Tokenizer
    stepper: TokenStepper
    begin: tuple[int, ...] = ()
    unsampled: tuple[int, ...] = ()
    defaults: dict[str, Any] = field(default_factory=dict)
    digest: str = ""
    folder: Path | None = None
    prompt_end: tuple[int, ...] = ()
    raw_bytes: bool = False
    training_ids: Callable[[], npt.NDArray[np.integer]] | None = field(default=None, repr=False, compare=False)
    """Reads the ids of the training text, a boundary before each document; raises TextgenError if they are gone."""

    @cached_property
    def characters(self) -> CharacterGuard | None:
        """Keeps the model to valid text; None where every token is valid anyway, or the model learned raw bytes."""
        if self.raw_bytes:
            return None
        return character_guard(self.tokenizer, frozenset(self.unsampled), self.config.vocab_size)

    @cached_property
    def vocabulary(self) -> Vocabulary:
        """The tokens for constraints. Raises TextgenError without llguidance."""
        return Vocabulary(self.tokenizer, frozenset(self.unsampled), self.config.vocab_size)

    @cached_property
    def healing(self) -> Healing:
        """Makes a text begin with the token that a prompt gave back."""
        return Healing(self.tokenizer, frozenset(self.unsampled), self.config.vocab_size)

    def given_back(self, ids: Sequence[int]) -> tuple[int, bytes]:
        """How many tokens of the last word of a prompt the text may replace, and their bytes; none if this model
        completes prompts."""
        return (0, b"") if self.prompt_end else self.healing.given_back(ids)

    @cached_property
    def blank_ends(self) -> tuple[int, ...]:
        """The tokens that end a line which is still blank: the boundary, and those with a line end after white space at
        most."""
        ends = (id for id, token in enumerate(self.tokenizer.token_bytes) if _BLANK_END.match(token))
        return (*ends, self.tokenizer.boundary)

    def last_text(self, decoder: TextDecoder) -> str:
        """The last text of a decoder: an incomplete character is dropped, or becomes U+FFFD if the model learned raw
        bytes. Resets the decoder."""
        rest = decoder.finish()
        return rest if self.raw_bytes else ""

    @cached_property
    def training_text(self) -> CopyIndex:
        """The text that the model learned from, ready to be searched. Raises TextgenError if it is not known or is
        gone."""
        if self.training_ids is None:
            raise TextgenError(
                "the training text of this model is not known.", hint="textgen.load finds that of a run folder."
            )
        return index_of(self.tokenizer, self.training_ids())

    def copy_guard(self, limit: int) -> CopyGuard:
        """Keeps a text from copying more than `limit` characters in a row. Raises as `training_text` does."""
        return CopyGuard(self.training_text, self.tokenizer, limit)

    def encode_prompt(self, prompt: str) -> Ids:
        """The ids (T,), T >= 1, that the model reads before it writes: the prompt's, framed."""
        return self.framed(self.tokenizer.model_ids(self.tokenizer.encode(prompt)))

    def framed(self, ids: Ids) -> Ids:
        """The ids of a prompt (T,) with those that this model reads before and after it; at least one."""
        whole = np.array([*self.begin, *ids.tolist(), *self.prompt_end], dtype=np.int32)
        return whole if len(whole) else np.array([self.tokenizer.boundary], dtype=np.int32)

    def decoder(self, prompt: str) -> TextDecoder:
        """A decoder for the tokens after a prompt. A completion starts afresh, whatever its prompt ends in."""
        return self.tokenizer.decoder("" if self.prompt_end else prompt)

    def in_context(self, encoded: Ids) -> Ids:
        """Ids of documents, each after a boundary, as this model reads them: with `begin` instead of the boundary."""
        ids = self.tokenizer.model_ids(encoded)
        return in_context(ids, self.tokenizer.boundary, self.begin)

    def unknown_characters(self, prompt: str) -> list[str]:
        """The characters of a prompt (words, for a word tokenizer) that the model never saw, each once, in order."""
        encode, unseen = self.tokenizer.encode, set(self.unsampled) | {self.tokenizer.boundary}
        units = dict.fromkeys(self.tokenizer.units(prompt))
        return [unit for unit in units if self.tokenizer.raw_count(encode(unit)) or unseen & set(encode(unit))]


def in_context(ids: Ids, boundary: int, begin: Sequence[int]) -> Ids:
    """The ids with every boundary replaced by the token that begins a text for this model."""
    return np.where(ids == boundary, begin[-1], ids) if begin else ids


def generation_config(store: TokenStore) -> dict[str, Any]:
    """The content of generation_config.json for a corpus: how a text begins, which tokens never occurred in it, and the
    defaults of sampling."""
    tokenizer, counts = store.tokenizer, store.frequencies
    many = store.lines or store.about["documents"][TRAIN] >= FEW_DOCUMENTS
    subword = SUBWORD_SAMPLING if tokenizer.kind in SIZED else {}
    unseen = {int(i) for i in np.flatnonzero(counts == 0)} | set(tokenizer.unsampled)
    return {
        "begin": [tokenizer.boundary],
        "suppress_tokens": sorted(unseen - {tokenizer.boundary} if many else unseen | {tokenizer.boundary}),
        "sampling": {**subword, "lines": True} if store.lines else subword,
        "raw_bytes": not store.holds_text,
    }


def load(folder: str | os.PathLike[str], backend: str = "auto") -> LanguageModel:
    """Open a model folder. Runs no code from it.

    `backend` 'numpy' runs the step stored in the folder, without torch and the cell's plugin; 'torch' builds the model
    from its cell, which must be installed; 'int8' runs the stored step with 8-bit weights, by onnxruntime; 'auto' runs
    the stored step as it is, where there is one. Raises TextgenError for a missing or damaged folder, naming the file,
    and for a missing package or cell.

    Example:
        >>> model = load("runs/demo")                                          # doctest: +SKIP
        >>> textgen.generate(model, "Once", max_new_tokens=20, seed=1)         # doctest: +SKIP
    """
    path = options.path("folder", folder)
    manifest, config = opened(path, backend)
    if config.outputs:  # outputs of its own instead of tokens
        raise TextgenError(f"the model in {str(path)!r} does not write: it is one for {named('task', config.task)}.",
                           hint=f"textgen predict -m {path} uses it.")  # fmt: skip
    stored = storage.verified(path, GENERATION, manifest, storage.JSON_LIMIT)
    generation = storage.parse_json(stored, str(path / GENERATION))
    tokenizer = tokenizer_for(path, config, generation.get("prompt_end", ()))
    model = with_generation_config(config, tokenizer, stepper_of(path, manifest, config, backend), generation)
    return replace(model, digest=digest_of(manifest), folder=path)


def opened(path: Path, backend: str) -> tuple[dict[str, Any], ModelConfig]:
    """The manifest and the configuration of a model folder. Raises TextgenError, and UsageError for a backend that
    does not exist."""
    options.choice("backend", backend, BACKENDS)
    require_model(path)
    manifest = storage.read_manifest(path)
    return manifest, read_config(path, manifest)


def tokenizer_for(path: Path, config: ModelConfig, more: object = ()) -> Tokenizer:
    """The tokenizer of a model folder; `more` are the model's tokens after the tokenizer's own. Raises DamagedError if
    the two do not add up to the model's vocabulary."""
    tokenizer = tokenizer_of(path)
    known = tokenizer.vocab_size
    own = list(more) if isinstance(more, (list, tuple)) else [None]
    if own != list(range(known, known + len(own))) or config.vocab_size != known + len(own):
        beside = f" and {GENERATION} ends a prompt with {str(more)[:80]}" if more else ""
        raise storage.DamagedError(
            f"{str(path)!r} is damaged: its tokenizer has {known:,} tokens{beside}, its model {config.vocab_size:,}."
        )
    return tokenizer


def stepper_of(path: Path, manifest: Mapping[str, Any], config: ModelConfig, backend: str) -> TokenStepper:
    """Runs the model of a folder: by its stored step, or by torch. Raises TextgenError if the backend cannot."""
    stored = stored_stepper(path, manifest, config, backend)
    if stored is not None:
        return stored
    from textgen.model.weights import TorchStepper, load_weights

    return TorchStepper(load_weights(path, manifest, config))


def stored_stepper(path: Path, manifest: Mapping[str, Any], config: ModelConfig, backend: str) -> NumpyStepper | None:
    """Runs the stored step of a model folder; None where torch, which is then installed, is to run the model. Raises
    TextgenError if the backend cannot."""
    require_weights(path, manifest)
    stored = STEP in manifest["files"]
    if backend == "torch" or (backend == "auto" and not stored):
        require("torch", "running a model without its stored step")
        return None
    if not stored:
        raise TextgenError(
            f"{str(path)!r} holds no {STEP}, without which {backend} cannot run it.",
            hint=f"{named('backend', 'torch')} runs every model whose cell is installed.",
        )
    from textgen.runtime import read_stepper

    return read_stepper(path, manifest, config, backend)


def digest_of(manifest: Mapping[str, Any]) -> str:
    """A SHA-256 over the files that determine a model's predictions."""
    entries = {name: entry["sha256"] for name, entry in manifest["files"].items() if name not in _NO_PART}
    return hashlib.sha256(json.dumps(entries, sort_keys=True).encode()).hexdigest()


def with_generation_config(
    config: ModelConfig, tokenizer: Tokenizer, stepper: TokenStepper, generation: dict[str, Any]
) -> LanguageModel:
    """A language model with the content of generation_config.json applied. Raises DamagedError for invalid values."""
    begin, unsampled = generation.get("begin", []), generation.get("suppress_tokens", [])
    prompt_end = generation.get("prompt_end", [])
    for ids in (begin, unsampled, prompt_end):
        if not isinstance(ids, list) or not all(type(i) is int and 0 <= i < config.vocab_size for i in ids):
            raise storage.DamagedError("generation_config.json is damaged: it names tokens that do not exist.")
    if len(begin) + len(prompt_end) > MOST_BEGIN:
        beside = len(begin) + len(prompt_end)
        raise storage.DamagedError(f"generation_config.json is damaged: a text begins with {beside:,} tokens.")
    unsampled = [*unsampled, *(id for id in prompt_end if id not in unsampled)]
    if {*unsampled, tokenizer.boundary}.issuperset(range(config.vocab_size)):
        raise storage.DamagedError("generation_config.json is damaged: it leaves no token to write.")
    defaults = generation.get("sampling", {})
    if not isinstance(defaults, dict):
        raise storage.DamagedError("generation_config.json is damaged: 'sampling' must be a table.")
    raw_bytes = generation.get("raw_bytes", False)
    if type(raw_bytes) is not bool:
        raise storage.DamagedError("generation_config.json is damaged: 'raw_bytes' must be true or false.")
    return LanguageModel(
        config, tokenizer, stepper, tuple(begin), tuple(unsampled), defaults, prompt_end=tuple(prompt_end),
        raw_bytes=raw_bytes,
    )  # fmt: skip

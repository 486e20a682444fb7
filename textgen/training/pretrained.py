"""Start from a trained model: choose one, take its sizes and its tokenizer, and copy its weights."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from textgen import cells, plugins, storage
from textgen.data import SIZED, TokenizerOptions
from textgen.data.corpus import beginning
from textgen.data.recipes import Progress
from textgen.data.store import no_progress, tokenizer_of
from textgen.data.tokenizers.base import Tokenizer
from textgen.errors import TextgenError, UsageError
from textgen.evaluation import evaluate
from textgen.generation.language_model import load
from textgen.model import ModelConfig, find_model, read_config, require_model
from textgen.model.ensemble import MEMBER
from textgen.model.stack import Model
from textgen.model.weights import load_weights, model_tensors
from textgen.options import named
from textgen.tasks import LANGUAGE, TrainOptions
from textgen.tasks.language.data import is_tokenized
from textgen.tasks.language.options import LanguageOptions

NONE = "none"
"""Given as the model to start from: start from new weights, whatever is installed."""

SAMPLE_BYTES = 6_000
"""How much of the beginning of a corpus a base reads to see whether it knows such text."""

FITTING = 4.0
"""A base is used for texts that it predicts with at most so many bits per byte before any training. For base-en, prose
is at 1.3 to 2.9, modern titles are at 3.9, Python at 4.1, Swedish at 5.9 and names at 6.3."""

INHERITED = ("hidden_size", "embedding_size", "num_layers", "residual", "layer_norm")
"""Options that a run takes from the model it starts from."""


@dataclass(frozen=True)
class Choice:
    """An installed base chosen for a text, and how many bits per byte it needs for it before any training."""

    name: str
    bits_per_byte: float

    def __str__(self) -> str:
        instead = f"{named('init_from', NONE)} starts from new weights"
        return f"{self.name}, which predicts this text at {self.bits_per_byte:.2f} bits per byte; {instead}"


def choose(
    paths: Sequence[str], options: TrainOptions, progress: Progress = no_progress
) -> tuple[Choice | None, list[str]]:
    """The installed base that a plan for a time starts from, and warnings about bases that do not work.

    There is one if no option says otherwise, and if it predicts the beginning of the text well.
    """
    if not plugins.base_names() or not isinstance(options, LanguageOptions) or not _is_open(options):
        return None, []
    if is_tokenized(paths):
        return None, []
    text = beginning(paths, options, SAMPLE_BYTES, progress)
    found: list[Choice] = []
    warnings: list[str] = []
    for name in plugins.base_names() if text else ():
        try:
            found.append(Choice(name, _bits_per_byte(folder_of(name), options.cell, text)))
        except TextgenError as error:
            warnings.append(f"{name} is not used: {error}")
    best = min(found, key=lambda choice: choice.bits_per_byte, default=None)
    return best if best and best.bits_per_byte <= FITTING else None, warnings


def _is_open(options: TrainOptions) -> bool:
    """Whether only the corpus and a time were given, and nothing that a base would decide."""
    decided = (*INHERITED, "tie_weights", "size", "init_from", "epochs", "max_steps", "tokenizer", "vocab_size")
    return not (options.cell_options or getattr(options, "stream", False)) and all(
        getattr(options, name) is None for name in decided
    )


def _bits_per_byte(folder: Path, cell: str, text: bytes) -> float:
    """How well a base predicts a text; infinite if it is not a language model of the cell that was asked for."""
    config = read_config(folder)
    fits = config.cell == cell and config.task in (None, LANGUAGE)
    return evaluate(load(folder), text).bits_per_byte if fits else math.inf


def inherited(options: TrainOptions) -> TrainOptions:
    """The options with cell, sizes and tokenizer of the model that training starts from.

    Raises UsageError if an option conflicts with them, TextgenError for a model folder that cannot be read.
    """
    if options.init_from in (None, NONE):
        return replace(options, init_from=None)
    folder = folder_of(options.init_from)
    config = read_config(folder)
    _refuse_change(options, config)
    own: dict[str, Any] = {name: getattr(config, name) for name in INHERITED}
    if isinstance(options, TokenizerOptions):
        kind = tokenizer_of(folder).kind
        own["tokenizer"] = options.tokenizer or (str(folder) if kind in SIZED else kind)
    own |= {"cell": config.cell, "cell_options": dict(config.cell_options)}
    return replace(options, **own, tie_weights=config.tie_word_embeddings)


def _refuse_change(options: TrainOptions, config: ModelConfig) -> None:
    """Raise UsageError for an option that differs from the model."""
    asked = {name: (getattr(options, name), getattr(config, name)) for name in INHERITED}
    asked["tie_weights"] = (options.tie_weights, config.tie_word_embeddings)
    if options.cell != TrainOptions.cell:
        asked["cell"] = (options.cell, config.cell)
    for name, (wanted, has) in asked.items():
        if wanted not in (None, has):
            raise UsageError(f"{named(name, wanted)} cannot change with {named('init_from')} (it has {has}).")
    parsed = cells.parse(plugins.cell(config.cell), config.cell, options.cell_options)
    for name in options.cell_options:
        if parsed[name] != config.cell_options.get(name):
            has = config.cell_options.get(name)
            raise UsageError(
                f"{named('cell_options', f'{name} {parsed[name]}')} cannot change with {named('init_from')} "
                f"(it has {has})."
            )
    if options.size is not None:
        raise UsageError(f"{named('size')} and {named('init_from')} exclude each other.")


def folder_of(name: str) -> Path:
    """The folder of the model that training starts from. Raises TextgenError if it does not exist or holds no model."""
    folder = find_model(name)
    if not folder.is_dir():
        offered = f"installed models: {', '.join(plugins.base_names())}." if plugins.base_names() else None
        raise TextgenError(f"there is no model folder {name!r} to start from.", hint=offered)
    require_model(folder)
    return folder


def adopt(model: Model, config: ModelConfig, tokenizer: Tokenizer, init_from: str) -> Match:
    """Copy the weights of a trained model to a new one; returns how their vocabularies match.

    Embeddings of new tokens start as the mean of all old ones. The readout of a model for another task is not copied.
    Raises TextgenError if sizes differ.
    """
    folder = folder_of(init_from)
    before = read_config(folder)
    old, known = load_weights(folder, storage.read_manifest(folder), before), tokenizer_of(folder)
    more, more_before = config.vocab_size - tokenizer.vocab_size, before.vocab_size - known.vocab_size
    matched = match(tokenizer, known, more, more_before)
    theirs = model_tensors(old)
    new_readout = config.outputs > 0 and (before.task, before.output_size) != (config.task, config.output_size)
    by_token = {id(each.encoder.weight) for each in model.models}
    if not config.outputs:
        by_token |= {id(p) for each in model.models for p in (each.readout.linear.weight, each.readout.linear.bias)}
    with torch.no_grad():
        for name, tensor in model_tensors(model).items():
            alone = name.split(".", 2)[2] if name.startswith(MEMBER) and before.members == 1 else name
            if new_readout and alone.startswith("readout."):
                continue
            source = theirs.get(alone)
            if source is not None and id(tensor) in by_token:
                mean = source.mean(0)
                source = torch.stack([mean if row is None else source[row] for row in matched.rows])
            if source is None or source.shape != tensor.shape:
                raise TextgenError(f"the model in {init_from!r} does not fit: {name!r} differs.")
            tensor.copy_(source)
    return matched


@dataclass(frozen=True)
class Match:
    """Which tokens of a new vocabulary exist in the old one (`rows`: their ids there), and which are new."""

    rows: list[int | None]
    new: list[str]

    def __str__(self) -> str:
        known = sum(row is not None for row in self.rows)
        shown = " ".join(map(repr, self.new[:12])) + (" ..." if len(self.new) > 12 else "")
        return f"{known:,} of {len(self.rows):,} tokens are known" + (f"; new: {shown}" if self.new else "")


def match(new: Tokenizer, old: Tokenizer, more: int = 0, more_old: int = 0) -> Match:
    """Match every token of a new vocabulary to an old one. Raises TextgenError if the tokenizers are of different
    kinds.

    `more` is the number of extra ids (separators) after those of the new tokenizer, `more_old` after the old ones.
    """
    if new.kind != old.kind:
        raise TextgenError(
            f"{named('init_from')} has a {old.kind} tokenizer; {new.kind} tokens cannot be matched with it."
        )
    places = {name: number for number, name in enumerate(names(old))}
    rows = [places.get(name) for name in names(new)]
    unknown = [new.token_bytes[number].decode("utf-8", "replace") for number, row in enumerate(rows) if row is None]
    separators = [old.vocab_size + k if k < more_old else None for k in range(more)]
    return Match([*rows, *separators], [*unknown, *("separator" for row in separators if row is None)])


def names(tokenizer: Tokenizer) -> list[tuple[str, bytes, int]]:
    """A name for each token that does not depend on its id: its role, or its bytes and a count among tokens with the
    same bytes."""
    roles = {tokenizer.boundary: "boundary", **{i: f"unsampled {k}" for k, i in enumerate(tokenizer.unsampled)}}
    met: Counter[bytes] = Counter()
    found: list[tuple[str, bytes, int]] = []
    for number, content in enumerate(tokenizer.token_bytes):
        met[content] += number not in roles
        found.append((roles.get(number, "text"), content, 0 if number in roles else met[content]))
    return found

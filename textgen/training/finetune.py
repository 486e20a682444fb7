"""Start from a trained model: its cell, sizes and weights. Tokens are matched by their content, not their ids, so the
order of a vocabulary does not matter."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from textgen import bases, cell_options, plugins, sealed
from textgen.config import ModelConfig
from textgen.errors import TextgenError, UsageError
from textgen.model import Model
from textgen.model_folder import read_config, require_model
from textgen.parameters import named
from textgen.settings import TrainOptions
from textgen.text.corpus_settings import TokenizerOptions
from textgen.text.levels import SIZED
from textgen.text.store import tokenizer_of
from textgen.text.tokenizer import Tokenizer
from textgen.weights import load_weights, model_tensors

INHERITED = ("hidden_size", "embedding_size", "num_layers", "residual", "layer_norm")
Name = tuple[str, bytes, int]


@dataclass(frozen=True)
class Match:
    """Which tokens of a new vocabulary exist in the old one (`rows`: their ids there), and which are new."""

    rows: list[int | None]
    new: list[str]

    def __str__(self) -> str:
        known = sum(row is not None for row in self.rows)
        shown = " ".join(map(repr, self.new[:12])) + (" ..." if len(self.new) > 12 else "")
        return f"{known:,} of {len(self.rows):,} tokens are known" + (f"; new: {shown}" if self.new else "")


def names(tokenizer: Tokenizer) -> list[Name]:
    """A name for each token that does not depend on its id: its role, or its bytes and a count among tokens with the
    same bytes."""
    roles = {tokenizer.boundary: "boundary", **{i: f"unsampled {k}" for k, i in enumerate(tokenizer.unsampled)}}
    met: Counter[bytes] = Counter()
    found: list[Name] = []
    for number, content in enumerate(tokenizer.symbols):
        met[content] += number not in roles
        found.append((roles.get(number, "text"), content, 0 if number in roles else met[content]))
    return found


def match(new: Tokenizer, old: Tokenizer, more: int = 0, more_old: int = 0) -> Match:
    """Match every token of a new vocabulary to an old one. Raises TextgenError if the tokenizers are of different
    kinds.

    `more` is the number of extra ids (separators) after those of the new tokenizer, `more_old` after the old ones.
    """
    if new.level != old.level:
        raise TextgenError(
            f"{named('init_from')} has a {old.level} tokenizer; {new.level} tokens cannot be matched with it."
        )
    places = {name: number for number, name in enumerate(names(old))}
    rows = [places.get(name) for name in names(new)]
    unknown = [new.symbols[number].decode("utf-8", "replace") for number, row in enumerate(rows) if row is None]
    separators = [old.vocab_size + k if k < more_old else None for k in range(more)]
    return Match([*rows, *separators], [*unknown, *("separator" for row in separators if row is None)])


def inherited(options: TrainOptions) -> TrainOptions:
    """The options with cell, sizes and tokenizer of the model that training starts from.

    Raises UsageError if an option conflicts with them, TextgenError for a model folder that cannot be read.
    """
    if options.init_from is None:
        return options
    folder = _folder(options.init_from)
    config = read_config(folder)
    _refuse_change(options, config)
    own: dict[str, Any] = {name: getattr(config, name) for name in INHERITED}
    if isinstance(options, TokenizerOptions):
        level = tokenizer_of(folder).level
        own["tokenizer"] = options.tokenizer or (str(folder) if level in SIZED else level)
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
    parsed = cell_options.parse(plugins.cell(config.cell), config.cell, options.cell_options)
    for name in options.cell_options:
        if parsed[name] != config.cell_options.get(name):
            has = config.cell_options.get(name)
            raise UsageError(
                f"{named('cell_options', f'{name} {parsed[name]}')} cannot change with {named('init_from')} "
                f"(it has {has})."
            )
    if options.size is not None:
        raise UsageError(f"{named('size')} and {named('init_from')} exclude each other.")


def _folder(name: str) -> Path:
    folder = next((path for path in (Path(name), Path("runs") / name) if path.is_dir()), None) or bases.find(name)
    if folder is None:
        offered = f"installed models: {', '.join(bases.names())}." if bases.names() else None
        raise TextgenError(f"there is no model folder {name!r} to start from.", hint=offered)
    require_model(folder)
    return folder


def adopt(model: Model, config: ModelConfig, tokenizer: Tokenizer, init_from: str) -> Match:
    """Copy the weights of a trained model to a new one; returns how their vocabularies match.

    Embeddings of new tokens start as the mean of all old ones. The readout of a model for another task is not copied.
    Raises TextgenError if sizes differ.
    """
    folder = _folder(init_from)
    before = read_config(folder)
    old, known = load_weights(folder, sealed.read_manifest(folder), before), tokenizer_of(folder)
    more, more_before = config.vocab_size - tokenizer.vocab_size, before.vocab_size - known.vocab_size
    matched = match(tokenizer, known, more, more_before)
    theirs = model_tensors(old)
    new_readout = config.outputs > 0 and (before.task, before.output_size) != (config.task, config.output_size)
    readout = () if config.outputs else (model.readout.linear.weight, model.readout.linear.bias)
    by_token = {id(p) for p in (model.encoder.weight, *readout)}
    with torch.no_grad():
        for name, tensor in model_tensors(model).items():
            if new_readout and name.startswith("readout."):
                continue
            source = theirs.get(name)
            if source is not None and id(tensor) in by_token:
                source = _rows(source, matched.rows)
            if source is None or source.shape != tensor.shape:
                raise TextgenError(f"the model in {init_from!r} does not fit: {name!r} differs.")
            tensor.copy_(source)
    return matched


def _rows(source: Tensor, rows: list[int | None]) -> Tensor:
    mean = source.mean(0)
    return torch.stack([mean if row is None else source[row] for row in rows])

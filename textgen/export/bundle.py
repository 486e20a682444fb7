"""A model as one JSON description and one block of weights: what `page/runtime.js` reads.

Everything in it is data: the operations of the step by name, the tokens as bytes (each byte as a character), and the
weights as float32, float16, or int8 codes with a scale for each row.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from textgen import storage
from textgen.data.tokenizers import SubwordTokenizer
from textgen.data.tokenizers.base import Tokenizer
from textgen.errors import TextgenError
from textgen.export.stored import facts_of, in_dtype, read_model
from textgen.generation.language_model import LanguageModel
from textgen.loading import load
from textgen.model import CARD, read_config
from textgen.runtime import Weights
from textgen.runtime.graph import StepGraph
from textgen.runtime.int8 import Int8Rows
from textgen.runtime.ops import Array
from textgen.tasks.classification.model import Classifier
from textgen.tasks.classification.ngrams import BEGINNINGS, Blend
from textgen.tasks.forecasting.combining import KINDS, SMOOTHED, Smoother
from textgen.tasks.forecasting.design import prepare_series
from textgen.tasks.forecasting.forecaster import ForecastModel
from textgen.tasks.forecasting.reading import Series

FORMAT, VERSION = "textgen export", 1
MOST_SERIES, LATER = 50, 400
"""The series that an exported forecaster knows, and how many values can come after its training data."""
ALIGNED = 8
"""Each array of the block begins at a multiple of so many bytes."""


@dataclass(frozen=True)
class Bundle:
    """A model's description, as JSON values, and the block of its weights."""

    description: dict[str, Any]
    weights: bytes


def bundle(folder: Path, dtype: str | None = None) -> Bundle:
    """The bundle of a model folder; `dtype` is float32, float16 or int8, by default as it is stored. Raises
    TextgenError for a model without a stored step, and for one of a task that has no page."""
    graph, weights = read_model(folder)
    manifest = storage.read_manifest(folder)
    config = read_config(folder, manifest)
    entries, block = _block(graph, weights, dtype)
    model = load(folder)
    linear: dict[str, Any] = {}
    if isinstance(model, Classifier) and model.blend is not None:
        linear, block = _linear(model.blend, block)
    card = storage.verified(folder, CARD, manifest).decode("utf-8", "replace") if CARD in manifest["files"] else ""
    description = {
        "format": FORMAT,
        "version": VERSION,
        "name": folder.resolve().name,
        "task": config.task,
        "cell": config.cell,
        "parameters": sum(spec.elements for spec in graph.weights.values()),
        "card": card,
        "step": replace(graph, int8=()).to_json(),
        "weights": entries,
        **_reading(model, folder),
        **linear,
    }
    return Bundle(description, block)


def _linear(blend: Blend, block: bytes) -> tuple[dict[str, Any], bytes]:
    """How a linear model of words is read and weighted, and the block with its features and their weights."""
    known, weights = blend.ngrams.known, blend.ngrams.weights
    begin = len(block) + -len(block) % ALIGNED
    block = block.ljust(begin, b"\0") + known.astype("<u4").tobytes() + weights.astype("<f4").tobytes()
    folded = {
        letter: letter.casefold() for letter in map(chr, range(0x110000)) if letter.casefold() != letter.lower()
    }  # where case folding is more than lower case
    recurrent, own = blend.weights
    stored = {"offset": begin, "features": len(known), "folded": folded, "beginnings": list(BEGINNINGS)}
    return {"linear": {**stored, "weights": {"recurrent": recurrent, "linear": own}}}, block


def _reading(model: Any, folder: Path) -> dict[str, Any]:
    """How text becomes tokens, and what is done with the outputs."""
    if isinstance(model, LanguageModel):
        generation = {
            "begin": list(model.begin),
            "prompt_end": list(model.prompt_end),
            "suppress_tokens": list(model.unsampled),
            "sampling": model.defaults,
            "raw_bytes": model.raw_bytes,
        }
        return {"tokenizer": _tokenizer(model.tokenizer), "generation": generation}
    if isinstance(model, Classifier):
        return {"tokenizer": _tokenizer(model.tokenizer), "facts": facts_of(model)}
    if isinstance(model, ForecastModel):
        return {"facts": _forecasting(model)}
    raise TextgenError(f"{str(folder)!r} cannot be exported: its task has no page.")


def _forecasting(model: ForecastModel) -> dict[str, Any]:
    """What a forecaster needs beside its step: of each series the end of its training data, as the model reads it, and
    the calendar of the steps after it."""
    design = model.design
    if design.columns.future:
        raise TextgenError(
            "a forecaster with future columns cannot be exported: a page cannot know their next values.",
            hint="train without future_column, or use textgen predict.",
        )
    return {
        "horizon": design.horizon,
        "reach": design.reach,
        "context": design.context,
        "offsets": list(design.lags.offsets),
        "season": design.season,
        "seasons": len(design.lags.seasons),
        "series": [_series(model, each) for each in [*model.history.values()][:MOST_SERIES]],
    }


def _series(model: ForecastModel, series: Series) -> dict[str, Any]:
    design, later = model.design, LATER + model.design.horizon
    rows = prepare_series(series, design, later)
    times = series.clock.labels(series.start + design.clock.step * np.arange(len(series) + later))
    scale = {name: value for name, value in asdict(rows.scale).items() if name not in ("base", "end", "naive")}
    floor = float(rows.floor[-1])
    share = model.combination.of(series.name)
    smoother = Smoother([rows], design, [len(rows) - 1])
    return {
        "combination": dict(zip(KINDS, share.weights, strict=True)),
        "stretch": share.stretch,
        "smoothing": smoother.described(0, len(rows) - 1) if share.weights[KINDS.index(SMOOTHED)] else None,
        "name": series.name,
        "scale": scale,
        "weights": list(rows.scale.weights()),
        "room": rows.scale.room,
        "nonnegative": bool(np.isfinite(floor)),
        "zero": floor if np.isfinite(floor) else 0.0,
        "values": series.values.tolist(),
        "scaled": rows.scaled.tolist(),
        "missing": series.missing.astype(int).tolist(),
        "extras": rows.extras.tolist(),
        "calendar": rows.calendar.tolist(),
        "times": [time if isinstance(time, int) else str(time) for time in times],
    }


def _tokenizer(tokenizer: Tokenizer) -> dict[str, Any]:
    found: dict[str, Any] = {
        "kind": tokenizer.kind,
        "tokens": [token.decode("latin-1") for token in tokenizer.token_bytes],
        "boundary": tokenizer.boundary,
        "escape": tokenizer.escape,
    }
    if isinstance(tokenizer, SubwordTokenizer):
        found["scores"] = tokenizer.scores
    return found


def _block(graph: StepGraph, weights: Weights, dtype: str | None) -> tuple[list[dict[str, Any]], bytes]:
    """Where each weight is in the block, and the block."""
    block, entries = bytearray(), []

    def place(array: Array) -> int:
        block.extend(bytes(-len(block) % ALIGNED))
        begin = len(block)
        block.extend(np.ascontiguousarray(array).astype(array.dtype.newbyteorder("<"), copy=False).tobytes())
        return begin

    for name, spec in graph.weights.items():
        kept = in_dtype(weights[name], spec, name, dtype)
        if isinstance(kept, Int8Rows):
            entry = {"dtype": "int8", "offset": place(kept.codes), "scales": place(kept.scales)}
        else:
            entry = {"dtype": str(kept.dtype), "offset": place(kept)}
        entries.append({"name": name, "shape": list(spec.shape), **entry})
    return entries, bytes(block)

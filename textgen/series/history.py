"""The end of every series that training saw, held-out part included: kept with the model, so that a table of new rows
alone goes on where training ended."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import safetensors
import safetensors.numpy

from textgen import sealed
from textgen.series.design import Design
from textgen.series.division import bridged, piece
from textgen.series.preparing import arrays_of
from textgen.series.read import Series, gap_limit
from textgen.series.times import ROW

FILE = "history.safetensors"


def to_bytes(series: Sequence[Series], context: int) -> bytes:
    """The content of `history.safetensors`: the last `context` steps of each series, and its least value before."""
    ends = [_end(each, context) for each in series]
    lowest = np.array([each.lowest for each in ends])
    return safetensors.numpy.save({**arrays_of(ends), "lowest": lowest})


def _end(series: Series, context: int) -> Series:
    before = max(0, len(series) - context)
    lowest = float(series.values[:before].min(initial=math.inf))
    return replace(piece(series, before, len(series)), lowest=lowest)


def from_bytes(content: bytes, design: Design, path: str) -> dict[str, Series]:
    """The end of every series by name, each starting at its own first step. Raises DamagedError naming the path."""
    try:
        arrays = safetensors.numpy.load(content)
        lengths, lowest, extras = arrays["lengths"], arrays["lowest"], arrays["extras"]
        if not len(lengths) == len(lowest) == len(design.scales) or lengths.min() < 1:
            raise ValueError("other series than those of the model")
        if len(arrays["values"]) != lengths.sum() or extras.shape != (lengths.sum(), len(design.extras)):
            raise ValueError("other lengths than it says")
        edges = np.cumsum([0, *lengths])
        found = {}
        for k, (name, scale) in enumerate(design.scales.items()):
            part = slice(edges[k], edges[k + 1])
            start = scale.end - design.clock.step * int(lengths[k])
            missing = arrays["missing"][part].astype(bool)
            values, least = arrays["values"][part], float(lowest[k])
            found[name] = Series(name, start, values, missing, extras[part], clock=design.clock, lowest=least)
        return found
    except (safetensors.SafetensorError, KeyError, ValueError, TypeError) as error:
        raise sealed.DamagedError(f"{path} is damaged ({type(error).__name__}: {error}).") from None


def continued(series: Series, history: Mapping[str, Series], design: Design) -> Series:
    """A series with the end of training before it, if its first value comes after that and the gap between them is one
    that a table may have; else the series as it is. Rows without times are never known to come after."""
    before = history.get(series.name)
    if before is None or design.clock.unit == ROW:
        return series
    gap, rest = divmod(series.start - design.scales[series.name].end, design.clock.step)
    limit = gap_limit(design.season) if design.longest_gap is None else design.longest_gap
    if rest or not 0 <= gap <= limit:
        return series
    after = bridged(before, series, gap)
    return replace(
        before,
        values=np.concatenate([before.values, after.values]),
        missing=np.concatenate([before.missing, after.missing]),
        extras=np.concatenate([before.extras, after.extras]),
        clock=series.clock,
        trained=len(before),
    )

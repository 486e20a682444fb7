"""The end of every series in the training data, held-out part included: stored with the model, so that a table of new
rows continues where training ended."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import safetensors
import safetensors.numpy

from textgen import sealed
from textgen.series.design import Design
from textgen.series.division import bridged
from textgen.series.preparing import arrays_of
from textgen.series.read import Series, gap_limit
from textgen.series.times import ROW

FILE = "history.safetensors"


def to_bytes(series: Sequence[Series], context: int) -> bytes:
    """The content of `history.safetensors`: the last `context` steps of each series, and the smallest value before."""
    begins = [max(0, len(each) - context) for each in series]
    ends = [each.slice(begin) for each, begin in zip(series, begins, strict=True)]
    lowest = [each.values[:begin].min(initial=math.inf) for each, begin in zip(series, begins, strict=True)]
    return safetensors.numpy.save({**arrays_of(ends), "lowest": np.array(lowest, dtype=np.float64)})


def from_bytes(content: bytes, design: Design, path: str) -> dict[str, Series]:
    """The end of every series by name, each with its own start. Raises DamagedError naming the path."""
    try:
        arrays = safetensors.numpy.load(content)
        lengths, lowest, extras = arrays["lengths"], arrays["lowest"], arrays["extras"]
        if not len(lengths) == len(lowest) == len(design.scales) or lengths.min() < 1:
            raise ValueError("its series are not those of the model")
        if len(arrays["values"]) != lengths.sum() or extras.shape != (lengths.sum(), len(design.extras)):
            raise ValueError("its arrays do not have the recorded lengths")
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
    """A series with the end of training in front, if it begins after that with a gap no longer than a table may have;
    otherwise the series as it is, as always without times."""
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

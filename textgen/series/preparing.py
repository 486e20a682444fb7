"""Prepare split series for storage: arrays, the design, and a digest of both."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from textgen.series.calendar import Calendar
from textgen.series.design import Design, extra_measures
from textgen.series.division import SplitSeries
from textgen.series.inputs import Lags
from textgen.series.options import ForecastingOptions
from textgen.series.read import Series
from textgen.series.scaling import fit


def design_of(split: SplitSeries, options: ForecastingOptions) -> Design:
    """The design that suits the training part."""
    clock, training = split.clock, split.training
    season = options.season or clock.season()
    longest = max(map(len, training))
    scales = {
        each.name: fit(each.name, each.values, each.missing, season, options.horizon, options.transform, end)
        for each, end in zip(training, split.ends, strict=True)
    }
    return Design(
        split.columns,
        clock,
        season,
        options.horizon,
        Lags.of(season, longest),
        Calendar.of(clock, longest),
        extra_measures([each.extras for each in training]),
        scales,
        options.transform,
        options.seq_length,
    )


def arrays_of(series: Sequence[Series]) -> dict[str, Any]:
    """Several series, concatenated, as named arrays for a store."""
    return {
        "values": np.concatenate([each.values for each in series]),
        "missing": np.concatenate([each.missing for each in series]).astype(np.uint8),
        "extras": np.concatenate([each.extras for each in series]),
        "lengths": np.array([len(each) for each in series], dtype=np.int64),
        "starts": np.array([each.start for each in series], dtype=np.int64),
    }

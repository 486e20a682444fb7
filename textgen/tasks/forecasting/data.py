"""What a forecaster learns from.

Series are read from tables, divided by time, scaled and stored. The end of every series that training saw, held-out
part included, is kept with the model, so that a table of new rows alone goes on where training ended.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Self

import numpy as np
import safetensors
import safetensors.numpy

from textgen import storage
from textgen.data.recipes import TRAIN, VALIDATION, Progress
from textgen.data.sources import SourceOptions, find_sources
from textgen.formatting import count, plural
from textgen.model import ModelConfig
from textgen.storage import filesystem, to_json
from textgen.tasks.data import ExampleData, ExampleStore, model_card, open_examples, write_examples
from textgen.tasks.forecasting.design import (
    DESIGN_FILE,
    OUTPUTS,
    Design,
    PreparedSeries,
    Windows,
    arrays_of,
    bridged,
    design_of,
    known_parts,
    prepare_series,
    split_series,
)
from textgen.tasks.forecasting.formats import TimeFormat
from textgen.tasks.forecasting.options import ForecastingOptions
from textgen.tasks.forecasting.reading import Series, gap_limit, read_series
from textgen.tasks.forecasting.times import ROW

if TYPE_CHECKING:
    from textgen.tasks.forecasting.objective import ForecastingObjective

HISTORY_FILE = "history.safetensors"
KIND = "series"
SIZES = ((200, 8), (1_000, 16), (20_000, 32), (math.inf, 64))
"""Hidden sizes that suit up to this many training steps of the series."""

FEWEST_STEPS, MOST_STEPS = 120, 500
"""The default number of training steps: one for every ten time steps, within these bounds."""


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
        edges, known = np.cumsum([0, *lengths]), known_parts(arrays, len(design.known))
        found = {}
        for k, (name, scale) in enumerate(design.scales.items()):
            part = slice(edges[k], edges[k + 1])
            start = scale.end - design.clock.step * int(lengths[k])
            missing = arrays["missing"][part].astype(bool)
            values, least = arrays["values"][part], float(lowest[k])
            one = Series(name, start, values, missing, extras[part], clock=design.clock, lowest=least)
            found[name] = replace(one, known=known[k])
        return found
    except (safetensors.SafetensorError, KeyError, ValueError, TypeError) as error:
        raise storage.DamagedError(f"{path} is damaged ({type(error).__name__}: {error}).") from None


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
        known=np.concatenate([before.known[: len(before)], after.known]),
        clock=series.clock,
        trained=len(before),
    )


@dataclass(frozen=True)
class SeriesData(ExampleData):
    """Series by part, and the design made from their training part."""

    store: ExampleStore
    notes: tuple[str, ...] = ()
    """Notes on how times were read; empty when opened from a store."""

    @classmethod
    def prepare(cls, paths: list[str], options: ForecastingOptions, cache: Path, progress: Progress) -> Self:
        reading = SourceOptions(options.encoding, delimiter=options.delimiter)
        progress("reading", 0, 0)
        window = options.seq_length
        table = read_series(find_sources(paths), options, reading, window)
        apart = None
        if options.validation_file is not None:
            named = replace(options, target_column=list(table.columns.targets), time_column=list(table.columns.times))
            apart = read_series(
                find_sources([options.validation_file]), named, reading, window, table.clock, table.words
            )
        split = split_series(table, apart, options)
        design = design_of(table, split, options)
        parts = {TRAIN: arrays_of([one for one, _ in split]), VALIDATION: arrays_of([held for _, held in split])}
        content = to_json(design.to_json())
        key = filesystem.cache_key(KIND, parts, content)
        folder, others = cache / key, {DESIGN_FILE: content}
        data = filesystem.cached(folder, cls.open, lambda: write_examples(folder, KIND, key, parts, {}, others))
        return replace(data, notes=table.notes)

    @classmethod
    def open(cls, folder: Path) -> Self:
        data = cls(open_examples(folder, KIND))
        if len(data.design.scales) != len(data.store.parts[TRAIN]["lengths"]):
            raise storage.DamagedError(f"{folder} is damaged: it does not hold the series of its design.")
        return data

    @cached_property
    def design(self) -> Design:
        """The design that turns these series into model inputs."""
        path = str(self.store.folder / DESIGN_FILE)
        return Design.from_json(storage.parse_json(self.store.content(DESIGN_FILE), path), path)

    @cached_property
    def ends(self) -> list[int]:
        """The length of the training part of each series."""
        return [int(n) for n in self.store.parts[TRAIN]["lengths"]]

    @cached_property
    def series(self) -> list[Series]:
        """Every series, its held-out part included."""
        parts = [self.store.parts[part] for part in (TRAIN, VALIDATION)]
        edges = [np.cumsum([0, *part["lengths"]]) for part in parts]
        known = [known_parts(part, len(self.design.known)) for part in parts]
        found = []
        for k, name in enumerate(self.design.scales):
            pieces = [
                [part[array][edge[k] : edge[k + 1]] for part, edge in zip(parts, edges, strict=True)]
                for array in ("values", "missing", "extras")
            ]
            values, missing, extras = (np.concatenate(piece) for piece in pieces)
            start, clock = int(parts[0]["starts"][k]), self.design.clock
            one = Series(name, start, values, missing.astype(bool), extras, clock=clock)
            beside = np.concatenate([known[0][k][: self.ends[k]], known[1][k]])
            found.append(replace(one, known=beside))
        return found

    @cached_property
    def rows(self) -> list[PreparedSeries]:
        """Every series as the model reads it, with the calendar of the horizon after it."""
        return [prepare_series(series, self.design, self.design.horizon) for series in self.series]

    @property
    def training_tokens(self) -> int:
        return sum(self.ends)

    @property
    def held_out_tokens(self) -> int:
        return int(self.store.parts[VALIDATION]["lengths"].sum())

    @property
    def most_epochs(self) -> float:
        """The epochs in the default number of steps, with windows of the default size."""
        batch, length = self._window(ForecastingOptions())
        return self._steps() * batch * length / self.training_tokens

    def _window(self, options: ForecastingOptions) -> tuple[int, int]:
        """Batch size and window length: 64 steps, or two seasons up to 128, at most the longest series."""
        usual = max(64, min(128, 2 * self.design.season))
        length = min(options.seq_length or usual, max(self.ends) - 1)
        return options.batch_size or 16, length

    def _steps(self) -> int:
        return min(MOST_STEPS, max(FEWEST_STEPS, self.training_tokens // 10))

    def with_defaults(self, options: ForecastingOptions) -> ForecastingOptions:
        batch, length = self._window(options)
        timed = options.minutes is not None or options.epochs is not None or options.max_steps is not None
        steps = options.max_steps if timed else self._steps()
        every = options.eval_steps or max(1, (steps or MOST_STEPS) // 20)
        hidden = options.hidden_size or next(size for most, size in SIZES if self.training_tokens <= most)
        return replace(
            options,
            batch_size=batch,
            seq_length=length,
            hidden_size=hidden,
            max_steps=steps,
            learning_rate=options.learning_rate or 3e-3,
            dropout=0.1 if options.dropout is None else options.dropout,
            compile=False if options.compile is None else options.compile,
            dtype=options.dtype or "float32",
            eval_steps=every,
            save_steps=options.save_steps or 5 * every,
            sample_steps=5 * every if options.sample_steps is None else options.sample_steps,
        )

    def config(self, options: ForecastingOptions, hidden_size: int) -> ModelConfig:
        layers = options.num_layers or 1
        return ModelConfig(
            vocab_size=1,
            cell=options.cell,
            cell_options=dict(options.cell_options),
            embedding_size=options.embedding_size or hidden_size,
            hidden_size=hidden_size,
            num_layers=layers,
            residual=layers >= 3 if options.residual is None else options.residual,
            layer_norm=layers >= 3 if options.layer_norm is None else options.layer_norm,
            task="forecast",
            features=self.design.width,
            outputs=OUTPUTS,
        )

    def objective(self, options: ForecastingOptions) -> ForecastingObjective:
        from textgen.tasks.forecasting.objective import ForecastingObjective

        windows = Windows(self.rows, self.ends, *options.window, options.seed)
        return ForecastingObjective(windows, self.design, self.held_out_tokens > 0, options.combine)

    def described(self) -> list[str]:
        design = self.design
        bases = sorted({scale.base for scale in design.scales.values()})
        logs = sum(scale.transform == "log" for scale in design.scales.values())
        return [
            f"{count(len(design.scales))} series" if len(design.scales) > 1 else "1 series",
            self._times(),
            f"a step is {design.clock.described()}",
            f"{count(self.training_tokens)} time steps to train on",
            f"{count(self.held_out_tokens)} held out",
            f"season {design.season}" if design.season > 1 else "no season",
            f"corrects {' or '.join(bases)}",
            "in logarithms" if logs == len(design.scales) else f"{logs} in logarithms" if logs else "",
            f"horizon {plural(design.horizon, 'step')}",
            f"knows {', '.join(design.columns.known)} in advance" if design.known else "",
            *self.notes,
        ]

    def _times(self) -> str:
        """How times were parsed: 'time as day/month/year (01/01/2012 to 01/12/2019)'."""
        clock = self.design.clock
        if not self.design.columns.times:
            return "rows are counted"
        first = clock.label(min(each.start for each in self.series))
        last = clock.label(max(each.start + clock.step * (len(each) - 1) for each in self.series))
        words = TimeFormat(clock.format).words if clock.format else "a counter"
        return f"time as {words} ({first} to {last})"

    def files(self) -> dict[str, bytes]:
        return {DESIGN_FILE: self.store.content(DESIGN_FILE), HISTORY_FILE: to_bytes(self.series, self.design.history)}

    def card(self, config: ModelConfig, name: str) -> str:
        step = f"a time step is {self.design.clock.described()}"
        what = f"A recurrent forecaster of {', '.join(self.design.columns.targets)}"
        details = [step, f"trained on {self.training_tokens:,} time steps"]
        return model_card(name, "time-series-forecasting", what, config, details, "predict -m {} TABLE.csv")

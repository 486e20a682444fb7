"""The data of forecasting: series read from tables, split by time, scaled and stored."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Self

import numpy as np

from textgen import files, sealed
from textgen.config import ModelConfig
from textgen.series import history
from textgen.series.design import FILE, OUTPUTS, Design, PreparedSeries, prepare_series
from textgen.series.division import split_series
from textgen.series.formats import TimeFormat
from textgen.series.objective import ForecastingObjective
from textgen.series.options import ForecastingOptions
from textgen.series.preparing import arrays_of, design_of
from textgen.series.read import Series, read_series
from textgen.series.windows import Windows
from textgen.strict_json import to_json
from textgen.tasks.data import ExampleData, ExampleStore, model_card, open_examples, write_examples
from textgen.text.sources import SourceOptions, find_sources
from textgen.text.split import TRAIN, VALIDATION, Progress
from textgen.wording import count, plural

KIND = "series"
SIZES = ((200, 8), (1_000, 16), (20_000, 32), (math.inf, 64))
"""Hidden sizes that suit up to this many training steps of the series."""

FEWEST_STEPS, MOST_STEPS = 120, 500
"""The default number of training steps: one for every ten time steps, within these bounds."""


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
            apart = read_series(find_sources([options.validation_file]), named, reading, window, table.clock)
        split = split_series(table, apart, options)
        design = design_of(split, options)
        parts = {TRAIN: arrays_of(split.training), VALIDATION: arrays_of(split.held_out)}
        content = to_json(design.to_json())
        key = files.cache_key(KIND, parts, content)
        folder, others = cache / key, {FILE: content}
        data = files.cached(folder, cls.open, lambda: write_examples(folder, KIND, key, parts, {}, others))
        return replace(data, notes=table.notes)

    @classmethod
    def open(cls, folder: Path) -> Self:
        data = cls(open_examples(folder, KIND))
        if len(data.design.scales) != len(data.store.parts[TRAIN]["lengths"]):
            raise sealed.DamagedError(f"{folder} is damaged: it does not hold the series of its design.")
        return data

    @cached_property
    def design(self) -> Design:
        """The design that turns these series into model inputs."""
        path = str(self.store.folder / FILE)
        return Design.from_json(sealed.parse_json(self.store.content(FILE), path), path)

    @cached_property
    def ends(self) -> list[int]:
        """The length of the training part of each series."""
        return [int(n) for n in self.store.parts[TRAIN]["lengths"]]

    @cached_property
    def series(self) -> list[Series]:
        """Every series, its held-out part included."""
        parts = [self.store.parts[part] for part in (TRAIN, VALIDATION)]
        edges = [np.cumsum([0, *part["lengths"]]) for part in parts]
        found = []
        for k, name in enumerate(self.design.scales):
            pieces = [
                [part[array][edge[k] : edge[k + 1]] for part, edge in zip(parts, edges, strict=True)]
                for array in ("values", "missing", "extras")
            ]
            values, missing, extras = (np.concatenate(piece) for piece in pieces)
            start, clock = int(parts[0]["starts"][k]), self.design.clock
            found.append(Series(name, start, values, missing.astype(bool), extras, clock=clock))
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
        assert options.batch_size and options.seq_length
        windows = Windows(self.rows, self.ends, options.batch_size, options.seq_length, options.seed)
        return ForecastingObjective(windows, self.design, self.held_out_tokens > 0)

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
        return {FILE: self.store.content(FILE), history.FILE: history.to_bytes(self.series, self.design.context)}

    def card(self, config: ModelConfig, name: str) -> str:
        step = f"a time step is {self.design.clock.described()}"
        what = f"A recurrent forecaster of {', '.join(self.design.columns.targets)}"
        details = [step, f"trained on {self.training_tokens:,} time steps"]
        return model_card(name, "time-series-forecasting", what, config, details, "predict -m {} TABLE.csv")

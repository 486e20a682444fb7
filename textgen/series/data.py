"""What a forecaster learns from: series read from tables, divided by time, measured, and stored."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Self

import numpy as np

from textgen import sealed
from textgen.config import ModelConfig
from textgen.errors import UsageError
from textgen.parameters import named
from textgen.series import history
from textgen.series.design import FILE, OUTPUTS, Design, PreparedSeries, prepare_series
from textgen.series.division import split_series
from textgen.series.formats import TimeFormat
from textgen.series.preparing import arrays_of, design_of, key_of
from textgen.series.read import Series, read_series
from textgen.series.task import Forecasting
from textgen.series.windows import Windows
from textgen.settings import TrainOptions
from textgen.strict_json import to_json
from textgen.tasks.examples import ExampleStore, open_examples, write_examples
from textgen.tasks.task import ExampleData
from textgen.text.sources import SourceOptions, find_sources
from textgen.text.split import TRAIN, VALIDATION, Progress
from textgen.wording import count, plural

KIND = "series"
FORMAT_VERSION = 2
TEXT_ONLY = ("init_from", "tokenizer", "vocab_size", "text_column", "document_separator", "sampled_softmax",
             "embedding_dropout")  # fmt: skip
"""Options that mean something for text alone."""

SIZES = ((200, 8), (1_000, 16), (20_000, 32), (math.inf, 64))
"""Time steps to train on, at most, and the units of a layer that suit them."""

FEWEST_STEPS, MOST_STEPS = 120, 500
"""Training steps where neither steps nor epochs nor minutes are given: one for every ten time steps, within these."""


@dataclass(frozen=True)
class SeriesData(ExampleData):
    """Series by part, and the design made from their training part."""

    store: ExampleStore
    notes: tuple[str, ...] = ()
    """What is worth saying of how times were read; only while the tables themselves are at hand."""

    next_verb = "predict{model} TABLE"

    @classmethod
    def prepare(cls, paths: list[str], options: TrainOptions, cache: Path, progress: Progress) -> Self:
        _refuse_text(options)
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
        key = key_of(parts, content, FORMAT_VERSION)
        about, others = {"version": FORMAT_VERSION}, {FILE: content}
        data = cls.kept(cache / key, lambda: write_examples(cache / key, KIND, key, parts, about, others))
        return replace(data, notes=table.notes)

    @classmethod
    def open(cls, folder: Path) -> Self:
        data = cls(open_examples(folder, KIND))
        if len(data.design.scales) != len(data.store.parts[TRAIN]["lengths"]):
            raise sealed.DamagedError(f"{folder} is damaged: it holds other series than it says.")
        return data

    @cached_property
    def design(self) -> Design:
        """What turns these series into what a model reads."""
        path = str(self.store.folder / FILE)
        return Design.from_json(sealed.parse_json(self.store.content(FILE), path), path)

    @cached_property
    def ends(self) -> list[int]:
        """The steps of each series that are trained on."""
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
        """Every series as a model reads it, with the calendar of the horizon after it."""
        return [prepare_series(series, self.design, self.design.horizon) for series in self.series]

    @property
    def amount(self) -> int:
        return sum(self.ends)

    @property
    def held_out(self) -> int:
        return int(self.store.parts[VALIDATION]["lengths"].sum())

    @property
    def most_epochs(self) -> float:  # type: ignore[override]
        """As many passes as the steps that are taken without a plan, in windows of the usual size."""
        batch, length = self._window(TrainOptions())
        return self._steps() * batch * length / self.amount

    def _window(self, options: TrainOptions) -> tuple[int, int]:
        """Batch size and length: pieces of 64 steps, or of two seasons up to 128, within the longest series."""
        usual = max(64, min(128, 2 * self.design.season))
        length = min(options.seq_length or usual, max(self.ends) - 1)
        return options.batch_size or 16, length

    def _steps(self) -> int:
        return min(MOST_STEPS, max(FEWEST_STEPS, self.amount // 10))

    def with_defaults(self, options: TrainOptions) -> TrainOptions:
        batch, length = self._window(options)
        timed = options.minutes is not None or options.epochs is not None or options.max_steps is not None
        steps = options.max_steps if timed else self._steps()
        every = options.eval_steps or max(1, (steps or MOST_STEPS) // 20)
        hidden = options.hidden_size or next(size for most, size in SIZES if self.amount <= most)
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

    def config(self, options: TrainOptions, hidden_size: int) -> ModelConfig:
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

    def task(self, options: TrainOptions) -> Forecasting:
        assert options.batch_size and options.seq_length
        windows = Windows(self.rows, self.ends, options.batch_size, options.seq_length, options.seed)
        return Forecasting(windows, self.design, self.held_out > 0)

    def described(self) -> list[str]:
        design = self.design
        bases = sorted({scale.base for scale in design.scales.values()})
        logs = sum(scale.transform == "log" for scale in design.scales.values())
        return [
            f"{count(len(design.scales))} series" if len(design.scales) > 1 else "1 series",
            self._times(),
            f"a step is {design.clock.described()}",
            f"{count(self.amount)} time steps to train on",
            f"{count(self.held_out)} held out",
            f"season {design.season}" if design.season > 1 else "no season",
            f"corrects {' or '.join(bases)}",
            "in logarithms" if logs == len(design.scales) else f"{logs} in logarithms" if logs else "",
            f"horizon {plural(design.horizon, 'step')}",
            *self.notes,
        ]

    def _times(self) -> str:
        """How times were understood: 'time as day/month/year (01/01/2012 to 01/12/2019)'."""
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
        targets = ", ".join(self.design.columns.targets)
        return f"""---
library_name: textgen
pipeline_tag: time-series-forecasting
---

# {name}

A recurrent forecaster made with textgen: {config.num_layers} x {config.cell}, {config.hidden_size} units, of {targets},
a step being {self.design.clock.described()}, trained on {self.amount:,} time steps.

    textgen predict -m {name} TABLE.csv

The loss over time stands in `metrics.jsonl`, every option in `training_args.json`, the measures in `{FILE}`.
"""


def _refuse_text(options: TrainOptions) -> None:
    given = next((name for name in TEXT_ONLY if getattr(options, name) != getattr(TrainOptions, name)), None)
    if given is not None:
        raise UsageError(f"{named(given)} goes with text; series have no use for it.")

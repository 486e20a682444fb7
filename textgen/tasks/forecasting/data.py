"""What a forecaster learns from, and its objective: at every time step, the distribution of the next value.

Series are read from tables, divided by time, scaled and stored. The end of every series that training saw, held-out
part included, is kept with the model, so that a table of new rows alone goes on where training ended.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import numpy as np
import safetensors
import safetensors.numpy
import torch
from torch import Tensor
from torch.nn.functional import softplus

from textgen import storage
from textgen.cells.engine import State
from textgen.data.recipes import TRAIN, VALIDATION, Progress
from textgen.data.sources import SourceOptions, find_sources
from textgen.formatting import count, plural
from textgen.model import ModelConfig
from textgen.model.stack import Model
from textgen.model.weights import TorchRows
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
    prepare_series,
    split_series,
)
from textgen.tasks.forecasting.formats import TimeFormat
from textgen.tasks.forecasting.options import ForecastingOptions
from textgen.tasks.forecasting.reading import Series, gap_limit, read_series
from textgen.tasks.forecasting.rolling import (
    FREEDOM_AT_ZERO,
    LEAST_FREEDOM,
    LEAST_SCALE,
    MODEL,
    SCALE_AT_ZERO,
    ForecastRequest,
    SeriesLoop,
)
from textgen.tasks.forecasting.scaling import Floats32, rounded
from textgen.tasks.forecasting.times import ROW
from textgen.tasks.objective import Objective

HISTORY_FILE = "history.safetensors"
PIECE = 1 << 18  # the most time steps, over all series in a batch, that the held-out loss reads at once
QUICK_ORIGINS = 256  # the number of forecast origins in a quick evaluation, over all series
SHOWN = 6  # the number of values in a sample during training
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
        clock=series.clock,
        trained=len(before),
    )


class TorchForecastStepper(TorchRows):
    """`textgen.model.stepper.Stepper` over a torch model: inputs (B, features) to outputs (B, outputs)."""

    def step(self, inputs: Floats32, state: State) -> tuple[Floats32, State]:
        with self.quiet():
            outputs, state = self._model.step(torch.from_numpy(np.ascontiguousarray(inputs)).to(self._device), state)
            return outputs.float().cpu().numpy(), state


@dataclass(frozen=True)
class ForecastMetrics:
    """Metrics of the held-out part: the mean negative log-likelihood of the next step, in nats and in units of the
    naive forecast's error, and the root mean square error over the horizon in standard deviations of the training
    part."""

    loss: float
    error: float
    horizon: int

    @property
    def criterion(self) -> float:
        """The loss where one step is forecast, else the error over the horizon."""
        return self.loss if self.horizon == 1 else self.error

    def to_json(self) -> dict[str, Any]:
        """Both metrics by name."""
        return {"nats": self.loss, "scaled_rmse": self.error}

    def shown(self) -> dict[str, str]:
        """Both metrics as shown in the training table."""
        return {"loss": f"{self.loss:.4f}", "rmse/dev": f"{self.error:.4f}"}


@dataclass(frozen=True)
class ForecastingObjective(Objective):
    """Predict each time step from those before it."""

    columns = ("loss", "rmse/dev")

    windows: Windows
    design: Design
    holds_out: bool

    @property
    def steps_per_epoch(self) -> int:
        return self.windows.steps_per_epoch

    @property
    def tokens_per_step(self) -> float:
        return self.windows.batch_size * self.windows.seq_length

    def window(self, step: int) -> tuple[Tensor, Tensor]:
        inputs, targets = self.windows.window(step)
        return torch.from_numpy(inputs), torch.from_numpy(targets)

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        counted = targets[..., 1]
        return (negative_log_likelihood(outputs.float(), targets[..., 0]) * counted).sum() / counted.sum().clamp(min=1)

    def share(self, targets: Tensor, lanes: slice) -> float:
        counted = targets[..., 1]
        return float(counted[:, lanes].sum() / counted.sum().clamp(min=1))

    def evaluate(self, model: Model, quick: bool) -> ForecastMetrics | None:
        if not self.holds_out:
            return None
        rows, first = self._held_out
        horizon = self.design.horizon
        origins = sum(max(0, len(r) - horizon - start + 1) for r, start in zip(rows, first, strict=True))
        request = ForecastRequest(horizon, max(1, origins // QUICK_ORIGINS) if quick else 1, number=0)
        report = SeriesLoop(TorchForecastStepper(model), rows, self.design).evaluate(first, request)
        square = report.errors[MODEL].mean("scaled_square")
        assert square is not None
        return ForecastMetrics(held_out_loss(model, rows, first), math.sqrt(square), horizon)

    @cached_property
    def _held_out(self) -> tuple[list[PreparedSeries], list[int]]:
        """The series from some steps before their held-out part on, and where that begins."""
        starts = [max(0, end - self.design.context) for end in self.windows.ends]
        rows = [rows.since(start) for rows, start in zip(self.windows.rows, starts, strict=True)]
        return rows, [end - start for end, start in zip(self.windows.ends, starts, strict=True)]

    def sample(self, model: Model) -> str:
        """The next values of the first series."""
        whole = self.windows.rows[0]
        rows = [whole.since(max(0, len(whole) - self.design.context))]
        loop = SeriesLoop(TorchForecastStepper(model), rows, self.design)
        last = next(loop.read([len(rows[0]) - 1], 1))
        ahead = loop.forecasts(last, min(SHOWN, self.design.horizon))
        values = rows[0].restored(ahead, last.steps)[0]
        shown = rounded([whole.series.values[-1], *values], whole.scale)
        return f"{whole.series.name}: {shown[0]!r} -> {' '.join(map(repr, shown[1:]))}"


def negative_log_likelihood(outputs: Tensor, residuals: Tensor) -> Tensor:
    """The negative log-likelihood in nats of residuals (...) in units of the base's error, under the Student-t
    distributions of outputs (..., 3)."""
    scale = softplus(outputs[..., 1] + SCALE_AT_ZERO) + LEAST_SCALE
    freedom = LEAST_FREEDOM + softplus(outputs[..., 2] + FREEDOM_AT_ZERO)
    distance = (residuals - outputs[..., 0]) / scale
    half = (freedom + 1) / 2
    level = torch.lgamma(half) - torch.lgamma(freedom / 2) - torch.log(freedom * math.pi) / 2 - torch.log(scale)
    return half * torch.log1p(distance**2 / freedom) - level


def held_out_loss(model: Model, rows: Sequence[PreparedSeries], first: Sequence[int]) -> float:
    """The mean loss of the steps from `first` of each series on, each series read from its beginning."""
    nats = counted = 0.0
    order = np.argsort([len(each) for each in rows])
    longest = len(rows[order[-1]])
    together = max(1, PIECE // longest)
    for start in range(0, len(order), together):
        chosen = order[start : start + together]
        length = len(rows[chosen[-1]])
        inputs = np.zeros((length, len(chosen), rows[0].inputs.shape[1]), dtype=np.float32)
        targets = np.zeros((length, len(chosen), 2), dtype=np.float32)
        for lane, k in enumerate(chosen):
            each, begin = rows[k], max(0, first[k] - 1)
            inputs[: len(each), lane] = each.inputs
            targets[: len(each), lane, 0] = each.residuals
            targets[begin : len(each), lane, 1] = each.counted[begin:]
        with TorchForecastStepper(model).quiet():
            outputs, _ = model(torch.from_numpy(inputs).to(model.readout.linear.weight.device))
            losses = negative_log_likelihood(outputs.float().cpu(), torch.from_numpy(targets[..., 0])).double()
        nats += float((losses * torch.from_numpy(targets[..., 1])).sum())
        counted += float(targets[..., 1].sum())
    return nats / max(1.0, counted)


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
        windows = Windows(self.rows, self.ends, *options.window, options.seed)
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
        return {DESIGN_FILE: self.store.content(DESIGN_FILE), HISTORY_FILE: to_bytes(self.series, self.design.context)}

    def card(self, config: ModelConfig, name: str) -> str:
        step = f"a time step is {self.design.clock.described()}"
        what = f"A recurrent forecaster of {', '.join(self.design.columns.targets)}"
        details = [step, f"trained on {self.training_tokens:,} time steps"]
        return model_card(name, "time-series-forecasting", what, config, details, "predict -m {} TABLE.csv")

"""A trained forecaster, as `textgen.load` returns it."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from textgen import options as arguments
from textgen import storage
from textgen.data import Reading
from textgen.data.parquet_table import corpora
from textgen.data.sources import find_sources
from textgen.errors import TextgenError, UsageError
from textgen.generation.language_model import opened, stored_stepper
from textgen.model import ModelConfig
from textgen.model.stepper import Stepper
from textgen.options import named
from textgen.tasks.forecasting import data
from textgen.tasks.forecasting.ahead import read_ahead
from textgen.tasks.forecasting.baselines import Reached, with_baselines
from textgen.tasks.forecasting.combining import COMBINATION_FILE, RECURRENT_ONLY, Combination, CombinedLoop
from textgen.tasks.forecasting.data import continued
from textgen.tasks.forecasting.design import DESIGN_FILE, LARGEST, Design, PreparedSeries, prepare_series
from textgen.tasks.forecasting.known import require_ahead
from textgen.tasks.forecasting.options import ForecastingOptions, chosen_baselines, chosen_quantiles
from textgen.tasks.forecasting.reading import Series, read_series
from textgen.tasks.forecasting.rolling import BacktestReport, ForecastRequest, SeriesLoop, interval
from textgen.tasks.forecasting.scaling import Floats, Scale, rounded


@dataclass(frozen=True)
class Forecast:
    """The forecast of one series: its `times` as the table writes them, the likeliest values (H,), the bounds of the
    middle `level` percent of the sample paths, those paths (number, H), and the history that it continues."""

    series: str
    times: list[str | int]
    values: Floats
    low: Floats | None
    high: Floats | None
    paths: Floats
    level: float
    history: Series
    history_times: list[str | int]
    scale: Scale
    quantiles: Mapping[float, Floats] = field(default_factory=dict)
    """The quantiles (H,) that were asked for, by their numbers."""

    def columns(self) -> dict[str, list[float]]:
        """The forecast, the bounds if there are any, and quantiles such as `q0.1`, rounded for output (see
        `Scale.decimals`)."""
        bounds = {} if self.low is None or self.high is None else {"low": self.low, "high": self.high}
        arrays = {"forecast": self.values, **bounds, **{f"q{q:g}": values for q, values in self.quantiles.items()}}
        together = rounded(np.concatenate(list(arrays.values())).tolist(), self.scale)
        return {name: together[k * len(self.times) : (k + 1) * len(self.times)] for k, name in enumerate(arrays)}

    def to_json(self) -> dict[str, Any]:
        """The forecast by name, without the history and the paths."""
        return {"series": self.series, "time": self.times, **self.columns(), "level": self.level}


@dataclass(frozen=True)
class ForecastModel:
    """A trained model of the forecast task; `design` says how tables are read."""

    config: ModelConfig
    design: Design
    stepper: Stepper
    history: Mapping[str, Series]
    """The end of each series in the training data, by name."""
    combination: Combination = RECURRENT_ONLY
    """How the forecasts of the stepper are combined with others."""

    def read(
        self, corpus: Any, encoding: str | None = None, delimiter: str | None = None, decimal: str | None = None
    ) -> list[PreparedSeries]:
        """The series of tables as the model reads them; a series that begins where training ended continues from there.

        Encoding and delimiter default to those of training; the decimal separator is detected by default. Raises
        TextgenError naming row and column.
        """
        encoding = arguments.optional_text("encoding", encoding)
        delimiter = arguments.optional_text("delimiter", delimiter)
        decimal = None if decimal is None else arguments.choice("decimal", decimal, (".", ","))
        columns = self.design.columns
        options = ForecastingOptions(
            time_column=list(columns.times),
            target_column=list(columns.targets),
            series_column=columns.series,
            extra_column=list(columns.extras),
            future_column=list(columns.future),
            static_column=list(columns.static),
            season=self.design.season,
            decimal=decimal,
        )
        sources = find_sources(corpora("corpus", corpus))
        reading = Reading.of(self.config.reading, {"encoding": encoding, "delimiter": delimiter}).options
        try:
            words = {each.column: each.words for each in self.design.known}
            table = read_series(sources, options, reading, self.design.longest_gap, self.design.clock, words)
        except UsageError as error:
            if error.column is None or error.column not in columns.all():
                raise
            hint = f"give the column of this table the name {error.column!r}."
            raise UsageError(f"{error} The model was trained on this column.", hint=hint) from None
        table.require_step(self.design.clock, sources[0].name, "the model's")
        return [prepare_series(continued(series, self.history, self.design), self.design) for series in table.series]

    def predict(
        self,
        corpus: Any,
        horizon: int | None = None,
        level: float = 90.0,
        number: int = 200,
        seed: int = 0,
        encoding: str | None = None,
        delimiter: str | None = None,
        decimal: str | None = None,
        quantiles: Any = None,
        future: Any = None,
    ) -> list[Forecast]:
        """Forecast `horizon` steps (by default as in training) after the last value of each series of some tables.

        `corpus` is a path, a table in memory as `textgen.train` takes it, or a list of those. `number` sample paths
        give the interval of `level` percent and the `quantiles`, such as [0.1, 0.5]; the same seed gives the same
        paths. The next values of future columns are in rows of `corpus` without a value to forecast, or in a further
        table, `future`. Raises TextgenError naming row and column of what cannot be read.

        Example:
            >>> forecaster = textgen.load("runs/weather")                              # doctest: +SKIP
            >>> forecaster.predict("weather.csv", horizon=24)[0].values                   # doctest: +SKIP
        """
        request = self.request(horizon, 1, number, level, seed, quantiles)
        rows = self.read(corpus, encoding, delimiter, decimal)
        if future is not None:
            rows = self.with_future(rows, future, encoding, delimiter, decimal)
        return self.predict_rows(rows, request)

    def with_future(
        self,
        rows: Sequence[PreparedSeries],
        future: Any,
        encoding: str | None = None,
        delimiter: str | None = None,
        decimal: str | None = None,
    ) -> list[PreparedSeries]:
        """Series with the next values of future columns from another table, which has the columns of times, of series
        and of these. Raises TextgenError naming row and column of what cannot be read."""
        design = self.design
        if not design.columns.future:
            raise UsageError(f"{named('future')} gives the next values of future columns, and this model has none.")
        sources = find_sources(corpora("future", future))
        reading = Reading.of(self.config.reading, {"encoding": encoding, "delimiter": delimiter}).options
        ahead = read_ahead(sources, design.columns, design.known, reading, design.clock, decimal)
        return [
            prepare_series(ahead[name].after(each.series, design.clock) if name in ahead else each.series, design)
            for each in rows
            for name in [each.series.name]
        ]

    def kept(self) -> list[PreparedSeries]:
        """The end of each series of the training data, which the model keeps."""
        return [prepare_series(each, self.design) for each in self.history.values()]

    def request(
        self, horizon: Any, stride: Any, number: Any, level: Any, seed: Any, quantiles: Any = None
    ) -> ForecastRequest:
        """The request, checked against the limits of the command's options. Raises UsageError naming the parameter."""
        chosen = self.horizon if horizon is None else horizon
        whole = arguments.whole_number
        paths = whole("number", number, 0, 100_000)
        return ForecastRequest(
            whole("horizon", chosen, 1, 100_000),
            whole("stride", stride, 1, LARGEST),
            paths,
            arguments.number("level", level, 0, 99.9),
            whole("seed", seed, 0, 2**63 - 1),
            chosen_quantiles(quantiles, paths),
        )

    @property
    def horizon(self) -> int:
        """The time steps that it was trained to forecast."""
        return self.design.horizon

    def predict_rows(self, rows: Sequence[PreparedSeries], request: ForecastRequest) -> list[Forecast]:
        """Like `predict`, for series that are already read."""
        design, horizon = self.design, request.horizon
        self._require_known(rows, horizon)
        rows_ahead = [prepare_series(each.series, design, horizon) for each in rows]
        loop, after = self.loop(rows_ahead, [len(each) for each in rows])
        found: dict[int, Forecast] = {}
        for some in list(loop.read([start - 1 for start in after], 1 << 20)):
            scaled = loop.forecasts(some, horizon)
            drawn = np.zeros((len(some), 0, horizon))
            if request.number:
                drawn = loop.paths(some, horizon, request.number, request.seed)
            for place, number in enumerate(some.series):
                found[number] = self._forecast(rows[number], scaled[place], drawn[place], request)
        return [found[number] for number in sorted(found)]

    def _require_known(self, rows: Sequence[PreparedSeries], horizon: int) -> None:
        """Raise TextgenError if a future column has no value for a step to forecast."""
        for each in rows if self.design.columns.future else ():
            series, length = each.series, len(each)
            labels = series.clock.labels(series.start + self.design.clock.step * np.arange(length, length + horizon))
            require_ahead(self.design.known, series.name, series.known, length, labels)

    def _forecast(self, rows: PreparedSeries, scaled: Floats, drawn: Floats, request: ForecastRequest) -> Forecast:
        series, clock = rows.series, rows.series.clock
        stamps = clock.labels(series.start + self.design.clock.step * np.arange(len(series) + request.horizon))
        last = np.array([len(series) - 1])

        def restored(scaled: Floats) -> Floats:
            values: Floats = rows.restored(scaled[None], last)[0]
            return values

        low, high = map(restored, interval(drawn[None], request.level)[:, 0]) if len(drawn) else (None, None)
        return Forecast(
            series.name,
            stamps[len(series) :],
            restored(scaled),
            low,
            high,
            restored(drawn),
            request.level,
            series,
            stamps[: len(series)],
            rows.scale,
            {q: restored(np.quantile(drawn, q, axis=0)) for q in request.quantiles},
        )

    def evaluate(
        self,
        corpus: Any,
        horizon: int | None = None,
        stride: int = 1,
        number: int = 100,
        level: float = 90.0,
        seed: int = 0,
        encoding: str | None = None,
        delimiter: str | None = None,
        decimal: str | None = None,
        baselines: str | Sequence[str] = (),
        quantiles: Any = None,
    ) -> BacktestReport:
        """Backtest this model and the naive forecasts, by rolling origin, on all values after the training data; for
        other series, on their last tenth, at least one horizon.

        `baselines` are classical forecasters to score on the same windows, 'ets' and 'arima': AutoETS and AutoARIMA of
        statsforecast, which take seconds to minutes for each series. Where they are only scored on the last windows,
        these are in the report's `recent`. Raises TextgenError if there is nothing to forecast.
        """
        methods = chosen_baselines(baselines)
        request = self.request(horizon, stride, number, level, seed, quantiles)
        rows = self.read(corpus, encoding, delimiter, decimal)
        return self.evaluate_rows(rows, [self.unseen(each, request.horizon) for each in rows], request, methods)

    def unseen(self, rows: PreparedSeries, horizon: int) -> int:
        """The first step of a series after the training data."""
        scale = self.design.scales.get(rows.series.name)
        if scale is None:
            return max(1, len(rows) - max(horizon, len(rows) // 10))
        return max(1, -(-(scale.end - rows.series.start) // self.design.clock.step))

    def evaluate_rows(
        self,
        rows: Sequence[PreparedSeries],
        first: Sequence[int],
        request: ForecastRequest,
        methods: Sequence[str] = (),
        reached: Reached | None = None,
        start: Sequence[int] | None = None,
    ) -> BacktestReport:
        """Like `evaluate`, for series that are already read, from step `first` of each. `reached` is called as the
        baselines in `methods` proceed. Only forecasts from the later step `start` of each on are scored, if given."""

        def scored(start: Sequence[int], request: ForecastRequest) -> BacktestReport:
            loop, after = self.loop(rows, first)  # so that what is fitted at the first origin is not fitted later
            later = [begin + to - since for begin, to, since in zip(after, start, first, strict=True)]
            return loop.evaluate(later, request)

        if start is not None:
            return scored(start, request)
        return with_baselines(scored, rows, first, request, methods, reached)

    def loop(self, rows: Sequence[PreparedSeries], first: Sequence[int]) -> tuple[SeriesLoop, list[int]]:
        """The loop for forecasts of the steps from `first` of each series on, and where those are in its rows."""
        return CombinedLoop.over(self.stepper, rows, self.design, first, self.combination)


def load(folder: str | os.PathLike[str], backend: str = "auto") -> ForecastModel:
    """Open a model folder of the forecast task. Runs no code from it. Raises as
    `textgen.generation.language_model.load`."""
    path = arguments.path("folder", folder)
    manifest, config = opened(path, backend)
    if config.task != "forecast":
        raise TextgenError(f"the model in {str(path)!r} is not a forecaster.")
    content = storage.parse_json(
        storage.verified(path, DESIGN_FILE, manifest, storage.JSON_LIMIT), str(path / DESIGN_FILE)
    )
    design = Design.from_json(content, str(path / DESIGN_FILE))
    if config.features != design.width:
        raise storage.DamagedError(f"{path / DESIGN_FILE} is damaged: its inputs are not those of the model.")
    combination = RECURRENT_ONLY
    if COMBINATION_FILE in manifest["files"]:
        content = storage.parse_json(
            storage.verified(path, COMBINATION_FILE, manifest, storage.JSON_LIMIT), str(path / COMBINATION_FILE)
        )
        combination = Combination.from_json(content, str(path / COMBINATION_FILE))
    stepper: Stepper | None = stored_stepper(path, manifest, config, backend)
    kept = data.from_bytes(storage.verified(path, data.HISTORY_FILE, manifest), design, str(path / data.HISTORY_FILE))
    if stepper is None:
        from textgen.model.weights import load_weights
        from textgen.tasks.forecasting.objective import TorchForecastStepper

        stepper = TorchForecastStepper(load_weights(path, manifest, config))
    return ForecastModel(config, design, stepper, kept, combination)

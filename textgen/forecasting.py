"""`textgen.Forecaster`: train a forecaster on a frame and predict into a frame, in two calls.

It is `textgen.train` and `textgen.load` for a data frame: the same options, the same model folder, nothing printed.
"""

from __future__ import annotations

import shutil
import tempfile
import weakref
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import import_module
from pathlib import Path
from typing import Any, Self

from textgen.data.parquet_table import is_table, with_index
from textgen.errors import TextgenError, needed
from textgen.loading import load
from textgen.tasks import options_for
from textgen.tasks.forecasting.forecaster import ForecastModel
from textgen.tasks.forecasting.options import chosen_baselines
from textgen.tasks.forecasting.rolling import BacktestReport
from textgen.training.start import train
from textgen.training.stored_data import data_of

LISTS = ("time_column", "target_column", "extra_column", "future_column", "static_column")
"""Options that hold several columns; one may be given by itself."""


class Forecaster:
    """A forecaster with `fit` and `predict`, for tables in memory.

    Options are those of `textgen.train` with `task="forecast"`: `horizon`, `cell`, `season`, `max_steps`, `seed` and so
    on. Without `output_dir`, the run folder is a temporary one, which is removed with the object.

    Attributes:
        options: the given options, by name.
        folder: the model folder, once fitted, for `textgen.load` and the commands.
        model: the trained model as `textgen.load` opens it, once fitted.

    Example:
        >>> forecaster = textgen.Forecaster(horizon=12)                                    # doctest: +SKIP
        >>> forecaster.fit(frame, time_column="month", target_column="sales").predict()    # doctest: +SKIP
    """

    def __init__(self, **options: Any) -> None:
        self.options = _with_lists(options)
        options_for({**self.options, "task": "forecast"})  # raises UsageError for what is wrong
        self.folder: Path | None = None
        self._model: ForecastModel | None = None
        self._kind = "pandas"
        self._times: _Times | None = None

    def fit(self, table: Any, **columns: Any) -> Self:
        """Train on a frame of pandas or polars, a table of pyarrow, or a file. Returns itself.

        `columns` are options that name columns, such as `time_column`, `target_column` and `series_column`, and any
        others; they take precedence over those of the constructor. Raises TextgenError in one sentence that names the
        parameter, or row and column.
        """
        options = {**self.options, **_with_lists(columns)}
        if "output_dir" not in options:
            place = tempfile.mkdtemp(prefix="textgen-")
            weakref.finalize(self, shutil.rmtree, place, ignore_errors=True)
            options["output_dir"] = str(Path(place) / "run")
        self.folder = train(table, **{**options, "task": "forecast"})
        self._model = load(self.folder)
        self._kind, self._times = _kind_of(table), _times_of(table, self._model.design.columns.times)
        return self

    @property
    def model(self) -> ForecastModel:
        """The trained model. Raises TextgenError before `fit`."""
        if self._model is None:
            raise TextgenError("this Forecaster has not been fitted.", hint="call fit(TABLE) first.")
        return self._model

    def predict(
        self,
        horizon: int | None = None,
        table: Any = None,
        level: float = 90.0,
        number: int = 200,
        seed: int = 0,
        quantiles: Any = None,
        future: Any = None,
    ) -> Any:
        """Forecast the next `horizon` steps (by default as in training) of each series, as a frame of the kind that
        `fit` was given.

        Its columns are `series`, `time`, `forecast`, `low` and `high`, and `q0.1` and so on for `quantiles`; `time`
        holds dates where the table did, and otherwise times as the table writes them. The forecasts continue the
        training data or, if given, a newer `table`. `future` is a table with the next values of future columns, if the
        end of that table does not have them. `number` sample paths give the interval of `level` percent. Raises
        TextgenError before `fit`, and for a table that cannot be read.
        """
        model = self.model
        request = model.request(horizon, 1, number, level, seed, quantiles)
        rows = model.kept() if table is None else model.read(table)
        found = model.predict_rows(rows if future is None else model.with_future(rows, future), request)
        kind, times = self._kind, self._times
        if table is not None:
            kind, times = _kind_of(table), _times_of(table, model.design.columns.times)
        columns: dict[str, list[Any]] = {}
        for forecast in found:
            stamps = forecast.times if times is None else [datetime.fromisoformat(str(each)) for each in forecast.times]
            values = {"series": [forecast.series] * len(stamps), "time": stamps, **forecast.columns()}
            for name, column in values.items():
                columns.setdefault(name, []).extend(column)
        return _frame(columns, kind, times)

    def evaluate(
        self,
        table: Any = None,
        horizon: int | None = None,
        stride: int = 1,
        number: int = 100,
        level: float = 90.0,
        seed: int = 0,
        baselines: str | Sequence[str] = (),
        quantiles: Any = None,
    ) -> BacktestReport:
        """The errors of the model and of naive forecasts by rolling origin (see `ForecastModel.evaluate`): on the
        values of a `table` after the training data, or without one on the part that training held out.

        Raises TextgenError before `fit`, and if there is nothing to forecast.
        """
        model = self.model
        if table is not None:
            return model.evaluate(table, horizon, stride, number, level, seed, baselines=baselines, quantiles=quantiles)
        assert self.folder is not None
        data: Any = data_of(self.folder)
        if not data.held_out_tokens:
            raise TextgenError("nothing was held out to evaluate on.", hint="evaluate(TABLE), with newer values.")
        request = model.request(horizon, stride, number, level, seed, quantiles)
        return model.evaluate_rows(data.rows, data.ends, request, chosen_baselines(baselines))


def _with_lists(options: Mapping[str, Any]) -> dict[str, Any]:
    """Options, a single column as a list of one."""
    return {name: [each] if name in LISTS and isinstance(each, str) else each for name, each in options.items()}


def _kind_of(table: Any) -> str:
    """The library of a table: pandas, polars or pyarrow; pandas for anything else."""
    kind = type(table).__module__.partition(".")[0]
    return kind if kind in ("polars", "pyarrow") else "pandas"


@dataclass(frozen=True)
class _Times:
    """How a table holds its times: as days (`date`), or with a time zone."""

    date: bool = False
    zone: Any = None


def _times_of(table: Any, names: Sequence[str]) -> _Times | None:
    """How a table holds its times, None if as text or numbers."""
    if not is_table(table) or len(names) != 1:
        return None
    library = _kind_of(table)
    if library == "pandas":
        kind = getattr(with_index(table)[names[0]], "dtype", None) if hasattr(table, "iloc") else None
        return _Times(zone=getattr(kind, "tz", None)) if getattr(kind, "kind", "") == "M" else None
    kind = table[names[0]].dtype if library == "polars" else table[names[0]].type
    name = str(kind).lower()
    if not name.startswith(("date", "timestamp")):
        return None
    return _Times(name.startswith("date") and "time" not in name, getattr(kind, "time_zone", getattr(kind, "tz", None)))


def _frame(columns: dict[str, list[Any]], kind: str, times: _Times | None) -> Any:
    """Columns as a frame of one of the libraries. Raises TextgenError if it is not installed."""
    with needed(kind, "a frame of forecasts"):
        library = import_module(kind)
    if times is not None:
        columns = {**columns, "time": [_stamp(each, times) for each in columns["time"]]}
    if kind == "pyarrow":
        return library.table(columns)
    if times is not None and kind == "pandas":
        zone = times.zone
        stamps = library.to_datetime(columns["time"], utc=zone is not None)
        columns["time"] = stamps if zone is None else stamps.tz_convert(zone)
    frame = library.DataFrame(columns)
    if times is not None and times.zone is not None and kind == "polars":
        frame = frame.with_columns(library.col("time").dt.convert_time_zone(str(times.zone)))
    return frame


def _stamp(when: datetime, times: _Times) -> Any:
    if times.date:
        return when.date()
    return when.astimezone(UTC) if times.zone is not None and when.tzinfo is not None else when

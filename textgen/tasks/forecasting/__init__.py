"""The task `forecast`: predict the next values of time series."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from textgen.hookspecs import hookimpl
from textgen.options import check
from textgen.tasks import Request, Task
from textgen.tasks.forecasting.options import ForecastEvaluation, ForecastingOptions, ForecastPrediction, check_series

if TYPE_CHECKING:
    from textgen.tasks.data import TaskData


class ForecastingTask(Task):
    """Predict the next values of time series."""

    name = "forecast"
    options = ForecastingOptions
    evaluation = ForecastEvaluation
    prediction = ForecastPrediction

    def check(self, options: ForecastingOptions) -> None:
        check(options)
        check_series(options)

    def data(self) -> type[TaskData]:
        from textgen.tasks.forecasting.data import SeriesData

        return SeriesData

    def load(self, folder: Path, backend: str) -> Any:
        from textgen.tasks.forecasting.forecaster import load

        return load(folder, backend)

    def evaluate(self, request: Request) -> None:
        from textgen.tasks.forecasting.evaluate import evaluate

        evaluate(request)

    def predict(self, request: Request) -> None:
        from textgen.tasks.forecasting.evaluate import predict

        predict(request)


@hookimpl
def register_tasks(register: Any) -> None:
    """The built-in task."""
    register("forecast", ForecastingTask())

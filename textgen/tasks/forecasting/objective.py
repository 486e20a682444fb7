"""The objective of a forecaster: at every time step, the distribution of the next value."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import softplus

from textgen import storage
from textgen.cells.engine import State
from textgen.errors import TextgenWarning
from textgen.model.stack import Model
from textgen.model.weights import TorchRows
from textgen.tasks.forecasting.combining import COMBINATION_FILE, RECURRENT, Combination, CombinedLoop
from textgen.tasks.forecasting.design import Design, PreparedSeries, Windows
from textgen.tasks.forecasting.rolling import (
    FREEDOM_AT_ZERO,
    LAST,
    LEAST_FREEDOM,
    LEAST_SCALE,
    MODEL,
    SCALE_AT_ZERO,
    SEASONAL,
    ForecastRequest,
    SeriesLoop,
)
from textgen.tasks.forecasting.scaling import Floats32, rounded
from textgen.tasks.forecasting.weighting import fitted
from textgen.tasks.objective import Metrics, Objective, at_least_float32

PIECE = 1 << 18  # the most time steps, over all series in a batch, that the held-out loss reads at once
QUICK_ORIGINS = 256  # the number of forecast origins in a quick evaluation, over all series
SHOWN = 6  # the number of values in a sample during training


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
    part. After training, `combination` says how the model's forecasts are combined with others, and `combined` is the
    error of the whole."""

    loss: float
    error: float
    horizon: int
    combination: Combination | None = None
    combined: float | None = None

    @property
    def criterion(self) -> float:
        """The loss where one step is forecast, else the error over the horizon."""
        return self.loss if self.horizon == 1 else self.error

    def to_json(self) -> dict[str, Any]:
        """Every metric by name."""
        combined = {} if self.combined is None else {"combined_scaled_rmse": self.combined}
        return {"nats": self.loss, "scaled_rmse": self.error, **combined}

    def shown(self) -> dict[str, str]:
        """The metrics of the training table, after training those of the combination."""
        error = self.error if self.combined is None else self.combined
        return {"loss": f"{self.loss:.4f}", "rmse/dev": f"{error:.4f}"}


@dataclass(frozen=True)
class ForecastingObjective(Objective):
    """Predict each time step from those before it."""

    columns = ("loss", "rmse/dev")
    starts_as = "the naive forecast"  # which the model corrects, at first by nothing

    windows: Windows
    design: Design
    holds_out: bool
    combines: bool = True

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
        losses = negative_log_likelihood(at_least_float32(outputs), targets[..., 0])
        return (losses * counted).sum() / counted.sum().clamp(min=1)

    def share(self, targets: Tensor, lanes: slice) -> float:
        counted = targets[..., 1].double()
        return float(counted[:, lanes].sum() / counted.sum().clamp(min=1))

    def evaluate(self, model: Model, quick: bool) -> ForecastMetrics | None:
        if not self.holds_out:
            return None
        rows, first = self._held_out
        horizon = self.design.horizon
        origins = sum(max(0, len(r) - horizon - start + 1) for r, start in zip(rows, first, strict=True))
        request = ForecastRequest(horizon, max(1, origins // QUICK_ORIGINS) if quick else 1, number=0)
        stepper, combination = TorchForecastStepper(model), None
        loop, begin = SeriesLoop(stepper, rows, self.design), first
        if self.combines and not quick:
            combination = fitted(stepper, self.windows.rows, self.design, self.windows.ends)
            loop, begin = CombinedLoop.over(stepper, self.windows.rows, self.design, self.windows.ends, combination)
        errors, loss = loop.evaluate(begin, request).errors, held_out_loss(model, rows, first)
        found = {method: math.sqrt(each.mean("scaled_square") or 0.0) for method, each in errors.items()}
        if combination is None:
            return ForecastMetrics(loss, found[MODEL], horizon)
        naive = min((method for method in (LAST, SEASONAL) if method in found), key=lambda method: found[method])
        if found[MODEL] > found[naive]:
            errors_of = f"its error is {found[naive]:.4g} standard deviations, that of the model {found[MODEL]:.4g}"
            message = f"on the held-out part, the {naive} forecast is better than this model: {errors_of}."
            warnings.warn(TextgenWarning(message), stacklevel=2)
        return ForecastMetrics(loss, found[RECURRENT], horizon, combination, found[MODEL])

    def files(self, metrics: Metrics) -> dict[str, bytes]:
        found = metrics.combination if isinstance(metrics, ForecastMetrics) else None
        return {} if found is None else {COMBINATION_FILE: storage.to_json(found.to_json())}

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

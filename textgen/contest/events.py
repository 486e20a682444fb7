"""The events of a comparison."""

from __future__ import annotations

from dataclasses import dataclass

from textgen.contest.record import RunResult
from textgen.training.events import Event


@dataclass(frozen=True)
class TrainingStarted:
    """A trial of a learning rate, or a run with this seed, has started or resumed."""

    name: str
    seed: int
    rate: float
    trial: bool


@dataclass(frozen=True)
class InTraining:
    """An event of the current trial or run, which has this many steps."""

    event: Event
    steps: int


@dataclass(frozen=True)
class RateTried:
    """A learning rate was tried; the loss is None if the trial failed."""

    name: str
    rate: float
    loss: float | None


@dataclass(frozen=True)
class RateChosen:
    """The learning rate of a cell is decided; None if every trial failed."""

    name: str
    rate: float | None


@dataclass(frozen=True)
class RunEnded:
    """A run is done, or has failed."""

    name: str
    seed: int
    result: RunResult


@dataclass(frozen=True)
class ComparisonStopped:
    """The comparison was asked to stop, and everything needed to continue is saved."""


ComparisonEvent = TrainingStarted | InTraining | RateTried | RateChosen | RunEnded | ComparisonStopped

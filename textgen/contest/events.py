"""What happens during a contest, as the contest tells it."""

from __future__ import annotations

from dataclasses import dataclass

from textgen.contest.record import Outcome
from textgen.training.events import Event


@dataclass(frozen=True)
class Began:
    """A trial of a learning rate, or (without a rate) a run with this seed, has begun or gone on."""

    name: str
    seed: int
    rate: float
    trial: bool


@dataclass(frozen=True)
class Inside:
    """Something happened inside the training at hand."""

    event: Event
    steps: int


@dataclass(frozen=True)
class Tried:
    """A learning rate was tried; the loss is None if the trial failed."""

    name: str
    rate: float
    loss: float | None


@dataclass(frozen=True)
class Chosen:
    """The learning rate of a cell is decided; None if every trial failed."""

    name: str
    rate: float | None


@dataclass(frozen=True)
class Ran:
    """A run is done, or has failed."""

    name: str
    seed: int
    outcome: Outcome


@dataclass(frozen=True)
class Stopped:
    """The contest was asked to stop, and all that is needed to go on is saved."""


ContestEvent = Began | Inside | Tried | Chosen | Ran | Stopped

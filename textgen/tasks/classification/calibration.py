"""Calibration: one temperature, fitted on the held-out part, by which scores are divided (Guo et al. 2017).

Dividing by a temperature keeps the order of the labels, so it never changes which one is predicted. It is stored in a
file of its own beside the weights; a model folder without that file has the temperature 1.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from textgen import storage
from textgen.generation.sampling import log_softmax
from textgen.storage import filesystem

CALIBRATION = "calibration.json"
"""The file of a model folder that holds the temperature."""

LOWEST, HIGHEST = 0.05, 20.0
"""The temperatures that a fit chooses from, and that a folder may hold."""

HALVINGS = 40
_GOLDEN = (math.sqrt(5) - 1) / 2

Floats = npt.NDArray[np.floating[Any]]
Integers = npt.NDArray[np.integer[Any]]


def tempered(log_probabilities: Floats, temperature: float) -> Floats:
    """Log-probabilities (..., C) of scores divided by a temperature; a constant added to the scores of a text does not
    matter, so log-probabilities serve as scores."""
    return log_probabilities if temperature == 1 else log_softmax(log_probabilities / temperature)


def fit_temperature(log_probabilities: Floats, true: Integers) -> float:
    """The temperature for N texts: their log-probabilities (N, C) in nats, and the indices of their labels (N,)."""
    texts, labels = log_probabilities.shape
    certain = np.eye(labels)[true]
    smooth = smoothed(certain, texts, labels)

    def nats(temperature: float, targets: Floats) -> float:
        return -float((targets * tempered(log_probabilities, temperature)).sum())

    return lowest(lambda temperature: nats(temperature, smooth), lambda temperature: nats(temperature, certain))


def smoothed(targets: npt.NDArray[Any], texts: int, labels: int) -> Floats:
    """Targets of 0 and 1 as Platt (1999) smooths them: after N texts that were all right, the next one may still be
    wrong, with probability 1 / (N + 2). Without it, a few such texts would make a model certain."""
    wrong = 1 / (texts + 2)
    return np.where(targets > 0, 1 - wrong, wrong / max(1, labels - 1))


def lowest(smooth: Callable[[float], float], nats: Callable[[float], float]) -> float:
    """The temperature of the lowest summed loss over smoothed targets; 1 unless it also has a lower loss, `nats`, over
    the targets themselves. Golden-section search over the logarithm; the loss has one minimum."""

    def cost(log_temperature: float) -> float:
        return smooth(math.exp(log_temperature))

    low, high = math.log(LOWEST), math.log(HIGHEST)
    left, right = high - _GOLDEN * (high - low), low + _GOLDEN * (high - low)
    at_left, at_right = cost(left), cost(right)
    for _ in range(HALVINGS):
        if at_left <= at_right:
            high, right, at_right = right, left, at_left
            left = high - _GOLDEN * (high - low)
            at_left = cost(left)
        else:
            low, left, at_left = left, right, at_right
            right = low + _GOLDEN * (high - low)
            at_right = cost(right)
    found = math.exp((low + high) / 2)
    return found if nats(found) < nats(1.0) else 1.0


def cross_fitted(scores: Floats, fit: Callable[[npt.NDArray[np.intp]], float]) -> Floats:
    """Scores (N, C) divided by temperatures that were fitted on other texts: those of each half, every second text, by
    the temperature that `fit` finds for the other half, given its indices. What is measured with them is not flattered
    by the fit."""
    halves = np.arange(0, len(scores), 2), np.arange(1, len(scores), 2)
    found = np.array(scores, np.float64)
    if len(halves[1]):
        for half, other in (halves, halves[::-1]):
            found[half] /= fit(other)
    return found


def calibration_file(temperature: float) -> dict[str, bytes]:
    """The file of a model folder that holds a temperature, by name."""
    return {CALIBRATION: filesystem.to_json({"temperature": temperature})}


def stored_temperature(folder: Path) -> float:
    """The temperature of a model folder; 1 if it holds none. Raises DamagedError for anything but a temperature."""
    manifest = storage.read_manifest(folder)
    if CALIBRATION not in manifest["files"]:
        return 1.0
    content = storage.parse_json(
        storage.verified(folder, CALIBRATION, manifest, storage.JSON_LIMIT), str(folder / CALIBRATION)
    )
    value: Any = content.get("temperature")
    if type(value) not in (int, float) or not LOWEST <= value <= HIGHEST:
        raise storage.DamagedError(
            f"{folder / CALIBRATION} is damaged: 'temperature' must be a number from {LOWEST:g} to {HIGHEST:g}, "
            f"not {value!r}."
        )
    return float(value)

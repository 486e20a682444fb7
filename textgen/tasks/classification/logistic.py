"""Logistic regression on sparse binary features, by L-BFGS (Liu and Nocedal 1989) in numpy: a function of its data."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]

MEMORY = 8
"""Steps that the curvature is estimated from."""


@dataclass(frozen=True)
class Sparse:
    """N examples of binary features: the indices of all (S,), and where those of each example end, (N,). Every example
    has at least one feature."""

    indices: npt.NDArray[np.int32]
    ends: Integers
    features: int

    @property
    def lengths(self) -> Integers:
        """Features of each example, (N,)."""
        lengths: Integers = np.diff(self.ends, prepend=0)
        return lengths

    def times(self, weights: Floats) -> Floats:
        """The sum of the weights (features, C) of each example's features, (N, C)."""
        starts = self.ends - self.lengths
        columns = [np.add.reduceat(column[self.indices], starts) for column in np.ascontiguousarray(weights.T)]
        return np.stack(columns, axis=1)

    def transposed_times(self, values: Floats) -> Floats:
        """The sum of the values (N, C) of all examples that have a feature, (features, C)."""
        lengths = self.lengths
        columns = [np.bincount(self.indices, np.repeat(column, lengths), self.features) for column in values.T]
        return np.stack(columns, axis=1)


def minimum(
    function: Callable[[Floats], tuple[float, Floats]], start: Floats, steps: int, tolerance: float = 1e-4
) -> Floats:
    """The arguments for which a convex function, given with its gradient, is smallest: after `steps`, or when the
    gradient has fallen to `tolerance` of what it was."""
    x, (value, gradient) = start, function(start)
    first = float(np.linalg.norm(gradient))
    past: deque[tuple[Floats, Floats, float]] = deque(maxlen=MEMORY)
    for _ in range(steps):
        if np.linalg.norm(gradient) <= tolerance * first:
            break
        direction = -_newton(gradient, past)
        slope = float(np.vdot(gradient, direction))
        rate = 1.0 if past else min(1.0, 1.0 / float(np.abs(gradient).sum()))
        for _ in range(30):  # Armijo's rule
            new_value, new_gradient = function(x + rate * direction)
            if new_value <= value + 1e-4 * rate * slope:
                break
            rate /= 2
        else:
            break
        change, bend = rate * direction, new_gradient - gradient
        if (product := float(np.vdot(change, bend))) > 0:
            past.append((change, bend, product))
        x, value, gradient = x + change, new_value, new_gradient
    return x


def _newton(gradient: Floats, past: deque[tuple[Floats, Floats, float]]) -> Floats:
    """The gradient times the estimated inverse of the curvature."""
    result, factors = gradient.copy(), []
    for change, bend, product in reversed(past):
        factors.append(float(np.vdot(change, result)) / product)
        result -= factors[-1] * bend
    if past:
        change, bend, product = past[-1]
        result *= product / float(np.vdot(bend, bend))
    for (change, bend, product), factor in zip(past, reversed(factors), strict=True):
        result += (factor - float(np.vdot(bend, result)) / product) * change
    return result


def fit_factors(
    examples: Sparse, targets: Floats, ratios: Floats, counts: Floats, exclusive: bool = True, steps: int = 60
) -> Floats:
    """The factors (features, C) of `ratios` with which the sums of the products over the features of each example
    predict its targets (N, C): the probabilities of labels that exclude each other, or not. `counts` (N,) is the weight
    of each example's loss against half the sum of all squared factors."""

    def loss(factors: Floats) -> tuple[float, Floats]:
        scores = examples.times(ratios * factors)
        losses, probabilities = _exclusive(scores, targets) if exclusive else _independent(scores, targets)
        error = (probabilities - targets) * counts[:, None]
        value = float(losses @ counts) + 0.5 * float(np.vdot(factors, factors))
        return value, examples.transposed_times(error) * ratios + factors

    return minimum(loss, np.zeros(ratios.shape), steps)


def _exclusive(scores: Floats, targets: Floats) -> tuple[Floats, Floats]:
    """The cross entropy of each example, (N,), and the probabilities of its labels, (N, C)."""
    shifted = scores - scores.max(axis=1, keepdims=True)
    log_total = np.log(np.exp(shifted).sum(axis=1))
    return log_total - (targets * shifted).sum(axis=1), np.exp(shifted - log_total[:, None])


def _independent(scores: Floats, targets: Floats) -> tuple[Floats, Floats]:
    """The same for labels that do not exclude each other."""
    losses = np.logaddexp(0, scores) - targets * scores
    return losses.sum(axis=1), 1 / (1 + np.exp(-scores))

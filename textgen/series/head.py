"""From what a model gives to a Student-t law of the next value: location, scale and degrees of freedom.

The location is a distance from the naive forecast, in units of its usual error, so that a model that gives zeros is the
naive forecast with its usual error.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
SCALE_AT_ZERO = 0.541324854612918
"""What softplus has to be given to be 1."""

LEAST_SCALE, LEAST_FREEDOM, FREEDOM_AT_ZERO = 1e-3, 2.1, 6.0


def law(outputs: npt.NDArray[np.floating]) -> tuple[Floats, Floats, Floats]:
    """Location, scale and degrees of freedom (R,) of outputs (R, 3), in units of the base's error."""
    wide = outputs.astype(np.float64)
    scale = _softplus(wide[:, 1] + SCALE_AT_ZERO) + LEAST_SCALE
    return wide[:, 0], scale, LEAST_FREEDOM + _softplus(wide[:, 2] + FREEDOM_AT_ZERO)


def _softplus(values: Floats) -> Floats:
    return np.logaddexp(0.0, values)


def student(uniform: Floats, freedom: Floats) -> Floats:
    """Draws of Student's t, from pairs of uniform numbers (..., 2) and degrees of freedom (...). Bailey 1994, "Polar
    generation of random variates with the t-distribution"."""
    radius = np.sqrt(freedom * (np.maximum(uniform[..., 0], 1e-12) ** (-2 / freedom) - 1))
    return radius * np.cos(2 * np.pi * uniform[..., 1])

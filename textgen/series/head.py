"""From the model's outputs to a Student-t distribution of the next value: location, scale and degrees of freedom.

The location is a distance from the naive forecast in units of its typical error: a model whose outputs are zero gives
the naive forecast with its typical error.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
SCALE_AT_ZERO = 0.541324854612918
"""The argument at which softplus is 1."""

LEAST_SCALE, LEAST_FREEDOM, FREEDOM_AT_ZERO = 1e-3, 2.1, 6.0


def student_t(outputs: npt.NDArray[np.floating]) -> tuple[Floats, Floats, Floats]:
    """Location, scale and degrees of freedom (R,) of outputs (R, 3), in units of the base's error."""
    location, scale, freedom = outputs.astype(np.float64).T
    return (
        location,
        _softplus(scale + SCALE_AT_ZERO) + LEAST_SCALE,
        LEAST_FREEDOM + _softplus(freedom + FREEDOM_AT_ZERO),
    )


def _softplus(values: Floats) -> Floats:
    return np.logaddexp(0.0, values)


def sample_student_t(uniform: Floats, freedom: Floats) -> Floats:
    """Samples of Student's t, from pairs of uniform numbers (..., 2) and degrees of freedom (...). Bailey 1994, "Polar
    generation of random variates with the t-distribution"."""
    radius = np.sqrt(freedom * (np.maximum(uniform[..., 0], 1e-12) ** (-2 / freedom) - 1))
    return radius * np.cos(2 * np.pi * uniform[..., 1])

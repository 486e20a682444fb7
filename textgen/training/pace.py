"""How a step of training runs fastest on this machine: in which precision, and whether compiled; measured in the plan.

Whatever the user names is kept. What is found is written down with the plan and kept on resume, so that time decides
nothing once training has begun.
"""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Protocol

from textgen.config import ModelConfig
from textgen.errors import TextgenError
from textgen.settings import TrainOptions

PROBE_SECONDS = 3.5
"""How long the speed of a step is measured, all ways of running it together."""

PRECISION_GAIN = 0.9
"""The share of a step's time that products in bfloat16 must leave at most, to be worth their rounding."""

COMPILE_SECONDS = 120.0
"""A run shorter than this is over before compiling has paid."""

COMPILE_GAIN = 0.97
"""The share of a step's time that compiling must leave at most, to be worth a second kind of last bits."""


class Machine(Protocol):
    """What the plan asks of the machine it runs on."""

    def parameters(self, config: ModelConfig) -> int:
        """The number of weights of a model."""

    def can_compile(self, config: ModelConfig) -> bool:
        """Whether compiling would make this model faster here, or might."""

    def can_round(self) -> bool:
        """Whether products in bfloat16 might be faster here."""

    def step_seconds(
        self, config: ModelConfig, options: TrainOptions, seconds: float, compiled: bool = False, dtype: str = "float32"
    ) -> float:
        """The seconds of one training step, measured for about `seconds` after whatever compiling there is."""


def with_precision(
    options: TrainOptions, config: ModelConfig, machine: Machine, probe: float
) -> tuple[TrainOptions, float]:
    """The options with a precision, and the seconds of an eager step in it; both are measured where it is open."""
    if options.dtype is not None or not machine.can_round():
        dtype = options.dtype or "float32"
        return replace(options, dtype=dtype), machine.step_seconds(config, options, probe, dtype=dtype)
    exact, rounded = (machine.step_seconds(config, options, probe / 2, dtype=d) for d in ("float32", "bfloat16"))
    pays = rounded < PRECISION_GAIN * exact
    return replace(options, dtype="bfloat16" if pays else "float32"), rounded if pays else exact


def with_fastest_step(
    options: TrainOptions, config: ModelConfig, machine: Machine, deadline: float
) -> tuple[TrainOptions, float]:
    """The options with a precision and a choice for or against compiling, and the seconds of a step then.

    Compiling is tried where it is open, if there is time until the deadline to make good for it; that itself happens
    here, on the clock of the plan.
    """
    in_time = deadline - time.monotonic() >= COMPILE_SECONDS
    is_open = options.compile is None and in_time and machine.can_compile(config)
    probe = PROBE_SECONDS / 2 if is_open else PROBE_SECONDS
    if options.compile:
        dtype = options.dtype or "float32"
        return replace(options, dtype=dtype), machine.step_seconds(config, options, probe, compiled=True, dtype=dtype)
    options, seconds = with_precision(replace(options, compile=False), config, machine, probe)
    if not is_open:
        return options, seconds
    assert options.dtype
    try:
        faster = machine.step_seconds(config, options, probe, compiled=True, dtype=options.dtype)
    except TextgenError:  # a compiler that does not work
        return options, seconds
    return (replace(options, compile=True), faster) if faster < COMPILE_GAIN * seconds else (options, seconds)

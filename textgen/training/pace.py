"""How a step of training runs fastest on this machine: in which precision, and whether compiled; measured in the plan.

Whatever the user names is kept. What is found is written down with the plan and kept on resume, so that time decides
nothing once training has begun.
"""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Protocol

from textgen.config import ModelConfig
from textgen.errors import CompilerError
from textgen.settings import TrainOptions

PROBE_SECONDS, LONGEST_PROBE = 4.0, 12.0
PROBE_SHARE = 0.02
"""How long the speed of a step is measured, all ways of running it together: that part of a run, within these bounds,
since a machine that others use is slow for seconds."""

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


def rough_seconds(options: TrainOptions, config: ModelConfig, machine: Machine, probe: float) -> float:
    """The seconds of an eager step in the faster of the precisions that are open, for a first guess."""
    precisions = _precisions(options, machine)
    return min(machine.step_seconds(config, options, probe / len(precisions), dtype=dtype) for dtype in precisions)


def with_fastest_step(
    options: TrainOptions, config: ModelConfig, machine: Machine, deadline: float
) -> tuple[TrainOptions, float, str | None]:
    """The options with a precision and a choice for or against compiling, the seconds of a step then, and what a
    compiler said that is there but does not work.

    Whatever is open is measured, one beside the other. Compiling is tried if there is time until the deadline to make
    good for it; that itself happens here, on the clock of the plan.
    """
    left = deadline - time.monotonic()
    in_time = left >= COMPILE_SECONDS
    is_open = options.compile is None and in_time and machine.can_compile(config)
    ways = [(way, dtype) for way in ((False, True) if is_open else (bool(options.compile),))
            for dtype in _precisions(options, machine)]  # fmt: skip
    probe = min(max(PROBE_SECONDS, PROBE_SHARE * left), LONGEST_PROBE) / len(ways)
    measured: dict[tuple[bool, str], float] = {}
    fault = None
    for compiled, dtype in ways:
        try:
            measured[compiled, dtype] = machine.step_seconds(config, options, probe, compiled=compiled, dtype=dtype)
        except CompilerError as error:
            if not is_open:
                raise
            fault = str(error)
    compiled, dtype = min(measured, key=lambda way: measured[way] / _worth(*way))
    return replace(options, compile=compiled, dtype=dtype), measured[compiled, dtype], fault


def compiler_fault(options: TrainOptions, config: ModelConfig, machine: Machine) -> str | None:
    """What a compiler says that is there but does not work, found by some compiled steps."""
    try:
        machine.step_seconds(config, options, 0.0, compiled=True, dtype=options.dtype or "float32")
    except CompilerError as error:
        return str(error)
    return None


def _precisions(options: TrainOptions, machine: Machine) -> tuple[str, ...]:
    if options.dtype is not None:
        return (options.dtype,)
    return ("float32", "bfloat16") if machine.can_round() else ("float32",)


def _worth(compiled: bool, dtype: str) -> float:
    """The share of the plainest way's time that another must beat."""
    return (COMPILE_GAIN if compiled else 1.0) * (PRECISION_GAIN if dtype == "bfloat16" else 1.0)

"""The fastest way to run a training step on this machine: precision and compilation, measured during planning.

User choices are kept. The result is stored with the plan and kept on resume, so training itself does not depend on
timing.
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
"""How long all variants of a step are measured in total: this share of a run, within these bounds, since other
processes may slow a machine down for seconds."""

PRECISION_GAIN = 0.9
"""bfloat16 is used only if a step takes at most this share of the time, to justify the rounding."""

COMPILE_SECONDS = 120.0
"""A shorter run ends before compilation pays off."""

COMPILE_GAIN = 0.97
"""Compilation is used only if a step takes at most this share of the time, since it changes the last bits."""


class Machine(Protocol):
    """What the plan needs to know about the machine."""

    def parameters(self, config: ModelConfig) -> int:
        """The number of weights of a model."""

    def can_compile(self, config: ModelConfig) -> bool:
        """Whether compilation might make this model faster here."""

    def can_round(self) -> bool:
        """Whether matrix products in bfloat16 might be faster here."""

    def step_seconds(
        self, config: ModelConfig, options: TrainOptions, seconds: float, compiled: bool = False, dtype: str = "float32"
    ) -> float:
        """The seconds of one training step, measured for about `seconds`, without compile time."""


def rough_seconds(options: TrainOptions, config: ModelConfig, machine: Machine, probe: float) -> float:
    """The seconds of an eager step in the faster of the allowed precisions, for a first estimate."""
    precisions = _precisions(options, machine)
    return min(machine.step_seconds(config, options, probe / len(precisions), dtype=dtype) for dtype in precisions)


def with_fastest_step(
    options: TrainOptions, config: ModelConfig, machine: Machine, deadline: float
) -> tuple[TrainOptions, float, str | None]:
    """The options with a precision and a choice about compilation, the seconds of a step, and the error of a compiler
    that does not work.

    All allowed variants are measured. Compilation is tried only if enough time is left until the deadline for it to pay
    off; compile time counts against the deadline.
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
    """The error of a compiler that does not work, found by running a few compiled steps; None if it works."""
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
    """The share of the time of an eager float32 step that this variant must stay below."""
    return (COMPILE_GAIN if compiled else 1.0) * (PRECISION_GAIN if dtype == "bfloat16" else 1.0)

"""The plan: from minutes to model size and number of steps, by measuring this machine.

User choices are kept; the plan fills in the rest and returns complete options. From then on, training is a function of
those options alone and does not depend on timing.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, replace
from typing import Any

from textgen import plugins
from textgen.config import ModelConfig
from textgen.settings import TrainOptions
from textgen.tasks.data import TaskData
from textgen.tasks.sizing import QUICK_LOOK
from textgen.training.checks import check_training, refuse_empty_parts
from textgen.training.pace import (
    LONGEST_PROBE,
    PROBE_SECONDS,
    PROBE_SHARE,
    Machine,
    compiler_fault,
    rough_seconds,
    with_fastest_step,
)

LADDER = (64, 96, 128, 192, 256, 384, 512, 640, 768, 1024, 1280, 1536, 2048)
ROUGH_SIZE = 384
ROUGH_SECONDS = 1.5
"""The hidden size and the seconds of a first measurement of the machine's speed."""

SIZES = {"tiny": (128, 1), "small": (256, 1), "medium": (512, 1), "large": (1024, 2)}
"""Presets of --size: hidden size and layers."""

FINETUNING_RATE = 0.3
"""The learning rate when starting from a trained model, relative to that of a new one."""

EVALUATIONS = 10

EVALUATION_COST = 0.45
"""The cost of evaluating a token, relative to training on it."""

RESERVE_SECONDS = 2.0
"""Seconds reserved for saving, samples and exiting."""

COMPILE_WORK = 1e13
"""A run of a given length is compiled from this number of floating-point operations on: about two minutes on two
cores."""

CHARACTERS_PER_PARAMETER = 1.5
"""Characters that a model should read per parameter when time is the limit (fitted on two cores)."""

MOST_PARAMETERS_PER_CHARACTER = 12
"""The largest model for a corpus, when it is read many times over."""


@dataclass(frozen=True)
class Estimate:
    """What was measured and is expected, and the error of a compiler that does not work."""

    parameters: int
    step_seconds: float | None = None
    train_seconds: float | None = None
    compiler_fault: str | None = None


def plan(
    options: TrainOptions, data: TaskData, machine: Machine, deadline: float
) -> tuple[TrainOptions, ModelConfig, Estimate]:
    """Fill in the options that are not given, so that training ends when `time.monotonic` reaches `deadline`. Raises
    UsageError for conflicting options."""
    check_training(options)
    options = data.with_defaults(_with_size(options))
    refuse_empty_parts(options)
    per_step = data.tokens_per_step(options)
    timed = options.epochs is None and options.max_steps is None
    hidden = options.hidden_size
    if hidden is None and timed:
        hidden = _hidden_size(options, data, machine, deadline)
    config = data.config(options, hidden or 256)
    steps, estimate = options.max_steps, Estimate(parameters := machine.parameters(config))
    if options.epochs is not None:
        steps = steps_of_epochs(options.epochs, data, options)
    if timed:
        probed, seconds, fault = with_fastest_step(options, config, machine, deadline)
        options = replace(options, compile=probed.compile, dtype=probed.dtype)
        steps = _steps_until(deadline, seconds, data, per_step)
        if data.most_epochs is not None:
            steps = min(steps, max(10, math.ceil(data.most_epochs * data.training_tokens / per_step)))
        estimate = Estimate(parameters, seconds, steps * seconds, fault)
    assert steps is not None
    if options.compile is None:
        tried = 6 * parameters * steps * per_step >= COMPILE_WORK and machine.can_compile(config)
        fault = compiler_fault(options, config, machine) if tried else None
        options = replace(options, compile=tried and fault is None)
        estimate = replace(estimate, compiler_fault=fault)
    return _with_schedule(options, config, steps, steps * per_step / max(1, data.training_tokens)), config, estimate


def _steps_until(deadline: float, seconds: float, data: TaskData, per_step: float) -> int:
    """The number of steps of `seconds` each, with their evaluations, until the deadline."""
    evaluated = data.held_out_tokens + EVALUATIONS * min(data.held_out_tokens, QUICK_LOOK)
    evaluating = evaluated / per_step * EVALUATION_COST
    return max(10, int((deadline - RESERVE_SECONDS - time.monotonic()) / seconds - evaluating))


def more_steps(
    options: TrainOptions, config: ModelConfig, data: TaskData, machine: Machine, deadline: float
) -> tuple[int, float]:
    """The number of additional steps until `time.monotonic` reaches `deadline`, and the seconds of one."""
    per_step = data.tokens_per_step(options)
    probe = min(max(PROBE_SECONDS, PROBE_SHARE * (deadline - time.monotonic())), LONGEST_PROBE)
    compiled, dtype = bool(options.compile), options.dtype or "float32"
    seconds = machine.step_seconds(config, options, probe, compiled, dtype)
    return _steps_until(deadline, seconds, data, per_step), seconds


def steps_of_epochs(epochs: float, data: TaskData, options: TrainOptions) -> int:
    """The number of steps in `epochs` passes over the training part."""
    return max(1, round(epochs * data.training_tokens / data.tokens_per_step(options)))


def _with_size(options: TrainOptions) -> TrainOptions:
    """The options with the width and depth of the preset, unless they are given."""
    if options.size is None:
        return options
    hidden, layers = SIZES[options.size]
    return replace(options, hidden_size=options.hidden_size or hidden, num_layers=options.num_layers or layers)


def _hidden_size(options: TrainOptions, data: TaskData, machine: Machine, deadline: float) -> int:
    """The size on the ladder at which the time left gives each parameter enough characters to read."""

    def parameters(hidden: int) -> int:
        return machine.parameters(data.config(options, hidden))

    per_step = data.tokens_per_step(options)
    rough = data.config(options, ROUGH_SIZE)
    seconds = rough_seconds(options, rough, machine, ROUGH_SECONDS)
    speed = parameters(ROUGH_SIZE) * per_step / seconds  # parameters x tokens per second
    characters = data.characters_per_token
    best = math.sqrt(speed * max(1.0, deadline - time.monotonic()) * characters / CHARACTERS_PER_PARAMETER)
    most = MOST_PARAMETERS_PER_CHARACTER * data.training_tokens * characters
    fitting = [hidden for hidden in LADDER if parameters(hidden) <= min(1.25 * best, most)]
    return fitting[-1] if fitting else LADDER[0]


def _with_schedule(options: TrainOptions, config: ModelConfig, steps: int, epochs: float) -> TrainOptions:
    """The options with defaults for learning rate, dropout, and the intervals of logging, evaluation and saving."""
    every = max(1, math.ceil(steps / EVALUATIONS))

    def given(value: Any, otherwise: Any) -> Any:
        return otherwise if value is None else value

    return replace(
        options,
        hidden_size=config.hidden_size,
        embedding_size=config.embedding_size,
        num_layers=config.num_layers,
        tie_weights=config.tie_word_embeddings,
        residual=config.residual,
        layer_norm=config.layer_norm,
        max_steps=steps,
        dtype=options.dtype or "float32",
        dropout=given(options.dropout, 0.0 if epochs < 3 else 0.1 if epochs < 6 else 0.25),
        learning_rate=given(options.learning_rate, learning_rate(config, options.init_from is not None)),
        warmup_steps=given(options.warmup_steps, min(200, steps // 20)),
        logging_steps=given(options.logging_steps, max(1, steps // 50)),
        eval_steps=given(options.eval_steps, every),
        save_steps=given(options.save_steps, given(options.eval_steps, every)),
        sample_steps=given(options.sample_steps, given(options.eval_steps, every)),
    )


def learning_rate(config: ModelConfig, finetuning: bool = False) -> float:
    """A learning rate that falls with the square root of the width (fitted at 128 to 640), times the factor of the
    cell; lower when starting from a trained model."""
    usual = 5e-3 * math.sqrt(384 / config.hidden_size) * plugins.cell(config.cell).planned_rate
    return round(min(1e-2, usual) * (FINETUNING_RATE if finetuning else 1), 5)

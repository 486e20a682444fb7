"""One dial: from minutes to a level, sizes and a number of steps, by measuring this machine.

Whatever the user gives is kept; the plan fills in the rest and returns options without gaps. From then on training is
a function of those options alone: time decides nothing any more.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, replace
from typing import Any, Protocol

from textgen import plugins
from textgen.config import ModelConfig
from textgen.settings import TrainOptions
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
"""The hidden size, and how long it is measured, for a first guess at the machine's speed."""

SIZES = {"tiny": (128, 1), "small": (256, 1), "medium": (512, 1), "large": (1024, 2)}
"""Presets of --size: hidden size and layers."""

FINETUNING_RATE = 0.3
"""The learning rate of a model that starts from another, as a part of that of a new one."""

EVALUATIONS = 10

EVALUATION_COST = 0.45
"""What evaluating a symbol costs, in training steps a symbol."""

RESERVE_SECONDS = 2.0
"""Kept for saving, samples and leaving."""

COMPILE_WORK = 1e13
"""Floating point operations from which a run of a given length is compiled: some two minutes of two cores."""

CHARACTERS_PER_PARAMETER = 1.5
"""How many characters a model should read per parameter when time is what is short (fitted on two cores)."""

MOST_PARAMETERS_PER_CHARACTER = 12
"""A corpus that is read many times over deserves no larger model than this."""


@dataclass(frozen=True)
class Forecast:
    """What was measured and is expected; the fault of a compiler that was tried and does not work."""

    parameters: int
    step_seconds: float | None = None
    train_seconds: float | None = None
    compiler_fault: str | None = None


class Learned(Protocol):
    """What the plan asks of what is going to be learned (`textgen.tasks.task.Data`)."""

    @property
    def amount(self) -> int:
        """Symbols, or time steps, to train on."""

    @property
    def held_out(self) -> int:
        """Symbols, or time steps, that are held out."""

    @property
    def characters(self) -> float:
        """About how many characters of text a symbol stands for."""

    @property
    def most_epochs(self) -> float | None:
        """No more passes than this, however much time there is."""

    def with_defaults(self, options: TrainOptions) -> TrainOptions:
        """The options with a batch size and a length of windows."""

    def symbols_per_step(self, options: TrainOptions) -> float:
        """Symbols, or time steps, that a step reads."""

    def config(self, options: TrainOptions, hidden_size: int) -> ModelConfig:
        """The model that the options ask for, at this hidden size."""


def plan(
    options: TrainOptions, learned: Learned, machine: Machine, deadline: float
) -> tuple[TrainOptions, ModelConfig, Forecast]:
    """Fill in what the options leave open, so that training ends when `time.monotonic` reaches `deadline`. Raises
    UsageError for options that exclude each other."""
    check_training(options)
    options = learned.with_defaults(_with_size(options))
    refuse_empty_parts(options)
    per_step = learned.symbols_per_step(options)
    timed = options.epochs is None and options.max_steps is None
    hidden = options.hidden_size
    if hidden is None and timed:
        hidden = _hidden_size(options, learned, machine, deadline)
    config = learned.config(options, hidden or 256)
    steps, forecast = options.max_steps, Forecast(parameters := machine.parameters(config))
    if options.epochs is not None:
        steps = steps_of_epochs(options.epochs, learned, options)
    if timed:
        probed, seconds, fault = with_fastest_step(options, config, machine, deadline)
        options = replace(options, compile=probed.compile, dtype=probed.dtype)
        steps = _steps_until(deadline, seconds, learned, per_step)
        if learned.most_epochs is not None:
            steps = min(steps, max(10, math.ceil(learned.most_epochs * learned.amount / per_step)))
        forecast = Forecast(parameters, seconds, steps * seconds, fault)
    assert steps is not None
    if options.compile is None:
        tried = 6 * parameters * steps * per_step >= COMPILE_WORK and machine.can_compile(config)
        fault = compiler_fault(options, config, machine) if tried else None
        options = replace(options, compile=tried and fault is None)
        forecast = replace(forecast, compiler_fault=fault)
    return _with_schedule(options, config, steps, steps * per_step / max(1, learned.amount)), config, forecast


def _steps_until(deadline: float, seconds: float, learned: Learned, per_step: float) -> int:
    """How many steps of so many seconds, and their evaluations, there is time for."""
    evaluated = learned.held_out + EVALUATIONS * min(learned.held_out, QUICK_LOOK)
    evaluating = evaluated / per_step * EVALUATION_COST
    return max(10, int((deadline - RESERVE_SECONDS - time.monotonic()) / seconds - evaluating))


def more_steps(
    options: TrainOptions, config: ModelConfig, learned: Learned, machine: Machine, deadline: float
) -> tuple[int, float]:
    """How many more steps of a planned run fit until `time.monotonic` reaches `deadline`, and the seconds of one."""
    per_step = learned.symbols_per_step(options)
    probe = min(max(PROBE_SECONDS, PROBE_SHARE * (deadline - time.monotonic())), LONGEST_PROBE)
    compiled, dtype = bool(options.compile), options.dtype or "float32"
    seconds = machine.step_seconds(config, options, probe, compiled, dtype)
    return _steps_until(deadline, seconds, learned, per_step), seconds


def steps_of_epochs(epochs: float, learned: Learned, options: TrainOptions) -> int:
    """How many steps so many passes over the training part take."""
    return max(1, round(epochs * learned.amount / learned.symbols_per_step(options)))


def _with_size(options: TrainOptions) -> TrainOptions:
    """Width and depth of a preset, where they are not named."""
    if options.size is None:
        return options
    hidden, layers = SIZES[options.size]
    return replace(options, hidden_size=options.hidden_size or hidden, num_layers=options.num_layers or layers)


def _hidden_size(options: TrainOptions, learned: Learned, machine: Machine, deadline: float) -> int:
    """The size on the ladder at which the time left gives each parameter enough characters to read."""

    def parameters(hidden: int) -> int:
        return machine.parameters(learned.config(options, hidden))

    per_step = learned.symbols_per_step(options)
    rough = learned.config(options, ROUGH_SIZE)
    seconds = rough_seconds(options, rough, machine, ROUGH_SECONDS)
    speed = parameters(ROUGH_SIZE) * per_step / seconds  # parameters x symbols a second
    characters = learned.characters
    best = math.sqrt(speed * max(1.0, deadline - time.monotonic()) * characters / CHARACTERS_PER_PARAMETER)
    most = MOST_PARAMETERS_PER_CHARACTER * learned.amount * characters
    fitting = [hidden for hidden in LADDER if parameters(hidden) <= min(1.25 * best, most)]
    return fitting[-1] if fitting else LADDER[0]


def _with_schedule(options: TrainOptions, config: ModelConfig, steps: int, epochs: float) -> TrainOptions:
    """Every remaining gap: learning rate, dropout, and how often to log, evaluate and save."""
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
    """A learning rate that falls with the square root of the width (fitted at 128 to 640), times what the cell asks
    for; a model that already knows something takes smaller steps."""
    usual = 5e-3 * math.sqrt(384 / config.hidden_size) * plugins.cell(config.cell).planned_rate
    return round(min(1e-2, usual) * (FINETUNING_RATE if finetuning else 1), 5)

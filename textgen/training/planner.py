"""Plan sizes, learning rate and steps from a time, by benchmarking this machine.

Given options are kept; the plan fills in all others. From then on training is a function of the options alone, and
time decides nothing.
"""

from __future__ import annotations

import ctypes
import math
import platform
import time
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch

from textgen import plugins
from textgen.cells import GatedCell
from textgen.cells.engine import compiler
from textgen.cells.matmul import has_bfloat16
from textgen.distributed import ALONE, World
from textgen.errors import CompilerError, TextgenError, UsageError
from textgen.model import ModelConfig
from textgen.model.stack import Model
from textgen.model.weights import make_model
from textgen.options import named
from textgen.tasks import TrainOptions, options_for
from textgen.tasks.data import QUICK_LOOK, TaskData
from textgen.threads import usable_cores
from textgen.training import check_training, refuse_empty_parts, refuse_few_lanes
from textgen.training.guards import enough_memory
from textgen.training.optimization import Update

LADDER = (64, 96, 128, 192, 256, 384, 512, 640, 768, 1024, 1280, 1536, 2048)
ROUGH_SIZE = 384
ROUGH_SECONDS = 1.5
"""The hidden size and the seconds of a first measurement of the machine's speed."""

SIZES = {"tiny": (128, 1), "small": (256, 1), "medium": (512, 1), "large": (1024, 2)}
"""Presets of --size: hidden size and layers."""

FASTEST = 2e-2
"""The highest learning rate of a plan."""

RATE_BY_DROPOUT = 2.0
"""By how much the learning rate grows with dropout (fitted at rates of 0.1 and 0.5)."""

FINETUNING_RATE = 0.12
"""The learning rate when starting from a trained model, relative to that of a new one (Alice from base-en, 8 epochs:
0.27 of it gives 1.389 bits per byte, 0.13 and 0.07 give 1.383 and 1.376)."""

FINETUNING_DECAY = 0.4
"""The learning rate of each layer relative to the one above it when starting from a trained model. With one layer it
makes no difference (Alice: 1.376 bits per byte, 1.375 without)."""

TYPICAL_EPOCHS = 10
"""Steps are measured with the regularization of a run of this length."""

EVALUATIONS = 10

EVALUATION_COST = 0.45
"""The cost of evaluating a token, relative to training on it."""

RESERVE_SECONDS = 2.0
"""Seconds reserved for saving, samples and exiting."""

COMPILE_WORK = 1e13
"""A run of a given length is compiled from this number of floating-point operations on: about two minutes on two
cores."""

CHARACTERS_PER_PARAMETER = 4.0
"""Characters that a model should read per parameter when time is the limit (fitted on two cores)."""

WORTHWHILE = 0.9
"""Twice as many processes help if a step then takes at most this share of the time."""

SCALING_SECONDS = 0.5
"""How long each of the steps is measured from which `Scaling` is computed."""

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

SUSTAINED = 1.06
"""How much slower a step is during a run than when it is measured (1.01 to 1.34 times in eight runs, median 1.08, on a
shared virtual machine)."""

NEVER = 1_000_000
"""Processes that average their weights this rarely do not communicate while they are measured."""

WARM_STEPS = 2
"""Steps that are not timed: the first ones also allocate memory."""

_TRIM_THRESHOLD, _MMAP_MAX = -1, -4
"""Numbers of `mallopt`'s settings, from malloc.h."""


@dataclass(frozen=True)
class Estimate:
    """What was measured and is expected (None unless the plan is for a time), the error of a broken compiler, and
    whether the plan ends before the time is up, since more epochs would not help."""

    parameters: int
    step_seconds: float | None = None
    train_seconds: float | None = None
    compiler_fault: str | None = None
    ends_early: bool = False
    scaling: dict[str, float] | None = None
    """Seconds of a step, of a job of several processes: see `Scaling`."""


@dataclass(frozen=True)
class Scaling:
    """Seconds of a training step with this number of processes, of the communication in it, of one process with all
    cores of a machine, and the expected seconds with twice as many processes."""

    together: float
    communication: float
    alone: float
    doubled: float

    @property
    def advice(self) -> str:
        """Whether fewer processes, or more, would be better."""
        if self.alone <= self.together:
            return "one process would be as fast"
        return (
            "more would not help"
            if self.doubled > WORTHWHILE * self.together
            else "twice as many, on more machines, would help"
        )


def plan(
    options: TrainOptions, data: TaskData, machine: ThisMachine, deadline: float
) -> tuple[TrainOptions, ModelConfig, Estimate]:
    """Fill in the options that are not given, so that training ends when `time.monotonic` reaches `deadline`. Raises
    UsageError for conflicting options."""
    check_training(options)
    options = data.with_defaults(_with_size(options))
    refuse_empty_parts(options)
    per_step = data.tokens_per_step(options)
    hidden, steps, seconds, fault, enough = options.hidden_size, options.max_steps, None, None, False
    if options.epochs is not None:
        steps = steps_of_epochs(options.epochs, data, options)
    elif steps is None and hidden is None:
        hidden = _hidden_size(options, data, machine, deadline)
    config = data.config(options, hidden or 256)
    parameters = machine.parameters(config)
    if steps is None:
        options, seconds, fault = _with_fastest_step(options, config, machine, deadline)
        steps = affordable = _steps_until(deadline, seconds, data, per_step)
        most = data.most_epochs if options.init_from is None else data.most_finetuning_epochs
        if most is not None:
            steps = min(steps, max(10, math.ceil(most * data.training_tokens / per_step)))
        enough = steps < affordable
    elif options.compile is None:
        tried = 6 * parameters * steps * per_step >= COMPILE_WORK and machine.can_compile(config)
        fault = _compiler_fault(options, config, machine) if tried else None
        options = replace(options, compile=tried and fault is None)
    estimate = Estimate(parameters, seconds, seconds and steps * seconds, fault, enough)
    options = regularized(options, config, data, steps * per_step / max(1, data.training_tokens))
    return _with_schedule(options, config, steps), config, estimate


def more_steps(
    options: TrainOptions, config: ModelConfig, data: TaskData, machine: ThisMachine, deadline: float
) -> tuple[int, float]:
    """The number of additional steps until `time.monotonic` reaches `deadline`, and the seconds of one."""
    probe = _probe_seconds(deadline - time.monotonic())
    seconds = machine.step_seconds(config, options, probe, bool(options.compile), options.dtype or "float32")
    return _steps_until(deadline, seconds, data, data.tokens_per_step(options)), seconds


def steps_of_epochs(epochs: float, data: TaskData, options: TrainOptions) -> int:
    """The number of steps in `epochs` passes over the training part."""
    return max(1, round(epochs * data.training_tokens / data.tokens_per_step(options)))


def steps_evaluating(held_out_tokens: int, per_step: float) -> float:
    """The number of steps that would take as long as all evaluations of a run."""
    evaluated = held_out_tokens + EVALUATIONS * min(held_out_tokens, QUICK_LOOK)
    return evaluated / per_step * EVALUATION_COST


def _steps_until(deadline: float, seconds: float, data: TaskData, per_step: float) -> int:
    """The number of steps of `seconds` each, with their evaluations, until the deadline."""
    evaluating = steps_evaluating(data.held_out_tokens, per_step)
    return max(10, int((deadline - RESERVE_SECONDS - time.monotonic()) / seconds - evaluating))


def _with_size(options: TrainOptions) -> TrainOptions:
    """The options with the width and depth of the preset, unless they are given."""
    if options.size is None:
        return options
    hidden, layers = SIZES[options.size]
    return replace(options, hidden_size=options.hidden_size or hidden, num_layers=options.num_layers or layers)


def _hidden_size(options: TrainOptions, data: TaskData, machine: ThisMachine, deadline: float) -> int:
    """The size on the ladder at which the time left gives each parameter enough characters to read."""

    def parameters(hidden: int) -> int:
        return machine.parameters(data.config(options, hidden))

    per_step = data.tokens_per_step(options)
    rough = data.config(options, ROUGH_SIZE)
    precisions = _precisions(options, machine)
    probe = ROUGH_SECONDS / len(precisions)
    seconds = min(machine.step_seconds(rough, options, probe, dtype=dtype) for dtype in precisions)
    speed = parameters(ROUGH_SIZE) * per_step / seconds  # parameters x tokens per second
    affordable = speed * max(1.0, deadline - time.monotonic())
    best = math.sqrt(affordable * data.characters_per_token / CHARACTERS_PER_PARAMETER)

    def fits(hidden: int) -> bool:
        size = parameters(hidden)
        return size <= min(1.25 * best, data.most_parameters(affordable / size / data.training_tokens))

    return max((hidden for hidden in LADDER if fits(hidden)), default=LADDER[0])


def regularized(options: TrainOptions, config: ModelConfig, data: TaskData, epochs: float) -> TrainOptions:
    """The options with the regularization that so many epochs need, where none is given."""
    planned = data.regularization(config.hidden_size, epochs, options.init_from is not None)
    if getattr(plugins.cell(config.cell), "recurrent", None) is None:
        planned = replace(planned, weight_drop=0.0)
    filled: TrainOptions = planned.fill(options)
    return filled


def _with_schedule(options: TrainOptions, config: ModelConfig, steps: int) -> TrainOptions:
    """The options with defaults for learning rate, and the intervals of logging, evaluation and saving."""
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
        learning_rate=given(
            options.learning_rate,
            learning_rate(config, options.init_from is not None, options.dropout or 0.0),
        ),
        layer_decay=given(options.layer_decay, 1.0 if options.init_from is None else FINETUNING_DECAY),
        warmup_steps=given(options.warmup_steps, min(200, steps // 20)),
        logging_steps=given(options.logging_steps, max(1, steps // 50)),
        eval_steps=given(options.eval_steps, every),
        save_steps=given(options.save_steps, given(options.eval_steps, every)),
        sample_steps=given(options.sample_steps, given(options.eval_steps, every)),
    )


def learning_rate(config: ModelConfig, finetuning: bool = False, dropout: float = 0.0) -> float:
    """A learning rate that falls with the square root of the width (fitted at 128 to 640) and grows with dropout, times
    the factor of the cell; lower when starting from a trained model."""
    usual = 5e-3 * math.sqrt(384 / config.hidden_size) * plugins.cell(config.cell).planned_rate
    usual *= 1 + RATE_BY_DROPOUT * dropout
    return round(min(FASTEST, usual) * (FINETUNING_RATE if finetuning else 1), 5)


def _with_fastest_step(
    options: TrainOptions, config: ModelConfig, machine: ThisMachine, deadline: float
) -> tuple[TrainOptions, float, str | None]:
    """The options with a precision and a choice about compilation, the seconds of a step, and the error of a compiler
    that does not work.

    All allowed variants are measured. Compilation is tried only if enough time is left until the deadline for it to pay
    off; compile time counts against the deadline.
    """
    left = deadline - time.monotonic()
    is_open = options.compile is None and left >= COMPILE_SECONDS and machine.can_compile(config)
    ways = [(way, dtype) for way in ((False, True) if is_open else (bool(options.compile),))
            for dtype in _precisions(options, machine)]  # fmt: skip
    probe = _probe_seconds(left) / len(ways)
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


def _probe_seconds(left: float) -> float:
    """How long to measure a step in a run of this length."""
    return min(max(PROBE_SECONDS, PROBE_SHARE * left), LONGEST_PROBE)


def _compiler_fault(options: TrainOptions, config: ModelConfig, machine: ThisMachine) -> str | None:
    """The error of a compiler that does not work, found by running a few compiled steps; None if it works."""
    try:
        machine.step_seconds(config, options, 0.0, compiled=True, dtype=options.dtype or "float32")
    except CompilerError as error:
        return str(error)
    return None


def _precisions(options: TrainOptions, machine: ThisMachine) -> tuple[str, ...]:
    if options.dtype is not None:
        return (options.dtype,)
    return ("float32", "bfloat16") if machine.can_round() else ("float32",)


def _worth(compiled: bool, dtype: str) -> float:
    """The share of the time of an eager float32 step that this variant must stay below."""
    return (COMPILE_GAIN if compiled else 1.0) * (PRECISION_GAIN if dtype == "bfloat16" else 1.0)


class ThisMachine:
    """What the plan needs to know about this machine, measured on the data that will be trained on.

    In a job of several processes rank 0 plans, and the others follow: each measurement is of a step that all of
    them compute together.
    """

    def __init__(self, data: TaskData, device: str, world: World = ALONE) -> None:
        self._data = data
        self._device = device
        self._world = world
        able = world.exchange([compiler() is not None, has_bfloat16()])
        self._compiles, self._rounds = (all(each) for each in zip(*able, strict=True))

    def parameters(self, config: ModelConfig) -> int:
        """The number of weights of a model."""
        with torch.device("meta"):
            return sum(p.numel() for p in make_model(config).parameters())

    def can_compile(self, config: ModelConfig) -> bool:
        """Whether compilation might make this model faster here."""
        with torch.device("meta"):
            return self._device == "cpu" and self._compiles and bool(compilable(make_model(config)))

    def can_round(self) -> bool:
        """Whether matrix products in bfloat16 might be faster here."""
        return self._device == "cpu" and self._rounds

    def step_seconds(
        self, config: ModelConfig, options: TrainOptions, seconds: float, compiled: bool = False, dtype: str = "float32"
    ) -> float:
        """The seconds of one training step, measured for about `seconds`, without compile time; with several processes,
        communication included."""
        return self._measured_by_all(config, options, seconds=seconds, compiled=compiled, dtype=dtype)

    def plan(self, options: TrainOptions, deadline: float) -> tuple[TrainOptions, ModelConfig, Estimate]:
        """The plan, as `plan` makes it, the same in all processes."""
        if self._world.leads:
            planned = plan(options, self._data, self, deadline)
            if self._world.size > 1 and planned[2].step_seconds is not None:
                planned = (*planned[:2], replace(planned[2], scaling=asdict(self.scaling(*planned[:2]))))
            self._world.share(lambda: {"plan": [asdict(planned[0]), planned[1].to_json(), asdict(planned[2])]})
            return planned
        asked, config, estimate = self._follow()["plan"]
        return options_for(asked), ModelConfig.from_json(config), Estimate(**estimate)

    def more_steps(self, options: TrainOptions, config: ModelConfig, deadline: float) -> tuple[int, float]:
        """As `more_steps`, the same in all processes."""
        if self._world.leads:
            more = more_steps(options, config, self._data, self, deadline)
            self._world.share(lambda: {"plan": more})
            return more
        steps, seconds = self._follow()["plan"]
        return steps, seconds

    def scaling(self, options: TrainOptions, config: ModelConfig) -> Scaling:
        """How the number of processes matters for this plan."""
        size, batch = self._world.size, options.window[0]
        compiled, dtype = bool(options.compile), options.dtype or "float32"

        def seconds(**ways: Any) -> float:
            how = {"seconds": SCALING_SECONDS, "compiled": compiled, "dtype": dtype, **ways}
            return self._measured_by_all(config, options, **how)

        together, computing = seconds(), seconds(silent=True)
        halved = seconds(silent=True, batch_size=max(size, batch // 2))
        alone = seconds(alone=True)
        communication = max(0.0, together - computing)
        share = ((2 * size - 1) / (2 * size)) / ((size - 1) / size)  # of the bytes that a ring of processes sends
        return Scaling(together, communication, alone, halved + communication * share)

    def _measured_by_all(self, config: ModelConfig, options: TrainOptions, **how: Any) -> float:
        """As `_measured`, in all processes at the same time."""
        self._world.share(lambda: {**how, "config": config.to_json(), "options": asdict(options)})
        return self._measured(config, options, **how)

    def _follow(self) -> dict[str, Any]:
        """Take part in the measurements that rank 0 asks for; returns what it says when it has finished."""
        while "plan" not in (request := self._world.share(lambda: None)):
            config, options = ModelConfig.from_json(request.pop("config")), options_for(request.pop("options"))
            self._measured(config, options, **request)
        found: dict[str, Any] = request
        return found

    def _measured(
        self,
        config: ModelConfig,
        options: TrainOptions,
        seconds: float,
        compiled: bool,
        dtype: str,
        batch_size: int | None = None,
        silent: bool = False,
        alone: bool = False,
    ) -> float:
        """The seconds of a step; if `silent` without communication, if `alone` by rank 0 with all cores."""
        refuse_few_lanes(self._world.size, options)
        if alone and not self._world.leads:
            return self._world.longest(0.0)
        options = replace(options, dtype=dtype, batch_size=batch_size or options.batch_size)
        options = replace(options, sync_every=NEVER) if silent else options
        options = regularized(options, config, self._data, TYPICAL_EPOCHS)
        model = make_model(config)
        for cell in compilable(model):
            cell.compiled = compiled
        job, threads = ALONE if alone else self._world, torch.get_num_threads()
        update = Update(self._data.objective(options), model, options, self._device, job)
        times: list[float] = []
        torch.set_num_threads(usable_cores() if alone else threads)
        while len(times) < WARM_STEPS + 3 or sum(times) < seconds:
            began = time.perf_counter()
            with enough_memory(model, options):
                update.take(len(times), learning_rate=0.0)
            times.append(job.longest(time.perf_counter() - began))
        torch.set_num_threads(threads)
        settled = times[WARM_STEPS:]
        found = SUSTAINED * sum(settled) / len(settled)
        return self._world.longest(found) if alone else found


def choose_device(name: str, local_rank: int = 0) -> str:
    """The torch device of that name, for one of several processes on this machine. Raises TextgenError if it is not
    available, UsageError if it is unknown."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda" and local_rank and torch.cuda.is_available():
        return f"cuda:{local_rank % torch.cuda.device_count()}"
    if name == "cpu":
        return name
    if name == "mps":
        if torch.backends.mps.is_available():
            return name
        raise TextgenError(f"{named('device', name)}: this machine has no GPU of Apple's, or this torch cannot use it.")
    if name.partition(":")[0] != "cuda":
        raise UsageError(f"{named('device')} must be auto, cpu, cuda or mps, not {name!r}.")
    if torch.cuda.is_available():
        return name
    built = torch.version.cuda is not None
    why = f"this torch ({torch.__version__}) {'sees no GPU' if built else 'is built without CUDA'}"
    raise TextgenError(f"{named('device', name)}: {why}.", hint=f"{named('device', 'auto')} uses cpu here.")


def precision_missed(options: TrainOptions, device: str) -> list[str]:
    """A warning if bfloat16 is asked for on a processor without it, or a device is untested."""
    if options.dtype == "bfloat16" and torch.device(device).type == "cpu" and not has_bfloat16():
        return [f"{named('dtype', 'bfloat16')}: this processor has no bfloat16 products; training uses float32."]
    if device == "mps":
        return ["no test runs on Apple's GPU: compare the loss of a short run with that of cpu."]
    return []


def keep_memory() -> None:
    """Let this process keep the memory that it frees, if its allocator is glibc's: every step needs the same memory
    again, and would otherwise request it from the system page by page."""
    if platform.libc_ver()[0] == "glibc":
        process = ctypes.CDLL(None)
        process.mallopt(_MMAP_MAX, 0)
        process.mallopt(_TRIM_THRESHOLD, 2**31 - 1)


def compilable(model: Model) -> list[GatedCell]:
    """The cells of a model that run through `GatedCell`'s engine."""
    return [cell for cell in model.modules() if isinstance(cell, GatedCell) and type(cell).forward is GatedCell.forward]

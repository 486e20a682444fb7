"""This machine: its device, memory settings, and how fast a model trains on it."""

from __future__ import annotations

import ctypes
import platform
import time
from dataclasses import replace

import torch

from textgen.cell import GatedCell
from textgen.compiling import compiler
from textgen.config import ModelConfig
from textgen.errors import TextgenError, UsageError
from textgen.model import Model
from textgen.parameters import named
from textgen.products import has_bfloat16
from textgen.settings import TrainOptions
from textgen.tasks.data import TaskData
from textgen.training.soundness import enough_memory
from textgen.training.update import Update
from textgen.weights import make_model

SUSTAINED = 1.06
"""How much slower a step is during a run than when it is measured (1.01 to 1.34 times in eight runs, median 1.08, on a
shared virtual machine)."""

WARM_STEPS = 2
"""Steps that are not timed: the first ones also allocate memory."""

_TRIM_THRESHOLD, _MMAP_MAX = -1, -4
"""Numbers of `mallopt`'s settings, from malloc.h."""


def choose_device(name: str) -> str:
    """The torch device of that name. Raises TextgenError if it is not available, UsageError if it is unknown."""
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cpu":
        return name
    if name.partition(":")[0] != "cuda":
        raise UsageError(f"{named('device')} must be auto, cpu or cuda, not {name!r}.")
    if torch.cuda.is_available():
        return name
    built = torch.version.cuda is not None
    why = f"this torch ({torch.__version__}) {'sees no GPU' if built else 'is built without CUDA'}"
    raise TextgenError(f"{named('device', name)}: {why}.", hint=f"{named('device', 'auto')} uses cpu here.")


def precision_missed(options: TrainOptions, device: str) -> list[str]:
    """A warning if bfloat16 is asked for on a processor without it."""
    if options.dtype == "bfloat16" and torch.device(device).type == "cpu" and not has_bfloat16():
        return [f"{named('dtype', 'bfloat16')}: this processor has no bfloat16 products; training uses float32."]
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


class ThisMachine:
    """Measures training steps for the plan (`textgen.training.plan.Machine`), on the data that will be trained on."""

    def __init__(self, data: TaskData, device: str) -> None:
        self._data = data
        self._device = device

    def parameters(self, config: ModelConfig) -> int:
        with torch.device("meta"):
            return sum(p.numel() for p in make_model(config).parameters())

    def can_compile(self, config: ModelConfig) -> bool:
        with torch.device("meta"):
            return self._device == "cpu" and compiler() is not None and bool(compilable(make_model(config)))

    def can_round(self) -> bool:
        return self._device == "cpu" and has_bfloat16()

    def step_seconds(
        self, config: ModelConfig, options: TrainOptions, seconds: float, compiled: bool = False, dtype: str = "float32"
    ) -> float:
        model = make_model(config)
        for cell in compilable(model):
            cell.compiled = compiled
        update = Update(self._data.objective(options), model, replace(options, dtype=dtype), self._device)
        times: list[float] = []
        while len(times) < WARM_STEPS + 3 or sum(times) < seconds:
            began = time.perf_counter()
            with enough_memory(model, options):
                update.take(len(times), learning_rate=0.0)
            times.append(time.perf_counter() - began)
        settled = times[WARM_STEPS:]
        return SUSTAINED * sum(settled) / len(settled)

"""The machine at hand: which device, how many threads, and how fast a model trains on it."""

from __future__ import annotations

import platform
import time
from typing import Any

import numpy as np
import torch

from textgen import __version__
from textgen.config import ModelConfig
from textgen.errors import TextgenError, UsageError
from textgen.settings import TrainOptions
from textgen.training.checkpoint import make_model
from textgen.training.optimization import make_optimizer


def choose_device(name: str) -> str:
    """The torch device behind a name. Raises TextgenError for one that is not there, UsageError for a misspelt one."""
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cpu":
        return name
    if name.partition(":")[0] != "cuda":
        raise UsageError(f"--device must be auto, cpu or cuda, not {name!r}.")
    if torch.cuda.is_available():
        return name
    built = torch.version.cuda is not None
    why = f"this torch ({torch.__version__}) {'sees no GPU' if built else 'is built without CUDA'}"
    raise TextgenError(f"--device {name}: {why}.", hint="--device auto uses cpu here.")


def versions(threads: int) -> dict[str, Any]:
    """What the bits of a run depend on besides its options and its data."""
    return {
        "textgen": __version__,
        "torch": str(torch.__version__),
        "numpy": np.__version__,
        "python": platform.python_version(),
        "processor": f"{platform.machine()} {torch.backends.cpu.get_cpu_capability()}",
        "threads": threads,
    }


class ThisMachine:
    """Measures training steps for the plan (`textgen.training.plan.Machine`)."""

    def __init__(self, options: TrainOptions, device: str) -> None:
        self._options = options
        self._device = device

    def parameters(self, config: ModelConfig) -> int:
        with torch.device("meta"):
            return sum(p.numel() for p in make_model(config).parameters())

    def step_seconds(self, config: ModelConfig, batch_size: int, seq_length: int, seconds: float) -> float:
        model = make_model(config).to(self._device)
        optimizer = make_optimizer(model, self._options)
        ids = torch.randint(config.vocab_size, (seq_length, batch_size), device=self._device)
        carry = model.initial_state(batch_size)
        times: list[float] = []
        while len(times) < 5 or sum(times) < seconds:
            began = time.perf_counter()
            logits, _ = model(ids, carry)
            loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), ids.flatten())
            loss.backward()  # type: ignore[no-untyped-call]
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            loss.item()
            optimizer.step()
            optimizer.zero_grad()
            times.append(time.perf_counter() - began)
        settled = times[2:]
        return sum(settled) / len(settled)

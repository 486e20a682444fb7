"""What is measured beside the losses: memory, the speed of sampling, and time across interruptions."""

from __future__ import annotations

import ctypes
import gc
import json
import statistics
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from textgen import files, sealed
from textgen.language_model import load
from textgen.training.checkpoint import METRICS
from textgen.writing.generate import generate

CLOCK = "clock.json"
SAMPLED, SAMPLINGS = 100, 5
"""Tokens drawn at a time, and how often."""


class PeakMemory:
    """The largest memory in use since it was made, in bytes: of the device's tensors on a GPU, else the resident size
    of the process, which Linux tells (None elsewhere)."""

    def __init__(self, device: str) -> None:
        self._gpu = device.startswith("cuda")
        gc.collect()
        if self._gpu:
            torch.cuda.reset_peak_memory_stats(device)
        self._device = device
        self._known = self._gpu or _forget_peak()

    def read(self) -> int | None:
        """The peak so far."""
        if self._gpu:
            return torch.cuda.max_memory_allocated(self._device)
        return _peak() if self._known else None


def _forget_peak() -> bool:
    """Give freed memory back and reset the peak resident size of this process; whether that can be done here."""
    if not sys.platform.startswith("linux"):
        return False
    with suppress(AttributeError):  # in C libraries that keep nothing back
        ctypes.CDLL(None).malloc_trim(0)  # or else a run would seem to need what one before it has left behind
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return False
    return True


def _peak() -> int | None:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:")), None)


@dataclass
class Clock:
    """The seconds that a run took so far, over all its sittings, and the peak of its memory; kept beside the run.

    `evaluated` holds the seconds at which each evaluation (by step) was done. Time since the last save of a run that
    was killed is lost with its steps.
    """

    seconds: float = 0.0
    peak_bytes: int | None = None
    evaluated: dict[int, float] = field(default_factory=dict)

    @classmethod
    def read(cls, folder: Path) -> Clock:
        """The clock of a run folder, at zero if it has none yet."""
        path = folder / CLOCK
        if not path.is_file():
            return cls()
        content = sealed.read_json(path)
        try:
            evaluated = {int(step): float(seconds) for step, seconds in content["evaluated"].items()}
            return cls(float(content["seconds"]), content["peak_bytes"], evaluated)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise sealed.DamagedError(f"{path} is damaged: {error}.") from None

    def save(self, folder: Path) -> None:
        """Replace the stored clock."""
        files.write_file(folder / CLOCK, files.to_json(asdict(self)))


def metrics(folder: Path) -> Iterator[dict[str, Any]]:
    """The lines of a finished run's metrics."""
    with open(folder / METRICS, encoding="utf-8") as lines:
        yield from (json.loads(line) for line in lines)


def train_speed(folder: Path) -> float | None:
    """Tokens a second in training: the median over the lines of the run's log, without evaluations and saving."""
    speeds = [line["tokens_per_second"] for line in metrics(folder) if "tokens_per_second" in line]
    return statistics.median(speeds) if speeds else None


def sample_speed(folder: Path) -> float:
    """Tokens a second of `textgen.generate` for one text in one thread: the median of a few, after a first one."""
    model = load(folder)
    times = []
    with _one_thread():
        for seed in range(SAMPLINGS + 1):
            began = time.perf_counter()
            generate(model, max_new_tokens=SAMPLED, ignore_eos=True, seed=seed)
            times.append(time.perf_counter() - began)
    return SAMPLED / statistics.median(times[1:])


@contextmanager
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)

"""Measurements besides the loss: memory, speed of training and sampling, and time across interruptions."""

from __future__ import annotations

import ctypes
import gc
import statistics
import sys
import time
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch

from textgen import files, sealed
from textgen.integrity import metrics
from textgen.language_model import load
from textgen.threads import one_thread
from textgen.writing.generate import generate

TIMING = "timing.json"
SAMPLED, SAMPLINGS = 100, 5
"""Tokens per sample, and number of samples, for the sampling speed."""


class PeakMemory:
    """The peak memory since this object was made, in bytes: of the tensors on a GPU, else the resident memory of the
    process (None where it cannot be measured, as outside Linux)."""

    def __init__(self, device: str) -> None:
        self._gpu = device.startswith("cuda")
        gc.collect()
        if self._gpu:
            torch.cuda.reset_peak_memory_stats(device)
        self._device = device
        self._known = self._gpu or _reset_peak()

    def read(self) -> int | None:
        """The peak so far."""
        if not self._known:
            return None
        return torch.cuda.max_memory_allocated(self._device) if self._gpu else _peak()


def _reset_peak() -> bool:
    """Release freed memory and reset the peak resident memory of this process; returns whether that is possible."""
    if not sys.platform.startswith("linux"):
        return False
    with suppress(AttributeError):  # a C library other than glibc
        ctypes.CDLL(None).malloc_trim(0)  # else what an earlier run has freed would count for this one
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return False
    return True


def _peak() -> int | None:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:")), None)


@dataclass
class RunTiming:
    """The total time of a run, over all sessions, and its peak memory; stored in the run folder.

    `evaluated` maps the step of each evaluation to the seconds until then. If a run is killed, the time since its last
    checkpoint is discarded with its steps.
    """

    seconds: float = 0.0
    peak_bytes: int | None = None
    evaluated: dict[int, float] = field(default_factory=dict)

    @classmethod
    def read(cls, folder: Path) -> RunTiming:
        """The timing of a run folder; zero for a new run."""
        path = folder / TIMING
        if not path.is_file():
            return cls()
        content = sealed.read_json(path)
        try:
            evaluated = {int(step): float(seconds) for step, seconds in content["evaluated"].items()}
            return cls(float(content["seconds"]), content["peak_bytes"], evaluated)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise sealed.DamagedError(f"{path} is damaged: {error}.") from None

    def save(self, folder: Path) -> None:
        """Replace the stored timing."""
        files.write_file(folder / TIMING, files.to_json(asdict(self)))


def train_speed(folder: Path) -> float | None:
    """Tokens per second in training, without evaluations and checkpoints: the median over the run's log."""
    speeds = [line["tokens_per_second"] for line in metrics(folder) if "tokens_per_second" in line]
    return statistics.median(speeds) if speeds else None


def sample_speed(folder: Path) -> float:
    """Tokens per second of `textgen.generate` for one text in one thread: the median of several, after a warm-up."""
    model = load(folder)
    times = []
    with one_thread():
        for seed in range(SAMPLINGS + 1):
            began = time.perf_counter()
            generate(model, max_new_tokens=SAMPLED, ignore_eos=True, seed=seed)
            times.append(time.perf_counter() - began)
    return SAMPLED / statistics.median(times[1:])

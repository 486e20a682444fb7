"""Isolation for one case: a single thread, known settings, captured output; whatever a cell changes is restored."""

from __future__ import annotations

import io
import os
import random
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import numpy
import torch

_OF_TORCH = "TORCHINDUCTOR_CACHE_DIR"
"""An environment variable that torch itself sets as soon as something is traced."""


def process_settings() -> dict[str, Any]:
    """The settings of the process that a cell must not change, under the names that messages use."""
    return {
        "the default dtype": torch.get_default_dtype(),
        "the default device": torch.get_default_device(),
        "the number of threads": torch.get_num_threads(),
        "the grad mode": torch.is_grad_enabled(),
        "anomaly detection": torch.is_anomaly_enabled(),
        "deterministic algorithms": torch.are_deterministic_algorithms_enabled(),
        "the precision of matrix products": torch.get_float32_matmul_precision(),
        "the current directory": Path.cwd(),
        "the environment": {name: value for name, value in os.environ.items() if name != _OF_TORCH},
        "sys.path": list(sys.path),
        "the recursion limit": sys.getrecursionlimit(),
        "the signal handlers": tuple(signal.getsignal(number) for number in signal.valid_signals()),
        "the running threads": threading.active_count(),
    }


def other_rng_states() -> tuple[Any, ...]:
    """The states of Python's and numpy's random generators."""
    kind, keys, *rest = numpy.random.get_state()
    return random.getstate(), str(kind), bytes(numpy.asarray(keys)), *rest


@contextmanager
def isolated() -> Iterator[io.StringIO]:
    """Run a case under known settings; yields a buffer with everything that is printed."""
    printed = io.StringIO()
    restore = _snapshot()
    try:
        with torch.random.fork_rng(devices=[]), redirect_stdout(printed), redirect_stderr(printed), torch.enable_grad():
            torch.set_num_threads(1)
            torch.set_default_dtype(torch.float32)
            yield printed
    finally:
        restore()


def _snapshot() -> Callable[[], None]:
    """Remember the settings of the process; returns a function that restores them."""
    before = process_settings()
    python, numbers = random.getstate(), numpy.random.get_state()
    handlers: dict[int, Any] = {number: signal.getsignal(number) for number in signal.valid_signals()}

    def restore() -> None:
        torch.set_default_dtype(before["the default dtype"])
        torch.set_num_threads(before["the number of threads"])
        torch.set_grad_enabled(before["the grad mode"])
        random.setstate(python)
        numpy.random.set_state(numbers)
        if process_settings() != before:
            _restore_rest(before, handlers)

    return restore


def _restore_rest(before: dict[str, Any], handlers: dict[int, Any]) -> None:
    torch.set_default_device(before["the default device"])
    torch.set_anomaly_enabled(before["anomaly detection"])
    torch.use_deterministic_algorithms(before["deterministic algorithms"])
    torch.set_float32_matmul_precision(before["the precision of matrix products"])
    os.chdir(before["the current directory"])
    os.environ.clear()
    os.environ.update(before["the environment"])
    sys.path[:] = before["sys.path"]
    sys.setrecursionlimit(before["the recursion limit"])
    for number, handler in handlers.items():
        if handler is not None and signal.getsignal(number) is not handler:
            signal.signal(number, handler)

"""The number of CPU threads for matrix products, in every library. Imports neither numpy nor torch."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import cache
from threading import Lock
from types import TracebackType
from typing import Any

FEW_ROWS = 8
"""Up to this many rows are stepped in one thread: that is fastest, and always rounds the same way."""
_VARIABLES = ("OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "VECLIB_MAXIMUM_THREADS", "BLIS_NUM_THREADS")


class _Library:
    """A matrix library and its number of threads, which is set per process or per Python thread."""

    def __init__(self, handle: Any) -> None:
        """`handle`: its threadpoolctl controller, or torch itself."""
        self.get: Callable[[], int] = handle.get_num_threads
        self.set: Callable[[int], object] = _openblas_setter(handle) or handle.set_num_threads
        openmp = getattr(handle, "threading_layer", None) == "openmp"
        self.each_thread = openmp or handle is sys.modules.get("torch") or handle.internal_api == "mkl"


def _openblas_setter(handle: Any) -> Callable[[int], object] | None:
    """OpenBLAS's own function, None for other libraries. threadpoolctl's version has no effect in any Python thread but
    the first that called it, while that one lives."""
    if getattr(handle, "internal_api", None) != "openblas":
        return None
    names = (f"{start}openblas_set_num_threads{end}" for end in ("64_", "_64", "_64_", "") for start in ("scipy_", ""))
    return next((getattr(handle.dynlib, name) for name in names if hasattr(handle.dynlib, name)), None)


@cache
def _matrix_libraries() -> list[_Library]:
    """The matrix libraries that numpy has loaded."""
    import threadpoolctl

    found = threadpoolctl.ThreadpoolController().lib_controllers
    return [_Library(library) for library in found if library.user_api == "blas"]


def _torch() -> list[_Library]:
    """Torch, if it is loaded; it has functions of the same names."""
    torch = sys.modules.get("torch")
    return [] if torch is None else [_Library(torch)]


class _Shared:
    """The libraries with one setting per process. Blocks of several Python threads may overlap: the first to begin sets
    one thread, and the last to end restores the previous number."""

    def __init__(self) -> None:
        self._lock, self._inside = Lock(), 0
        self._before: list[tuple[_Library, int]] = []

    def begin(self) -> None:
        with self._lock:
            self._inside += 1
            if self._inside == 1:
                self._before = [(each, each.get()) for each in _matrix_libraries() if not each.each_thread]
                _set([(library, 1) for library, threads in self._before if threads != 1])

    def end(self) -> None:
        with self._lock:
            self._inside -= 1
            if not self._inside:
                _set([(library, threads) for library, threads in self._before if threads != 1])


class _Own(threading.local):
    """The previous settings of the libraries with one setting per Python thread, for each enclosing block."""

    def __init__(self) -> None:
        self.before: list[list[tuple[_Library, int]]] = []


def _set(wanted: list[tuple[_Library, int]]) -> None:
    for library, threads in wanted:
        library.set(threads)


_shared, _own = _Shared(), _Own()


class _OneThread:
    """A block in which libraries use one thread, whichever Python thread it runs in."""

    def __init__(self, with_torch: bool) -> None:
        self._with_torch = with_torch

    def __enter__(self) -> None:
        libraries = [each for each in _matrix_libraries() if each.each_thread] + (_torch() if self._with_torch else [])
        before = [(library, threads) for library in libraries if (threads := library.get()) != 1]
        _own.before.append(before)
        _set([(library, 1) for library, _ in before])
        _shared.begin()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        _shared.end()
        _set(_own.before.pop())


class _Chosen:
    """The number given to `use_threads`; 0 until then."""

    threads = 0


_numpy_alone, _everything = _OneThread(with_torch=False), _OneThread(with_torch=True)


def usable_cores() -> int:
    """The processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def one_thread() -> AbstractContextManager[None]:
    """A block in which every product uses one thread, so that sums have the same order on every machine."""
    return _everything


def few_rows(rows: int, with_torch: bool = False) -> AbstractContextManager[None]:
    """A block in which numpy's products, and torch's if requested, use one thread, which is fastest up to `FEW_ROWS`
    rows. With more rows, or after `use_threads`, nothing changes."""
    if _Chosen.threads or rows > FEW_ROWS:
        return nullcontext()
    return _everything if with_torch else _numpy_alone


def chosen() -> int | None:
    """The number given to `use_threads`, None if it was not called."""
    return _Chosen.threads or None


def use_threads(threads: int) -> None:
    """Set the number of threads for every product of this process; it is free before numpy is imported."""
    _Chosen.threads = threads
    if "numpy" not in sys.modules:
        os.environ.update(dict.fromkeys(_VARIABLES, str(threads)))
        return
    _set([(library, threads) for library in [*_matrix_libraries(), *_torch()]])

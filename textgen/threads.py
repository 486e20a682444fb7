"""How many processor threads matrix products take, whichever library makes them. Imports neither numpy nor torch."""

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
"""So many rows are stepped in one thread, which is then fastest, and always gives the same last digits."""
_VARIABLES = ("OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "VECLIB_MAXIMUM_THREADS", "BLIS_NUM_THREADS")


class _Library:
    """A library that makes products, with the number of threads it takes: for the whole process, or for each Python
    thread by itself."""

    def __init__(self, handle: Any) -> None:
        """`handle`: what threadpoolctl has for it, or torch itself."""
        self.get: Callable[[], int] = handle.get_num_threads
        self.set: Callable[[int], object] = _openblas_setter(handle) or handle.set_num_threads
        openmp = getattr(handle, "threading_layer", None) == "openmp"
        self.each_thread = openmp or handle is sys.modules.get("torch") or handle.internal_api == "mkl"


def _openblas_setter(handle: Any) -> Callable[[int], object] | None:
    """OpenBLAS's own function, None for other libraries. threadpoolctl's ignores every Python thread but the first one
    that has called it, as long as that lives."""
    if getattr(handle, "internal_api", None) != "openblas":
        return None
    names = (f"{start}openblas_set_num_threads{end}" for end in ("64_", "_64", "_64_", "") for start in ("scipy_", ""))
    return next((getattr(handle.dynlib, name) for name in names if hasattr(handle.dynlib, name)), None)


@cache
def _matrix_libraries() -> list[_Library]:
    """Those that numpy has loaded."""
    import threadpoolctl

    found = threadpoolctl.ThreadpoolController().lib_controllers
    return [_Library(library) for library in found if library.user_api == "blas"]


def _torch() -> list[_Library]:
    """Torch, if it is loaded; it is asked by the same names."""
    torch = sys.modules.get("torch")
    return [] if torch is None else [_Library(torch)]


class _Shared:
    """Libraries whose number of threads is that of the process. Blocks of several Python threads may overlap: the first
    to begin sets one thread, and the last to end sets back what was."""

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
    """What the libraries with a number for each Python thread had before the blocks that this thread is in."""

    def __init__(self) -> None:
        self.before: list[list[tuple[_Library, int]]] = []


def _set(wanted: list[tuple[_Library, int]]) -> None:
    for library, threads in wanted:
        library.set(threads)


_shared, _own = _Shared(), _Own()


class _OneThread:
    """A block in which libraries take one thread, whichever Python thread it runs in."""

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
    """What `use_threads` was called with; 0 until then."""

    threads = 0


_numpy_alone, _everything = _OneThread(with_torch=False), _OneThread(with_torch=True)


def one_thread() -> AbstractContextManager[None]:
    """A block in which every product takes one thread, so that sums have one order, whatever the machine has."""
    return _everything


def few_rows(rows: int, with_torch: bool = False) -> AbstractContextManager[None]:
    """A block in which numpy's products, and torch's if asked, take one thread, which up to `FEW_ROWS` rows is fastest;
    more rows take what there is, and so does everything if `use_threads` has said how many."""
    if _Chosen.threads or rows > FEW_ROWS:
        return nullcontext()
    return _everything if with_torch else _numpy_alone


def chosen() -> int | None:
    """How many `use_threads` was told, None if it was not called."""
    return _Chosen.threads or None


def use_threads(threads: int) -> None:
    """Let every product of this process take so many threads; before numpy is imported it costs nothing."""
    _Chosen.threads = threads
    if "numpy" not in sys.modules:
        os.environ.update(dict.fromkeys(_VARIABLES, str(threads)))
        return
    _set([(library, threads) for library in [*_matrix_libraries(), *_torch()]])

"""How many processor threads matrix products take, whichever library makes them. Imports neither numpy nor torch."""

from __future__ import annotations

import os
import sys
from contextlib import AbstractContextManager, nullcontext
from functools import cache
from threading import Lock
from types import TracebackType
from typing import Any

_VARIABLES = ("OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "VECLIB_MAXIMUM_THREADS", "BLIS_NUM_THREADS")


@cache
def _matrix_libraries() -> list[Any]:
    """Those that numpy has loaded, as threadpoolctl handles them."""
    import threadpoolctl

    found = threadpoolctl.ThreadpoolController().lib_controllers
    return [library for library in found if library.user_api == "blas"]


def _with_torch() -> list[Any]:
    """The same and torch, if it is loaded; it is asked by the same names."""
    torch = sys.modules.get("torch")
    return [*_matrix_libraries(), *([] if torch is None else [torch])]


class _OneThread:
    """A block in which libraries take one thread. Blocks of several Python threads may overlap: the first to begin sets
    it, and the last to end sets back what was."""

    def __init__(self) -> None:
        self._lock, self._inside = Lock(), 0
        self._before: list[tuple[Any, int]] = []

    def _libraries(self) -> list[Any]:
        return _matrix_libraries()

    def __enter__(self) -> None:
        with self._lock:
            self._inside += 1
            if self._inside == 1:
                self._before = [(library, library.get_num_threads()) for library in self._libraries()]
                self._set([(library, 1) for library, threads in self._before if threads != 1])

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        with self._lock:
            self._inside -= 1
            if not self._inside:
                self._set([(library, threads) for library, threads in self._before if threads != 1])

    @staticmethod
    def _set(wanted: list[tuple[Any, int]]) -> None:
        for library, threads in wanted:
            library.set_num_threads(threads)


class _OneThreadOfAll(_OneThread):
    def _libraries(self) -> list[Any]:
        return _with_torch()


class _Chosen:
    """What `use_threads` was called with; 0 until then."""

    threads = 0


_numpy_alone, _everything = _OneThread(), _OneThreadOfAll()


def one_thread() -> AbstractContextManager[None]:
    """A block in which every product takes one thread, so that sums have one order, whatever the machine has."""
    return _everything


def few_rows() -> AbstractContextManager[None]:
    """A block in which numpy's products take one thread, which for a few rows is fastest; unless `use_threads` has
    said how many."""
    return nullcontext() if _Chosen.threads else _numpy_alone


def chosen() -> int | None:
    """How many `use_threads` was told, None if it was not called."""
    return _Chosen.threads or None


def use_threads(threads: int) -> None:
    """Let every product of this process take so many threads; before numpy is imported it costs nothing."""
    _Chosen.threads = threads
    if "numpy" not in sys.modules:
        os.environ.update(dict.fromkeys(_VARIABLES, str(threads)))
        return
    for library in _with_torch():
        library.set_num_threads(threads)

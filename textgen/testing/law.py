"""What a law of cells is, and a case of it: a cell of given sizes, its sequences and states, and the worst difference.

Everything drawn depends on the case alone, so that a case that breaks a law breaks it again. A trial runs on one
thread, with known settings and no output; whatever a cell changes is put back.
"""

from __future__ import annotations

import io
import math
import os
import random
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy
import torch
from torch import Tensor

from textgen.cells import Cell
from textgen.cells.engine import State


def _environment() -> dict[str, str]:
    """The environment without the variable that torch itself sets as soon as something is traced."""
    return {name: value for name, value in os.environ.items() if name != "TORCHINDUCTOR_CACHE_DIR"}


def _set_environment(wanted: dict[str, str]) -> None:
    os.environ.clear()
    os.environ.update(wanted)


def _handlers() -> dict[int, Any]:
    return {number: signal.getsignal(number) for number in signal.valid_signals()}


def _set_handlers(wanted: dict[int, Any]) -> None:
    for number, handler in wanted.items():
        if handler is not None and signal.getsignal(number) is not handler:
            signal.signal(number, handler)


_SETTINGS: dict[str, tuple[Callable[[], Any], Callable[[Any], object] | None]] = {
    "the default dtype": (torch.get_default_dtype, torch.set_default_dtype),
    "the default device": (torch.get_default_device, torch.set_default_device),
    "the number of threads": (torch.get_num_threads, torch.set_num_threads),
    "the grad mode": (torch.is_grad_enabled, torch.set_grad_enabled),
    "anomaly detection": (torch.is_anomaly_enabled, torch.set_anomaly_enabled),
    "deterministic algorithms": (torch.are_deterministic_algorithms_enabled, torch.use_deterministic_algorithms),
    "the precision of matrix products": (torch.get_float32_matmul_precision, torch.set_float32_matmul_precision),
    "the current directory": (Path.cwd, os.chdir),
    "the environment": (_environment, _set_environment),
    "sys.path": (lambda: [*sys.path], lambda wanted: sys.path.__setitem__(slice(None), wanted)),
    "the recursion limit": (sys.getrecursionlimit, sys.setrecursionlimit),
    "the signal handlers": (_handlers, _set_handlers),
    "the running threads": (threading.active_count, None),
}
"""How to read each setting of the process that a cell must not change, and how to restore it."""


def process_settings() -> dict[str, Any]:
    """The settings of the process that a cell must not change, under the names that messages use."""
    return {name: read() for name, (read, _) in _SETTINGS.items()}


def other_rng_states() -> tuple[Any, ...]:
    """The states of Python's and numpy's random generators."""
    kind, keys, *rest = numpy.random.get_state()
    return random.getstate(), str(kind), bytes(numpy.asarray(keys)), *rest


@contextmanager
def isolated() -> Iterator[io.StringIO]:
    """Run a case under known settings; yields a buffer with everything that is printed."""
    printed = io.StringIO()
    before, python, numbers = process_settings(), random.getstate(), numpy.random.get_state()
    try:
        with torch.random.fork_rng(devices=[]), redirect_stdout(printed), redirect_stderr(printed), torch.enable_grad():
            torch.set_num_threads(1)
            torch.set_default_dtype(torch.float32)
            yield printed
    finally:
        random.setstate(python)
        numpy.random.set_state(numbers)
        for name, (read, restore) in _SETTINGS.items():
            if restore is not None and read() != before[name]:
                restore(before[name])


Tensors = Mapping[str, Tensor]
Run = Callable[[Tensor, State], tuple[Tensor, State]]
MakeCell = Callable[[int, int], Cell]
"""Makes a cell of (input_size, hidden_size)."""
TOLERANCE = {torch.float64: 1e-10, torch.float32: 1e-5}
PERTURBATION = 0.2
BOTH = (torch.float64, torch.float32)
SHAPES = ((1, 1), (2, 5), (5, 3), (3, 2))
"""The (T, B) of most laws. Each cell size always has the same batch size: some cells prepare for one batch size."""
Status = Literal["passed", "failed", "expected", "skipped"]


class Violation(Exception):
    """A law is broken; the message says what was found."""

    def __init__(self, found: str, deviation: float | None = None) -> None:
        super().__init__(found)
        self.deviation = deviation


class NotApplicable(Exception):
    """A law does not apply to this cell or cannot be checked here; the message says why."""


@dataclass(frozen=True)
class CaseConfig:
    """T time steps, B rows, the cell's sizes, its dtype, and a seed."""

    length: int
    batch: int
    input_size: int
    hidden_size: int
    dtype: torch.dtype = torch.float64
    seed: int = 0

    def __str__(self) -> str:
        return (
            f"T={self.length}, B={self.batch}, input_size={self.input_size}, hidden_size={self.hidden_size}, "
            f"{str(self.dtype).removeprefix('torch.')}"
        )


class Case:
    """What a law checks: `cell`, built on first use in eval mode, and inputs and states for it.

    `worst` is the largest deviation so far, `note` what a passed law reports, and `printed` what the cell has printed.
    """

    def __init__(self, make: MakeCell, config: CaseConfig) -> None:
        self._make = make
        self.config = config
        self.worst: float | None = None
        self.note = ""
        self.printed = io.StringIO()
        self._noise = torch.Generator().manual_seed(config.seed + 1)

    @cached_property
    def cell(self) -> Cell:
        return self.build()

    def fresh(self, seed: int | None = None) -> Cell:
        """A cell as its constructor makes it, with this seed (default: the case's), in the case's dtype."""
        torch.manual_seed(self.config.seed if seed is None else seed)
        return self._make(self.config.input_size, self.config.hidden_size).to(self.config.dtype).eval()

    def build(self, seed: int | None = None) -> Cell:
        """The same with noise added to every trainable parameter, so that zeros and symmetry hide nothing."""
        cell = self.fresh(seed)
        noise = torch.Generator().manual_seed(self.config.seed)
        with torch.no_grad():
            for parameter in cell.parameters():
                if parameter.requires_grad and parameter.is_floating_point():
                    parameter.add_(torch.randn(parameter.shape, generator=noise), alpha=PERTURBATION)
        return cell

    def draw(self, *shape: int) -> Tensor:
        """Samples from N(0, 1) in this shape, in the case's dtype."""
        return torch.randn(shape, generator=self._noise, dtype=torch.float64).to(self.config.dtype)

    def sequence(self, length: int | None = None, batch: int | None = None) -> Tensor:
        """Random inputs (T, B, input_size); T and B default to the case's."""
        length, batch = self.config.length if length is None else length, self.config.batch if batch is None else batch
        return self.draw(length, batch, self.config.input_size)

    def state(self, batch: int | None = None) -> State:
        """A reachable state: the one after two steps on other inputs."""
        batch = self.config.batch if batch is None else batch
        with torch.no_grad():
            state = self.cell.initial_state(batch)
            for x in self.sequence(2, batch):
                state = self.cell.step(x, state)[1]
        return tuple(s.detach().clone() for s in state)

    def call(self, xs: Tensor, state: State, by: Run | None = None) -> dict[str, Tensor]:
        """Outputs and final state by name, from copies of inputs and state, always with the same seed."""
        torch.default_generator.manual_seed(self.config.seed)
        return named(*(by or self.cell)(xs.clone(), tuple(s.clone() for s in state)))

    def run(self, xs: Tensor, state: State, by: Run | None = None) -> dict[str, Tensor]:
        """The same without gradients, and copied, so that no later call can change the results."""
        with torch.no_grad():
            return {name: value.clone() for name, value in self.call(xs, state, by).items()}

    def differentiate(self, xs: Tensor, state: State, by: Run | None = None) -> dict[str, Tensor]:
        """All gradients by name, of a loss that weights each result differently."""
        wanted = self.leaves(xs, state)
        results = self.call(*arguments(wanted, state), by)
        known = {"ys", *(f"state[{k}]" for k in range(len(state)))}
        return gradients(weighted({name: r for name, r in results.items() if name in known}), wanted)

    def leaves(self, xs: Tensor, state: State) -> dict[str, Tensor]:
        """The leaves for autograd: copies of inputs and state, and the cell's trainable parameters."""
        given = {"xs": xs, **{f"state[{k}]": s for k, s in enumerate(state) if s.is_floating_point()}}
        trained = {name: p for name, p in self.cell.named_parameters() if p.requires_grad}
        return {name: t.detach().clone().requires_grad_() for name, t in given.items()} | trained

    def require(self, condition: bool, found: str) -> None:
        """Raises Violation with what was found unless the condition holds."""
        if not condition:
            raise Violation(found)

    def close(self, actual: Tensors, expected: Tensors, what: str, tolerance: float | None = None) -> None:
        """Raises Violation unless all are within a tolerance (default: the dtype's), relative to the largest value."""
        allowed = TOLERANCE[self.config.dtype] if tolerance is None else tolerance
        for name, reference in expected.items():
            self.require(name in actual, f"{name} is missing: {what}")
            value = actual[name]
            self.require(
                value.shape == reference.shape,
                f"{name} has shape {tuple(value.shape)}, not {tuple(reference.shape)}: {what}",
            )
            deviation = distance(value, reference)
            self.worst = max(self.worst or 0.0, deviation)
            if deviation > allowed:
                wanted = f"must agree to {allowed:.0e}" if allowed else "must be bit-identical"
                raise Violation(f"{name} {wanted}; differs by {deviation:.2g}: {what}", deviation)

    def same(self, actual: Tensors, expected: Tensors, what: str) -> None:
        """Raises Violation unless all are bit-identical (NaN equals NaN)."""
        self.close(actual, expected, what, tolerance=0.0)


def named(ys: Tensor, state: State) -> dict[str, Tensor]:
    """Outputs and state by name: ys, state[0], state[1], ..."""
    return {"ys": ys, **{f"state[{k}]": s for k, s in enumerate(state)}}


def arguments(leaves: Tensors, state: State) -> tuple[Tensor, State]:
    """Inputs and state from `Case.leaves`; state tensors without gradients (integers) come from `state`."""
    return leaves["xs"], tuple(leaves.get(f"state[{k}]", s) for k, s in enumerate(state))


def distance(value: Tensor, reference: Tensor) -> float:
    """The largest difference, relative to the largest reference value if that exceeds 1; infinite where one is NaN."""
    value, reference = value.detach().double(), reference.detach().double()
    if value.numel() == 0 or torch.equal(value, reference):
        return 0.0
    equal = (value == reference) | (value.isnan() & reference.isnan())
    difference = torch.where(equal, 0.0, (value - reference).abs()).max().item()
    largest = reference.nan_to_num(0, 0, 0).abs().max().item()
    return math.inf if math.isnan(difference) else difference / max(1.0, largest)


def weighted(results: Tensors) -> Tensor:
    """A scalar loss in which every entry of the floating-point results has a different weight."""
    parts = [
        (r * torch.linspace(-1, 1, r.numel() + 1, dtype=r.dtype, device=r.device)[:-1].view(r.shape)).sum()
        for r in results.values()
        if r.is_floating_point()
    ]
    return torch.stack(parts).sum()


def gradients(loss: Tensor, wanted: Tensors) -> dict[str, Tensor]:
    """The gradient of each leaf by name, zeros where the loss does not depend on it."""
    found = torch.autograd.grad(loss, list(wanted.values()), allow_unused=True)
    return {
        f"the gradient of {name}": torch.zeros_like(w) if g is None else g
        for (name, w), g in zip(wanted.items(), found, strict=True)
    }


def both(cell: Cell) -> dict[str, Run]:
    """`step` and `forward` by name, with the same signature; `step` takes the first input of the sequence."""
    return {"step": lambda xs, state: cell.step(xs[0], state), "forward": cell}


@dataclass(frozen=True)
class Law:
    """One statement about every cell, and the function that checks it in one case.

    `meaning` says what breaking it does to training or sampling. `shapes` are the (T, B) to check; `least` is the
    smallest (T, B, hidden_size) at which the law says anything, and so the limit for shrinking a failing case.
    `one_size`: one cell size is enough. `slow`: takes seconds.
    """

    name: str
    statement: str
    meaning: str
    test: Callable[[Case], None]
    shapes: tuple[tuple[int, int], ...] = SHAPES
    least: tuple[int, int, int] = (1, 1, 1)
    dtypes: tuple[torch.dtype, ...] = (torch.float64,)
    one_size: bool = False
    slow: bool = False


def law(meaning: str, **settings: Any) -> Callable[[Callable[[Case], None]], Law]:
    """Turn a function of a `Case` into a law, named like the function; its docstring is the statement.

    `settings` are the other fields of `Law`. A law in one of the modules listed in `textgen.testing.runner` is
    checked on every cell; there is nothing else to register.
    """

    def named(test: Callable[[Case], None]) -> Law:
        return Law(test.__name__, " ".join((test.__doc__ or "").split()), meaning, test, **settings)

    return named


@dataclass(frozen=True)
class Result:
    """The result of one law: its name, a status, the largest deviation (None: nothing was measured), and a sentence.

    Status: `passed`, `failed`, `expected` (failed, as the cell declares), or `skipped` (does not apply to this cell).
    `case` is the smallest failing case, as text; `error` the exception that the cell raised, if any; `cause` another
    fault of the cell that explains this failure, if there is one.
    """

    law: str
    status: Status
    deviation: float | None = None
    detail: str = ""
    case: str = ""
    error: BaseException | None = field(default=None, repr=False, compare=False)
    cause: str = ""

    def as_json(self) -> dict[str, Any]:
        """The result for JSON; a deviation that is not finite becomes null."""
        content = {name: value for name, value in asdict(self).items() if name != "error"}
        finite = self.deviation is not None and self.deviation < float("inf")
        return {**content, "deviation": self.deviation if finite else None}


class LawBroken(AssertionError):
    """A cell breaks a law. `cell` is the name of its class, `law` the law, `result` what was found."""

    def __init__(self, cell: str, law: Law, result: Result) -> None:
        super().__init__(cell, law, result)
        self.cell, self.law, self.result = cell, law, result

    def __str__(self) -> str:
        return f"{self.cell} breaks the law {self.law.name}\n{explanation(self.law, self.result)}"


def explanation(law: Law, result: Result) -> str:
    """What the law says, what was found in the smallest case, and what that means: a line each.

    A cause elsewhere comes first.
    """
    lines = {
        "cause": result.cause,
        "law": law.statement,
        "found": result.detail,
        "in": result.case,
        "meaning": law.meaning,
    }
    return "\n".join(f"  {name:<8} {text}" for name, text in lines.items() if text)

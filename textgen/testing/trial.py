"""One trial of a law: a cell of given sizes, sequences and states for it, and comparisons that remember the worst.

Everything drawn depends on the case alone, so that a case that breaks a law breaks it again.
"""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from textgen.cell import Cell
from textgen.recurrence import State

Tensors = Mapping[str, Tensor]
Run = Callable[[Tensor, State], tuple[Tensor, State]]
TOLERANCE = {torch.float64: 1e-10, torch.float32: 1e-5}
NUDGE = 0.2


class Broken(Exception):
    """A law does not hold; the message says what was found."""

    def __init__(self, found: str, deviation: float | None = None) -> None:
        super().__init__(found)
        self.deviation = deviation


class NotForThisCell(Exception):
    """A law says nothing about this cell, or cannot be tried here; the message says why."""


@dataclass(frozen=True)
class Case:
    """The sizes of one trial: T time steps, B rows, the cell's sizes, the type of its numbers, and a seed."""

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


class Trial:
    """A case made real. `cell` is built when first asked for, in eval mode; `worst` is the largest deviation seen,
    `note` what a passed law has to report, and `said` collects what is printed."""

    def __init__(self, make: Callable[[int, int], Cell], case: Case) -> None:
        self._make = make
        self.case = case
        self.worst: float | None = None
        self.note = ""
        self.said = io.StringIO()
        self._noise = torch.Generator().manual_seed(case.seed + 1)

    @cached_property
    def cell(self) -> Cell:
        return self.build()

    def fresh(self, seed: int | None = None) -> Cell:
        """A cell as its constructor makes it, under this seed (default: the case's), in the case's dtype."""
        torch.manual_seed(self.case.seed if seed is None else seed)
        return self._make(self.case.input_size, self.case.hidden_size).to(self.case.dtype).eval()

    def build(self, seed: int | None = None) -> Cell:
        """The same with every trainable parameter nudged, so that none hides behind a zero or behind symmetry."""
        cell = self.fresh(seed)
        noise = torch.Generator().manual_seed(self.case.seed)
        with torch.no_grad():
            for parameter in cell.parameters():
                if parameter.requires_grad and parameter.is_floating_point():
                    parameter.add_(torch.randn(parameter.shape, generator=noise), alpha=NUDGE)
        return cell

    def draw(self, *shape: int) -> Tensor:
        """N(0, 1) of this shape, in the case's dtype."""
        return torch.randn(shape, generator=self._noise, dtype=torch.float64).to(self.case.dtype)

    def sequence(self, length: int | None = None, batch: int | None = None) -> Tensor:
        """Inputs (T, B, input_size); T and B as in the case unless given."""
        length, batch = self.case.length if length is None else length, self.case.batch if batch is None else batch
        return self.draw(length, batch, self.case.input_size)

    def state(self, batch: int | None = None) -> State:
        """A state that the cell can be in: what two steps on other inputs leave behind."""
        batch = self.case.batch if batch is None else batch
        with torch.no_grad():
            state = self.cell.initial_state(batch)
            for x in self.sequence(2, batch):
                state = self.cell.step(x, state)[1]
        return tuple(s.detach().clone() for s in state)

    def call(self, xs: Tensor, state: State, by: Run | None = None) -> dict[str, Tensor]:
        """Outputs and final state by name, from copies of inputs and state, always from the same seed."""
        torch.default_generator.manual_seed(self.case.seed)
        return named(*(by or self.cell)(xs.clone(), tuple(s.clone() for s in state)))

    def run(self, xs: Tensor, state: State, by: Run | None = None) -> dict[str, Tensor]:
        """The same without gradients, and copied, so that no later call can change it."""
        with torch.no_grad():
            return {name: value.clone() for name, value in self.call(xs, state, by).items()}

    def differentiate(self, xs: Tensor, state: State, by: Run | None = None) -> dict[str, Tensor]:
        """The gradients of everything that has one, by name, under weights that treat no entry alike."""
        wanted = self.leaves(xs, state)
        results = self.call(*arguments(wanted, state), by)
        known = {"ys", *(f"state[{k}]" for k in range(len(state)))}
        return gradients(weighted({name: r for name, r in results.items() if name in known}), wanted)

    def leaves(self, xs: Tensor, state: State) -> dict[str, Tensor]:
        """Copies of inputs and state, and the cell's parameters, as what a gradient can be taken of."""
        given = {"xs": xs, **{f"state[{k}]": s for k, s in enumerate(state) if s.is_floating_point()}}
        trained = {name: p for name, p in self.cell.named_parameters() if p.requires_grad}
        return {name: t.detach().clone().requires_grad_() for name, t in given.items()} | trained

    def require(self, holds: bool, found: str) -> None:
        """Raises Broken with what was found unless it holds."""
        if not holds:
            raise Broken(found)

    def close(self, actual: Tensors, expected: Tensors, what: str, tolerance: float | None = None) -> None:
        """Raises Broken unless all are equal within the tolerance of the case's dtype, relative to the largest."""
        allowed = TOLERANCE[self.case.dtype] if tolerance is None else tolerance
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
                raise Broken(f"{name} {wanted}; differs by {deviation:.2g}: {what}", deviation)

    def same(self, actual: Tensors, expected: Tensors, what: str) -> None:
        """Raises Broken unless all are equal bit for bit (not-a-number equals itself)."""
        self.close(actual, expected, what, tolerance=0.0)


def named(ys: Tensor, state: State) -> dict[str, Tensor]:
    """Outputs and state by name: ys, state[0], state[1], ..."""
    return {"ys": ys, **{f"state[{k}]": s for k, s in enumerate(state)}}


def arguments(leaves: Tensors, state: State) -> tuple[Tensor, State]:
    """Inputs and state as `Trial.leaves` has them; the parts of a state that are no floating numbers as they are."""
    return leaves["xs"], tuple(leaves.get(f"state[{k}]", s) for k, s in enumerate(state))


def distance(value: Tensor, reference: Tensor) -> float:
    """The largest difference, as a part of the largest reference where that is above 1; infinite where one is NaN."""
    value, reference = value.detach().double(), reference.detach().double()
    if value.numel() == 0 or torch.equal(value, reference):
        return 0.0
    alike = (value == reference) | (value.isnan() & reference.isnan())
    difference = torch.where(alike, 0.0, (value - reference).abs()).max().item()
    largest = reference.nan_to_num(0, 0, 0).abs().max().item()
    return math.inf if math.isnan(difference) else difference / max(1.0, largest)


def weighted(results: Tensors) -> Tensor:
    """A scalar that depends on every entry of the floating results, each with its own weight."""
    parts = [
        (r * torch.linspace(-1, 1, r.numel() + 1, dtype=r.dtype, device=r.device)[:-1].view(r.shape)).sum()
        for r in results.values()
        if r.is_floating_point()
    ]
    return torch.stack(parts).sum()


def gradients(loss: Tensor, wanted: Tensors) -> dict[str, Tensor]:
    """The gradient of each by name, zeros where the loss does not depend on it."""
    found = torch.autograd.grad(loss, list(wanted.values()), allow_unused=True)
    return {
        f"the gradient of {name}": torch.zeros_like(w) if g is None else g
        for (name, w), g in zip(wanted.items(), found, strict=True)
    }


def both(cell: Cell) -> dict[str, Run]:
    """The cell's two verbs by name, each as a run; step takes the first input of the sequence."""
    return {"step": lambda xs, state: cell.step(xs[0], state), "forward": cell}

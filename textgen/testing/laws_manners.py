"""Laws about side effects and long runs: seeds, process settings, finite values, memory and time."""

from __future__ import annotations

import gc
import math
import random
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from itertools import pairwise
from typing import Any

import numpy
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from textgen.cell import Cell
from textgen.recurrence import State
from textgen.testing.law import law
from textgen.testing.room import other_rng_states, process_settings
from textgen.testing.trial import Case, gradients, weighted
from textgen.wording import plural

LONG, WINDOW, BACKWARD_STEPS = 10_000, 1_000, 200
STEPS, INTERVALS = 1_000, 5


@law("Training runs could not be reproduced.", shapes=((1, 2), (5, 3)), least=(1, 2, 1))
def reproducible(case: Case) -> None:
    """The same torch seed gives the same weights, and in training mode the same outputs; no other random generator
    is used.
    """
    before = other_rng_states()
    one = case.fresh()
    case.require(other_rng_states() == before, "the constructor uses Python's or numpy's random generator")
    random.seed(1)
    numpy.random.seed(1)
    case.same(case.fresh().state_dict(), one.state_dict(), "built twice with the same seed")
    xs, state = case.sequence(), case.state()
    case.cell.train()
    before = other_rng_states()
    first = case.run(xs, state)
    case.require(other_rng_states() == before, "forward uses Python's or numpy's random generator")
    case.same(case.run(xs, state), first, "training mode, twice with the same seed")


@law("Scores would differ from run to run, and a seed would not determine what is sampled.")
def deterministic_eval(case: Case) -> None:
    """In eval mode outputs do not depend on the seed, and no random number is drawn."""
    xs, state = case.sequence(), case.state()
    first = case.run(xs, state)
    torch.manual_seed(case.config.seed + 1)
    before = torch.get_rng_state()
    with torch.no_grad():
        ys, after = case.cell(xs, state)
        for x in xs:
            state = case.cell.step(x, state)[1]
    case.same({"ys": ys, **{f"state[{k}]": s for k, s in enumerate(after)}}, first, "with another seed")
    case.require(torch.equal(torch.get_rng_state(), before), "random numbers are drawn in eval mode")


@law(
    "The cell would change how the rest of the program runs, or print into the sampled text.",
    shapes=((2, 2),),
    one_size=True,
)
def no_side_effects(case: Case) -> None:
    """Building and running a cell changes no setting of the process (dtype, threads, directory, ...) and prints
    nothing.
    """
    torch.set_num_threads(3)  # a value that no cell would set
    before, cell = process_settings(), case.cell

    def expect_unchanged(what: str) -> None:
        changed = [name for name, value in process_settings().items() if value != before[name]]
        case.require(not changed, f"{what} changes {', '.join(changed)}")
        printed = case.printed.getvalue()
        case.require(not printed, f"{what} prints {printed[:60]!r}")

    expect_unchanged("the constructor")
    xs, state = case.sequence(), case.state()
    cell.step(xs[0], state)
    expect_unchanged("step")
    case.differentiate(xs, state)
    expect_unchanged("forward or backward")


@law(
    "Sampling a long text, or training with the state carried through a corpus, would end in NaN.",
    shapes=((LONG, 2),),
    least=(LONG, 2, 1),
    dtypes=(torch.float32,),
    one_size=True,
)
def finite(case: Case) -> None:
    """In a newly initialised cell, outputs and state stay finite over 10,000 steps of N(0, 1) and of zeros, and so do
    the gradients over 200 more steps of N(0, 1) and one more of zeros.
    """
    cell = case.fresh()
    xs = case.sequence()
    xs[:, 1] = 0
    with torch.no_grad():
        state = cell.initial_state(2)
        for start in range(0, LONG, WINDOW):
            ys, state = cell(xs[start : start + WINDOW], state)
            for what, row in {"N(0, 1)": 0, "zeros": 1}.items():
                good = ys[:, row].isfinite().all() and all(s[row].isfinite().all() for s in state)
                case.require(bool(good), f"NaN or infinity on {what} by step {start + WINDOW:,}")
    weights = {name: p for name, p in cell.named_parameters() if p.requires_grad}
    for what, row, steps in (("N(0, 1)", 0, BACKWARD_STEPS), ("zeros", 1, 1)):
        rows = slice(row, row + 1)
        norms = gradient_norms(cell, xs[:steps, rows], tuple(s[rows] for s in state), weights)
        for name, norm in norms.items():
            found = f"the gradient of {name} has norm {norm} over {plural(steps, 'more step')} of {what}"
            case.require(math.isfinite(norm), found)
        if norms and steps == BACKWARD_STEPS:
            case.note = f"gradient norm {math.hypot(*norms.values()):.2g} over {BACKWARD_STEPS} more steps"


def gradient_norms(cell: Cell, xs: Tensor, state: State, weights: Mapping[str, Tensor]) -> dict[str, float]:
    """The norm of each weight's gradient, of a loss of the outputs for these inputs and this state."""
    if not weights:
        return {}
    found = gradients(weighted({"ys": cell(xs, state)[0]}), weights)
    return {name: gradient.double().norm().item() for name, gradient in zip(weights, found.values(), strict=True)}


@law("Long texts and servers would run out of memory.", shapes=((1, 2),), dtypes=(torch.float32,), one_size=True)
def constant_memory(case: Case) -> None:
    """Memory does not grow over 1,000 steps: neither Python objects nor tensors."""
    x, state = case.sequence()[0], case.state()
    used = []
    with existing_objects_frozen():
        for _ in range(INTERVALS):
            state = walk(case, x, state, STEPS // INTERVALS)
            gc.collect()
            used.append({"Python objects": sys.getallocatedblocks(), "bytes of tensors": living_tensors()})
    for what in used[0]:  # a leak grows in every interval; Python's own caches do not
        least = min(after[what] - before[what] for before, after in pairwise(used)) / (STEPS // INTERVALS)
        case.require(least < 0.5, f"each step leaks {least:.0f} {what}")


@contextmanager
def existing_objects_frozen() -> Iterator[None]:
    """Hide existing objects from the garbage collector: there may be very many."""
    frozen = gc.get_freeze_count() > 0
    if not frozen:
        gc.freeze()
    try:
        yield
    finally:
        if not frozen:
            gc.unfreeze()


def walk(case: Case, x: Tensor, state: State, steps: int) -> State:
    """Run a number of steps without gradients."""
    with torch.no_grad():
        for _ in range(steps):
            state = case.cell.step(x, state)[1]
    return state


def living_tensors() -> int:
    """Bytes held by the tensors that the garbage collector tracks; shared memory counts once."""
    held = {}
    for thing in gc.get_objects():
        if type(thing) in (Tensor, torch.nn.Parameter) and thing.device.type == "cpu" and not thing.is_sparse:
            storage = thing.untyped_storage()
            held[storage.data_ptr()] = storage.nbytes()
    return sum(held.values())


class OperationCounter(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts torch operations and the elements that they return."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.total = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        tensors = result if isinstance(result, (list, tuple)) else [result]
        self.total += 1 + sum(t.numel() for t in tensors if isinstance(t, Tensor))
        return result


@law("The longer the text, the slower each token.", shapes=((1, 2),), one_size=True)
def constant_time(case: Case) -> None:
    """A late step costs no more than an early one, counted in operations and elements."""
    x, state = case.sequence()[0], case.cell.initial_state(case.config.batch)
    early = late = 0
    with torch.no_grad():
        for t in range(STEPS // 2):
            if 8 <= t < STEPS // 2 - 8:
                state = case.cell.step(x, state)[1]
                continue
            with OperationCounter() as counter:
                state = case.cell.step(x, state)[1]
            early, late = (max(early, counter.total), late) if t < 8 else (early, max(late, counter.total))
    case.require(late <= 2 * early, f"{late} operations and elements after {STEPS // 2} steps, {early} at first")

"""Laws about manners: seeds, side effects, long texts, memory and time."""

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
from textgen.testing.room import other_randomness, settings
from textgen.testing.trial import Trial, gradients, weighted
from textgen.wording import plural

LONG, WINDOW, BACK = 10_000, 1_000, 200
STEPS, PARTS = 1_000, 4


@law(
    meaning="A training could not be repeated.",
    shapes=((1, 2), (5, 3)),
    least=(1, 2, 1),
)
def same_seed(trial: Trial) -> None:
    """The same torch seed gives the same cell, and in training mode the same outputs; no other randomness is
    touched.
    """
    before = other_randomness()
    one = trial.fresh()
    trial.require(other_randomness() == before, "the constructor draws from Python's or numpy's random generator")
    random.seed(1)
    numpy.random.seed(1)
    trial.same(trial.fresh().state_dict(), one.state_dict(), "built twice from one seed")
    xs, state = trial.sequence(), trial.state()
    trial.cell.train()
    before = other_randomness()
    first = trial.run(xs, state)
    trial.require(other_randomness() == before, "forward draws from Python's or numpy's random generator")
    trial.same(trial.run(xs, state), first, "training mode, twice from one seed")


@law(
    meaning="Scores would differ from run to run, and sampling would spend random numbers that are not its own.",
)
def no_noise(trial: Trial) -> None:
    """In eval mode nothing is random: outputs do not depend on the seed, and no random number is drawn."""
    xs, state = trial.sequence(), trial.state()
    first = trial.run(xs, state)
    torch.manual_seed(trial.case.seed + 1)
    before = torch.get_rng_state()
    with torch.no_grad():
        ys, after = trial.cell(xs, state)
        for x in xs:
            state = trial.cell.step(x, state)[1]
    trial.same({"ys": ys, **{f"state[{k}]": s for k, s in enumerate(after)}}, first, "under another seed")
    trial.require(torch.equal(torch.get_rng_state(), before), "random numbers are drawn in eval mode")


@law(
    meaning="A cell would change how the rest of the program works, or write into the text that is being sampled.",
    shapes=((2, 2),),
    one_size=True,
)
def no_side_effects(trial: Trial) -> None:
    """Building and running a cell changes no setting of the program (dtype, threads, folder, ...) and prints
    nothing.
    """
    torch.set_num_threads(3)  # a number that no author writes
    before, cell = settings(), trial.cell

    def look(what: str) -> None:
        changed = [name for name, value in settings().items() if value != before[name]]
        trial.require(not changed, f"{what} changes {', '.join(changed)}")
        said = trial.said.getvalue()
        trial.require(not said, f"{what} prints {said[:60]!r}")

    look("its constructor")
    xs, state = trial.sequence(), trial.state()
    cell.step(xs[0], state)
    look("step")
    trial.differentiate(xs, state)
    look("forward or backward")


@law(
    meaning="Sampling a long text, or training with the state carried through a corpus, would end in NaN.",
    shapes=((LONG, 2),),
    least=(LONG, 2, 1),
    dtypes=(torch.float32,),
    one_size=True,
)
def finite(trial: Trial) -> None:
    """10,000 steps of N(0, 1) and of zeros leave outputs and state finite in a cell as it is initialised; so are the
    gradients over 200 more steps of N(0, 1), and over one more of zeros.
    """
    cell = trial.fresh()
    xs = trial.sequence()
    xs[:, 1] = 0
    with torch.no_grad():
        state = cell.initial_state(2)
        for start in range(0, LONG, WINDOW):
            ys, state = cell(xs[start : start + WINDOW], state)
            for what, row in {"N(0, 1)": 0, "zeros": 1}.items():
                good = ys[:, row].isfinite().all() and all(s[row].isfinite().all() for s in state)
                trial.require(bool(good), f"NaN or infinity on {what} by step {start + WINDOW:,}")
    weights = {name: p for name, p in cell.named_parameters() if p.requires_grad}
    for what, row, steps in (("N(0, 1)", 0, BACK), ("zeros", 1, 1)):
        rows = slice(row, row + 1)
        norms = gradient_norms(cell, xs[:steps, rows], tuple(s[rows] for s in state), weights)
        for name, norm in norms.items():
            said = f"the gradient of {name} has norm {norm} over {plural(steps, 'more step')} of {what}"
            trial.require(math.isfinite(norm), said)
        if norms and steps == BACK:
            trial.note = f"gradient norm {math.hypot(*norms.values()):.2g} over {BACK} more steps"


def gradient_norms(cell: Cell, xs: Tensor, state: State, weights: Mapping[str, Tensor]) -> dict[str, float]:
    """The norm of each weight's gradient from the outputs for these inputs and this state."""
    if not weights:
        return {}
    found = gradients(weighted({"ys": cell(xs, state)[0]}), weights)
    return {name: gradient.double().norm().item() for name, gradient in zip(weights, found.values(), strict=True)}


@law(
    meaning="A long text, or a server, would run out of memory.",
    shapes=((1, 2),),
    dtypes=(torch.float32,),
    one_size=True,
)
def memory_flat(trial: Trial) -> None:
    """1,000 steps leave no memory behind: no Python objects, no tensors."""
    x, state = trial.sequence()[0], trial.state()
    used = []
    with older_objects_aside():
        for _ in range(PARTS + 1):
            state = walk(trial, x, state, STEPS // (PARTS + 1))
            gc.collect()
            used.append({"Python objects": sys.getallocatedblocks(), "bytes of tensors": living_tensors()})
    for what in used[0]:  # a leak leaks all the time; what Python keeps for its own sake comes and goes
        least = min(after[what] - before[what] for before, after in pairwise(used)) / (STEPS // (PARTS + 1))
        trial.require(least < 0.5, f"each step leaves {least:.0f} {what} behind")


@contextmanager
def older_objects_aside() -> Iterator[None]:
    """Put what exists out of the garbage collector's sight: there may be very much of it."""
    frozen = gc.get_freeze_count() > 0
    if not frozen:
        gc.freeze()
    try:
        yield
    finally:
        if not frozen:
            gc.unfreeze()


def walk(trial: Trial, x: Tensor, state: State, steps: int) -> State:
    """So many steps without gradients."""
    with torch.no_grad():
        for _ in range(steps):
            state = trial.cell.step(x, state)[1]
    return state


def living_tensors() -> int:
    """Bytes that tensors hold, those that the collector sees, shared memory counted once."""
    held = {}
    for thing in gc.get_objects():
        if type(thing) in (Tensor, torch.nn.Parameter) and thing.device.type == "cpu" and not thing.is_sparse:
            storage = thing.untyped_storage()
            held[storage.data_ptr()] = storage.nbytes()
    return sum(held.values())


class Work(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the operations of torch that run inside, and the numbers that they return."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.done = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        tensors = result if isinstance(result, (list, tuple)) else [result]
        self.done += 1 + sum(t.numel() for t in tensors if isinstance(t, Tensor))
        return result


@law(
    meaning="The longer the text, the slower each symbol.",
    shapes=((1, 2),),
    one_size=True,
)
def cost_flat(trial: Trial) -> None:
    """A step late in a text does no more work than an early one, counted in operations and numbers."""
    x, state = trial.sequence()[0], trial.cell.initial_state(trial.case.batch)
    early = late = 0
    with torch.no_grad():
        for t in range(STEPS // 2):
            if 8 <= t < STEPS // 2 - 8:
                state = trial.cell.step(x, state)[1]
                continue
            with Work() as work:
                state = trial.cell.step(x, state)[1]
            early, late = (max(early, work.done), late) if t < 8 else (early, max(late, work.done))
    trial.require(late <= 2 * early, f"{late} operations and numbers a step after {STEPS // 2} steps, {early} at first")

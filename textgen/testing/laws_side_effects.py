"""Laws about side effects, memory and time of a cell, and slow laws about compiling, exporting and importing."""

from __future__ import annotations

import gc
import logging
import math
import os
import random
import shutil
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from itertools import pairwise
from typing import Any

import numpy
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from textgen.cells import Cell
from textgen.cells.engine import State
from textgen.formatting import plural
from textgen.testing.law import Case, NotApplicable, gradients, law, named, other_rng_states, process_settings, weighted

LONG, WINDOW, BACKWARD_STEPS = 10_000, 1_000, 200
STEPS, INTERVALS = 1_000, 5
IMPORT_SECONDS, IMPORT_TRIES = 0.5, 3
TIMER = """
import importlib, sys, time
import torch, textgen.cells
begin = time.perf_counter()
importlib.import_module(sys.argv[1])
sys.stderr.write(f"seconds {time.perf_counter() - begin}")
"""


@law("Training runs could not be reproduced.", shapes=((1, 2), (5, 3)), least=(1, 2, 1))
def reproducible(case: Case) -> None:
    """The same torch seed gives the same weights, and in training mode the same outputs; no other random generator
    is used."""
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
    case.same(named(ys, after), first, "with another seed")
    case.require(torch.equal(torch.get_rng_state(), before), "random numbers are drawn in eval mode")


@law(
    "The cell would change how the rest of the program runs, or print into the sampled text.",
    shapes=((2, 2),),
    one_size=True,
)
def no_side_effects(case: Case) -> None:
    """Building and running a cell changes no setting of the process (dtype, threads, directory, ...) and prints
    nothing."""
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
    the gradients over 200 more steps of N(0, 1) and one more of zeros."""
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
            with torch.no_grad():
                for _ in range(STEPS // INTERVALS):
                    state = case.cell.step(x, state)[1]
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


@law(
    "Compiling could not speed up training and prompt processing.",
    shapes=((3, 2),),
    least=(3, 2, 1),
    dtypes=(torch.float32,),
    one_size=True,
    slow=True,
)
def compiles(case: Case) -> None:
    """torch.compile(fullgraph=True) compiles step with gradients and forward without; the results are the same."""
    cell, xs, state = case.cell, case.sequence(), case.state()
    backend = "inductor" if any(map(shutil.which, ("c++", "g++", "clang++"))) else "aot_eager"
    case.note = f"by {backend}"

    def by_step(x: Tensor, s: State) -> tuple[Tensor, State]:
        return cell.step(x[0], s)

    with compiler() as compiled:
        step = compiled(by_step, backend)
        case.close(case.run(xs, state, step), case.run(xs, state, by_step), "a compiled step")
        case.close(
            case.differentiate(xs, state, step), case.differentiate(xs, state, by_step), "gradients of a compiled step"
        )
        forward = compiled(lambda x, s: cell(x, s), "aot_eager")
        case.close(case.run(xs, state, forward), case.run(xs, state), "a compiled forward")


@contextmanager
def compiler() -> Iterator[Callable[[Any, str], Any]]:
    """torch.compile(fullgraph=True) without log output, with empty caches before and after."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    torch._dynamo.reset()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield lambda function, backend: torch.compile(function, fullgraph=True, backend=backend)
    finally:
        torch._dynamo.reset()
        logging.disable(before)


class Step(nn.Module):
    """A cell's step as a module, as torch.export expects."""

    def __init__(self, cell: Cell) -> None:
        super().__init__()
        self.cell = cell

    def forward(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        return self.cell.step(x, state)


@law("Other runtimes could not run the model.", shapes=((1, 3),), least=(1, 3, 1), one_size=True, slow=True)
def exports(case: Case) -> None:
    """torch.export exports step with a dynamic batch size; the program gives the same results at any batch size."""
    from torch.export import Dim, export

    x, state = case.sequence()[0], case.state()
    rows = {0: Dim("batch")}
    with compiler(), torch.no_grad():
        program = export(Step(case.cell), (x, state), dynamic_shapes=(rows, tuple(rows for _ in state))).module()
        for batch in (1, 3, 5):
            xs, before = case.sequence(1, batch), case.state(batch)
            actual = case.run(xs, before, lambda x, s: program(x[0], s))
            case.close(actual, case.run(xs, before, lambda x, s: case.cell.step(x[0], s)), f"exported, {batch} rows")


@law("Everyone who has the plugin installed would wait for its import.", one_size=True, slow=True, shapes=((1, 1),))
def imports_fast(case: Case) -> None:
    """Importing the cell's module takes at most 0.5 s in addition to torch."""
    module = type(case.cell).__module__
    if module == "__main__":
        raise NotApplicable("the cell is defined in the main program, not in a module.")
    path = os.pathsep.join(filter(None, sys.path))
    fastest = float("inf")
    for _ in range(IMPORT_TRIES):
        done = subprocess.run(
            [sys.executable, "-c", TIMER, module],
            capture_output=True,
            text=True,
            env={**os.environ, "PYTHONPATH": path},
        )
        output = done.stderr.strip().splitlines()[-1] if done.stderr.strip() else f"exit code {done.returncode}"
        case.require(done.returncode == 0, f"{module} cannot be imported on its own: {output}")
        fastest = min(fastest, float(output.rpartition(" ")[2]))
        if fastest <= IMPORT_SECONDS:
            break
    case.note = f"{fastest:.2f} s"
    case.require(fastest <= IMPORT_SECONDS, f"{module} takes {fastest:.1f} s to import")

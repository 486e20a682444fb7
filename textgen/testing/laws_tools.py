"""Laws about tools: compiling, exporting, importing. Slow: seconds each."""

from __future__ import annotations

import logging
import os
import shutil
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from textgen.cell import Cell
from textgen.recurrence import State
from textgen.testing.law import law
from textgen.testing.trial import Case, NotApplicable

IMPORT_SECONDS = 0.5
TRIES = 3


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
            case.differentiate(xs, state, step),
            case.differentiate(xs, state, by_step),
            "gradients of a compiled step",
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


TIMER = """
import importlib, sys, time
import torch, textgen.cell
begin = time.perf_counter()
importlib.import_module(sys.argv[1])
sys.stderr.write(f"seconds {time.perf_counter() - begin}")
"""


@law("Everyone who has the plugin installed would wait for its import.", one_size=True, slow=True, shapes=((1, 1),))
def imports_fast(case: Case) -> None:
    """Importing the cell's module takes at most 0.5 s in addition to torch."""
    module = type(case.cell).__module__
    if module == "__main__":
        raise NotApplicable("the cell is defined in the main program, not in a module.")
    path = os.pathsep.join(filter(None, sys.path))
    fastest = float("inf")
    for _ in range(TRIES):
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

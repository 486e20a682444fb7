"""Laws about tools around a cell: compiling, exporting, importing. Slow: seconds each."""

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
from textgen.testing.trial import NotForThisCell, Trial

IMPORT_SECONDS = 0.5
TRIES = 3


@law(
    meaning="Training and prompts could not be made faster by compiling.",
    shapes=((3, 2),),
    least=(3, 2, 1),
    dtypes=(torch.float32,),
    one_size=True,
    slow=True,
)
def compiles(trial: Trial) -> None:
    """torch.compile takes step in one piece, gradients included, and forward in one piece without gradients; the
    results are the same.
    """
    cell, xs, state = trial.cell, trial.sequence(), trial.state()
    backend = "inductor" if any(map(shutil.which, ("c++", "g++", "clang++"))) else "aot_eager"
    trial.note = f"by {backend}"

    def by_step(x: Tensor, s: State) -> tuple[Tensor, State]:
        return cell.step(x[0], s)

    with compiler() as compiled:
        step = compiled(by_step, backend)
        trial.close(trial.run(xs, state, step), trial.run(xs, state, by_step), "a compiled step")
        trial.close(
            trial.differentiate(xs, state, step),
            trial.differentiate(xs, state, by_step),
            "gradients of a compiled step",
        )
        forward = compiled(lambda x, s: cell(x, s), "aot_eager")
        trial.close(trial.run(xs, state, forward), trial.run(xs, state), "a compiled forward")


@contextmanager
def compiler() -> Iterator[Callable[[Any, str], Any]]:
    """torch.compile in one piece, quietly, from a clean start, leaving nothing behind."""
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
    """A cell's step as a module, which is what torch.export takes."""

    def __init__(self, cell: Cell) -> None:
        super().__init__()
        self.cell = cell

    def forward(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        return self.cell.step(x, state)


@law(
    meaning="A trained model could not be traced, and so not sampled without torch or the plugin.",
    shapes=((1, 3),),
    least=(1, 3, 1),
    one_size=True,
    slow=True,
)
def exports(trial: Trial) -> None:
    """torch.export takes step with any number of rows, and what it gives computes the same for another number."""
    from torch.export import Dim, export

    x, state = trial.sequence()[0], trial.state()
    rows = {0: Dim("batch")}
    with compiler(), torch.no_grad():
        program = export(Step(trial.cell), (x, state), dynamic_shapes=(rows, tuple(rows for _ in state))).module()
        for batch in (1, 3, 5):
            xs, before = trial.sequence(1, batch), trial.state(batch)
            actual = trial.run(xs, before, lambda x, s: program(x[0], s))
            trial.close(actual, trial.run(xs, before, lambda x, s: trial.cell.step(x[0], s)), f"exported, {batch} rows")


TIMER = """
import importlib, sys, time
import torch, textgen.cell
begin = time.perf_counter()
importlib.import_module(sys.argv[1])
sys.stderr.write(f"seconds {time.perf_counter() - begin}")
"""


@law(
    meaning="Everyone who has the plugin installed would wait for it.",
    one_size=True,
    slow=True,
    shapes=((1, 1),),
)
def imports_fast(trial: Trial) -> None:
    """Importing the cell's module takes at most 0.5 s beyond torch."""
    module = type(trial.cell).__module__
    if module == "__main__":
        raise NotForThisCell("it is defined in the program itself, not in a module.")
    path = os.pathsep.join(filter(None, sys.path))
    fastest = float("inf")
    for _ in range(TRIES):
        done = subprocess.run(
            [sys.executable, "-c", TIMER, module],
            capture_output=True,
            text=True,
            env={**os.environ, "PYTHONPATH": path},
        )
        said = done.stderr.strip().splitlines()[-1] if done.stderr.strip() else f"exit code {done.returncode}"
        trial.require(done.returncode == 0, f"{module} cannot be imported on its own: {said}")
        fastest = min(fastest, float(said.rpartition(" ")[2]))
        if fastest <= IMPORT_SECONDS:
            break
    trial.note = f"{fastest:.2f} s"
    trial.require(fastest <= IMPORT_SECONDS, f"{module} takes {fastest:.1f} s to import")

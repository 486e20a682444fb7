"""Laws about rows: the texts of a batch know nothing of each other."""

from __future__ import annotations

import torch
from torch import Tensor

from textgen.recurrence import State
from textgen.testing.law import BOTH, law
from textgen.testing.trial import Trial


@law(
    meaning="A text would change with whatever is written beside it; one diverged row would spoil the batch.",
    shapes=((1, 2), (6, 4), (3, 5)),
    least=(1, 2, 1),
    dtypes=BOTH,
)
def rows_apart(trial: Trial) -> None:
    """What the other rows hold never matters to a row, bit for bit, be it not-a-number; in training mode too."""
    xs, state = trial.sequence(), trial.state()
    for mode in (False, True):
        trial.cell.train(mode)
        before = trial.run(xs, state)
        for row in (0, trial.case.batch - 1):
            others = torch.arange(trial.case.batch) != row
            for strange in ((trial.sequence(), trial.state()), spoilt(xs, state)):
                mixed = (
                    replaced(xs, strange[0], others, 1),
                    tuple(replaced(s, o, others, 0) for s, o in zip(state, strange[1], strict=True)),
                )
                after = trial.run(*mixed)
                what = f"row {row} in {'training' if mode else 'eval'} mode, the other rows changed"
                trial.same(one_row(after, row), one_row(before, row), what)


def spoilt(xs: Tensor, state: State) -> tuple[Tensor, State]:
    """Inputs and state that hold not-a-number wherever they can."""
    return torch.full_like(xs, torch.nan), tuple(
        torch.full_like(s, torch.nan) if s.is_floating_point() else s for s in state
    )


def replaced(mine: Tensor, theirs: Tensor, others: Tensor, axis: int) -> Tensor:
    """My row with their rows around it."""
    shape = [1] * mine.dim()
    shape[axis] = -1
    return torch.where(others.view(shape), theirs, mine)


def one_row(results: dict[str, Tensor], row: int) -> dict[str, Tensor]:
    """One row of outputs (T, B, D) and of every state (B, ...)."""
    return {name: value[:, row] if name == "ys" else value[row] for name, value in results.items()}


@law(
    meaning="A model would answer otherwise in a batch than alone.",
    shapes=((1, 2), (6, 3), (3, 5)),
    least=(1, 2, 1),
    dtypes=BOTH,
)
def rows_alone(trial: Trial) -> None:
    """A row alone, and rows in another order, give what they give together."""
    xs, state = trial.sequence(), trial.state()
    together = trial.run(xs, state)
    for row in range(trial.case.batch):
        alone = trial.run(xs[:, row : row + 1], tuple(s[row : row + 1] for s in state))
        trial.close(one_row(alone, 0), one_row(together, row), f"row {row} alone against together")
    order = torch.arange(trial.case.batch).roll(1)
    moved = trial.run(xs[:, order], tuple(s[order] for s in state))
    for row, source in enumerate(order.tolist()):
        trial.close(one_row(moved, row), one_row(together, source), f"row {source} moved to place {row}")

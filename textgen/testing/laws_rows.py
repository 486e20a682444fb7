"""Laws about batches: rows are independent."""

from __future__ import annotations

import torch
from torch import Tensor

from textgen.recurrence import State
from textgen.testing.law import BOTH, law
from textgen.testing.trial import Case


@law(
    "A sequence would depend on the rest of its batch; one row of NaN would spoil all rows.",
    shapes=((1, 2), (6, 4), (3, 5)),
    least=(1, 2, 1),
    dtypes=BOTH,
)
def rows_independent(case: Case) -> None:
    """A row does not depend on the contents of other rows, not even on NaN: bit-identical, in training mode too."""
    xs, state = case.sequence(), case.state()
    for mode in (False, True):
        case.cell.train(mode)
        before = case.run(xs, state)
        for row in (0, case.config.batch - 1):
            others = torch.arange(case.config.batch) != row
            for other_xs, other_state in ((case.sequence(), case.state()), all_nan(xs, state)):
                mixed = (
                    replaced(xs, other_xs, others, 1),
                    tuple(replaced(s, o, others, 0) for s, o in zip(state, other_state, strict=True)),
                )
                after = case.run(*mixed)
                what = f"row {row} in {'training' if mode else 'eval'} mode, the other rows changed"
                case.same(one_row(after, row), one_row(before, row), what)


def all_nan(xs: Tensor, state: State) -> tuple[Tensor, State]:
    """Inputs and state filled with NaN where their dtype allows it."""
    return torch.full_like(xs, torch.nan), tuple(
        torch.full_like(s, torch.nan) if s.is_floating_point() else s for s in state
    )


def replaced(mine: Tensor, theirs: Tensor, others: Tensor, axis: int) -> Tensor:
    """My row, with the others taken from theirs."""
    shape = [1] * mine.dim()
    shape[axis] = -1
    return torch.where(others.view(shape), theirs, mine)


def one_row(results: dict[str, Tensor], row: int) -> dict[str, Tensor]:
    """One row of outputs (T, B, D) and of every state (B, ...)."""
    return {name: value[:, row] if name == "ys" else value[row] for name, value in results.items()}


@law("A model would give different answers in a batch.", shapes=((1, 2), (6, 3), (3, 5)), least=(1, 2, 1), dtypes=BOTH)
def batch_invariance(case: Case) -> None:
    """A row gives the same results alone, in a batch, and at another position in it."""
    xs, state = case.sequence(), case.state()
    together = case.run(xs, state)
    for row in range(case.config.batch):
        alone = case.run(xs[:, row : row + 1], tuple(s[row : row + 1] for s in state))
        case.close(one_row(alone, 0), one_row(together, row), f"row {row} alone against together")
    order = torch.arange(case.config.batch).roll(1)
    moved = case.run(xs[:, order], tuple(s[order] for s in state))
    for row, source in enumerate(order.tolist()):
        case.close(one_row(moved, row), one_row(together, source), f"row {source} moved to position {row}")

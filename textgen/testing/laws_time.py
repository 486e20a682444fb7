"""Laws about time, rows and gradients.

A sequence is its steps one after another, the future is not seen, any layout of memory will do, rows do not depend
on each other, and gradients are those of the steps.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from textgen.cells import Cell, GatedCell
from textgen.cells.engine import State
from textgen.testing.law import (
    BOTH,
    Case,
    NotApplicable,
    Run,
    Tensors,
    Violation,
    arguments,
    distance,
    gradients,
    law,
    named,
    weighted,
)

LENGTHS = ((1, 1), (2, 5), (7, 3), (19, 2))


def loop(case: Case) -> Run:
    """The reference implementation: a loop of `step`."""
    return lambda xs, state: Cell.forward(case.cell, xs, state)


@law(
    "Sampling, which calls step, would not run the model that was trained, which calls forward.",
    shapes=LENGTHS,
    dtypes=BOTH,
)
def forward_matches_step(case: Case) -> None:
    """forward computes what a loop of step computes: outputs and final state."""
    xs, state = case.sequence(), case.state()
    whole, steps = case.run(xs, state), case.run(xs, state, loop(case))
    case.close(whole, steps, "forward against a loop of step")


@law(
    "Results would depend on where training windows and prompt chunks end.",
    shapes=((2, 1), (7, 3), (11, 2)),
    least=(2, 1, 1),
    dtypes=BOTH,
)
def split_sequence(case: Case) -> None:
    """Splitting a sequence anywhere and carrying the state over changes neither outputs nor final state."""
    xs, state = case.sequence(), case.state()
    whole = case.run(xs, state)
    for split in splits(len(xs)):
        case.close(case.run(xs, state, in_two(case, split)), whole, f"split after {split}")


def splits(length: int) -> Iterator[int]:
    """Where to split: everywhere in a short sequence, at both ends and in the middle of a long one."""
    yield from range(1, length) if length <= 7 else (1, length // 2, length // 2 + 1, length - 1)


def in_two(case: Case, split: int) -> Run:
    """Two windows, with the state carried from the first to the second."""

    def run(xs: Tensor, state: State) -> tuple[Tensor, State]:
        first, middle = case.cell(xs[:split], state)
        second, after = case.cell(xs[split:], middle)
        return torch.cat([first, second]), after

    return run


@law(
    "Training would see the targets: an excellent loss, and nonsense when sampling.",
    shapes=((2, 1), (9, 2), (12, 3)),
    least=(2, 1, 1),
    dtypes=BOTH,
)
def causality(case: Case) -> None:
    """Outputs up to t do not depend on inputs after t: bit-identical."""
    xs, state = case.sequence(), case.state()
    ys = case.run(xs, state)["ys"]
    for t in sorted({1, len(xs) // 2, len(xs) - 1}):
        for size in (1, 1000):
            seen = case.run(torch.cat([xs[:t], size * case.sequence(len(xs) - t)]), state)["ys"]
            case.same({"ys": seen[:t]}, {"ys": ys[:t]}, f"inputs from step {t} on were changed")


@law(
    "An empty prompt or an empty last window would raise an error.",
    shapes=((0, 1), (0, 5), (0, 3), (0, 2)),
    least=(0, 1, 1),
)
def empty_sequence(case: Case) -> None:
    """An empty sequence gives empty outputs, (0, B, output_size), and the state unchanged."""
    state = case.state()
    expected = {"ys": case.draw(0, case.config.batch, case.cell.output_size), **named(state[0], state)}
    expected["ys"] = expected["ys"].new_zeros(0, case.config.batch, case.cell.output_size)
    case.same(case.run(case.sequence(), state), expected, "T=0")


@law("Batches are often made by transposing, and copies of a prompt by expanding: the cell would raise an error.")
def memory_layouts(case: Case) -> None:
    """Transposed, strided and expanded inputs and states give the same results and gradients as contiguous ones."""
    xs, state = case.sequence(), case.state()
    runs: dict[str, Run] = {"forward": case.cell, "a loop of step": loop(case)}
    for by, run in runs.items():
        expected = case.run(xs, state, run)
        for layout in (transposed, strided):
            found = case.run(xs, state, with_layout(run, layout))
            case.close(found, expected, f"{by} on {layout.__name__} inputs and state")
    batch = case.config.batch
    xs, state = xs[:, :1].contiguous(), tuple(s[:1] for s in state)
    copies = case.run(torch.cat([xs] * batch, dim=1), tuple(torch.cat([s] * batch) for s in state))
    case.close(case.run(xs, state, expanded(case.cell, batch)), copies, "one row, expanded to the whole batch")
    gradient_layouts(case)


def with_layout(run: Run, layout: Callable[[Tensor], Tensor]) -> Run:
    """The same computation on inputs and state in another memory layout."""
    return lambda xs, state: run(layout(xs), tuple(layout(s) for s in state))


def expanded(run: Run, batch: int) -> Run:
    """The same computation on one row, expanded to a batch without copying."""
    return lambda xs, state: run(xs.expand(-1, batch, -1), tuple(s.expand(batch, *s.shape[1:]) for s in state))


def transposed(tensor: Tensor) -> Tensor:
    """The same values, stored transposed."""
    return tensor.transpose(0, 1).contiguous().transpose(0, 1) if tensor.dim() > 1 else tensor


def strided(tensor: Tensor) -> Tensor:
    """The same values, stored with a stride of two."""
    return torch.stack([tensor, tensor], dim=-1)[..., 0]


def gradient_layouts(case: Case) -> None:
    """The gradient that backward receives may be transposed, strided or expanded too: that of ys.sum() is."""
    xs, state = case.sequence(), case.state()
    leaves = case.leaves(xs, state)
    ys = case.call(*arguments(leaves, state))["ys"]
    weights, one = case.draw(*ys.shape), case.draw(1, 1, 1)
    pairs = {layout.__name__: (layout(weights), weights) for layout in (transposed, strided)}
    pairs["expanded"] = one.expand(ys.shape), one.expand(ys.shape).contiguous()
    for name, gradients_of_ys in pairs.items():
        found = [
            torch.autograd.grad(ys, list(leaves.values()), given, retain_graph=True, allow_unused=True)
            for given in gradients_of_ys
        ]
        actual, expected = (
            {f"the gradient of {n}": g for n, g in zip(leaves, f, strict=True) if g is not None} for f in found
        )
        case.close(actual, expected, f"the gradient of ys is {name}")


@law("Evaluation and sampling would run another model than training.")
def no_grad(case: Case) -> None:
    """Outputs under no_grad and inference_mode are those with gradients enabled."""
    xs, state = case.sequence(), case.state()
    expected = case.call(xs.clone().requires_grad_(), state)
    case.close(case.run(xs, state), expected, "under no_grad")
    with torch.inference_mode():
        found = case.run(xs, state)
    case.close(found, expected, "under inference_mode")


@law("Weight-drop would raise an error or have no effect.", shapes=((1, 1), (5, 2), (9, 2)))
def recurrent_mask(case: Case) -> None:
    """A GatedCell's forward accepts recurrent_mask and multiplies R, and only R, by it."""
    cell = case.cell
    if not isinstance(cell, GatedCell) or cell.weight_hh is None:
        raise NotApplicable("only a GatedCell with recurrent weights has recurrent_mask.")
    mask = (case.draw(*cell.weight_hh.shape) > 0).to(cell.weight_hh.dtype)
    xs, state = case.sequence(), case.state()
    masked = case.run(xs, state, lambda x, s: cell(x, s, recurrent_mask=mask))
    with torch.no_grad():
        cell.weight_hh.mul_(mask)
    case.close(masked, case.run(xs, state), "recurrent_mask against an R that was multiplied by it")


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


DRAWS = 5
STEP = 1e-6
NUMERICAL_TOLERANCE = 1e-6


@law("Training would optimize another model than the one that is sampled.", shapes=LENGTHS, dtypes=BOTH)
def gradients_match_step(case: Case) -> None:
    """forward has the gradients of a loop of step: with respect to inputs, state and every parameter."""
    xs, state = case.sequence(), case.state()
    whole, steps = (case.differentiate(xs, state, by) for by in (None, loop(case)))
    case.close(whole, steps, "forward against a loop of step")


@law("Training would follow wrong gradients: slow progress, or none.")
def gradcheck(case: Case) -> None:
    """The gradients of inputs, state and every parameter agree with central differences in float64."""
    for last in [False] * (DRAWS - 1) + [True]:  # a kink, as relu has, is rarely hit twice
        xs, state = case.sequence(), case.state()
        wanted = case.leaves(xs, state)
        found = gradients(loss_at(case, wanted, state), wanted)
        derivatives = {}
        for (name, leaf), gradient in zip(wanted.items(), found.values(), strict=True):
            direction = case.draw(*leaf.shape).to(leaf.dtype)
            derivatives[name] = ((gradient * direction).sum(), slope(case, wanted, state, leaf, direction))
        if last or all(distance(*pair) <= NUMERICAL_TOLERANCE for pair in derivatives.values()):
            actual, expected = (
                {f"the derivative along {n}": pair[k] for n, pair in derivatives.items()} for k in (0, 1)
            )
            case.close(actual, expected, "backward against central differences", NUMERICAL_TOLERANCE)
            return


def loss_at(case: Case, wanted: Tensors, state: State) -> Tensor:
    """A scalar loss of the outputs and final state for these inputs, this state and the cell's parameters."""
    return weighted(case.call(*arguments(wanted, state)))


@torch.no_grad()
def slope(case: Case, wanted: Tensors, state: State, leaf: Tensor, direction: Tensor) -> Tensor:
    """The central difference of the loss along a direction in one leaf."""
    before = leaf.clone()
    values = []
    for sign in (1, -1):
        leaf.copy_(before + sign * STEP * direction)
        values.append(loss_at(case, wanted, state))
    leaf.copy_(before)
    return (values[0] - values[1]) / (2 * STEP)


@law("Gradients would depend on how a sequence is split.", shapes=((2, 1), (7, 5), (4, 3), (11, 2)), least=(2, 1, 1))
def split_gradients(case: Case) -> None:
    """Two windows, with the state carried over and not detached, have the gradients of the whole sequence."""
    xs, state = case.sequence(), case.state()
    whole = case.differentiate(xs, state)
    for split in splits(len(xs)):
        case.close(case.differentiate(xs, state, in_two(case, split)), whole, f"split after {split}")


@law(
    "Truncated backpropagation would reach into earlier windows or keep all of them in memory.",
    shapes=((2, 1), (6, 5), (4, 3), (3, 2)),
    least=(2, 1, 1),
)
def detach(case: Case) -> None:
    """No gradient passes a detached state, and the gradients after it are those of a fresh start from there."""
    xs, state = case.sequence(), case.state()
    cut = max(1, len(xs) // 2)
    wanted = case.leaves(xs[:cut], state)
    before, given = arguments(wanted, state)
    middle = case.cell(before.clone(), tuple(s.clone() for s in given))[1]
    found = gradients(weighted(named(*case.cell(xs[cut:], tuple(s.detach() for s in middle)))), wanted)
    for name in ("xs", *(f"state[{k}]" for k in range(len(state)))):
        gradient = found.get(f"the gradient of {name}")
        case.require(gradient is None or not gradient.any(), f"a gradient of {name} passes the detached state")
    start = tuple(s.detach().clone() for s in middle)
    expected = gradients(weighted(case.call(xs[cut:], start)), trainable(case.cell))
    case.close(found, expected, "after a detached state, against a fresh start from it")


def trainable(cell: Cell) -> dict[str, Tensor]:
    """The trainable parameters by name."""
    return {name: p for name, p in cell.named_parameters() if p.requires_grad}


@law("The cell could not learn what to remember.", shapes=((3, 2),), least=(2, 1, 2), one_size=True)
def gradient_flow(case: Case) -> None:
    """The last output has a gradient with respect to the first input and the initial state."""
    reached: set[str] = set()
    for _ in range(DRAWS):
        xs, state = case.sequence(), case.state()
        wanted = {name: leaf for name, leaf in case.leaves(xs, state).items() if name.startswith(("xs", "state["))}
        found = gradients(weighted({"ys": case.call(*arguments(wanted, state))["ys"][-1]}), wanted)
        reached |= {"the first input"} if found.pop("the gradient of xs")[0].any() else set()
        reached |= {"the initial state"} if any(gradient.any() for gradient in found.values()) else set()
    for name in ("the first input", "the initial state"):
        case.require(name in reached, f"the last output has no gradient with respect to {name}")


@law(
    "A parameter without a gradient is stored and counted, but never trained.",
    shapes=((4, 2),),
    least=(3, 1, 2),
    one_size=True,
)
def all_parameters_used(case: Case) -> None:
    """Every parameter receives a gradient from the outputs."""
    unused = trainable(case.cell)
    for _ in range(DRAWS):
        if not unused:
            return
        loss = weighted({"ys": case.call(case.sequence(), case.state())["ys"]})
        found = gradients(loss, unused)
        unused = {name: p for name, p in unused.items() if not found[f"the gradient of {name}"].any()}
    if unused:
        raise Violation(f"no gradient reaches {', '.join(unused)}")

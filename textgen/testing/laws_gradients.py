"""Laws about gradients: correct, the same on every path, flowing through time, and ending where they are cut."""

from __future__ import annotations

import torch
from torch import Tensor

from textgen.cell import Cell
from textgen.recurrence import State
from textgen.testing.law import BOTH, law
from textgen.testing.laws_time import LENGTHS, in_two, loop, splits
from textgen.testing.trial import Case, Tensors, Violation, arguments, distance, gradients, named, weighted

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
            derivatives[name] = (
                (gradient * direction).sum(),
                slope(case, wanted, state, leaf, direction),
            )
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

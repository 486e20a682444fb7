"""Laws about gradients: right, the same however they are computed, through time, and cut where they are cut."""

from __future__ import annotations

import torch
from torch import Tensor

from textgen.cell import Cell
from textgen.recurrence import State
from textgen.testing.law import BOTH, law
from textgen.testing.laws_time import LENGTHS, cuts, in_two, loop
from textgen.testing.trial import Broken, Tensors, Trial, arguments, distance, gradients, named, weighted

DRAWS = 5
STEP = 1e-6
NUMERICAL = 1e-6


@law(
    meaning="Training would follow another model than the one that is sampled.",
    shapes=LENGTHS,
    dtypes=BOTH,
)
def loop_gradients(trial: Trial) -> None:
    """forward has the gradients of a loop of step: of inputs, state and every parameter."""
    xs, state = trial.sequence(), trial.state()
    whole, steps = (trial.differentiate(xs, state, by) for by in (None, loop(trial)))
    trial.close(whole, steps, "forward against a loop of step")


@law(
    meaning="Training would go downhill on another hill: slowly, badly, or not at all.",
)
def gradcheck(trial: Trial) -> None:
    """The gradients are the slopes: inputs, state and every parameter, held to central differences in float64."""
    for last in [False] * (DRAWS - 1) + [True]:  # a corner, as relu has, is seldom met twice
        xs, state = trial.sequence(), trial.state()
        wanted = trial.leaves(xs, state)
        found = gradients(value_at(trial, wanted, state), wanted)
        slopes = {}
        for (name, leaf), gradient in zip(wanted.items(), found.values(), strict=True):
            direction = trial.draw(*leaf.shape).to(leaf.dtype)
            slopes[name] = ((gradient * direction).sum(), slope(trial, wanted, state, leaf, direction))
        if last or all(distance(*pair) <= NUMERICAL for pair in slopes.values()):
            actual, expected = ({f"the slope along {n}": pair[k] for n, pair in slopes.items()} for k in (0, 1))
            trial.close(actual, expected, "backward against central differences", NUMERICAL)
            return


def value_at(trial: Trial, wanted: Tensors, state: State) -> Tensor:
    """A scalar of the outputs and the final state, from these inputs, this state and the cell's parameters."""
    return weighted(trial.call(*arguments(wanted, state)))


@torch.no_grad()
def slope(trial: Trial, wanted: Tensors, state: State, leaf: Tensor, direction: Tensor) -> Tensor:
    """The central difference of the value along a direction in one of its arguments."""
    before = leaf.clone()
    values = []
    for sign in (1, -1):
        leaf.copy_(before + sign * STEP * direction)
        values.append(value_at(trial, wanted, state))
    leaf.copy_(before)
    return (values[0] - values[1]) / (2 * STEP)


@law(
    meaning="A gradient would depend on how a sequence is divided.",
    shapes=((2, 1), (7, 5), (4, 3), (11, 2)),
    least=(2, 1, 1),
)
def cut_gradients(trial: Trial) -> None:
    """Two windows with the state carried, not detached, have the gradients of the whole."""
    xs, state = trial.sequence(), trial.state()
    whole = trial.differentiate(xs, state)
    for cut in cuts(len(xs)):
        halves = trial.differentiate(xs, state, in_two(trial, cut))
        trial.close(halves, whole, f"cut after {cut}")


@law(
    meaning="Truncated backpropagation would leak into windows that are gone, or keep them all in memory.",
    shapes=((2, 1), (6, 5), (4, 3), (3, 2)),
    least=(2, 1, 1),
)
def detach(trial: Trial) -> None:
    """Where the state is detached the gradient ends, exactly, and what follows is a fresh start from that state."""
    xs, state = trial.sequence(), trial.state()
    cut = max(1, len(xs) // 2)
    wanted = trial.leaves(xs[:cut], state)
    before, given = arguments(wanted, state)
    middle = trial.cell(before.clone(), tuple(s.clone() for s in given))[1]
    found = gradients(weighted(named(*trial.cell(xs[cut:], tuple(s.detach() for s in middle)))), wanted)
    for name in ("xs", *(f"state[{k}]" for k in range(len(state)))):
        gradient = found.get(f"the gradient of {name}")
        trial.require(gradient is None or not gradient.any(), f"a gradient reaches {name} from beyond the cut")
    start = tuple(s.detach().clone() for s in middle)
    expected = gradients(weighted(trial.call(xs[cut:], start)), trained(trial.cell))
    trial.close(found, expected, "after a detached state, against a fresh start from there")


def trained(cell: Cell) -> dict[str, Tensor]:
    """The parameters that training changes."""
    return {name: p for name, p in cell.named_parameters() if p.requires_grad}


@law(
    meaning="The cell would have no memory to learn with: nothing it remembers could be learnt.",
    shapes=((3, 2),),
    least=(2, 1, 2),
    one_size=True,
)
def reaches_back(trial: Trial) -> None:
    """The last output has a gradient with respect to the first input and the state before it."""
    reached: set[str] = set()
    for _ in range(DRAWS):
        xs, state = trial.sequence(), trial.state()
        wanted = {name: leaf for name, leaf in trial.leaves(xs, state).items() if name.startswith(("xs", "state["))}
        found = gradients(weighted({"ys": trial.call(*arguments(wanted, state))["ys"][-1]}), wanted)
        reached |= {"the first input"} if found.pop("the gradient of xs")[0].any() else set()
        reached |= {"the state before it"} if any(gradient.any() for gradient in found.values()) else set()
    for name in ("the first input", "the state before it"):
        trial.require(name in reached, f"the last output does not depend on {name}, as far as gradients know")


@law(
    meaning="A weight that nothing teaches is stored, counted and never used.",
    shapes=((4, 2),),
    least=(3, 1, 2),
    one_size=True,
)
def every_parameter(trial: Trial) -> None:
    """Every parameter gets a gradient from the outputs."""
    untaught = trained(trial.cell)
    for _ in range(DRAWS):
        if not untaught:
            return
        loss = weighted({"ys": trial.call(trial.sequence(), trial.state())["ys"]})
        found = gradients(loss, untaught)
        untaught = {name: p for name, p in untaught.items() if not found[f"the gradient of {name}"].any()}
    if untaught:
        raise Broken(f"no gradient reaches {', '.join(untaught)}")

"""Laws about sequences: forward equals a loop of step, may be split anywhere, and never sees the future."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from textgen.cell import Cell, GatedCell
from textgen.recurrence import State
from textgen.testing.law import BOTH, law
from textgen.testing.trial import Case, NotApplicable, Run, arguments, named

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

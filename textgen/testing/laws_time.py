"""Laws about time: forward is steps, time may be cut, the future is not seen, and any layout of memory will do."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from textgen.cell import Cell, GatedCell
from textgen.recurrence import State
from textgen.testing.law import BOTH, law
from textgen.testing.trial import NotForThisCell, Run, Trial, arguments, named

LENGTHS = ((1, 1), (2, 5), (7, 3), (19, 2))


def loop(trial: Trial) -> Run:
    """The definition: step after step."""
    return lambda xs, state: Cell.forward(trial.cell, xs, state)


@law(
    meaning="What is sampled, step by step, is not the model that was trained, sequence by sequence.",
    shapes=LENGTHS,
    dtypes=BOTH,
)
def forward_is_steps(trial: Trial) -> None:
    """forward gives what a loop of step gives: outputs and final state."""
    xs, state = trial.sequence(), trial.state()
    whole, steps = trial.run(xs, state), trial.run(xs, state, loop(trial))
    trial.close(whole, steps, "forward against a loop of step")


@law(
    meaning="A text is read window by window, a prompt piece by piece: the result would depend on where they end.",
    shapes=((2, 1), (7, 3), (11, 2)),
    least=(2, 1, 1),
    dtypes=BOTH,
)
def cut_anywhere(trial: Trial) -> None:
    """A sequence may be cut anywhere and the state carried over: outputs and final state stay the same."""
    xs, state = trial.sequence(), trial.state()
    whole = trial.run(xs, state)
    for cut in cuts(len(xs)):
        trial.close(trial.run(xs, state, in_two(trial, cut)), whole, f"cut after {cut}")


def cuts(length: int) -> Iterator[int]:
    """Where to cut: everywhere in a short sequence, at the ends and two places between in a long one."""
    yield from range(1, length) if length <= 7 else (1, length // 2, length // 2 + 1, length - 1)


def in_two(trial: Trial, cut: int) -> Run:
    """Two windows, the state carried from the first to the second."""

    def run(xs: Tensor, state: State) -> tuple[Tensor, State]:
        first, middle = trial.cell(xs[:cut], state)
        second, after = trial.cell(xs[cut:], middle)
        return torch.cat([first, second]), after

    return run


@law(
    meaning="Training would read the answers: a wonderful loss, and nonsense when sampling.",
    shapes=((2, 1), (9, 2), (12, 3)),
    least=(2, 1, 1),
    dtypes=BOTH,
)
def causality(trial: Trial) -> None:
    """Whatever comes after t, the outputs up to t are the same, bit for bit."""
    xs, state = trial.sequence(), trial.state()
    ys = trial.run(xs, state)["ys"]
    for t in sorted({1, len(xs) // 2, len(xs) - 1}):
        for size in (1, 1000):
            seen = trial.run(torch.cat([xs[:t], size * trial.sequence(len(xs) - t)]), state)["ys"]
            trial.same({"ys": seen[:t]}, {"ys": ys[:t]}, f"the inputs from step {t} on were changed")


@law(
    meaning="An empty prompt, or a last window of no symbols, would end the program.",
    shapes=((0, 1), (0, 5), (0, 3), (0, 2)),
    least=(0, 1, 1),
)
def empty_sequence(trial: Trial) -> None:
    """An empty sequence gives empty outputs, (0, B, output_size), and the state as it was."""
    state = trial.state()
    expected = {"ys": trial.draw(0, trial.case.batch, trial.cell.output_size), **named(state[0], state)}
    expected["ys"] = expected["ys"].new_zeros(0, trial.case.batch, trial.cell.output_size)
    trial.same(trial.run(trial.sequence(), state), expected, "T=0")


@law(
    meaning="Batches are often made by transposing, and rows of one prompt by expanding: the cell would stop there.",
)
def layouts(trial: Trial) -> None:
    """Inputs and state may be transposed, strided or expanded: the result is the same, gradients too."""
    xs, state = trial.sequence(), trial.state()
    runs: dict[str, Run] = {"forward": trial.cell, "a loop of step": loop(trial)}
    for by, run in runs.items():
        expected = trial.run(xs, state, run)
        for lay in (transposed, strided):
            trial.close(trial.run(xs, state, laid(run, lay)), expected, f"{by} on {lay.__name__} inputs and state")
    batch = trial.case.batch
    xs, state = xs[:, :1].contiguous(), tuple(s[:1] for s in state)
    copies = trial.run(torch.cat([xs] * batch, dim=1), tuple(torch.cat([s] * batch) for s in state))
    trial.close(trial.run(xs, state, expanded(trial.cell, batch)), copies, "one row, expanded to all")
    gradients_laid(trial)


def laid(run: Run, lay: Callable[[Tensor], Tensor]) -> Run:
    """The same run on inputs and state that are laid out otherwise."""
    return lambda xs, state: run(lay(xs), tuple(lay(s) for s in state))


def expanded(run: Run, batch: int) -> Run:
    """The same run on one row seen as many, in the memory of one."""
    return lambda xs, state: run(xs.expand(-1, batch, -1), tuple(s.expand(batch, *s.shape[1:]) for s in state))


def transposed(tensor: Tensor) -> Tensor:
    """The same values, in memory the other way round."""
    return tensor.transpose(0, 1).contiguous().transpose(0, 1) if tensor.dim() > 1 else tensor


def strided(tensor: Tensor) -> Tensor:
    """The same values, every other number in memory."""
    return torch.stack([tensor, tensor], dim=-1)[..., 0]


def gradients_laid(trial: Trial) -> None:
    """What arrives at backward may be transposed, strided or expanded as well: the gradient of ys.sum() is."""
    xs, state = trial.sequence(), trial.state()
    leaves = trial.leaves(xs, state)
    ys = trial.call(*arguments(leaves, state))["ys"]
    weights, one = trial.draw(*ys.shape), trial.draw(1, 1, 1)
    pairs = {lay.__name__: (lay(weights), weights) for lay in (transposed, strided)}
    pairs["expanded"] = one.expand(ys.shape), one.expand(ys.shape).contiguous()
    for name, gradients_of_ys in pairs.items():
        found = [
            torch.autograd.grad(ys, list(leaves.values()), given, retain_graph=True, allow_unused=True)
            for given in gradients_of_ys
        ]
        laid, plain = (
            {f"the gradient of {n}": g for n, g in zip(leaves, f, strict=True) if g is not None} for f in found
        )
        trial.close(laid, plain, f"the gradient of ys is {name}")


@law(
    meaning="A model would score and sample otherwise than it was trained.",
)
def without_gradients(trial: Trial) -> None:
    """Without gradients (no_grad, inference_mode) the outputs are those with gradients."""
    xs, state = trial.sequence(), trial.state()
    expected = trial.call(xs.clone().requires_grad_(), state)
    trial.close(trial.run(xs, state), expected, "under no_grad")
    with torch.inference_mode():
        silent = trial.run(xs, state)
    trial.close(silent, expected, "under inference_mode")


@law(
    meaning="Weight-drop would end training in an error, or do nothing.",
    shapes=((1, 1), (5, 2), (9, 2)),
)
def recurrent_mask(trial: Trial) -> None:
    """A GatedCell's forward takes recurrent_mask, and multiplies R by it and nothing else."""
    cell = trial.cell
    if not isinstance(cell, GatedCell) or cell.weight_hh is None:
        raise NotForThisCell("only a GatedCell with recurrent weights has it.")
    mask = (trial.draw(*cell.weight_hh.shape) > 0).to(cell.weight_hh.dtype)
    xs, state = trial.sequence(), trial.state()
    masked = trial.run(xs, state, lambda x, s: cell(x, s, recurrent_mask=mask))
    with torch.no_grad():
        cell.weight_hh.mul_(mask)
    trial.close(masked, trial.run(xs, state), "a masked R against an R multiplied beforehand")

"""Checks that stop a training before it does harm: NaN, too little memory or disk space, and faulty hardware."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor, nn

from textgen.cells import Cell, GatedCell
from textgen.errors import TextgenError, out_of_memory
from textgen.model.stack import Model
from textgen.options import named
from textgen.storage import filesystem
from textgen.tasks import TrainOptions

UNSURE = 1.0
"""Training has diverged if the held-out loss is this much above that of a uniform guess, in nats per token."""
EARLY, NOISE = 0.5, 0.01
"""The best weights came early if they came in this part of the steps and the loss has since risen by this share."""


def not_finite(model: nn.Module, loss: Tensor, norm: Tensor) -> str:
    """What is NaN or infinite in a step, with the first parameter by name; empty if nothing is. `norm` is the norm of
    all gradients: if it is finite, so are they."""
    if math.isfinite(loss.item()) and math.isfinite(norm.item()):
        return ""
    bad = [name for name, p in model.named_parameters() if p.grad is not None and not p.grad.isfinite().all()]
    if math.isfinite(loss.item()):
        return f"the gradient of {bad[0]}" if bad else "the gradient norm"
    return f"the loss (and the gradient of {bad[0]})" if bad else "the loss"


def best_came_early(best_step: int, best: float, step: int, last: float) -> bool:
    """Whether the best evaluation came early and the loss has risen since: the rest of the training was overfitting."""
    return best_step <= EARLY * step and last - best > NOISE * abs(best)


def weights_not_finite(model: nn.Module) -> str:
    """The first parameter that is NaN or infinite; empty if all are finite."""
    return next((name for name, p in model.named_parameters() if not p.isfinite().all()), "")


def stopped(fault: str, step: int, rate: float, finite_loss: float | None, good: int | None) -> TextgenError:
    """The error for a step that is not finite; `good` is the last intact checkpoint."""
    known = "" if finite_loss is None else f"; the last finite loss was {finite_loss:.4g}"
    intact = "no checkpoint exists yet" if good is None else f"checkpoint-{good} is intact"
    return TextgenError(
        f"{fault} is not finite at step {step:,} (learning rate {rate:.2g}){known}.",
        hint=f"nothing of this step was saved; {intact}; a lower {named('learning_rate')} may help.",
    )


def needed_memory(model: Model, options: TrainOptions) -> int:
    """The approximate peak memory of a training step in bytes; fitted to the three built-in cells, accurate within a
    third."""
    batch_size, seq_length = options.window
    tokens = -(-batch_size // options.gradient_accumulation_steps) * seq_length
    cells = [cell for each in model.models for cell in each.stack.layers if isinstance(cell, Cell)]
    layers = [(cell.gates if isinstance(cell, GatedCell) else 4, cell.hidden_size) for cell in cells]
    kept = sum((gates + 4) * size for gates, size in layers)
    worked_on = max(3 * (gates + 1) * size for gates, size in layers)
    weights = sum(p.numel() for p in model.parameters()) * 4 * (2 + copies_kept(options))
    return int(weights + tokens * 4 * (kept + worked_on + 3.5 * model.output_size))


def copies_kept(options: TrainOptions) -> int:
    """The number of values stored per weight besides the weight itself, in memory and in checkpoints."""
    moments = 2 if options.optimizer == "adamw" else 1 if options.momentum else 0
    return moments + (1 if options.average_weights else 0)


@contextmanager
def enough_memory(model: Model, options: TrainOptions) -> Iterator[None]:
    """If memory runs out, raise TextgenError with the amount that a step needs."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not out_of_memory(error):
            raise
        raise TextgenError(
            f"out of memory: a step of {options.batch_size:,} x {options.seq_length:,} tokens needs about "
            f"{in_bytes(needed_memory(model, options))}.",
            hint=f"a smaller {named('batch_size')}, {named('seq_length')} or {named('hidden_size')} needs less; "
            f"{named('gradient_accumulation_steps', 4)} computes the same batch in parts.",
        ) from error


def refuse_small_disk(folder: Path, model: nn.Module, options: TrainOptions, kept: int) -> None:
    """Raise TextgenError if the run folder's disk has no space for the model and two checkpoints, of which `kept`
    exist."""
    weights = sum(tensor.numel() * tensor.element_size() for tensor in model.state_dict().values())
    needed = weights + max(1, 2 - kept) * weights * (1 + copies_kept(options))
    free = filesystem.system.free(folder)
    if free < needed:
        raise TextgenError(
            f"the disk of {str(folder)!r} has {in_bytes(free)} free; two checkpoints and the model need "
            f"{in_bytes(needed)}.",
            hint=f"free some space there, or put the run on another disk with {named('output_dir')}.",
        )


def in_bytes(number: float) -> str:
    """1234567 as 1.2 MB."""
    for size, unit in ((1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if number >= size:
            return f"{number / size:,.3g} {unit}"
    return f"{number:.0f} bytes"


def repeated(step: int, take: Callable[[], Mapping[str, Tensor]], before: Mapping[str, Tensor]) -> None:
    """Run a step twice and compare all tensors that it changes, bit by bit.

    `take` runs the step and returns the tensors that it has changed in place, by name; `before` are those that existed
    before, which are restored in between (others start as zeros). Raises TextgenError naming the first tensor that
    differs and the number of differing elements.
    """
    remembered = {name: tensor.detach().clone() for name, tensor in before.items()}
    changed = take()
    first = {name: tensor.detach().clone() for name, tensor in changed.items()}
    with torch.no_grad():
        for name, tensor in changed.items():
            tensor.copy_(remembered[name]) if name in remembered else tensor.zero_()
    for name, tensor in take().items():
        if different := _differences(first[name], tensor.detach()):
            raise TextgenError(
                f"step {step:,} gave a different result when repeated: {name!r} differs in {different:,} of "
                f"{tensor.numel():,} numbers.",
                hint="this machine computes unreliably (memory, processor, heat); earlier checkpoints are intact.",
            )


def _differences(one: Tensor, other: Tensor) -> int:
    """The number of elements that differ in any bit."""
    bits = one.contiguous().view(-1).view(torch.uint8) != other.contiguous().view(-1).view(torch.uint8)
    return int(bits.view(one.numel(), -1).any(dim=1).sum()) if one.numel() else 0

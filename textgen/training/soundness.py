"""What stops a training before it does harm: numbers that are none, too little memory, too small a disk."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from torch import Tensor, nn

from textgen import files
from textgen.attribution import out_of_memory
from textgen.cell import Cell, GatedCell
from textgen.errors import TextgenError
from textgen.model import Model
from textgen.parameters import named
from textgen.settings import TrainOptions

UNSURE = 1.0
"""Nats a symbol above the loss of guessing from which a held-out loss shows that training has diverged."""
EARLY, NOISE = 0.5, 0.01
"""The best weights came early in the first half of the steps, if the loss has risen by more than a hundredth since."""


def not_finite(model: nn.Module, loss: Tensor, norm: Tensor) -> str:
    """What of a step is not finite, its first parameter by name; empty if an update may follow. `norm` is the length of
    all gradients together: where it is finite, so are they."""
    if math.isfinite(loss.item()) and math.isfinite(norm.item()):
        return ""
    bad = [name for name, p in model.named_parameters() if p.grad is not None and not p.grad.isfinite().all()]
    if math.isfinite(loss.item()):
        return f"the gradient of {bad[0]}" if bad else "the gradient's length"
    return f"the loss (and the gradient of {bad[0]})" if bad else "the loss"


def best_came_early(best_step: int, best: float, step: int, last: float) -> bool:
    """Whether the criterion was best early and has become worse: the rest of the training was overfitting."""
    return best_step <= EARLY * step and last - best > NOISE * abs(best)


def weights_not_finite(model: nn.Module) -> str:
    """The first parameter that an update has made infinite or NaN; empty if all may be kept."""
    return next((name for name, p in model.named_parameters() if not p.isfinite().all()), "")


def stopped(fault: str, step: int, rate: float, finite_loss: float | None, good: int | None) -> TextgenError:
    """What is said when a step is not to be taken, or its outcome not to be kept: `good` is the last checkpoint."""
    known = "" if finite_loss is None else f"; the last finite loss was {finite_loss:.4g}"
    whole = "nothing is saved yet" if good is None else f"checkpoint-{good} is whole"
    return TextgenError(
        f"{fault} is not finite at step {step:,} (learning rate {rate:.2g}){known}.",
        hint=f"nothing of this step was kept; {whole}; a lower {named('learning_rate')} may help.",
    )


def needed_memory(model: Model, options: TrainOptions) -> int:
    """About how many bytes a training step takes at its peak; fitted to steps of the three built-in cells, of which
    it is within a third."""
    assert options.batch_size and options.seq_length
    symbols = -(-options.batch_size // options.gradient_accumulation_steps) * options.seq_length
    layers = [(cell.gates if isinstance(cell, GatedCell) else 4, cell.hidden_size) for cell in _cells(model)]
    kept = sum((gates + 4) * size for gates, size in layers)
    worked_on = max(3 * (gates + 1) * size for gates, size in layers)
    weights = sum(p.numel() for p in model.parameters()) * 4 * (2 + copies_kept(options))
    return int(weights + symbols * 4 * (kept + worked_on + 3.5 * model.output_size))


def _cells(model: Model) -> list[Cell]:
    return [cell for cell in model.stack.layers if isinstance(cell, Cell)]


def copies_kept(options: TrainOptions) -> int:
    """How many numbers are kept beside each weight, in memory and in checkpoints."""
    moments = 2 if options.optimizer == "adamw" else 1 if options.momentum else 0
    return moments + (1 if options.average_weights else 0)


@contextmanager
def enough_memory(model: Model, options: TrainOptions) -> Iterator[None]:
    """Where memory runs out, raise TextgenError with what a step needs."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not out_of_memory(error):
            raise
        raise TextgenError(
            f"out of memory: a step of {options.batch_size:,} x {options.seq_length:,} symbols needs about "
            f"{in_bytes(needed_memory(model, options))}.",
            hint=f"a smaller {named('batch_size')}, {named('seq_length')} or {named('hidden_size')} needs less; "
            f"{named('gradient_accumulation_steps', 4)} computes the same batch in parts.",
        ) from error


def refuse_small_disk(folder: Path, model: nn.Module, options: TrainOptions, kept: int) -> None:
    """Raise TextgenError if a run folder's disk has no place for two checkpoints (`kept` are there) and the model."""
    weights = sum(tensor.numel() * tensor.element_size() for tensor in model.state_dict().values())
    needed = weights + max(1, 2 - kept) * weights * (1 + copies_kept(options))
    free = files.system.free(folder)
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

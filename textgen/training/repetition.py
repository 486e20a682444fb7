"""The determinism check: a step run twice from the same state must give the same bits, else the hardware is faulty."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from textgen.errors import TextgenError


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

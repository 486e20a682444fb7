"""A step made twice from the same state: a processor or a memory that computes wrongly betrays itself by other bits."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from textgen.errors import TextgenError


def repeated(step: int, take: Callable[[], Mapping[str, Tensor]], before: Mapping[str, Tensor]) -> None:
    """Take a step twice and compare all that it leaves behind, bit by bit.

    `take` makes the step and returns the tensors that it has changed, by name, each in its own place; `before` are
    those of them that there were, which are put back in between (others begin as zeros). Raises TextgenError naming
    the first tensor that differs and in how many numbers.
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
                f"step {step:,} came out differently when it was repeated: {name!r} in {different:,} of "
                f"{tensor.numel():,} numbers.",
                hint="this machine computes unreliably (memory, processor, heat); what was saved before is whole.",
            )


def _differences(one: Tensor, other: Tensor) -> int:
    """In how many numbers two tensors differ in any bit."""
    bits = one.contiguous().view(-1).view(torch.uint8) != other.contiguous().view(-1).view(torch.uint8)
    return int(bits.view(one.numel(), -1).any(dim=1).sum()) if one.numel() else 0

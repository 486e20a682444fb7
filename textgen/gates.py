"""Observing the gates of any cell while it runs: collects what cells report with `name_gates`, by layer."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial

from torch import Tensor, nn

from textgen.cell import Cell

Gates = dict[str, list[Tensor]]
"""The values of each gate by name, one (B, ...) per time step."""


@contextmanager
def watched(module: nn.Module) -> Iterator[dict[str, Gates]]:
    """Collect the gates of every cell in a module (a cell, a stack, a model), by the cell's name in it.

    Call `step` inside, or `Cell.forward(module, xs)`: a fast path need not report its gates step by step.

    Example:
        >>> import torch, textgen
        >>> cell = textgen.plugins.cell("lstm")(3, 4)
        >>> with watched(cell) as seen:
        ...     _ = Cell.forward(cell, torch.zeros(7, 2, 3))
        >>> len(seen[""]["forget"]), seen[""]["forget"][0].shape
        (7, torch.Size([2, 4]))
    """
    seen: dict[str, Gates] = {}
    cells = {name: cell for name, cell in module.named_modules() if isinstance(cell, Cell)}

    def collect(layer: str, gates: Mapping[str, Tensor]) -> None:
        for name, values in gates.items():
            seen.setdefault(layer, {}).setdefault(name, []).append(values.detach())

    for name, cell in cells.items():
        cell._watcher = partial(collect, name)
    try:
        yield seen
    finally:
        for cell in cells.values():
            cell._watcher = None

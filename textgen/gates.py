"""Looking at the gates of any cell while it runs: what a cell names with `name_gates` is collected here, by layer."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial

from torch import Tensor, nn

from textgen.cell import Cell

Gates = dict[str, list[Tensor]]
"""By the name of a gate: its value at each time step, (B, ...)."""


@contextmanager
def watched(module: nn.Module) -> Iterator[dict[str, Gates]]:
    """Collect the named gates of every cell in a module (a cell, a stack, a model), by the cell's name in it.

    Run `step` inside, or `Cell.forward(module, xs)`: a faster path need not pass by the gates one step at a time.

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

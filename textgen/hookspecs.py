"""The hooks a plugin may implement. Mark yours with `@textgen.hookimpl`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import pluggy

if TYPE_CHECKING:
    from textgen.cell import Cell

hookspec = pluggy.HookspecMarker("textgen")
hookimpl = pluggy.HookimplMarker("textgen")


class Register(Protocol):
    """The callback given to `register_cells`: call it once for each name."""

    def __call__(self, name: str, cell: type[Cell]) -> None: ...


@hookspec
def register_cells(register: Register) -> None:
    """Offer recurrent cells: call `register(name, CellClass)` for each entry point that names this module."""

"""The hooks a plugin may implement. Mark yours with `@textgen.hookimpl`.

Each hook gets a callback, `register(name, thing)`, to be called once for each entry point that names the module:
`NAME` for a cell, `tasks.NAME`, `models.NAME` or `commands.NAME` for the others.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Protocol

import pluggy

if TYPE_CHECKING:
    from textgen.cells import Cell

hookspec = pluggy.HookspecMarker("textgen")
hookimpl = pluggy.HookimplMarker("textgen")


class Register(Protocol):
    """The callback given to `register_cells`: call it once for each name."""

    def __call__(self, name: str, cell: type[Cell], /) -> None: ...


class RegisterTask(Protocol):
    """The callback given to `register_tasks`."""

    def __call__(self, name: str, task: object, /) -> None: ...


class RegisterModel(Protocol):
    """The callback given to `register_models`."""

    def __call__(self, name: str, folder: str | os.PathLike[str], /) -> None: ...


class RegisterCommand(Protocol):
    """The callback given to `register_commands`."""

    def __call__(self, name: str, command: object, /) -> None: ...


@hookspec
def register_cells(register: Register) -> None:
    """Offer recurrent cells: call `register(name, CellClass)` for each entry point that names this module."""


@hookspec
def register_tasks(register: RegisterTask) -> None:
    """Offer tasks: `register(name, task)` with an object of `textgen.tasks.Task`."""


@hookspec
def register_models(register: RegisterModel) -> None:
    """Offer pretrained models: `register(name, folder)` with the path of a model folder in the package."""


@hookspec
def register_commands(register: RegisterCommand) -> None:
    """Offer commands: `register(name, command)` with a `click.Command`, called as `textgen NAME`."""

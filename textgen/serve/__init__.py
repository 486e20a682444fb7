"""`textgen serve`: an HTTP server whose responses leave their state behind.

`create_app` returns an ASGI application that can also be mounted elsewhere. Imports neither torch nor starlette until
it is called.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from textgen.errors import UsageError, require
from textgen.model import find_model
from textgen.options import check, from_mapping
from textgen.serve.settings import VARIABLE, Settings

if TYPE_CHECKING:
    from starlette.applications import Starlette

PACKAGES = ("starlette", "uvicorn", "prometheus_client")


def create_app(models: Any, backend: str = "auto", **settings: Any) -> Starlette:
    """An ASGI application that serves models: one, several, or several by name. A model is a folder, the name of a run
    or of an installed model, or what `textgen.load` returns.

    `settings` are the fields of `Settings`. Raises UsageError for an invalid one, TextgenError for a model that cannot
    be opened. Mounted in another application, `app.state.server.close()` ends its thread.

    Example:
        >>> app = textgen.serve.create_app("runs/latest", max_streams=16)       # doctest: +SKIP
    """
    for package in PACKAGES:
        require(package, "serving")
    from textgen.serve.access import read_keys
    from textgen.serve.app import make_app
    from textgen.serve.models import Models

    chosen: Settings = from_mapping(Settings, settings)
    check(chosen)
    chosen.states_bytes  # noqa: B018 - raises
    file = Path(chosen.api_key_file) if chosen.api_key_file else None
    return make_app(Models(by_name(models), backend), chosen, read_keys(file, os.environ.get(VARIABLE)))


def by_name(models: Any) -> dict[str, Any]:
    """Models by the names under which they are served: their own, or those of their folders. Raises UsageError if two
    have the same."""
    if isinstance(models, Mapping):
        return {str(name): _found(each) for name, each in models.items()}
    several = models if isinstance(models, Sequence) and not isinstance(models, str) else [models]
    named_ones: dict[str, Any] = {}
    for each in several:
        found = _found(each)
        folder = found if isinstance(found, Path) else getattr(found, "folder", None)
        name = (
            each if isinstance(each, str) and not Path(each).is_dir() else folder.absolute().name if folder else "model"
        )
        if name in named_ones:
            raise UsageError(f"two models are called {name!r}.", hint="name them: NAME=FOLDER.")
        named_ones[name] = found
    if not named_ones:
        raise UsageError("there is no model to serve.")
    return named_ones


def _found(model: Any) -> Any:
    return find_model(model) if isinstance(model, (str, os.PathLike)) else model


def with_model_names(typed: Sequence[str]) -> dict[str, str] | list[str]:
    """Models as the command line takes them: `FOLDER`, or `NAME=FOLDER`."""
    pairs = [each.partition("=") for each in typed]
    if any(sign for _, sign, _ in pairs):
        return {name if sign else Path(name).name: folder or name for name, sign, folder in pairs}
    return list(typed)

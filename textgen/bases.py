"""Pretrained models by name: what installed packages offer through `register_models`."""

from __future__ import annotations

import os
from pathlib import Path

from textgen import plugins

A_FOLDER = "the path of a model folder, as text or as pathlib.Path"


def is_folder(thing: object) -> bool:
    """Whether this is the path of a folder that exists."""
    return isinstance(thing, (str, os.PathLike)) and Path(thing).is_dir()


def names() -> list[str]:
    """The pretrained models that installed packages offer; imports nothing."""
    return plugins.names("models")


def find(name: str) -> Path | None:
    """The folder of the pretrained model of that name; None if no package offers one. Raises PluginError if its
    package is broken."""
    if name not in names():
        return None
    return Path(plugins.registered("models", name, is_folder, A_FOLDER))

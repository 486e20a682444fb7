"""Throw-away packages with plugins of any kind, installed into a folder as pip would install them."""

import os
import sys
from contextlib import contextmanager

import pytest

from textgen import plugins

LEAKY = '''"""A cell that forgets slowly."""
import torch
import textgen

class Leaky(textgen.Cell):
    def __init__(self, input_size, hidden_size, rate: float = 0.5):
        super().__init__(input_size, hidden_size)
        self.rate, self.input = rate, torch.nn.Linear(input_size, hidden_size)

    def step(self, x, state):
        h = torch.lerp(state[0], torch.tanh(self.input(x)), self.rate)
        return h, (h,)

@textgen.hookimpl
def register_cells(register):
    pass
'''


HOOK = """
@textgen.hookimpl
def register_{kind}(register):
    pass
"""
OFFERED = {  # kind: a module that offers one, and what it registers
    "cells": (LEAKY, "Leaky"),
    "tasks": (
        '"""A task of its own."""\nimport textgen\nfrom textgen.tasks import Task\n\n\n'
        "class Nothing(Task):\n    data = load = evaluate = None\n\n\nTASK = Nothing()\n" + HOOK.format(kind="tasks"),
        "TASK",
    ),
    "models": (
        '"""A model that knows English."""\nfrom pathlib import Path\nimport textgen\n\nHERE = Path(__file__).parent\n'
        + HOOK.format(kind="models"),
        "HERE",
    ),
    "commands": (
        '"""A command that greets."""\nimport click\nimport textgen\n\n'
        '@click.command()\n@click.option("--name", default="you")\n'
        'def greet(name):\n    click.echo(f"Hello, {name}!")\n' + HOOK.format(kind="commands"),
        "greet",
    ),
}


def registering(*names, kind="cells"):
    source, thing = OFFERED[kind]
    return "".join([source, *(f"    register({name!r}, {thing})\n" for name in names)])


class Packages:
    """Installs throw-away packages into a folder: a module, and metadata with an entry point for each name."""

    def __init__(self, folder, patch):
        self.folder, self._patch, self._made = folder, patch, []

    def install(self, package, source, names=(), version="1.0", folder=None, kind="cells", summary=""):
        folder = folder or self.folder
        module = f"textgen_try_{package.replace('-', '_')}"
        info = folder / f"textgen_{package.replace('-', '_')}-{version}.dist-info"
        info.mkdir(parents=True)
        (folder / f"{module}.py").write_text(source)
        about = f"Metadata-Version: 2.1\nName: textgen-{package}\nVersion: {version}\n"
        (info / "METADATA").write_text(about + (f"Summary: {summary}\n" if summary else ""))
        prefix = "" if kind == "cells" else f"{kind}."
        points = "".join(f"{prefix}{name} = {module}\n" for name in names or [package])
        (info / "entry_points.txt").write_text(f"[textgen]\n{points}")
        self._made.append(f"textgen-{package}")
        self._patch.setenv("TEXTGEN_LOAD_PLUGINS", ",".join(self._made))
        return module


@contextmanager
def site(folder):
    """A folder in which Python looks for packages, here and in child processes."""
    folder.mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(folder))
        patch.setenv("PYTHONPATH", str(folder), prepend=os.pathsep)
        yield Packages(folder, patch)
    for name in [name for name in sys.modules if name.startswith("textgen_try_")]:
        del sys.modules[name]
    plugins.forget()

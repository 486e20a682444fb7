"""Load plugins one after another and print the problem of each as a line: the child process of `textgen plugins`."""

from __future__ import annotations

import json
import os
import sys
import time
from typing import Any

import click

from textgen import plugins
from textgen.cli import A_COMMAND
from textgen.errors import TextgenError, needed
from textgen.plugin_metadata import Entry
from textgen.tasks import Task

LONGEST_IMPORT = 10.0
"""The most seconds that importing a plugin may take, torch not included."""
READY = b"ready\n"
"""The first line of the output: everything that all plugins need is imported."""
UNTOUCHED = (
    *("the default dtype", "the default device", "the number of threads", "the grad mode", "the current directory"),
    *("the precision of matrix products", "the recursion limit", "the signal handlers"),
)
"""Settings of `textgen.testing.law.process_settings` that importing a plugin must not change."""


ACCEPTED: dict[str, tuple[plugins.Accepts, str]] = {
    "cells": (plugins.is_cell, plugins.A_CELL),
    "tasks": (Task, ""),
    "models": (plugins.is_folder, plugins.A_FOLDER),
    "commands": (click.Command, A_COMMAND),
}
"""What may be registered of each kind, and how messages describe it."""


def problem_with(entry: Entry) -> str | None:
    """What is wrong with a plugin, or None."""
    before, began = surroundings(), time.monotonic()
    try:
        registered = plugins.load_module(entry.module, entry.kind, *ACCEPTED[entry.kind])
    except TextgenError as error:
        return str(error)
    took, after = time.monotonic() - began, surroundings()
    changed = [name for name in before if before[name] != after[name]]
    if changed:
        return f"importing it changes {' and '.join(changed)}"
    if took > LONGEST_IMPORT:
        return f"it takes {took:.0f} s to import"
    if entry.name not in registered:
        return f"{entry.module} does not register {entry.name!r}, but {', '.join(map(repr, registered))}"
    unlisted = plugins.unlisted(entry.module, entry.kind)
    return f"{entry.module} registers {unlisted[0]!r} without an entry point of that name" if unlisted else None


def surroundings() -> dict[str, Any]:
    """Process-wide settings, by name."""
    import torch

    from textgen.testing.law import process_settings

    return {
        **{name: process_settings()[name] for name in UNTOUCHED},
        "the random numbers of torch": torch.random.get_rng_state().tolist(),
    }


def main() -> None:
    """Print the results to the real standard output; redirect what plugins print."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    missing = None
    try:
        with needed("torch"):
            surroundings()
    except TextgenError as error:  # for every plugin
        missing = str(error)
    answers.write(READY.decode())
    answers.flush()
    for name, module, distribution, version, kind in json.loads(sys.argv[1]):
        problem = missing or problem_with(Entry(name, module, distribution, version, kind=kind))
        answers.write(json.dumps({"problem": problem}) + "\n")
        answers.flush()


if __name__ == "__main__":
    main()

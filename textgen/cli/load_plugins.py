"""Load plugins one after another and print, a line each, what is wrong: run by `textgen plugins` as a process."""

from __future__ import annotations

import json
import os
import sys
import time
from typing import Any

from textgen import plugins
from textgen.dependencies import needed
from textgen.errors import TextgenError
from textgen.plugins import Entry

LONGEST_IMPORT = 10.0
"""Seconds that importing a plugin may take, torch not counted."""
READY = b"ready\n"
"""The first line of the answer: what all plugins need is imported."""
UNTOUCHED = (
    *("the default dtype", "the default device", "the number of threads", "the grad mode", "the current directory"),
    *("the precision of matrix products", "the recursion limit", "the signal handlers"),
)
"""What importing a plugin must leave as it is, of what `textgen.testing.room.process_settings` knows."""


def problem_with(entry: Entry) -> str | None:
    """What is wrong with a plugin, or None."""
    before, began = surroundings(), time.monotonic()
    try:
        registered = plugins.load_module(entry.module)
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
    unlisted = plugins.unlisted(entry.module)
    return f"{entry.module} registers {unlisted[0]!r} without an entry point of that name" if unlisted else None


def surroundings() -> dict[str, Any]:
    """What is the same for all in this process, by name."""
    import torch

    from textgen.testing.room import process_settings

    return {
        **{name: process_settings()[name] for name in UNTOUCHED},
        "the random numbers of torch": torch.random.get_rng_state().tolist(),
    }


def _missing() -> str | None:
    """Why torch, which every plugin needs, cannot be imported, or None."""
    try:
        with needed("torch"):
            surroundings()
    except TextgenError as error:
        return str(error)
    return None


def main() -> None:
    """Answer on the real standard output; whatever a plugin prints goes elsewhere."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    missing = _missing()
    answers.write(READY.decode())
    answers.flush()
    for name, module, distribution, version in json.loads(sys.argv[1]):
        problem = missing or problem_with(Entry(name, module, distribution, version))
        answers.write(json.dumps({"problem": problem}) + "\n")
        answers.flush()


if __name__ == "__main__":
    main()

"""Load plugins one after another and print, a line each, what is wrong: run by `textgen plugins` as a process."""

from __future__ import annotations

import json
import os
import sys

from textgen import plugins
from textgen.errors import TextgenError
from textgen.plugins import Entry


def problem_with(entry: Entry) -> str | None:
    """What is wrong with a plugin, or None."""
    try:
        registered = plugins.load_module(entry.module)
    except TextgenError as error:
        return str(error)
    if entry.name not in registered:
        return f"{entry.module} does not register {entry.name!r}, but {', '.join(map(repr, registered))}"
    unlisted = plugins.unlisted(entry.module)
    return f"{entry.module} registers {unlisted[0]!r} without an entry point of that name" if unlisted else None


def main() -> None:
    """Answer on the real standard output; whatever a plugin prints goes elsewhere."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    for name, module, distribution, version in json.loads(sys.argv[1]):
        problem = problem_with(Entry(name, module, distribution, version))
        answers.write(json.dumps({"problem": problem}) + "\n")
        answers.flush()


if __name__ == "__main__":
    main()

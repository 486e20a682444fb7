"""textgen env: versions and machine details for a bug report, from package metadata alone (nothing is imported)."""

from __future__ import annotations

import json
import os
import platform
from importlib import metadata

import click

from textgen import __version__
from textgen.cli.params import json_option
from textgen.screen import Output

PACKAGES = ("torch", "numpy", "click", "datasets", "sentencepiece", "pluggy", "safetensors", "huggingface-hub", "rich")
SHOWN = ("TEXTGEN_LOAD_PLUGINS", "TEXTGEN_MODEL", "TEXTGEN_DATA", "TEXTGEN_RAISE_ERRORS")
"""Variables whose values are shown; for others, which may hold secrets, only that they are set."""


@click.command("env")
@json_option
def command(as_json: bool) -> None:
    """Show versions and machine details for a bug report."""
    content = {"textgen": __version__, "python": platform.python_version(), "system": platform.platform()}
    content["cores"] = str(os.cpu_count())
    for package in PACKAGES:
        try:
            content[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            content[package] = "not installed"
    variables = {name: value for name, value in sorted(os.environ.items()) if name.startswith(("TEXTGEN_", "OMP_"))}
    content |= {
        name: value if name in SHOWN or name.startswith("OMP_") else "(set)" for name, value in variables.items()
    }
    if as_json:
        Output().write(json.dumps(content) + "\n")
    else:
        Output().write("".join(f"{name:16} {value}\n" for name, value in content.items()))

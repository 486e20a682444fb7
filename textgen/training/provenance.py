"""What the bits of a run depend on besides its options, recorded when it begins and compared when it goes on."""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from textgen import __version__, plugins
from textgen.compiling import compiler, compiler_version
from textgen.errors import TextgenError
from textgen.settings import TrainOptions

PACKAGES = ("torch", "numpy", "sentencepiece")


def versions(threads: int, cells: Sequence[str] = ()) -> dict[str, Any]:
    """Versions, threads and the kind of processor; of each cell the package that brings it."""
    packages = {name: metadata.version(name) for name in PACKAGES} | {"torch": str(torch.__version__)}
    owners = {f"package of {cell}": plugins.owner(cell) for cell in cells}
    return {
        "textgen": __version__,
        **packages,
        "python": platform.python_version(),
        **{name: f"{owner.distribution} {owner.version}" for name, owner in owners.items()},
        "processor": f"{processor()} {torch.backends.cpu.get_cpu_capability()}",
        "threads": threads,
    }


def processor() -> str:
    """The processor by its maker's name, where the system tells it, else its kind."""
    told = Path("/proc/cpuinfo")
    lines = told.read_text(errors="replace").splitlines() if told.is_file() else []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return " ".join([platform.machine(), next(names, platform.processor())]).strip()


def compiled_with(options: TrainOptions) -> dict[str, Any]:
    """What else the bits depend on where cells are compiled. Raises TextgenError without a C++ compiler."""
    if not options.compile:
        return {}
    if compiler() is None:
        raise TextgenError(
            "this run compiles its cells, and there is no C++ compiler on this machine.",
            hint="install g++, or train a new run with --no-compile.",
        )
    return {"compiler": compiler_version()}


def made_with(options: TrainOptions) -> dict[str, Any]:
    """All of it for a run of these options."""
    return versions(options.threads or 1, [options.cell]) | compiled_with(options)


def changes(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """What is not as it was, a sentence each."""
    return [
        f"{name} is now {now.get(name, 'none')}, it was {then}: the result will agree in quality, not bit for bit."
        for name, then in before.items()
        if now.get(name) != then
    ]


def refuse_other_data(recorded: Mapping[str, str], found: Mapping[str, str]) -> None:
    """Raise TextgenError if the same corpus now gives other tokens, or numbers, than a run began with."""
    other = [name for name, digest in recorded.items() if found.get(name) != digest]
    if other:
        raise TextgenError(
            f"the corpus gives other tokens than when this run began ({', '.join(other)} differ in SHA-256).",
            hint="train a new run.",
        )

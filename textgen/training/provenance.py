"""The environment that the exact result of a run depends on: recorded at its start, compared when it is resumed."""

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
from textgen.tasks.base import LANGUAGE

PACKAGES = ("torch", "numpy", "sentencepiece")


def versions(threads: int, cells: Sequence[str] = ()) -> dict[str, Any]:
    """Versions, threads and processor; for each cell, its package."""
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
    """The name of the processor, or its architecture."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text(errors="replace").splitlines() if cpuinfo.is_file() else []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return " ".join([platform.machine(), next(names, platform.processor())]).strip()


def compiled_with(options: TrainOptions) -> dict[str, Any]:
    """The version of the compiler, if cells are compiled. Raises TextgenError without a C++ compiler."""
    if not options.compile:
        return {}
    if compiler() is None:
        raise TextgenError(
            "this run compiles its cells, but this machine has no C++ compiler.",
            hint="install g++, or train a new run with --no-compile.",
        )
    return {"compiler": compiler_version()}


def made_with(options: TrainOptions) -> dict[str, Any]:
    """Everything recorded for a run with these options."""
    return versions(options.threads or 1, [options.cell]) | _task_package(options) | compiled_with(options)


def _task_package(options: TrainOptions) -> dict[str, str]:
    """The package of the task, if another one than ours brings it."""
    owner = plugins.owner(options.task or LANGUAGE, "tasks")
    ours = owner.distribution == plugins.OWN_DISTRIBUTION
    return {} if ours else {f"package of task {owner.name}": f"{owner.distribution} {owner.version}"}


def changes(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """The differences, one sentence each."""
    return [
        f"{name} is now {now.get(name, 'none')}, it was {then}: the quality will be the same, but not every bit."
        for name, then in before.items()
        if now.get(name) != then
    ]


def refuse_other_data(recorded: Mapping[str, str], found: Mapping[str, str]) -> None:
    """Raise TextgenError if the corpus now gives different tokens or numbers than at the start of the run."""
    other = [name for name, digest in recorded.items() if found.get(name) != digest]
    if other:
        raise TextgenError(
            f"the corpus gives different tokens than when this run began ({', '.join(other)} differ in SHA-256).",
            hint="train a new run.",
        )

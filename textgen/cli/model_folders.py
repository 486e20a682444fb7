"""Finding the run or model of a command, and building requests to a model's task."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from textgen.cli.params import STDOUT, Extra, given, output_file, refuse_of_another_task
from textgen.data import Reading
from textgen.errors import TextgenError, did_you_mean
from textgen.model import find_model, followed, remembered_reading
from textgen.options import declared, flag
from textgen.plugins import BUILT_IN_TASKS, base_names
from textgen.storage.outputs import OutputFile, refuse_same
from textgen.tasks import Request, Task, task_of_model
from textgen.threads import usable_cores, use_threads

if TYPE_CHECKING:
    from textgen.generation.language_model import LanguageModel


def find_run(name: str) -> Path:
    """The run folder behind a path, a name in runs/, or 'latest'. Raises TextgenError if there is none."""
    for folder in (Path(name), Path("runs") / name):
        if name != "latest" and folder.is_dir():
            return folder
    if name == "latest":
        pointer = Path("runs") / "latest"
        if pointer.is_file():
            return followed(pointer)
        installed = "".join(f"; or use an installed model: -m {name}" for name in base_names()[:1])
        raise TextgenError("no run in runs/.", hint=f"train one: textgen train FILE{installed}")
    raise TextgenError(f"there is no run {name!r} here or in runs/.")


def find_latest() -> Path | None:
    """The run that `textgen sample` uses by default."""
    try:
        return find_run("latest")
    except TextgenError:
        return None


def model_folder(name: str | None) -> Path:
    """The model folder of a path, a name in runs/ or the name of an installed model; by default that of $TEXTGEN_MODEL,
    or the latest run. Raises TextgenError for a name close to that of a run or an installed model."""
    chosen = name or os.environ.get("TEXTGEN_MODEL")
    if chosen is None:
        return find_run("latest")
    folder = find_model(chosen)
    near = did_you_mean(chosen, [*(path.name for path in Path("runs").glob("*") if path.is_dir()), *base_names()])
    if near and not folder.exists():
        raise TextgenError(f"there is no model folder {chosen!r}.{near}", hint="train one: textgen train FILE")
    return folder


def open_model(name: str | None, threads: int, backend: str = "auto") -> LanguageModel:
    """The model of `model_folder`, using this number of threads."""
    folder = model_folder(name)
    use_threads(threads)
    from textgen.loading import load_language_model

    loaded = load_language_model(folder, backend)
    if sys.modules.get("torch") is not None:  # loaded with the model
        use_threads(threads)
    return loaded


def typed_value(args: Sequence[str], *names: str) -> str | None:
    """The value of an option among the arguments of a command, by its names: the last one typed."""
    found = None
    for number, each in enumerate(args):
        name, sign, value = each.partition("=")
        if name in names:
            found = value if sign else next(iter(args[number + 1 :]), None)
        elif each[:2] in names and not each.startswith("--"):  # -mDIR
            found = each[2:]
    return found


def options_of_model(use: str) -> Extra:
    """Finds the `use` ('evaluation' or 'prediction') options of the model that a command names, if its task is that of
    an installed package."""

    def found(ctx: click.Context, args: Sequence[str]) -> type | None:
        with suppress(TextgenError):  # raised again when the command runs
            model = typed_value(args, "-m", "--model") or ctx.lookup_default("model")
            chosen = task_of_model(model_folder(model))
            options: type | None = None if chosen.name in BUILT_IN_TASKS else getattr(chosen, use)
            return options
        return None

    return found


def requested(
    inputs: tuple[str, ...], use: str, settings: Mapping[str, type], values: Mapping[str, Any]
) -> tuple[Task, Request]:
    """The task of a command's model, and the request to it; `settings` are the `use` options ('evaluation' or
    'prediction') of every built-in task, by name. Raises UsageError for an option that this task does not have."""
    folder = model_folder(values["model"])
    chosen = task_of_model(folder)
    own = getattr(chosen, use)
    if own is None:
        raise TextgenError(
            f"the model in {str(folder)!r} generates text; predict takes models of other tasks.",
            hint=f'textgen sample -m {folder} --prompt "..."',
        )
    declared_ones = {f.name for each in (own, *settings.values()) for f in fields(each)}
    asked = {name: value for name, value in values.items() if name in declared_ones}
    refuse_of_another_task(asked, own, chosen.name, settings)
    options = own(**given(own, asked))
    outputs = _outputs(options, (*inputs, folder), values["overwrite"])
    reading = remembered_reading(folder, given(Reading, asked))
    threads = values["threads"] or usable_cores()
    return chosen, Request(folder, inputs, reading, options, _opener(folder), threads, values["as_json"], outputs)


def _outputs(options: Any, read: tuple[str | Path, ...], overwrite: bool) -> dict[str, OutputFile]:
    """The files that options name for output, checked before any work."""
    named = {
        field.name: (getattr(options, field.name), declaration.writes)
        for field, declaration in declared(type(options))
        if declaration.writes
    }
    refuse_same({flag(name): typed for name, (typed, _) in named.items()})
    return {
        name: output_file(typed, flag(name), kind, read, overwrite)
        for name, (typed, kind) in named.items()
        if typed not in (None, STDOUT)
    }


def _opener(folder: Path) -> Callable[[], Any]:
    def open_data() -> Any:
        from textgen.training.stored_data import data_of

        return data_of(folder)

    return open_data

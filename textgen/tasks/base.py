"""What a task is, and the registry of tasks.

A `Task` defines what a model is trained for: its options, how its data is read and stored, its objective, how a trained
model is opened, and what `textgen evaluate` and `textgen predict` do with one. Everything else (the trainer, the
planner, run folders, resuming, `textgen.load`, the command line) works with any task and knows none by name. Packages
register tasks with the hook `register_tasks`. This module does not import torch, and neither may the module of a task:
imports for training and running belong inside its methods.
"""

from __future__ import annotations

import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from textgen import plugins
from textgen.errors import TextgenError, UsageError, did_you_mean
from textgen.model_folder import task_of as task_name
from textgen.options import from_mapping
from textgen.outputs import OutputFile
from textgen.parameters import named
from textgen.settings import TrainOptions
from textgen.text.corpus_settings import FileOptions
from textgen.text.reading import Reading, record_of
from textgen.threads import use_threads

if TYPE_CHECKING:
    from textgen.tasks.data import TaskData

LANGUAGE = "lm"
"""The task of a run that does not name one."""


@dataclass(frozen=True)
class Request:
    """A call of `textgen evaluate` or `textgen predict`.

    `inputs` are the given paths, empty for the held-out part of the training data; `options` is an object of the task's
    `evaluation` or `prediction` class; `outputs` are the files to write, by option; `data` opens the data of the
    model's run and raises TextgenError if it is missing.
    """

    folder: Path
    inputs: tuple[str, ...]
    reading: Reading
    options: Any
    data: Callable[[], TaskData]
    threads: int = 1
    as_json: bool = False
    outputs: Mapping[str, OutputFile] = field(default_factory=dict)

    def load(self, backend: str = "auto") -> Any:
        """The model, using `threads` threads."""
        use_threads(self.threads)
        model = task(task_name(self.folder)).load(self.folder, backend)
        if "torch" in sys.modules:  # which may have been imported only now
            use_threads(self.threads)
        return model

    def held_out(self) -> TaskData:
        """The data of the run, for its held-out part. Raises TextgenError if it is missing or has no held-out part."""
        try:
            data = self.data()
        except TextgenError as error:
            raise TextgenError(
                f"the held-out part of {str(self.folder)!r} is not available: {error}", hint="textgen evaluate FILE"
            ) from error
        if not data.held_out_tokens:
            raise TextgenError(f"{str(self.folder)!r} has no held-out part.", hint="textgen evaluate FILE")
        return data


class Task(ABC):
    """A task that models are trained for. A subclass sets `name` and `options` and may override the rest."""

    name: str
    """The name in `--task` and `config.json`."""
    options: type[TrainOptions]
    """The options of its training runs: a subclass of `TrainOptions` with the task's own options."""
    evaluation: type[FileOptions] = FileOptions
    """The options of `textgen evaluate` for its models."""
    prediction: type[FileOptions] | None = None
    """The options of `textgen predict` for its models; None for models that generate text, which `sample` uses."""

    @property
    def generates(self) -> bool:
        """Whether its models generate text."""
        return self.prediction is None

    def check(self, options: Any) -> None:  # noqa: B027
        """Raise UsageError for conflicting options, before anything is read."""

    def remembered(self, paths: list[str], options: Any) -> dict[str, Any]:
        """How the corpus was read: stored in `config.json`, so that later inputs are read the same way."""
        return record_of(paths, options)

    @abstractmethod
    def data(self) -> type[TaskData]:
        """The class that reads, stores and opens its data."""

    @abstractmethod
    def load(self, folder: Path, backend: str) -> Any:
        """Open a trained model. Raises TextgenError for a damaged folder, or if the backend cannot run the model."""

    @abstractmethod
    def evaluate(self, request: Request) -> None:
        """Evaluate a model on the inputs, or on the held-out part without any, and print the metrics."""

    def predict(self, request: Request) -> None:
        """Print what a model predicts for the inputs."""
        raise NotImplementedError


def tasks() -> list[Task]:
    """Every usable task, built-in ones first; tasks of broken packages are left out."""
    found = []
    for name in plugins.names("tasks"):
        try:
            found.append(task(name))
        except TextgenError:
            continue
    return found


def task(name: str) -> Task:
    """The task of that name. Raises UsageError if there is none, PluginError if its package is broken."""
    found = plugins.registered("tasks", name, Task)
    assert isinstance(found, Task)
    return found


def task_of(options: TrainOptions) -> Task:
    """The task of a run's options."""
    return task(options.task or LANGUAGE)


def options_for(given: Mapping[str, Any]) -> TrainOptions:
    """The options of a training run, checked, as an object of its task's class.

    The task is the one named; else language modeling; else the only task that has all given options. Raises UsageError
    for an unknown option or value, and for options of different tasks.
    """
    if given.get("task") is not None:
        chosen = task(_text(given["task"]))
    else:
        chosen = _inferred(given)
    known = {f.name for f in fields(chosen.options)}
    for name, value in given.items():
        if name not in known and value is not None:
            _refuse(name, chosen)
    made: TrainOptions = from_mapping(chosen.options, {name: given[name] for name in given if name in known})
    return replace(made, task=chosen.name)


def _text(name: Any) -> str:
    if not isinstance(name, str):
        raise UsageError(f"{named('task')} must be text, not {name!r}.")
    return name


def _inferred(given: Mapping[str, Any]) -> Task:
    """The task inferred from options that do not name one."""
    everyday = task(LANGUAGE)
    common = {f.name for f in fields(everyday.options)}
    special = [name for name, value in given.items() if name not in common and value is not None]
    owners = [each for each in tasks() if special and special[0] in {f.name for f in fields(each.options)}]
    return owners[0] if len(owners) == 1 else everyday


def _refuse(name: str, chosen: Task) -> None:
    """Raise UsageError for an option that a task does not have."""
    owners = {each.name: each for each in tasks() if name in {f.name for f in fields(each.options)}}
    if owners:
        others = " or ".join(named("task", other) for other in owners)
        raise UsageError(f"{named(name)} goes with {others}, not with {chosen.name}.")
    every = {f.name for each in tasks() for f in fields(each.options)}
    raise UsageError(f"there is no option {name!r}.{did_you_mean(name, every)}")

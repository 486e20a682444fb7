"""What a task is, the one registry of them, and the options of training that every task has.

A `Task` says what models are trained for: its options, how its data is read and stored, how it is learned, how a
trained model is opened, and what `textgen evaluate` and `textgen predict` do with one. Everything else (the trainer,
the planner, run folders, `textgen.load`, the command line) takes any task and knows none by name. Packages register
tasks with the hook `register_tasks`. This module imports no torch, and neither may a task's own module: it imports
what learns and what runs inside its methods.

A task needs few other imports: all of `__all__` is imported from here, and loaded when it is first used.
"""

from __future__ import annotations

import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from textgen import plugins
from textgen.data import FileOptions, Reading, TokenizerOptions, record_of
from textgen.data.recipes import TRAIN, VALIDATION, Progress
from textgen.errors import TextgenError, UsageError, did_you_mean
from textgen.generation import SampleOptions as SampleOptions
from textgen.generation import check_sampling as check_sampling
from textgen.model import task_of as task_name
from textgen.options import from_mapping, named, option
from textgen.storage.outputs import OutputFile
from textgen.tasks.training_options import DEFAULT_MINUTES as DEFAULT_MINUTES
from textgen.tasks.training_options import TrainOptions as TrainOptions
from textgen.tasks.training_options import planned as planned
from textgen.threads import use_threads

if TYPE_CHECKING:
    from textgen.tasks.data import (
        IGNORED,
        Encoded,
        ExampleData,
        ExampleStore,
        LabelledTexts,
        TaskData,
        TextExampleData,
        Texts,
        divide,
        hold_out,
        model_card,
        open_model,
        unknown_label,
    )
    from textgen.tasks.metrics import ClassificationMetrics, print_metrics
    from textgen.tasks.objective import Batches, ExampleObjective, Objective, RareTokens, TokenLabelObjective
    from textgen.tasks.regularization import Regularization
    from textgen.tasks.sizes import model_config

__all__ = [
    "IGNORED",
    "TRAIN",
    "VALIDATION",
    "Batches",
    "ClassificationMetrics",
    "Encoded",
    "ExampleData",
    "ExampleObjective",
    "ExampleStore",
    "FileOptions",
    "LabelledTexts",
    "Objective",
    "Progress",
    "RareTokens",
    "Reading",
    "Regularization",
    "Request",
    "Task",
    "TaskData",
    "TextExampleData",
    "Texts",
    "TokenLabelObjective",
    "TokenizerOptions",
    "TrainOptions",
    "built_in_tasks",
    "divide",
    "hold_out",
    "model_card",
    "model_config",
    "open_model",
    "option",
    "options_for",
    "print_metrics",
    "task",
    "unknown_label",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    """What needs numpy or torch is imported when it is first used."""
    for module in ("data", "metrics", "objective", "regularization", "sizes") if name in __all__ else ():
        found = import_module(f"{__name__}.{module}")
        if hasattr(found, name):
            return getattr(found, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


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
        model = task_of_model(self.folder).load(self.folder, backend)
        if "torch" in sys.modules:  # which may have been imported only now
            use_threads(self.threads)
        return model

    def held_out(self) -> Any:
        """The data of the run, an object of the task's class, for its held-out part. Raises TextgenError if it is
        missing or has no held-out part."""
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

    def module(self) -> ModuleType:
        """The module of its models, which may import numpy: it has the functions `load`, `evaluate` and `predict`, as
        the methods below."""
        raise NotImplementedError

    def load(self, folder: Path, backend: str) -> Any:
        """Open a trained model. Raises TextgenError for a damaged folder, or if the backend cannot run the model."""
        return self.module().load(folder, backend)

    def evaluate(self, request: Request) -> None:
        """Evaluate a model on the inputs, or on the held-out part without any, and print the metrics."""
        self.module().evaluate(request)

    def predict(self, request: Request) -> None:
        """Print what a model predicts for the inputs."""
        self.module().predict(request)


def built_in_tasks() -> list[Task]:
    """The tasks of this package. Those of other packages are only imported when they are asked for by name."""
    return [task(name) for name in plugins.BUILT_IN_TASKS]


def task(name: str) -> Task:
    """The task of that name. Raises UsageError if there is none, PluginError if its package is broken."""
    found = plugins.registered("tasks", name, Task)
    assert isinstance(found, Task)
    return found


def task_of_model(folder: Path) -> Task:
    """The task of the model in a folder. Raises TextgenError for a folder without a model, and if no installed package
    offers its task."""
    name = task_name(folder)
    if name not in plugins.names("tasks"):
        raise TextgenError(
            f"the model in {str(folder)!r} is for the task {name!r}, which no installed package offers.",
            hint=f"install the package of this task; installed tasks: {', '.join(plugins.names('tasks'))}.",
        )
    return task(name)


def task_of(options: TrainOptions) -> Task:
    """The task of a run's options."""
    return task(options.task or LANGUAGE)


def options_for(given: Mapping[str, Any]) -> TrainOptions:
    """The options of a training run, checked, as an object of its task's class.

    The task is the one named; else language modeling; else the only built-in task that has all given options. Raises
    UsageError for an unknown option or value, and for options of different tasks.
    """
    if given.get("task") is not None:
        if not isinstance(given["task"], str):
            raise UsageError(f"{named('task')} must be text, not {given['task']!r}.")
        chosen = task(given["task"])
    else:
        chosen = _inferred(given)
    known = {f.name for f in fields(chosen.options)}
    for name, value in given.items():
        if name not in known and value is not None:
            _refuse(name, chosen)
    made: TrainOptions = from_mapping(chosen.options, {name: given[name] for name in given if name in known})
    return replace(made, task=chosen.name)


def _inferred(given: Mapping[str, Any]) -> Task:
    """The task inferred from options that do not name one."""
    everyday = task(LANGUAGE)
    common = {f.name for f in fields(everyday.options)}
    special = [name for name, value in given.items() if name not in common and value is not None]
    if not special:
        return everyday
    owners = [each for each in built_in_tasks() if special[0] in {f.name for f in fields(each.options)}]
    return owners[0] if len(owners) == 1 else everyday


def _refuse(name: str, chosen: Task) -> None:
    """Raise UsageError for an option that a task does not have."""
    owners = {each.name: each for each in built_in_tasks() if name in {f.name for f in fields(each.options)}}
    if owners:
        others = " or ".join(named("task", other) for other in owners)
        raise UsageError(f"{named(name)} goes with {others}, not with {chosen.name}.")
    every = {f.name for each in built_in_tasks() for f in fields(each.options)}
    raise UsageError(f"there is no option {name!r}.{did_you_mean(name, every)}")

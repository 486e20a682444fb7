"""What models are trained for: to write on, to complete, to label, to forecast. A task has two halves, what it learns
from (`Data`) and how it learns (`Task`); everything else is shared."""

from __future__ import annotations

from dataclasses import Field, fields, replace
from importlib import import_module
from typing import TYPE_CHECKING, Any

from textgen.errors import UsageError
from textgen.parameters import named
from textgen.settings import TrainOptions

if TYPE_CHECKING:
    from textgen.tasks.task import Data

LANGUAGE = "lm"
KINDS = {
    LANGUAGE: "textgen.tasks.language:LanguageData",
    "complete": "textgen.pairs.data:PairsData",
    "classify": "textgen.labels.data:LabelsData",
    "forecast": "textgen.series.data:SeriesData",
}
"""The tasks by name, and the class of what each learns from."""


def data_class(task: str) -> type[Data]:
    """What a task learns from. Imports torch."""
    module, _, name = KINDS[task].partition(":")
    found: type[Data] = getattr(import_module(module), name)
    return found


def with_task(options: TrainOptions) -> TrainOptions:
    """The options with their task: the one named, else that of the options which only one task has. Raises UsageError
    for an option of another task."""
    for kind in type(options).__mro__:
        own = kind.__dict__.get("of_task")
        own_ones = [f.name for f in fields(kind) if getattr(options, f.name) != _default(f)] if own else []
        if own_ones and options.task not in (None, own):
            raise UsageError(f"{named(own_ones[0])} goes with {named('task', own)}, not with {options.task}.")
        if own_ones:
            options = replace(options, task=own)
    return options if options.task else replace(options, task="lm")


def _default(described: Field[Any]) -> Any:
    return described.default_factory() if callable(described.default_factory) else described.default

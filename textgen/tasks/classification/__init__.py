"""The task `classify`: predict the label of a text."""

from __future__ import annotations

from types import ModuleType
from typing import TYPE_CHECKING, Any

from textgen.data import check_reading, reads_whole_files
from textgen.errors import UsageError
from textgen.hookspecs import hookimpl
from textgen.options import named
from textgen.tasks import Task
from textgen.tasks.classification.options import (
    ClassificationEvaluation,
    ClassificationOptions,
    ClassificationPrediction,
)

if TYPE_CHECKING:
    from textgen.tasks.data import TaskData


class ClassificationTask(Task):
    """Predict the label of a text."""

    name = "classify"
    options = ClassificationOptions
    evaluation = ClassificationEvaluation
    prediction = ClassificationPrediction

    def check(self, options: ClassificationOptions) -> None:
        check_reading(options)
        if options.label_separator == "":
            raise UsageError(f"{named('label_separator')} must not be empty.")
        if options.group_column is not None and options.validation_file is not None:
            raise UsageError(
                f"{named('group_column')} and {named('validation_file')} exclude each other: the file is held out."
            )

    def remembered(self, paths: list[str], options: ClassificationOptions) -> dict[str, Any]:
        record = super().remembered(paths, options)
        return {**record, "whole_files": True} if reads_whole_files(paths) else record

    def data(self) -> type[TaskData]:
        from textgen.tasks.classification.data import ClassificationData

        return ClassificationData

    def module(self) -> ModuleType:
        from textgen.tasks.classification import evaluate

        return evaluate


@hookimpl
def register_tasks(register: Any) -> None:
    """The built-in task."""
    register("classify", ClassificationTask())

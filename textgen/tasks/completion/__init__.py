"""The task `complete`: generate the completion of a prompt."""

from __future__ import annotations

from types import ModuleType
from typing import TYPE_CHECKING, Any

from textgen.data import check_reading
from textgen.hookspecs import hookimpl
from textgen.tasks import Task
from textgen.tasks.completion.options import CompletionEvaluation, CompletionOptions, columns_of

if TYPE_CHECKING:
    from textgen.tasks.data import TaskData


class CompletionTask(Task):
    """Predict each token of a completion from its prompt and the tokens before it."""

    name = "complete"
    options = CompletionOptions
    evaluation = CompletionEvaluation

    def check(self, options: CompletionOptions) -> None:
        check_reading(options)
        columns_of(options)

    def data(self) -> type[TaskData]:
        from textgen.tasks.completion.data import CompletionData

        return CompletionData

    def module(self) -> ModuleType:
        from textgen.tasks.completion import evaluate

        return evaluate


@hookimpl
def register_tasks(register: Any) -> None:
    """The built-in task."""
    register("complete", CompletionTask())

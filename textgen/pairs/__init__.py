"""The task `complete`: generate the completion of a prompt."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from textgen.hookspecs import hookimpl
from textgen.pairs.options import CompletionEvaluation, CompletionOptions, columns_of
from textgen.tasks.base import Request, Task
from textgen.text.corpus_settings import check_reading

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
        from textgen.pairs.data import CompletionData

        return CompletionData

    def load(self, folder: Path, backend: str) -> Any:
        from textgen.language_model import load

        return load(folder, backend)

    def evaluate(self, request: Request) -> None:
        from textgen.pairs.evaluate import evaluate

        evaluate(request)


@hookimpl
def register_tasks(register: Any) -> None:
    """The built-in task."""
    register("complete", CompletionTask())

"""The task `lm`: model the text of a corpus, token by token, and generate more of it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from textgen.data import check_reading
from textgen.hookspecs import hookimpl
from textgen.tasks import LANGUAGE, Request, Task
from textgen.tasks.language.options import LanguageEvaluation, LanguageOptions

if TYPE_CHECKING:
    from textgen.tasks.data import TaskData


class LanguageModeling(Task):
    """Predict each token of a text from those before it."""

    name = LANGUAGE
    options = LanguageOptions
    evaluation = LanguageEvaluation

    def check(self, options: LanguageOptions) -> None:
        check_reading(options)

    def data(self) -> type[TaskData]:
        from textgen.tasks.language.data import LanguageData

        return LanguageData

    def load(self, folder: Path, backend: str) -> Any:
        from textgen.generation.language_model import load

        return load(folder, backend)

    def evaluate(self, request: Request) -> None:
        from textgen.tasks.language.evaluate import evaluate

        evaluate(request)


@hookimpl
def register_tasks(register: Any) -> None:
    """The built-in task."""
    register(LANGUAGE, LanguageModeling())

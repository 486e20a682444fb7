"""The task `lm`: model the text of a corpus, token by token, and generate more of it."""

from __future__ import annotations

from types import ModuleType
from typing import TYPE_CHECKING, Any

from textgen.data import check_reading
from textgen.hookspecs import hookimpl
from textgen.tasks import LANGUAGE, Task
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
        options.check_stream(options.epochs)

    def data(self) -> type[TaskData]:
        from textgen.tasks.language.data import LanguageData

        return LanguageData

    def module(self) -> ModuleType:
        from textgen.tasks.language import evaluate

        return evaluate


@hookimpl
def register_tasks(register: Any) -> None:
    """The built-in task."""
    register(LANGUAGE, LanguageModeling())

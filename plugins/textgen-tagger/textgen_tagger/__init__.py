"""The task `tag` for textgen: label every token of a sentence, as in part-of-speech tagging."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import textgen
from textgen.data import FileOptions
from textgen.hookspecs import RegisterTask
from textgen.options import option
from textgen.tasks import Request, Task, TrainOptions

if TYPE_CHECKING:
    from textgen_tagger.training import TagData

SECTION = "Tagging (--task tag)"


@dataclass(frozen=True)
class TagOptions(TrainOptions):
    lookahead: int = option(1, "Tokens read after a token before it is labeled.", low=0, high=100, section=SECTION)


@dataclass(frozen=True)
class TagPrediction(FileOptions):
    conll: bool = option(False, "Read one token per line, not one sentence.", no="", section=SECTION)


class Tagging(Task):
    """Label every token of a sentence."""

    name, options, prediction = "tag", TagOptions, TagPrediction

    def data(self) -> type[TagData]:
        from textgen_tagger.training import TagData

        return TagData

    def load(self, folder: Path, backend: str) -> Any:
        from textgen_tagger.tagger import load

        return load(folder, backend)

    def evaluate(self, request: Request) -> None:
        from textgen_tagger.tagger import evaluate

        evaluate(request)

    def predict(self, request: Request) -> None:
        from textgen_tagger.tagger import predict

        predict(request)


@textgen.hookimpl
def register_tasks(register: RegisterTask) -> None:
    register("tag", Tagging())

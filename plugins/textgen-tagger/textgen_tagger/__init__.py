"""The task `tag` for textgen: label every token of a sentence, as in part-of-speech tagging."""

from __future__ import annotations

from dataclasses import dataclass
from types import ModuleType
from typing import TYPE_CHECKING

import textgen
from textgen.hookspecs import RegisterTask
from textgen.tasks import FileOptions, Task, TrainOptions, option

if TYPE_CHECKING:
    from textgen_tagger.tagger import TagData

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
        from textgen_tagger.tagger import TagData

        return TagData

    def module(self) -> ModuleType:
        from textgen_tagger import tagger

        return tagger


@textgen.hookimpl
def register_tasks(register: RegisterTask) -> None:
    register("tag", Tagging())

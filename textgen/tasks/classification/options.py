"""The options that only classification has."""

from __future__ import annotations

from dataclasses import dataclass

from textgen.data import CorpusOptions, ReadingOptions
from textgen.options import option
from textgen.storage.filesystem import PLOT
from textgen.tasks import TrainOptions

POOLINGS = ("last", "mean", "max")
_SECTION = "Classification (--task classify)"


@dataclass(frozen=True)
class ClassificationOptions(CorpusOptions, TrainOptions):
    """How a classifier is trained."""

    label_column: str | None = option(
        None, "The label column of a table.", metavar="NAME", default_text="label", section=_SECTION
    )
    pooling: str = option(
        "last",
        "Pooling of the outputs over time: the last one, the mean, or the maximum for each label.",
        choices=POOLINGS,
    )
    class_weights: str = option(
        "none",
        "Loss weights of the labels; balanced gives rare labels as much total weight as common ones.",
        choices=("none", "balanced"),
    )


@dataclass(frozen=True)
class ClassificationEvaluation(ReadingOptions):
    """How a classifier is evaluated."""

    label_column: str | None = option(
        None, "The label column.", metavar="NAME", default_text="as in training", section=_SECTION
    )
    plot: str | None = option(
        None, "Plot the result as PNG: a confusion matrix, or forecasts.", metavar="FILE", writes=PLOT
    )


@dataclass(frozen=True)
class ClassificationPrediction(ReadingOptions):
    """How texts to classify are read."""

    whole_files: bool | None = option(
        None,
        "Read a plain file as one text, or as one text per line.",
        default_text="as in training; lines for tables",
        no="lines",
        section=_SECTION,
    )

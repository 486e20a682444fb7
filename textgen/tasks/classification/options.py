"""The options that only classification has."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from textgen.data import ReadingOptions, TokenizerOptions
from textgen.options import option
from textgen.storage.outputs import EXPLANATIONS, PLOT
from textgen.tasks import TrainOptions

POOLINGS = ("last", "mean", "max")


@dataclass(frozen=True)
class ClassificationOptions(TokenizerOptions, ReadingOptions, TrainOptions):
    """How a classifier is trained."""

    label_column: str | None = option(
        None,
        "The label column of a table.",
        metavar="NAME",
        default_text="label",
        section="Classification (--task classify)",
    )
    label_separator: str | None = option(
        None,
        "Several labels per text: what stands between them in a cell, such as ','.",
        metavar="TEXT",
        default_text="one label; lists in json and parquet hold several",
    )
    group_column: str | None = option(
        None,
        "A column, such as the author, whose rows of equal value are all trained on or all held out.",
        metavar="NAME",
    )
    pooling: str = option(
        "last",
        "Pooling of the outputs over time: the last one, the mean, or the maximum for each label.",
        choices=POOLINGS,
    )
    ngrams: bool = option(
        True,
        "Add the scores of a linear model of the words, pairs of words and beginnings of words of a text.",
    )
    ensemble: int | None = option(
        None,
        "Train this many models side by side and average their outputs.",
        low=1,
        high=64,
        default_text="4, or 1 when starting from a trained model",
    )
    label_smoothing: float = option(
        0.0,
        "The share of each training label that is spread over all labels, against overconfidence.",
        low=0,
        high=0.9,
    )
    class_weights: str = option(
        "none",
        "Loss weights of the labels; balanced gives rare labels as much total weight as common ones.",
        choices=("none", "balanced"),
    )


def threshold_option() -> Any:
    """The declaration of `threshold`."""
    return option(
        None,
        "Predict no label with a probability below this.",
        low=0,
        high=1,
        metavar="PROBABILITY",
        default_text="none; 0.5 if texts may have several labels",
    )


@dataclass(frozen=True)
class ClassificationEvaluation(ReadingOptions):
    """How a classifier is evaluated."""

    label_column: str | None = option(
        None, "The label column.", metavar="NAME", default_text="as in training", section="Classification"
    )
    label_separator: str | None = option(
        None, "What stands between several labels in a cell.", metavar="TEXT", default_text="as in training"
    )
    threshold: float | None = threshold_option()
    baselines: str | None = option(
        None,
        "What to score beside the model: for texts linear (TF-IDF with logistic regression) or none; for series ets, "
        "arima (AutoETS and AutoARIMA; slow).",
        metavar="NAME,...",
        default_text="linear, if scikit-learn is installed and this takes seconds",
    )
    plot: str | None = option(None, "Plot the result as PNG.", metavar="FILE", writes=PLOT)


@dataclass(frozen=True)
class ClassificationPrediction(ReadingOptions):
    """How texts to classify are read, and what is printed of the predictions."""

    whole_files: bool | None = option(
        None,
        "Read a plain file as one text, or as one text per line.",
        default_text="as in training; lines for tables",
        no="lines",
        section="Classification",
    )
    threshold: float | None = threshold_option()
    explain: bool = option(False, "Also show how much each word adds to the probability of the label.", no="")
    explain_html: str | None = option(
        None, "Write a page that shows this for all texts.", metavar="FILE", writes=EXPLANATIONS
    )

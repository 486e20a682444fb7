"""The options of learning labels, each declared once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from textgen.options import option

POOLINGS = ("last", "mean", "max")


@dataclass(frozen=True)
class LabelsOptions:
    """What says the label of a text, and how a model comes to one."""

    of_task: ClassVar[str] = "classify"

    label_column: str | None = option(
        None,
        "The column of a table that holds the label.",
        metavar="NAME",
        default_text="label",
        section="Labels (--task classify)",
    )
    pooling: str = option(
        "last",
        "What of a model's outputs along a text is the answer: the last, their mean, or the highest for each label.",
        choices=POOLINGS,
    )
    class_weights: str = option(
        "none",
        "Let texts of rare labels count for more, so that all labels weigh the same.",
        choices=("none", "balanced"),
    )

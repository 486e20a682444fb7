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
        "The label column of a table.",
        metavar="NAME",
        default_text="label",
        section="Classification (--task classify)",
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

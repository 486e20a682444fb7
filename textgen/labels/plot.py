"""Plots a confusion matrix: rows are true labels, columns predicted ones. Needs matplotlib."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from textgen import files
from textgen.dependencies import require
from textgen.labels.figures import ClassificationMetrics
from textgen.plots import to_png

INK, PALE = "#333333", "#FFFFFF"
MOST_NUMBERS = 30
"""With more labels than this, the cells are too small for numbers."""


def plot_confusion(metrics: ClassificationMetrics, path: Path) -> None:
    """Write a PNG: colours are shares of the row, numbers count texts. Raises TextgenError without matplotlib."""
    require("matplotlib")
    from matplotlib.figure import Figure

    counts, labels = metrics.confusion, [_short(label) for label in metrics.labels]
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    size = min(20.0, 2.6 + 0.75 * len(labels))
    figure = Figure(figsize=(size + 0.8, size), dpi=160, layout="constrained")
    axes = figure.subplots()
    image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    axes.set_xticks(range(len(labels)), labels, rotation=90 if len(labels) > 6 else 0, parse_math=False)
    axes.set_yticks(range(len(labels)), labels, parse_math=False)
    axes.set_xlabel("predicted label", color=INK)
    axes.set_ylabel("true label", color=INK)
    axes.tick_params(colors=INK, length=0)
    axes.spines[:].set_visible(False)
    for row, column in np.ndindex(*counts.shape) if len(labels) <= MOST_NUMBERS else ():
        colour = PALE if shares[row, column] > 0.55 else INK
        axes.text(column, row, f"{counts[row, column]:,}", ha="center", va="center", color=colour)
    bar = figure.colorbar(image, ax=axes, fraction=0.046, pad=0.03)
    bar.set_label("share of the true label's texts", color=INK)
    bar.outline.set_visible(False)
    bar.ax.tick_params(colors=INK, length=0)
    axes.set_title(f"accuracy {metrics.accuracy:.1%} of {metrics.texts:,} texts", color=INK, fontsize=11, loc="left")
    files.write_output(path, to_png(figure))


def _short(label: str) -> str:
    return label if len(label) <= 24 else label[:23] + "…"

"""A PNG file that names textgen as its software, so that it is recognized as an earlier plot."""

from __future__ import annotations

import warnings
from io import BytesIO
from typing import TYPE_CHECKING

from textgen.outputs import PLOT_SOFTWARE

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def to_png(figure: Figure) -> bytes:
    """A matplotlib figure as the content of a PNG file."""
    content = BytesIO()
    with warnings.catch_warnings():  # about characters that the font lacks
        warnings.simplefilter("ignore")
        figure.savefig(content, format="png", metadata={"Software": PLOT_SOFTWARE})
    return content.getvalue()

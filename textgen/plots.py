"""What every plot shares: matplotlib, if it is installed, and a PNG file that names textgen as its software."""

from __future__ import annotations

import warnings
from importlib.util import find_spec
from io import BytesIO
from typing import TYPE_CHECKING

from textgen.errors import TextgenError
from textgen.outputs import PLOT_SOFTWARE

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def require_matplotlib() -> None:
    """Raise TextgenError if matplotlib is not installed."""
    if find_spec("matplotlib") is None:
        raise TextgenError("a plot needs matplotlib.", hint="pip install 'textgen-lm[plot]'")


def to_png(figure: Figure) -> bytes:
    """A matplotlib figure as the content of a PNG file."""
    content = BytesIO()
    with warnings.catch_warnings():  # about characters that the font lacks
        warnings.simplefilter("ignore")
        figure.savefig(content, format="png", metadata={"Software": PLOT_SOFTWARE})
    return content.getvalue()

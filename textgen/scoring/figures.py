"""What every measure of a model has to tell, whatever its task."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol


class Figures(Protocol):
    """How good a model is on what is held out."""

    @property
    def loss(self) -> float:
        """The mean loss, as it is reported."""

    @property
    def criterion(self) -> float:
        """What decides which weights are kept: the lowest is best."""

    def to_json(self) -> Mapping[str, Any]:
        """All figures by name."""

    def shown(self) -> dict[str, str]:
        """The figures of the training table, as text by name: the task's `columns`."""

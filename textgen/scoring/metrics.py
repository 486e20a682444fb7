"""What the metrics of every task have in common."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol


class Metrics(Protocol):
    """How well a model does on the held-out part."""

    @property
    def loss(self) -> float:
        """The mean loss, as reported."""

    @property
    def criterion(self) -> float:
        """Decides which weights are kept: lower is better."""

    def to_json(self) -> Mapping[str, Any]:
        """Every metric by name."""

    def shown(self) -> dict[str, str]:
        """The metrics of the training table, as text by name: the task's `columns`."""

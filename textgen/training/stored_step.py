"""The stored step of a model (`step.json`), which runs without torch and without the cell's plugin."""

from __future__ import annotations

import json

from textgen.model import Model
from textgen.model_folder import STEP
from textgen.tracing.notes import Untraceable
from textgen.tracing.trace import trace


def stored_step(model: Model, cell: str) -> tuple[dict[str, bytes], list[str]]:
    """The file `step.json` by name, or nothing and a warning that says why."""
    try:
        content = trace(model).to_json()
    except Untraceable as reason:
        return {}, [f"models of cell {cell!r} will need torch, since numpy cannot run them: {reason}"]
    return {STEP: json.dumps(content, allow_nan=False).encode() + b"\n"}, []

"""What a model is: the sizes, the cell and its options, as stored in `config.json`. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from textgen.errors import TextgenError

FORMAT_VERSION = 1
BACKENDS = ("auto", "numpy", "torch", "int8")
"""What may run a model: its stored step by numpy, the model itself by torch, or the stored step with weights in eight
bits; auto takes the stored step, as it is stored, where there is one, else torch."""

LARGEST = {"vocab_size": 10_000_000, "embedding_size": 65_536, "hidden_size": 65_536, "num_layers": 64}
"""Sizes above these are refused, so that a damaged file costs neither time nor memory."""

MOST_NUMBERS = 65_536
"""So many numbers may be read or written at a time step."""


@dataclass(frozen=True)
class ModelConfig:
    """Everything needed to build a model before its weights are read.

    A model reads one of `vocab_size` symbols at each time step, or `features` numbers where there are any; it puts out
    `outputs` numbers, or one a symbol where `outputs` is 0. What they mean, `task` says. `reading` says how the
    training text was read (see `textgen.text.reading`).
    """

    vocab_size: int
    cell: str = "lstm"
    cell_options: dict[str, Any] = field(default_factory=dict)
    embedding_size: int = 256
    hidden_size: int = 256
    num_layers: int = 1
    tie_word_embeddings: bool = False
    residual: bool = False
    layer_norm: bool = False
    cell_distribution: str = "textgen-lm"
    cell_version: str = ""
    task: str = "lm"
    features: int = 0
    outputs: int = 0
    reading: dict[str, Any] = field(default_factory=dict)

    @property
    def output_size(self) -> int:
        """How many numbers come out at each time step."""
        return self.outputs or self.vocab_size

    def __post_init__(self) -> None:
        for name, most in LARGEST.items():
            value = getattr(self, name)
            if type(value) is not int or not 1 <= value <= most:
                raise TextgenError(f"{name} must be a whole number from 1 to {most:,}, not {value!r}.")
        for name in ("tie_word_embeddings", "residual", "layer_norm"):
            if type(getattr(self, name)) is not bool:
                raise TextgenError(f"{name} must be true or false, not {getattr(self, name)!r}.")
        for name in ("features", "outputs"):
            value = getattr(self, name)
            if type(value) is not int or not 0 <= value <= MOST_NUMBERS:
                raise TextgenError(f"{name} must be a whole number from 0 to {MOST_NUMBERS:,}, not {value!r}.")
        if self.tie_word_embeddings and (self.features or self.output_size != self.vocab_size):
            raise TextgenError("tie_word_embeddings goes with a model that reads and writes the same symbols.")
        for name in ("cell", "cell_distribution", "cell_version", "task"):
            if type(getattr(self, name)) is not str:
                raise TextgenError(f"{name} must be text, not {getattr(self, name)!r}.")
        for name in ("cell_options", "reading"):
            if not isinstance(getattr(self, name), dict):
                raise TextgenError(f"{name} must be a table, not {getattr(self, name)!r}.")

    def to_json(self) -> dict[str, Any]:
        """The content of `config.json`, in the Hugging Face way."""
        return {
            "model_type": "textgen",
            "architectures": ["RecurrentLanguageModel" if self.task == "lm" else "RecurrentModel"],
            "format_version": FORMAT_VERSION,
            **asdict(self),
        }

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> ModelConfig:
        """Read `config.json`; unknown keys are passed over, since a newer minor version may add some."""
        version = content.get("format_version")
        if type(version) is not int or version < 1:
            raise TextgenError(f"format_version must be a whole number from 1, not {version!r}.")
        if version > FORMAT_VERSION:
            raise TextgenError(
                f"the model has format {version}; this textgen reads up to {FORMAT_VERSION}.",
                hint="upgrade textgen-lm.",
            )
        known = {f.name for f in fields(cls)}
        if "vocab_size" not in content:
            raise TextgenError("config.json lacks vocab_size.")
        return cls(**{key: value for key, value in content.items() if key in known})

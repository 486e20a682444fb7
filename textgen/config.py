"""The configuration of a model: sizes, cell and options, as stored in `config.json`. Does not import torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from textgen.errors import TextgenError

FORMAT_VERSION = 1
"""The version of model folders: `config.json` and `step.json`."""

BACKENDS = ("auto", "numpy", "torch", "int8")
"""What runs a model: numpy (the stored step), torch (the model itself), or int8 (the stored step with int8 weights).
`auto` is the stored step as it is stored, or torch if there is none."""

LARGEST = {"vocab_size": 10_000_000, "embedding_size": 65_536, "hidden_size": 65_536, "num_layers": 64}
"""Upper bounds, so that a damaged file costs neither time nor memory."""

MOST_NUMBERS = 65_536
"""The most inputs or outputs of a time step."""


def check_version(version: int, name: str) -> None:
    """Raise TextgenError, beginning with `name`, unless this textgen reads this version of model folders."""
    if version != FORMAT_VERSION:
        raise TextgenError(
            f"{name} has format version {version}; this textgen reads version {FORMAT_VERSION}.",
            hint="train again with this textgen, or install the textgen-lm that wrote it.",
        )


@dataclass(frozen=True)
class ModelConfig:
    """Everything needed to build a model before its weights are read.

    At each time step a model reads one of `vocab_size` tokens, or `features` numbers if that is not 0; it computes
    `outputs` numbers, or one for each token if `outputs` is 0. `task` gives them their meaning. `reading` says how the
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
        """The number of outputs at each time step."""
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
            raise TextgenError("tie_word_embeddings requires a model that reads and predicts the same tokens.")
        for name in ("cell", "cell_distribution", "cell_version", "task"):
            if type(getattr(self, name)) is not str:
                raise TextgenError(f"{name} must be text, not {getattr(self, name)!r}.")
        for name in ("cell_options", "reading"):
            if not isinstance(getattr(self, name), dict):
                raise TextgenError(f"{name} must be a table, not {getattr(self, name)!r}.")

    def to_json(self) -> dict[str, Any]:
        """The content of `config.json`, in the layout of Hugging Face."""
        return {
            "model_type": "textgen",
            "architectures": ["RecurrentLanguageModel" if self.task == "lm" else "RecurrentModel"],
            "format_version": FORMAT_VERSION,
            **asdict(self),
        }

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> ModelConfig:
        """Read the content of `config.json`; unknown keys are ignored."""
        version = content.get("format_version")
        if type(version) is not int or version < 1:
            raise TextgenError(f"format_version must be a whole number from 1, not {version!r}.")
        check_version(version, "the model")
        known = {f.name for f in fields(cls)}
        if "vocab_size" not in content:
            raise TextgenError("config.json lacks vocab_size.")
        return cls(**{key: value for key, value in content.items() if key in known})

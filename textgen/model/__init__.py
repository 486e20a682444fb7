"""The configuration of a model, and the files of a model folder. Imports no torch."""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from textgen import hub, plugins, storage
from textgen.data import Reading
from textgen.errors import TextgenError, did_you_mean
from textgen.storage import FORMAT_VERSION, check_version

CONFIG = "config.json"
WEIGHTS = "model.safetensors"
GENERATION = "generation_config.json"
CARD = "README.md"
STEP = "step.json"
LARGEST_HEADER = 4 << 20
"""The largest header of a weights file, in bytes."""


LONGEST_POINTER = 1024
"""The maximum size of the file `latest`, in bytes: the name of a folder and a line end."""
BACKENDS = ("auto", "numpy", "torch", "int8")
"""What runs a model: numpy (the stored step), torch (the model itself), or int8 (the stored step with int8 weights).
`auto` is the stored step as it is stored, or torch if there is none."""

STORED_TYPES = ("int8", "float16")
"""The types in which `textgen quantize` stores weights."""

LARGEST = {
    "vocab_size": 10_000_000,
    "embedding_size": 65_536,
    "hidden_size": 65_536,
    "num_layers": 64,
    "features": 65_536,
    "outputs": 65_536,
    "members": 64,
}
"""Upper bounds, so that a damaged file costs neither time nor memory."""
_KINDS: dict[type, tuple[str, ...]] = {
    bool: ("true or false", "tie_word_embeddings", "residual", "layer_norm"),
    str: ("text", "cell", "cell_distribution", "cell_version", "task"),
    dict: ("a table", "cell_options", "reading", "base"),
}
"""How a message calls the type of some fields, and the fields."""


@dataclass(frozen=True)
class ModelConfig:
    """Everything needed to build a model before its weights are read.

    At each time step a model reads one of `vocab_size` tokens, or `features` numbers if that is not 0; it computes
    `outputs` numbers, or one for each token if `outputs` is 0. `task` gives them their meaning. With several `members`,
    it is an ensemble of as many models (`textgen.model.ensemble`). `reading` says how the
    training text was read (see `textgen.data`), and `base` from which model the training started (see
    `textgen.model.bases`).
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
    members: int = 1
    reading: dict[str, Any] = field(default_factory=dict)
    base: dict[str, Any] = field(default_factory=dict)

    @property
    def output_size(self) -> int:
        """The number of outputs at each time step."""
        return self.outputs or self.vocab_size

    def __post_init__(self) -> None:
        for name, most in LARGEST.items():
            value, least = getattr(self, name), 0 if name in ("features", "outputs") else 1
            if type(value) is not int or not least <= value <= most:
                raise TextgenError(f"{name} must be a whole number from {least} to {most:,}, not {value!r}.")
        for kind, (wanted, *names) in _KINDS.items():
            for name in names:
                if type(getattr(self, name)) is not kind:
                    raise TextgenError(f"{name} must be {wanted}, not {getattr(self, name)!r}.")
        if self.tie_word_embeddings and (self.features or self.output_size != self.vocab_size):
            raise TextgenError("tie_word_embeddings requires a model that reads and predicts the same tokens.")

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
        if version is not None and (type(version) is not int or version < 1):
            raise TextgenError(f"format_version must be a whole number from 1, not {version!r}.")
        check_version(version, "the model")
        known = {f.name for f in fields(cls)}
        if "vocab_size" not in content:
            raise TextgenError("config.json lacks vocab_size.")
        return cls(**{key: value for key, value in content.items() if key in known})


def read_config(folder: Path, manifest: Mapping[str, Any] | None = None) -> ModelConfig:
    """The configuration of a model folder. Raises TextgenError naming the file."""
    path = str(folder / CONFIG)
    try:
        return ModelConfig.from_json(
            storage.parse_json(storage.verified(folder, CONFIG, manifest, storage.JSON_LIMIT), path)
        )
    except storage.DamagedError:
        raise
    except TextgenError as error:
        raise TextgenError(f"{path}: {error}", hint=error.hint) from None


def find_model(name: str | os.PathLike[str]) -> Path:
    """A model folder by its path, by the name of a run in `runs` (`latest` is the last one), by the name under which an
    installed package offers it, or on the Hub by `hub:owner/name`. The path unchanged if there is none. Raises
    PluginError for a broken package, TextgenError for a model that cannot be downloaded."""
    if os.fspath(name).startswith(hub.PREFIX):
        return hub.cached(os.fspath(name))
    places = (Path(name), Path("runs") / name)
    found = next((place for place in map(followed, places) if place.is_dir()), None)
    return found or plugins.find(os.fspath(name)) or Path(name)


def followed(place: Path) -> Path:
    """The run that a file `latest` names; any other path unchanged."""
    if place.name != "latest" or not place.is_file() or place.stat().st_size > LONGEST_POINTER:
        return place
    run = place.parent / place.read_text(errors="replace").strip()
    return run if run.parent == place.parent else place


def require_model(folder: Path) -> None:
    """Raise TextgenError unless the folder exists and holds a model."""
    if not folder.is_dir():
        siblings = [each.name for each in sorted(folder.parent.glob("*")) if (each / CONFIG).is_file()]
        what = f"{str(folder)!r} is a file, not a model folder." if folder.exists() else None
        near = did_you_mean(folder.name, siblings)
        raise TextgenError(
            what or f"there is no model folder {str(folder)!r}.{near}", hint="train one: textgen train FILE"
        )
    if not (folder / storage.MANIFEST).exists():
        raise TextgenError(f"{str(folder)!r} is not a model folder (it has no {storage.MANIFEST}).")
    if CONFIG not in storage.read_manifest(folder)["files"]:
        raise TextgenError(f"{str(folder)!r} is not a model folder (it holds no {CONFIG}).")


def task_of(folder: Path) -> str:
    """The task of the model in a folder. Raises TextgenError for a folder without a model."""
    require_model(folder)
    return read_config(folder).task


def require_weights(folder: Path, manifest: Mapping[str, Any]) -> None:
    """Raise TextgenError if a run folder holds no weights yet."""
    if WEIGHTS not in manifest["files"]:
        raise TextgenError(
            f"{str(folder)!r} holds no weights yet.", hint=f"go on training: textgen train --resume {folder}"
        )


def remembered_reading(folder: Path, asked: Mapping[str, Any]) -> Reading:
    """How the model in a folder reads text, overridden by what is asked. Without a model, or with a damaged one (which
    is reported when it is opened), only what is asked."""
    record: Mapping[str, Any] = {}
    with suppress(storage.DamagedError):
        if (folder / CONFIG).is_file() and (folder / storage.MANIFEST).is_file():
            record = read_config(folder).reading
    return Reading.of(record, asked)

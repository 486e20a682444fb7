"""The data of a run: read from a corpus and stored in a sealed folder named by its content."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np
import numpy.typing as npt
import safetensors
import safetensors.numpy

from textgen import storage
from textgen.data import TOKENIZER_KINDS
from textgen.data.recipes import TRAIN, VALIDATION, Progress
from textgen.data.store import TokenStore, tokenizer_of
from textgen.data.tokenizers.base import Tokenizer
from textgen.model import ModelConfig
from textgen.storage import filesystem

if TYPE_CHECKING:
    from textgen.tasks.objective import Objective

Arrays = dict[str, npt.NDArray[Any]]


@dataclass(frozen=True)
class ExampleStore:
    """The arrays of each part by name, and the manifest of their folder."""

    folder: Path
    about: dict[str, Any]
    parts: dict[str, Arrays]

    @property
    def key(self) -> str:
        return str(self.about["key"])

    def digests(self) -> dict[str, str]:
        """The SHA-256 of every file, by name."""
        return {name: entry["sha256"] for name, entry in self.about["files"].items()}

    def content(self, name: str) -> bytes:
        """The content of another file of the folder, verified against its checksum."""
        return storage.verified(self.folder, name, self.about, storage.JSON_LIMIT)


def write_examples(
    folder: Path,
    kind: str,
    key: str,
    parts: Mapping[str, Mapping[str, npt.NDArray[Any]]],
    about: Mapping[str, Any],
    others: Mapping[str, bytes],
) -> None:
    """Commit a folder of examples: the arrays of both parts, their description, and other files unchanged."""
    with filesystem.new_folder(folder) as new:
        for part in (TRAIN, VALIDATION):
            arrays = {name: np.ascontiguousarray(array) for name, array in parts[part].items()}
            new.write(_file_of(part), safetensors.numpy.save(arrays))
        for name, content in others.items():
            new.write(name, content)
        new.about = {**about, "kind": kind, "key": key}


def open_examples(folder: Path, kind: str) -> ExampleStore:
    """Open what `write_examples` wrote. Raises TextgenError for what is missing or damaged, by name."""
    manifest = storage.read_manifest(folder)
    if manifest.get("kind") != kind or not isinstance(manifest.get("key"), str):
        raise storage.DamagedError(f"{folder} does not hold {kind} of this version of textgen.")
    parts: dict[str, Arrays] = {}
    for part in (TRAIN, VALIDATION):
        try:
            parts[part] = safetensors.numpy.load(storage.verified(folder, _file_of(part), manifest))
        except (safetensors.SafetensorError, KeyError, ValueError) as error:
            raise storage.DamagedError(f"{folder / _file_of(part)} is damaged: {error}.") from error
    return ExampleStore(folder, manifest, parts)


def _file_of(part: str) -> str:
    return f"{part}.safetensors"


class TaskData(ABC):
    """The data of a run. The planner, the trainer and run folders know only this class."""

    store: TokenStore | ExampleStore

    @property
    def folder(self) -> Path:
        """The folder that stores it."""
        return self.store.folder

    @property
    def key(self) -> str:
        """A digest of everything that determines it."""
        return self.store.key

    @property
    def tokenizer(self) -> Tokenizer | None:
        """The tokenizer; None for data that is not text."""
        return None

    @property
    @abstractmethod
    def training_tokens(self) -> int:
        """Tokens, or time steps, to train on."""

    @property
    @abstractmethod
    def held_out_tokens(self) -> int:
        """Tokens, or time steps, that are held out."""

    @property
    def characters_per_token(self) -> float:
        """The approximate number of characters per token."""
        return 1.0

    @property
    def most_epochs(self) -> float | None:
        """The maximum number of epochs that a plan by minutes chooses."""
        return None

    @classmethod
    @abstractmethod
    def prepare(cls, paths: list[str], options: Any, cache: Path, progress: Progress) -> Self:
        """Read a corpus and store it in `cache`, unless it is there already. Raises TextgenError or UsageError."""

    @classmethod
    @abstractmethod
    def open(cls, folder: Path) -> Self:
        """Open stored data. Raises TextgenError naming what is missing or damaged."""

    @abstractmethod
    def described(self) -> list[str]:
        """Phrases that describe it in the plan."""

    @abstractmethod
    def digests(self) -> dict[str, str]:
        """The SHA-256 of everything that a run reads, by file name."""

    @abstractmethod
    def with_defaults(self, options: Any) -> Any:
        """The options with a batch size, a truncated BPTT length, and the other defaults of this task."""

    def tokens_per_step(self, options: Any) -> float:
        """Tokens, or time steps, that a training step reads."""
        return float(options.batch_size * options.seq_length)

    @abstractmethod
    def config(self, options: Any, hidden_size: int) -> ModelConfig:
        """The model that the options ask for, at this hidden size."""

    @abstractmethod
    def objective(self, options: Any) -> Objective:
        """The training objective. Raises TextgenError if the data does not fill one batch."""

    @abstractmethod
    def files(self) -> dict[str, bytes]:
        """The files of a model folder besides configuration, weights and arguments."""

    def text_ids(self) -> npt.NDArray[np.integer]:
        """The token ids of every text that the model learns to generate, a boundary before each; none for models that
        generate no text."""
        return np.zeros(0, np.int32)

    @abstractmethod
    def card(self, config: ModelConfig, name: str) -> str:
        """The model folder's README, with the header that model hubs read."""


class ExampleData(TaskData):
    """Data that is stored as arrays of examples, not as one stream of tokens.

    A subclass is a dataclass whose first field is `store`, and names its `kind` of folder and its `arrays`.
    """

    kind: ClassVar[str]
    arrays: ClassVar[tuple[str, ...]]

    store: ExampleStore

    @classmethod
    def open(cls, folder: Path) -> Self:
        store = open_examples(folder, cls.kind)
        for part in (TRAIN, VALIDATION):
            if sorted(store.parts[part]) != sorted(cls.arrays):
                raise storage.DamagedError(f"{folder} is damaged: its {part} part does not hold the expected arrays.")
        return cls(store)  # type: ignore[call-arg]

    def digests(self) -> dict[str, str]:
        return self.store.digests()

    def tokens_per_step(self, options: Any) -> float:
        return self.objective(options).tokens_per_step


class TextExampleData(ExampleData):
    """Examples of text: a tokenizer beside the arrays, and the ids of all examples of a part in the array `ids`."""

    @cached_property
    def tokenizer(self) -> Tokenizer:
        return tokenizer_of(self.folder)

    @property
    def characters_per_token(self) -> float:
        return TOKENIZER_KINDS[self.tokenizer.kind].characters

    @property
    def training_tokens(self) -> int:
        return len(self.store.parts[TRAIN]["ids"])

    @property
    def held_out_tokens(self) -> int:
        return len(self.store.parts[VALIDATION]["ids"])


def model_card(
    name: str,
    pipeline: str,
    what: str,
    config: ModelConfig,
    details: Sequence[str],
    use: str = 'sample -m {} --prompt "..."',
) -> str:
    """The README of a model folder, with the header that model hubs read: `what` it is, some `details`, and the
    `textgen` command that uses it."""
    facts = [f"{config.num_layers} x {config.cell}", f"{config.hidden_size} units", *details]
    return f"""---
library_name: textgen
pipeline_tag: {pipeline}
---

# {name}

{what}, made with textgen: {", ".join(facts)}.

    textgen {use.format(name)}

The metrics over time are in `metrics.jsonl`, every option in `training_args.json`.
"""

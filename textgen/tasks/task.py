"""What a task decides: what is read, which windows are trained on, what the loss is, how a model is scored.

The trainer, the plan, run folders, checkpoints and resuming know these two classes and no task of their own. Outputs
come at every time step, (T, B, outputs); a task chooses which of them count.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Self

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from textgen import files
from textgen.config import ModelConfig
from textgen.disk import sweep
from textgen.errors import TextgenError
from textgen.model import Candidates, Model
from textgen.recurrence import State
from textgen.scoring.metrics import Metrics as Metrics
from textgen.settings import TrainOptions
from textgen.tasks.examples import ExampleStore
from textgen.text.split import Progress
from textgen.text.store import TokenStore
from textgen.text.tokenizer import Tokenizer


class Data(ABC):
    """What a run learns from, read and stored; it lives in a sealed folder named by its key."""

    tokenizer: Tokenizer | None = None
    most_epochs: float | None = None
    """The plan of a given time makes no more passes than this."""
    next_verb: str = 'sample{model} --prompt "..."'
    """What to type once a model is trained."""
    characters: float = 1.0
    """About how many characters of text a symbol stands for."""

    store: TokenStore | ExampleStore

    @property
    def folder(self) -> Path:
        """Where it is stored."""
        return self.store.folder

    @property
    def key(self) -> str:
        """A digest of all that it depends on."""
        return self.store.key

    @property
    @abstractmethod
    def amount(self) -> int:
        """Symbols, or time steps, to train on."""

    @property
    @abstractmethod
    def held_out(self) -> int:
        """Symbols, or time steps, that are held out."""

    @classmethod
    @abstractmethod
    def prepare(cls, paths: list[str], options: TrainOptions, cache: Path, progress: Progress) -> Self:
        """Read a corpus and store it in `cache`, or find it there. Raises TextgenError or UsageError."""

    @classmethod
    @abstractmethod
    def open(cls, folder: Path) -> Self:
        """What was stored. Raises TextgenError for what is missing or damaged, by name."""

    @abstractmethod
    def described(self) -> list[str]:
        """What the plan says of it."""

    @abstractmethod
    def digests(self) -> dict[str, str]:
        """The SHA-256 of everything that a run reads, by the names of the files."""

    @abstractmethod
    def with_defaults(self, options: TrainOptions) -> TrainOptions:
        """The options with a batch size and a length of windows, and whatever else this task has habits for."""

    def symbols_per_step(self, options: TrainOptions) -> float:
        """Symbols, or time steps, that a step reads."""
        assert options.batch_size and options.seq_length
        return options.batch_size * options.seq_length

    @abstractmethod
    def config(self, options: TrainOptions, hidden_size: int) -> ModelConfig:
        """The model that the options ask for, at this hidden size."""

    @abstractmethod
    def task(self, options: TrainOptions) -> Task:
        """How this is learned. Raises TextgenError if it does not fill one batch."""

    @abstractmethod
    def files(self) -> dict[str, bytes]:
        """What a model folder keeps beside its configuration, weights and arguments."""

    def written(self) -> npt.NDArray[np.integer]:
        """The ids of every text that is learned, a boundary before each; none where models write none."""
        return np.zeros(0, np.int32)

    @abstractmethod
    def card(self, config: ModelConfig, name: str) -> str:
        """The model folder's README, with the header that model hubs read."""


class ExampleData(Data):
    """What is learned from where it is kept as examples."""

    store: ExampleStore

    def digests(self) -> dict[str, str]:
        return self.store.digests()

    @classmethod
    def kept(cls, folder: Path, write: Callable[[], None]) -> Self:
        """What a folder holds; `write` makes it where it is not there yet or is damaged. What killed processes left
        beside it is removed."""
        for place in (folder.parent, folder.parent.parent):
            sweep(place)
        if folder.is_dir():
            try:
                return cls.open(folder)
            except TextgenError:
                files.remove_folder(folder)
        with suppress(FileExistsError):  # another process was faster
            write()
        return cls.open(folder)


class Task(ABC):
    """How a model is trained and scored."""

    columns: tuple[str, ...] = ("loss",)
    """The names of the figures in the training table."""

    @property
    def guessing_loss(self) -> float | None:
        """The held-out loss of a model that finds everything equally likely; None where there is no such loss."""
        return None

    @property
    @abstractmethod
    def steps_per_epoch(self) -> int:
        """Steps in one pass over the training part."""

    @property
    @abstractmethod
    def symbols_per_step(self) -> float:
        """Symbols, or time steps, that a step reads."""

    def fresh(self, step: int) -> Tensor | None:
        """The lanes, (B,) of bool, whose carried state is dropped before this step; None for all of them."""
        return None

    def carried(self, step: int, initial: State, before: State) -> State:
        """The state into a step: what the step before left, and the initial one in lanes that begin afresh."""
        fresh = self.fresh(step)
        if not before or fresh is None:
            return initial
        if not fresh.any():
            return before
        wide = [fresh.to(old.device).view(-1, *[1] * (old.dim() - 1)) for old in before]
        return tuple(torch.where(*each) for each in zip(wide, initial, before, strict=True))

    @abstractmethod
    def window(self, step: int) -> tuple[Tensor, Tensor]:
        """Inputs (T, B, ...) and targets (K, B, ...) of a step, a pure function of the seed and the step."""

    def candidates(self, step: int, targets: Tensor) -> tuple[Candidates | None, Tensor]:
        """Which symbols the outputs of a step are computed for, None for all, and the targets as places among them."""
        return None, targets

    @abstractmethod
    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """The mean loss, a scalar, of outputs (T, B, O) over whatever counts."""

    def share(self, targets: Tensor, lanes: slice) -> float:
        """The part of a batch's loss that some of its lanes weigh: by default, their number."""
        return len(range(targets.shape[1])[lanes]) / targets.shape[1]

    @abstractmethod
    def evaluate(self, model: Model, quick: bool) -> Metrics | None:
        """The figures on what is held out; None if nothing is. A quick look may take a part of it."""

    def warnings(self) -> list[str]:
        """What a person should know of the data before this is trained, a sentence each."""
        return []

    def sample(self, model: Model) -> str | None:
        """A line that shows what the model does by now; None if there is nothing to show."""
        return None

"""How a tagger is trained: its data, and its loss."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

from textgen.data import Reading
from textgen.data.recipes import TRAIN, VALIDATION, Progress
from textgen.data.tokenizers import train_tokenizer
from textgen.errors import TextgenError
from textgen.formatting import plural
from textgen.model import ModelConfig
from textgen.model.stack import Model
from textgen.model.weights import TorchStepper
from textgen.storage import filesystem
from textgen.tasks import model_config
from textgen.tasks.classification.classifier import ClassificationMetrics, Texts
from textgen.tasks.classification.data import replacement
from textgen.tasks.data import ExampleStore, TextExampleData, model_card, write_examples
from textgen.tasks.objective import Objective
from textgen_tagger import TagOptions
from textgen_tagger.tagger import FILE, NO_LABEL, Tagger, encode, read


@dataclass(frozen=True)
class TagData(TextExampleData):
    """Labeled sentences as `encode` returns them."""

    kind, arrays, most_epochs = "labeled sentences", ("ids", "labels", "ends"), 20.0

    store: ExampleStore

    @classmethod
    def prepare(cls, paths: list[str], options: TagOptions, cache: Path, progress: Progress) -> Self:
        reading = Reading.of({}, {"encoding": options.encoding})
        train = read(paths, reading)
        labels = sorted({label for sentence in train for _, label in sentence})
        model: dict[str, Any] = {"labels": labels, "lookahead": options.lookahead}
        if options.validation_file:
            held_out = read([options.validation_file], reading, labels)
        else:
            np.random.default_rng(options.seed).shuffle(train)
            held_out = [train.pop() for _ in range(round(options.validation_split * len(train)))]
        if not train:
            raise TextgenError("every sentence is held out; that leaves none to train on.")
        folder = cache / filesystem.cache_key(cls.kind, train, held_out, model)

        def write() -> None:
            documents = ([" ".join(token for token, _ in sentence).encode()] for sentence in train)
            tokenizer = train_tokenizer("word", documents, 30_000)
            parts = {name: encode(part, tokenizer, **model) for name, part in ((TRAIN, train), (VALIDATION, held_out))}
            write_examples(folder, cls.kind, folder.name, parts, {"model": model}, tokenizer.files())

        return filesystem.cached(folder, cls.open, write)

    @property
    def model(self) -> dict[str, Any]:
        """What a model folder says besides weights and tokenizer."""
        model: dict[str, Any] = self.store.about["model"]
        return model

    def described(self) -> list[str]:
        train, held_out = (len(self.store.parts[part]["ends"]) for part in (TRAIN, VALIDATION))
        return [plural(train, "sentence"), f"{held_out:,} held out", plural(len(self.model["labels"]), "label")]

    def with_defaults(self, options: TagOptions) -> TagOptions:
        longest = int(np.diff(self.store.parts[TRAIN]["ends"], prepend=0).max())
        defaults: dict[str, Any] = {"batch_size": 16, "seq_length": longest, "hidden_size": 128, "dropout": 0.3}
        missing = {name: value for name, value in defaults.items() if getattr(options, name) is None}
        return replace(options, **missing, tie_weights=False)

    def config(self, options: TagOptions, hidden_size: int) -> ModelConfig:
        config = model_config(options, "word", self.tokenizer.vocab_size, hidden_size)
        return replace(config, task="tag", outputs=len(self.model["labels"]))

    def objective(self, options: TagOptions) -> TagObjective:
        return TagObjective(self, options)

    def files(self) -> dict[str, bytes]:
        return {FILE: filesystem.to_json(self.model), **self.tokenizer.files()}

    def card(self, config: ModelConfig, name: str) -> str:
        return model_card(name, "token-classification", "A tagger", config, self.described(), "predict -m {} FILE")


@dataclass(frozen=True)
class TagObjective(Objective):
    """Predict the label of every token; the loss is in nats per token."""

    columns = ("loss", "accuracy", "macro F1")

    data: TagData
    options: TagOptions

    @property
    def steps_per_epoch(self) -> int:
        return -(-len(self.data.store.parts[TRAIN]["ends"]) // (self.options.batch_size or 1))

    @property
    def tokens_per_step(self) -> float:
        return self.data.training_tokens / self.steps_per_epoch

    def window(self, step: int) -> tuple[Tensor, Tensor]:
        arrays, tokenizer, size = self.data.store.parts[TRAIN], self.data.tokenizer, self.options.batch_size or 1
        epoch, batch = divmod(step, self.steps_per_epoch)
        order = np.random.default_rng([self.options.seed, epoch]).permutation(len(arrays["ends"]))
        lanes = np.resize(np.roll(order, -batch * size), size)  # the last batch is filled up from the first one
        ids, labels = (
            Texts(arrays[name], arrays["ends"], pad).window(lanes, 0, self.options.seq_length or 1)[0]
            for name, pad in (("ids", tokenizer.boundary), ("labels", NO_LABEL))
        )
        rare = replacement(np.bincount(arrays["ids"]), tokenizer.boundary)[ids]  # the unknown token is learned, too
        ids[np.random.default_rng([self.options.seed, step]).random(ids.shape) < rare] = tokenizer.escape or 0
        return torch.from_numpy(ids), torch.from_numpy(labels).long()

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return torch.nn.functional.cross_entropy(outputs.flatten(0, 1), targets.flatten(), ignore_index=NO_LABEL)

    def share(self, targets: Tensor, lanes: slice) -> float:
        counted = targets != NO_LABEL
        return float(counted[:, lanes].sum() / counted.sum())

    def evaluate(self, model: Model, quick: bool) -> ClassificationMetrics | None:
        tagger = Tagger(self.data.tokenizer, TorchStepper(model), **self.data.model)
        return tagger.metrics(self.data.store.parts[VALIDATION]) if self.data.held_out_tokens else None

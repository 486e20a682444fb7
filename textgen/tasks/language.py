"""Language modelling: predict each symbol of a text from those before it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Self

import numpy as np
import torch
from torch import Tensor

from textgen import files, sealed
from textgen.config import ModelConfig
from textgen.disk import sweep
from textgen.errors import TextgenError, UsageError
from textgen.language_model import generation_config, in_context, with_generation_config
from textgen.model import Candidates, Model
from textgen.model_folder import GENERATION
from textgen.parameters import named
from textgen.scoring.evaluate import LANES, WARM, Score, score_ids
from textgen.settings import TrainOptions
from textgen.tasks.sampled_softmax import SampledSoftmax, refuse_few_symbols
from textgen.tasks.sizing import QUICK_LOOK, TextPlan
from textgen.tasks.task import Data, Task
from textgen.text import corpus
from textgen.text.corpus_settings import CorpusOptions
from textgen.text.lanes import MORE_TEXT, Lanes, missing_escape
from textgen.text.split import TRAIN, VALIDATION, Progress, no_progress
from textgen.text.store import Tokens, TokenStore, open_store
from textgen.text.subword import MODEL_FILE
from textgen.text.symbols import CONFIG_FILE
from textgen.text.tokenizer import Ids, Tokenizer
from textgen.torch_stepper import TorchStepper
from textgen.wording import count, plural, short
from textgen.writing.generate import complete, sampling_options

_DIGESTED = (f"{TRAIN}.bin", f"{VALIDATION}.bin", CONFIG_FILE, MODEL_FILE)
QUICK_WARM = 128
"""Symbols that a lane reads, uncounted, before a quick look: without them a short text is scored mostly cold, and the
wrong weights may look best."""


DOCUMENT_BREAK = " \u23ce "
"""What shows the end of a document in a sample: a sign for the return key."""

SAMPLE_SYMBOLS = 80
"""How much is written to show what a model in training does."""


@dataclass(frozen=True)
class LanguageData(Data):
    """A tokenized corpus."""

    store: TokenStore

    @classmethod
    def prepare(cls, paths: list[str], options: TrainOptions, cache: Path, progress: Progress) -> Self:
        return cls(stored_corpus(paths, options, cache, progress))

    @classmethod
    def open(cls, folder: Path) -> Self:
        return cls(open_store(folder))

    @property
    def tokenizer(self) -> Tokenizer:  # type: ignore[override]
        return self.store.tokenizer

    @cached_property
    def amount(self) -> int:
        return len(self.store.model_tokens(TRAIN))

    @cached_property
    def held_out(self) -> int:
        return len(self.store.model_tokens(VALIDATION))

    @property
    def characters(self) -> float:  # type: ignore[override]
        return self._plan.characters

    @property
    def _plan(self) -> TextPlan:
        return TextPlan(self.tokenizer.level, self.tokenizer.vocab_size, self.amount, self.held_out)

    def with_defaults(self, options: TrainOptions) -> TrainOptions:
        if self.amount < 2:
            raise TextgenError(
                f"the training part has {self.amount} tokens; that is too few to train on.", hint=MORE_TEXT
            )
        if options.sampled_softmax:
            refuse_few_symbols(options.sampled_softmax, self.tokenizer.vocab_size)
        return self._plan.with_defaults(options)

    def config(self, options: TrainOptions, hidden_size: int) -> ModelConfig:
        return self._plan.config(options, hidden_size)

    def task(self, options: TrainOptions) -> LanguageModeling:
        assert options.batch_size and options.seq_length
        return LanguageModeling.of(
            self.store, options.batch_size, options.seq_length, options.seed, options.sampled_softmax
        )

    def described(self) -> list[str]:
        about = self.store.about
        total = sum(about["bytes"].values())
        return [
            f"{short(total)}B",
            plural(about["corpus_documents"], "document"),
            f"{count(about['tokens'][TRAIN])} {about['level']} tokens to train on",
            f"{count(about['vocab_size'])} symbols",
            f"{about['bytes'][VALIDATION] / max(1, total):.0%} held out",
        ]

    def digests(self) -> dict[str, str]:
        listed = self.store.about["files"]
        return {name: listed[name]["sha256"] for name in _DIGESTED if name in listed}

    def files(self) -> dict[str, bytes]:
        return {GENERATION: files.to_json(generation_config(self.store)), **self.tokenizer.files()}

    def written(self) -> Tokens:
        return self.store.tokens(TRAIN)

    def card(self, config: ModelConfig, name: str) -> str:
        about = self.store.about
        return f"""---
library_name: textgen
pipeline_tag: text-generation
---

# {name}

A recurrent language model made with textgen: {config.num_layers} x {config.cell}, {config.hidden_size} units,
{config.vocab_size:,} symbols ({about["level"]}), trained on {about["bytes"][TRAIN]:,} bytes of text.

    textgen sample -m {name} --prompt "..."

The loss over time stands in `metrics.jsonl`, every option in `training_args.json`.
"""


def stored_corpus(
    paths: Sequence[str], options: CorpusOptions, cache: Path, progress: Progress = no_progress
) -> TokenStore:
    """The token store of a corpus: the folder given, if it is one, else the cached one, else a new one."""
    if len(paths) == 1 and (Path(paths[0]) / sealed.MANIFEST).is_file():
        given = [named(f.name) for f in fields(CorpusOptions) if getattr(options, f.name) != f.default]
        if given:
            raise UsageError(f"{given[0]} was decided when {paths[0]!r} was tokenized; leave it out here.")
        return open_store(Path(paths[0]))
    for place in (cache, cache.parent):
        sweep(place)
    seed = getattr(options, "seed", TrainOptions.seed)
    return corpus.cached_store(corpus.survey(paths, options, seed, progress), cache, progress)


@dataclass(frozen=True)
class LanguageModeling(Task):
    """Predict each symbol from those before it; the loss is in nats a symbol."""

    columns = ("loss", "perplexity", "bits/byte")

    store: TokenStore
    lanes: Lanes
    begin: tuple[int, ...] = ()
    sampled: SampledSoftmax | None = None

    @classmethod
    def of(
        cls, store: TokenStore, batch_size: int, seq_length: int, seed: int, sampled_softmax: int | None = None
    ) -> LanguageModeling:
        tokens = store.model_tokens(TRAIN)
        tokenizer = store.tokenizer
        escape, line_end = missing_escape(store.frequencies, tokenizer.escape), tokenizer.encode("\n").tolist()
        lanes = Lanes(tokens, batch_size, seq_length, seed, escape, tokenizer.boundary, line_end[-1])
        sampled = SampledSoftmax(store.frequencies, sampled_softmax, seed) if sampled_softmax else None
        return cls(store, lanes, tuple(generation_config(store)["begin"]), sampled)

    @property
    def guessing_loss(self) -> float:
        """Every symbol equally likely, and 8 bits for each byte of an unseen character, as in evaluation."""
        about = self.store.about
        shown = max(1, about["tokens"][VALIDATION] - about["raw"][VALIDATION])
        return float(np.log(self.store.tokenizer.vocab_size) + about["raw"][VALIDATION] / shown * 8 * np.log(2))

    @property
    def steps_per_epoch(self) -> int:
        return self.lanes.steps_per_epoch

    @property
    def symbols_per_step(self) -> float:
        return self.lanes.batch_size * self.lanes.seq_length

    def fresh(self, step: int) -> Tensor:
        return torch.from_numpy(self.lanes.fresh(step))

    def window(self, step: int) -> tuple[Tensor, Tensor]:
        inputs, targets = self.lanes.window(step)
        return torch.from_numpy(inputs), torch.from_numpy(targets).long()

    def candidates(self, step: int, targets: Tensor) -> tuple[Candidates | None, Tensor]:
        return self.sampled.draw(step, targets) if self.sampled else (None, targets)

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return torch.nn.functional.cross_entropy(outputs.flatten(0, 1), targets.flatten())

    def evaluate(self, model: Model, quick: bool) -> Score | None:
        ids: Ids = np.asarray(self.store.model_tokens(VALIDATION))
        ids = in_context(ids, self.store.tokenizer.boundary, self.begin)
        if len(ids) < 2:
            return None
        about = self.store.about
        most = QUICK_LOOK if quick and len(ids) > QUICK_LOOK else None
        nats, tokens = score_ids(TorchStepper(model), ids, LANES, warm=QUICK_WARM if quick else WARM, most=most)
        share = tokens / (len(ids) - 1)
        raw = about["raw"][VALIDATION] * 8 * np.log(2)
        return Score(
            nats + float(raw) * share,
            tokens,
            max(1, round(about["characters"][VALIDATION] * share)),
            max(1, round(about["bytes"][VALIDATION] * share)),
            None if (unknown := self.store.tokenizer.unknown_count(ids)) is None else round(unknown * share),
        )

    def sample(self, model: Model) -> str:
        """Some documents, with the same seeds each time, and `DOCUMENT_BREAK` between them."""
        tokenizer = self.store.tokenizer
        config, habits = ModelConfig(tokenizer.vocab_size), generation_config(self.store)
        speaker = with_generation_config(config, tokenizer, TorchStepper(model), habits)
        documents: list[str] = []
        left = SAMPLE_SYMBOLS
        while left > 0:
            options = sampling_options(speaker, {"max_new_tokens": left, "seed": 1 + len(documents)})
            (completion,) = complete(speaker, [""], options)
            documents.append(completion.text)
            left -= completion.tokens + 1  # the end of a document counts, so that empty ones end too
        return DOCUMENT_BREAK.join(documents).strip()

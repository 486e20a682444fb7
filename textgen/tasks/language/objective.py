"""The objective of language modeling: predict each token of a text from those before it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from textgen.config import ModelConfig
from textgen.language_model import generation_config, in_context, with_generation_config
from textgen.model import Candidates, Model
from textgen.scoring.evaluate import LANES, WARM, Score, score_ids
from textgen.tasks.language.sampled_softmax import SampledSoftmax
from textgen.tasks.objective import Objective
from textgen.tasks.sizing import QUICK_LOOK
from textgen.text.lanes import Lanes, missing_escape
from textgen.text.split import TRAIN, VALIDATION
from textgen.text.store import TokenStore
from textgen.text.tokenizer import Ids
from textgen.torch_stepper import TorchStepper
from textgen.writing.generate import complete, sampling_options

QUICK_WARM = 128
"""Tokens that a lane reads unscored before a quick evaluation: otherwise a short text is mostly scored without context,
and the wrong weights may look best."""

DOCUMENT_BREAK = " \u23ce "
"""Marks the end of a document in a sample: the sign of the return key."""

SAMPLE_TOKENS = 80
"""The number of tokens in a sample during training."""


@dataclass(frozen=True)
class LanguageObjective(Objective):
    """Predict each token from those before it; the loss is in nats per token."""

    columns = ("loss", "perplexity", "bits/byte")

    store: TokenStore
    lanes: Lanes
    begin: tuple[int, ...] = ()
    sampled: SampledSoftmax | None = None

    @classmethod
    def of(
        cls, store: TokenStore, batch_size: int, seq_length: int, seed: int, sampled_softmax: int | None = None
    ) -> LanguageObjective:
        tokens = store.model_tokens(TRAIN)
        tokenizer = store.tokenizer
        escape, line_end = missing_escape(store.frequencies, tokenizer.escape), tokenizer.encode("\n").tolist()
        lanes = Lanes(tokens, batch_size, seq_length, seed, escape, tokenizer.boundary, line_end[-1])
        sampled = SampledSoftmax(store.frequencies, sampled_softmax, seed) if sampled_softmax else None
        return cls(store, lanes, tuple(generation_config(store)["begin"]), sampled)

    @property
    def guessing_loss(self) -> float:
        """Every token equally likely, and 8 bits for each byte of an unseen character, as in evaluation."""
        about = self.store.about
        shown = max(1, about["tokens"][VALIDATION] - about["raw"][VALIDATION])
        return float(np.log(self.store.tokenizer.vocab_size) + about["raw"][VALIDATION] / shown * 8 * np.log(2))

    @property
    def steps_per_epoch(self) -> int:
        return self.lanes.steps_per_epoch

    @property
    def tokens_per_step(self) -> float:
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
        config, generation = ModelConfig(tokenizer.vocab_size), generation_config(self.store)
        writer = with_generation_config(config, tokenizer, TorchStepper(model), generation)
        documents: list[str] = []
        left = SAMPLE_TOKENS
        while left > 0:
            options = sampling_options(writer, {"max_new_tokens": left, "seed": 1 + len(documents)})
            (completion,) = complete(writer, [""], options)
            documents.append(completion.text)
            left -= completion.tokens + 1  # the end of a document counts, so that empty ones end too
        return DOCUMENT_BREAK.join(documents).strip()

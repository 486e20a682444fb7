"""The objective of a language model: predict each token from those before it.

For vocabularies so large that reading out is most of a step, the softmax is taken over a sample of the tokens. A
step compares the right tokens with all that are right somewhere in its window and with `count` others, drawn with
probabilities p that follow how frequent they are (Bengio and Senécal 2003, Jean et al. 2015). A drawn token stands
for 1/p of its kind: its exp(logit) counts 1/p times, so that the sum under the softmax is, on average, the sum over
all tokens. Evaluation and sampling take the whole softmax.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from textgen.data.recipes import TRAIN, VALIDATION
from textgen.data.store import Lanes, TokenStore, missing_escape
from textgen.data.stream import StreamLanes
from textgen.data.stream_store import stream_lanes
from textgen.data.tokenizers.base import Ids
from textgen.evaluation import LANES, WARM, Score, score_ids
from textgen.generation.generate import complete, sampling_options
from textgen.generation.language_model import generation_config, in_context, with_generation_config
from textgen.model import ModelConfig
from textgen.model.stack import Candidates, Model, keyed_seed
from textgen.model.weights import TorchStepper
from textgen.tasks.data import QUICK_LOOK
from textgen.tasks.language.options import LanguageOptions, refuse_few_tokens
from textgen.tasks.objective import Objective

FLATTENED = 0.75
"""The probability of drawing a token is proportional to its frequency to this power (Mikolov et al. 2013)."""

QUICK_WARM = 128
"""Tokens that a lane reads unscored before a quick evaluation: otherwise a short text is mostly scored without context,
and the wrong weights may look best."""

DOCUMENT_BREAK = " \u23ce "
"""Marks the end of a document in a sample: the sign of the return key."""

SAMPLE_TOKENS = 80
"""The number of tokens in a sample during training."""


class SampledSoftmax:
    """Draws the candidates of each step: a pure function of (seed, step) and of the step's targets."""

    def __init__(self, frequencies: npt.NDArray[Any], count: int, seed: int) -> None:
        """`frequencies` (V,) counts each token. Raises UsageError unless `count` is less than V."""
        refuse_few_tokens(count, len(frequencies))
        self.probabilities = inclusion(np.maximum(frequencies, 1) ** FLATTENED, count)
        self._ends = np.cumsum(self.probabilities)
        self._count, self._seed = count, seed

    def draw(self, step: int, targets: Tensor) -> tuple[Candidates, Tensor]:
        """The candidates of a step, and its targets (T, B) as indices into them."""
        shift = np.random.default_rng(keyed_seed(self._seed, step, "candidates")).random()
        right, places = np.unique(targets.cpu().numpy(), return_inverse=True)
        drawn = np.setdiff1d(self.at(shift), right)
        ids = np.concatenate([right, drawn])
        corrections = np.concatenate([np.zeros(len(right)), -np.log(self.probabilities[drawn])]).astype(np.float32)
        device = targets.device
        candidates = Candidates(torch.from_numpy(ids).to(device), torch.from_numpy(corrections).to(device))
        return candidates, torch.from_numpy(places.reshape(targets.shape)).to(device)

    def at(self, shift: float) -> npt.NDArray[np.intp]:
        """The tokens drawn for a number from 0 to 1: systematic sampling, which draws each token with its probability,
        at most once, and a proportional number from each frequency band (Madow 1949)."""
        found = np.searchsorted(self._ends, shift + np.arange(self._count), side="right")
        return np.unique(found[found < len(self._ends)])


def inclusion(weights: npt.NDArray[Any], count: int) -> npt.NDArray[np.float64]:
    """Probabilities (V,), at most 1, that sum to `count`; those below 1 are proportional to `weights` (V,)."""
    certain = np.zeros(len(weights), dtype=bool)
    while True:
        left = count - certain.sum()
        probabilities: npt.NDArray[np.float64] = np.where(certain, 1.0, left * weights / weights[~certain].sum())
        above = (probabilities >= 1) & ~certain
        if not above.any():
            return probabilities
        certain |= above


@dataclass(frozen=True)
class LanguageObjective(Objective):
    """Predict each token from those before it; the loss is in nats per token."""

    columns = ("loss", "perplexity", "bits/byte")

    store: TokenStore
    lanes: Lanes | StreamLanes
    begin: tuple[int, ...] = ()
    sampled: SampledSoftmax | None = None

    @classmethod
    def of(cls, store: TokenStore, options: LanguageOptions, training_tokens: int) -> LanguageObjective:
        tokenizer, seed, count = store.tokenizer, options.seed, options.sampled_softmax
        starts = tokenizer.boundary, tokenizer.encode("\n").tolist()[-1]
        lanes: Lanes | StreamLanes
        if "stream" in store.about:
            lanes = stream_lanes(store, options, options.window, starts, training_tokens)
        else:
            escape = missing_escape(store.frequencies, tokenizer.escape)
            lanes = Lanes(store.model_tokens(TRAIN), *options.window, seed, escape, *starts)
        sampled = SampledSoftmax(store.frequencies, count, seed) if count else None
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

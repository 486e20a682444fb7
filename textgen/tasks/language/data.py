"""Language modeling: a tokenized corpus, and the objective of predicting each token from those before it.

For vocabularies so large that reading out is most of a step, the softmax is taken over a sample of the tokens. A
step compares the right tokens with all that are right somewhere in its window and with `count` others, drawn with
probabilities p that follow how frequent they are (Bengio and Senécal 2003, Jean et al. 2015). A drawn token stands
for 1/p of its kind: its exp(logit) counts 1/p times, so that the sum under the softmax is, on average, the sum over
all tokens. Evaluation and sampling take the whole softmax.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from textgen import storage
from textgen.data import SIZED, CorpusOptions, corpus
from textgen.data.recipes import TRAIN, VALIDATION, Progress
from textgen.data.store import MORE_TEXT, Lanes, Tokens, TokenStore, missing_escape, no_progress, open_store
from textgen.data.tokenizers import MODEL_FILE
from textgen.data.tokenizers.base import CONFIG_FILE, Ids, Tokenizer
from textgen.errors import TextgenError, UsageError
from textgen.evaluation import LANES, WARM, Score, score_ids
from textgen.formatting import count, short
from textgen.generation.generate import complete, sampling_options
from textgen.generation.language_model import generation_config, in_context, with_generation_config
from textgen.model import GENERATION, ModelConfig
from textgen.model.stack import Candidates, Model, keyed_seed
from textgen.model.weights import TorchStepper
from textgen.options import named
from textgen.storage import filesystem
from textgen.tasks import TrainOptions
from textgen.tasks.data import QUICK_LOOK, TaskData
from textgen.tasks.language.options import LanguageOptions
from textgen.tasks.objective import Objective
from textgen.tasks.regularization import Regularization, of_text

FLATTENED = 0.75
"""The probability of drawing a token is proportional to its frequency to this power (Mikolov et al. 2013)."""


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


def refuse_few_tokens(count: int, tokens: int) -> None:
    """Raise UsageError unless the number of candidates is less than the number of tokens."""
    if count >= tokens:
        raise UsageError(
            f"{named('sampled_softmax', f'{count:,}')} must be less than the vocabulary size ({tokens:,}).",
            hint="omit it; it only pays for vocabularies above about ten thousand tokens.",
        )


QUICK_WARM = 128
"""Tokens that a lane reads unscored before a quick evaluation: otherwise a short text is mostly scored without context,
and the wrong weights may look best."""

DOCUMENT_BREAK = " \u23ce "
"""Marks the end of a document in a sample: the sign of the return key."""

MOST_EPOCHS, MOST_FINETUNING_EPOCHS = 160.0, 8.0
"""The longest plan for a text, and for one that a trained model reads: more would not help."""

PARAMETERS_PER_CHARACTER, SMALL_MODEL, PARAMETERS_PER_ROOT = 6, 2.1e6, 5700
"""The largest model of a plan, by the number of characters; of a short text it is a model of `SMALL_MODEL` parameters,
and of a very short one so many per square root of the number. At equal epochs larger ones are worse: the bundled
stories, 40 epochs, 384 units 1.284 bits per byte, 512 units 1.315."""

LARGE_PER_ROOT = 9000
"""The same where there is time to read the text as often as helps."""

LONG_TEXT, ALPHABET, ALPHABET_EMBEDDING = 500_000, 300, 64
"""From so many tokens of a vocabulary up to this size, embeddings are this narrow: a step with 512 units is a quarter
faster, and as good. On a shorter text, dropout leaves too little of a narrow embedding."""

FINETUNED = Regularization(dropout=0.2, embedding_dropout=0.05, weight_drop=0.1, weight_decay=0.02)
"""The regularization of a model that starts from a trained one, which learned without any: more would disturb it."""

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


_DIGESTED = (f"{TRAIN}.bin", f"{VALIDATION}.bin", CONFIG_FILE, MODEL_FILE)


@dataclass(frozen=True)
class LanguageData(TaskData):
    """A tokenized corpus."""

    model_name = "A recurrent language model"

    store: TokenStore

    @classmethod
    def prepare(cls, paths: list[str], options: LanguageOptions, cache: Path, progress: Progress) -> Self:
        return cls(stored_corpus(paths, options, cache, progress))

    @classmethod
    def open(cls, folder: Path) -> Self:
        return cls(open_store(folder))

    @property
    def tokenizer(self) -> Tokenizer:
        return self.store.tokenizer

    @cached_property
    def training_tokens(self) -> int:
        return len(self.store.model_tokens(TRAIN))

    @cached_property
    def held_out_tokens(self) -> int:
        return len(self.store.model_tokens(VALIDATION))

    @property
    def most_epochs(self) -> float:
        return MOST_EPOCHS

    def most_parameters(self, epochs: float) -> float:
        """More than usual, if there is time to read the text as often as helps, even with the larger model."""
        characters = self.training_tokens * self.characters_per_token
        root = math.sqrt(characters)
        usual = max(PARAMETERS_PER_CHARACTER * characters, min(SMALL_MODEL, PARAMETERS_PER_ROOT * root))
        return usual if epochs < MOST_EPOCHS else max(usual, LARGE_PER_ROOT * root)

    @property
    def most_finetuning_epochs(self) -> float:
        return MOST_FINETUNING_EPOCHS

    def regularization(self, hidden_size: int, epochs: float, finetuning: bool = False) -> Regularization:
        if finetuning:
            return FINETUNED
        characters = max(1.0, self.training_tokens * self.characters_per_token)
        weights = hidden_size * (8 * hidden_size + self.vocab_size)  # about those of an LSTM
        return of_text(hidden_size, epochs, weights / characters)

    def config(self, options: LanguageOptions, hidden_size: int) -> ModelConfig:
        config = super().config(options, hidden_size)
        short = self.training_tokens < LONG_TEXT or config.vocab_size > ALPHABET
        if short or self.tokenizer.kind in SIZED or options.embedding_size is not None:
            return config
        return replace(config, embedding_size=min(ALPHABET_EMBEDDING, config.embedding_size))

    def with_defaults(self, options: LanguageOptions) -> LanguageOptions:
        """Defaults of 16 x 64, and less if the corpus is too small for a few such batches."""
        tokens = self.training_tokens
        if tokens < 2:
            raise TextgenError(f"the training part has {tokens} tokens; that is too few to train on.", hint=MORE_TEXT)
        if options.sampled_softmax:
            refuse_few_tokens(options.sampled_softmax, self.tokenizer.vocab_size)
        length = options.seq_length or max(8, min(64, tokens // 64))
        batch = options.batch_size or max(1, min(16, tokens // (4 * length)))
        return replace(options, batch_size=batch, seq_length=length)

    def objective(self, options: LanguageOptions) -> LanguageObjective:
        return LanguageObjective.of(self.store, *options.window, options.seed, options.sampled_softmax)

    def described(self) -> list[str]:
        about = self.store.about
        total = sum(about["bytes"].values())
        return [
            f"{short(total)}B",
            self.store.documents_shown(),
            f"{count(about['tokens'][TRAIN])} {about['tokenizer']} tokens to train on",
            f"{count(about['vocab_size'])} tokens in the vocabulary",
            f"held out: {self.store.held_out_shown()}",
        ]

    def decided(self, paths: Sequence[str], options: LanguageOptions) -> LanguageOptions:
        return options if is_tokenized(paths) else replace(options, lines=self.store.lines)

    def digests(self) -> dict[str, str]:
        return {name: digest for name, digest in super().digests().items() if name in _DIGESTED}

    def files(self) -> dict[str, bytes]:
        return {GENERATION: filesystem.to_json(generation_config(self.store)), **self.tokenizer.files()}

    def text_ids(self) -> Tokens:
        return self.store.tokens(TRAIN)

    def trained_on(self) -> str:
        return f"{self.store.about['bytes'][TRAIN]:,} bytes of text"


def is_tokenized(paths: Sequence[str]) -> bool:
    """Whether a corpus is one folder of tokens, made by `textgen tokenize`."""
    return len(paths) == 1 and (Path(paths[0]) / storage.MANIFEST).is_file()


def stored_corpus(
    paths: Sequence[str], options: CorpusOptions, cache: Path, progress: Progress = no_progress
) -> TokenStore:
    """The token store of a corpus: the given tokenized folder, else the cached one, else a new one."""
    if is_tokenized(paths):
        given = [named(f.name) for f in fields(CorpusOptions) if getattr(options, f.name) != f.default]
        if given:
            raise UsageError(f"{given[0]} was decided when {paths[0]!r} was tokenized; omit it here.")
        return open_store(Path(paths[0]))
    seed = options.seed if isinstance(options, TrainOptions) else TrainOptions.seed
    return corpus.cached_store(corpus.scan_corpus(paths, options, seed, progress), cache, progress)

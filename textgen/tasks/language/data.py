"""What a language model is trained on, a tokenized corpus, and how large and how regularized a plan makes it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from textgen import storage
from textgen.data import SIZED, CorpusOptions, corpus
from textgen.data.recipes import TRAIN, VALIDATION, Progress
from textgen.data.store import MORE_TEXT, Tokens, TokenStore, no_progress, open_store
from textgen.data.tokenizers import MODEL_FILE
from textgen.data.tokenizers.base import CONFIG_FILE, Tokenizer
from textgen.errors import TextgenError, UsageError
from textgen.formatting import count, plural, short
from textgen.generation.language_model import generation_config
from textgen.model import GENERATION, ModelConfig
from textgen.options import named
from textgen.storage import filesystem
from textgen.tasks import TrainOptions
from textgen.tasks.data import TaskData
from textgen.tasks.language.options import LanguageOptions, refuse_few_tokens
from textgen.tasks.regularization import Regularization, of_text

if TYPE_CHECKING:
    from textgen.tasks.language.objective import LanguageObjective

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

    @property
    def stream(self) -> dict[str, Any] | None:
        """What is known of the stream that the stored text is the beginning of; None for a corpus that is all here."""
        return self.store.about.get("stream")

    @cached_property
    def training_tokens(self) -> int:
        """Of a stream, what its size and its beginning lead to expect."""
        tokens = len(self.store.model_tokens(TRAIN))
        return round(tokens * self.stream["total"] / max(1, self.stream["sampled"])) if self.stream else tokens

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
        from textgen.tasks.language.objective import LanguageObjective

        return LanguageObjective.of(self.store, options, self.training_tokens)

    def described(self) -> list[str]:
        about = self.store.about
        total = sum(about["bytes"].values())
        if self.stream:
            return [
                f"a stream of {plural(self.stream['files'], 'file')}, {short(self.stream['total'])}B",
                f"about {count(self.training_tokens)} {about['tokenizer']} tokens, from the first {short(total)}B",
                f"{count(about['vocab_size'])} tokens in the vocabulary",
                f"held out: {self.store.held_out_shown()} of the beginning",
            ]
        return [
            f"{short(total)}B",
            self.store.documents_shown(),
            f"{count(about['tokens'][TRAIN])} {about['tokenizer']} tokens to train on",
            f"{count(about['vocab_size'])} tokens in the vocabulary",
            f"held out: {self.store.held_out_shown()}",
        ]

    def decided(self, paths: Sequence[str], options: LanguageOptions) -> LanguageOptions:
        return options if is_tokenized(paths) or self.stream else replace(options, lines=self.store.lines)

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
    if isinstance(options, LanguageOptions) and options.stream:
        from textgen.data.stream_store import stream_store

        return stream_store(paths, options, seed, cache, progress)
    return corpus.cached_store(corpus.scan_corpus(paths, options, seed, progress), cache, progress)

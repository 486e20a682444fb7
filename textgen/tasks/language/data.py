"""The data of language modeling: a corpus, tokenized, split and stored."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property
from pathlib import Path
from typing import Self

from textgen import files, sealed
from textgen.config import ModelConfig
from textgen.errors import TextgenError, UsageError
from textgen.language_model import generation_config
from textgen.model_folder import GENERATION
from textgen.parameters import named
from textgen.settings import TrainOptions
from textgen.tasks.data import TaskData, model_card
from textgen.tasks.language.objective import LanguageObjective
from textgen.tasks.language.options import LanguageOptions
from textgen.tasks.language.sampled_softmax import refuse_few_tokens
from textgen.tasks.sizing import model_config
from textgen.text import corpus
from textgen.text.corpus_settings import CorpusOptions
from textgen.text.lanes import MORE_TEXT
from textgen.text.levels import LEVELS
from textgen.text.split import TRAIN, VALIDATION, Progress, no_progress
from textgen.text.store import Tokens, TokenStore, open_store
from textgen.text.subword import MODEL_FILE
from textgen.text.symbols import CONFIG_FILE
from textgen.text.tokenizer import Tokenizer
from textgen.wording import count, plural, short

_DIGESTED = (f"{TRAIN}.bin", f"{VALIDATION}.bin", CONFIG_FILE, MODEL_FILE)


@dataclass(frozen=True)
class LanguageData(TaskData):
    """A tokenized corpus."""

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
    def characters_per_token(self) -> float:
        return LEVELS[self.tokenizer.level].characters

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

    def config(self, options: LanguageOptions, hidden_size: int) -> ModelConfig:
        return model_config(options, self.tokenizer.level, self.tokenizer.vocab_size, hidden_size)

    def objective(self, options: LanguageOptions) -> LanguageObjective:
        assert options.batch_size and options.seq_length
        return LanguageObjective.of(
            self.store, options.batch_size, options.seq_length, options.seed, options.sampled_softmax
        )

    def described(self) -> list[str]:
        about = self.store.about
        total = sum(about["bytes"].values())
        return [
            f"{short(total)}B",
            plural(about["corpus_documents"], "document"),
            f"{count(about['tokens'][TRAIN])} {about['level']} tokens to train on",
            f"{count(about['vocab_size'])} tokens in the vocabulary",
            f"{about['bytes'][VALIDATION] / max(1, total):.0%} held out",
        ]

    def digests(self) -> dict[str, str]:
        listed = self.store.about["files"]
        return {name: listed[name]["sha256"] for name in _DIGESTED if name in listed}

    def files(self) -> dict[str, bytes]:
        return {GENERATION: files.to_json(generation_config(self.store)), **self.tokenizer.files()}

    def text_ids(self) -> Tokens:
        return self.store.tokens(TRAIN)

    def card(self, config: ModelConfig, name: str) -> str:
        about = self.store.about
        trained = f"trained on {about['bytes'][TRAIN]:,} bytes of text"
        vocabulary = f"{config.vocab_size:,} tokens ({about['level']})"
        return model_card(name, "text-generation", "A recurrent language model", config, [vocabulary, trained])


def stored_corpus(
    paths: Sequence[str], options: CorpusOptions, cache: Path, progress: Progress = no_progress
) -> TokenStore:
    """The token store of a corpus: the given tokenized folder, else the cached one, else a new one."""
    if len(paths) == 1 and (Path(paths[0]) / sealed.MANIFEST).is_file():
        given = [named(f.name) for f in fields(CorpusOptions) if getattr(options, f.name) != f.default]
        if given:
            raise UsageError(f"{given[0]} was decided when {paths[0]!r} was tokenized; omit it here.")
        return open_store(Path(paths[0]))
    seed = options.seed if isinstance(options, TrainOptions) else TrainOptions.seed
    return corpus.cached_store(corpus.scan_corpus(paths, options, seed, progress), cache, progress)

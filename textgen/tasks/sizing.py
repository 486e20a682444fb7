"""The sizes that tasks on text share: windows that suit a corpus, and the model that the options ask for."""

from __future__ import annotations

from dataclasses import dataclass, replace

from textgen.config import ModelConfig
from textgen.settings import TrainOptions
from textgen.text.levels import LEVELS, SIZED

QUICK_LOOK = 32_768
"""Held-out symbols counted at an evaluation during training; the last evaluation counts all."""


def embedding_for(level: str, hidden_size: int) -> int:
    """The default width of a symbol's vector: few symbols need no wide one."""
    return hidden_size if level in SIZED else min(hidden_size, 256)


def model_config(options: TrainOptions, level: str, vocab_size: int, hidden_size: int) -> ModelConfig:
    """The model that the options ask for, at this hidden size."""
    layers = options.num_layers or 1
    deep = layers >= 3
    tie = level in SIZED if options.tie_weights is None else options.tie_weights
    return ModelConfig(
        vocab_size=vocab_size,
        cell=options.cell,
        cell_options=dict(options.cell_options),
        embedding_size=options.embedding_size or embedding_for(level, hidden_size),
        hidden_size=hidden_size,
        num_layers=layers,
        tie_word_embeddings=tie,
        residual=deep if options.residual is None else options.residual,
        layer_norm=deep if options.layer_norm is None else options.layer_norm,
    )


@dataclass(frozen=True)
class TextPlan:
    """Text of so many symbols to be written on (`Learned`): windows of lanes that read on."""

    level: str
    vocab_size: int
    amount: int
    held_out: int
    most_epochs: float | None = None

    @property
    def characters(self) -> float:
        return LEVELS[self.level].characters

    def with_defaults(self, options: TrainOptions) -> TrainOptions:
        """16 x 64, and less for a corpus too small to fill that a few times over."""
        length = options.seq_length or max(8, min(64, self.amount // 64))
        batch = options.batch_size or max(1, min(16, self.amount // (4 * length)))
        return replace(options, batch_size=batch, seq_length=length)

    def symbols_per_step(self, options: TrainOptions) -> float:
        assert options.batch_size and options.seq_length
        return options.batch_size * options.seq_length

    def config(self, options: TrainOptions, hidden_size: int) -> ModelConfig:
        return model_config(options, self.level, self.vocab_size, hidden_size)

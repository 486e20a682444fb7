"""The model sizes that text tasks share."""

from __future__ import annotations

from textgen.config import ModelConfig
from textgen.settings import TrainOptions
from textgen.text.levels import SIZED

QUICK_LOOK = 32_768
"""Held-out tokens scored in an evaluation during training; the last evaluation scores all."""


def embedding_for(level: str, hidden_size: int) -> int:
    """The default embedding size: small vocabularies need no wide embeddings."""
    return hidden_size if level in SIZED else min(hidden_size, 256)


def model_config(options: TrainOptions, level: str, vocab_size: int, hidden_size: int) -> ModelConfig:
    """The model configuration for these options and this hidden size."""
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

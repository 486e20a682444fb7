"""The sizes of models: their configuration by hidden size, and how large they may be for a corpus."""

from __future__ import annotations

from typing import Any

from textgen.data import SIZED
from textgen.model import ModelConfig

PARAMETERS_PER_CHARACTER = 12
"""The largest model that is planned for a corpus that is read many times."""


def embedding_for(kind: str, hidden_size: int) -> int:
    """The default embedding size: small vocabularies need no wide embeddings."""
    return hidden_size if kind in SIZED else min(hidden_size, 256)


def model_config(options: Any, kind: str, vocab_size: int, hidden_size: int, outputs: int = 0) -> ModelConfig:
    """The configuration of a model for these training options, this tokenizer kind and this hidden size; `outputs` as
    in `ModelConfig`."""
    layers = options.num_layers or 1
    deep = layers >= 3
    tie = kind in SIZED if options.tie_weights is None else options.tie_weights
    return ModelConfig(
        vocab_size=vocab_size,
        cell=options.cell,
        cell_options=dict(options.cell_options),
        embedding_size=options.embedding_size or embedding_for(kind, hidden_size),
        hidden_size=hidden_size,
        num_layers=layers,
        tie_word_embeddings=tie and not outputs,
        residual=deep if options.residual is None else options.residual,
        layer_norm=deep if options.layer_norm is None else options.layer_norm,
        outputs=outputs,
    )

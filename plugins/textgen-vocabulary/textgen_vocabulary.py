"""Show which tokens of a model a text uses, and which tokens are similar."""

from __future__ import annotations

from pathlib import Path

import click
import numpy as np
from safetensors import numpy as safetensors

import textgen
from textgen.generation.language_model import LanguageModel
from textgen.hookspecs import RegisterCommand


@click.command("vocabulary")
@click.argument("text", metavar="[FILE]", required=False, type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("-m", "--model", metavar="DIR", required=True, help="The model folder.")
@click.option("--like", metavar="TOKEN", help="Show the tokens with the embeddings most similar to this one's.")
@click.option("-n", "--number", type=click.IntRange(min=1), default=20, show_default=True, help="Tokens to show.")
def vocabulary(text: Path | None, model: str, like: str | None, number: int) -> None:
    """Show the tokens of a model that FILE uses most, or those similar to a token.

    \b
    textgen vocabulary -m runs/demo notes.txt
    textgen vocabulary -m runs/demo --like fox
    """
    if (text is None) == (like is None):
        raise click.UsageError("Give either a FILE or --like TOKEN.")
    loaded = textgen.load(model)
    values = counts(loaded, text) if text is not None else similarities(loaded, str(like))
    for token in np.argsort(-values, kind="stable")[:number]:
        share = f"{values[token]:.3f}" if like is not None else f"{values[token]} ({values[token] / values.sum():.1%})"
        click.echo(f"{loaded.tokenizer.decode([int(token)])!r:<24} {share}")
    if text is not None:
        click.echo(f"{(values == 0).sum():,} of {len(values):,} tokens are not used.", err=True)


def counts(model: LanguageModel, text: Path) -> np.ndarray:
    """How often a text uses each token, (vocab_size,)."""
    ids = model.tokenizer.model_ids(model.tokenizer.encode(text.read_text(encoding="utf-8")))
    return np.bincount(ids, minlength=model.tokenizer.vocab_size)


def similarities(model: LanguageModel, like: str) -> np.ndarray:
    """The cosine similarity of each token's embedding to that of one, (vocab_size,)."""
    ids = model.tokenizer.encode(like)
    if len(ids) != 1 or model.folder is None:
        raise click.UsageError(f"{like!r} is {len(ids)} tokens of this model; --like takes one.")
    content = (model.folder / "model.safetensors").read_bytes()
    vectors = safetensors.load(content)["encoder.weight"][: model.tokenizer.vocab_size].astype(np.float64)
    norms = np.linalg.norm(vectors, axis=1)
    cosines: np.ndarray = vectors @ vectors[ids[0]] / np.maximum(norms * norms[ids[0]], 1e-30)
    return cosines


@textgen.hookimpl
def register_commands(register: RegisterCommand) -> None:
    register("vocabulary", vocabulary)

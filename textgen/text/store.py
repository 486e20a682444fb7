"""A tokenized corpus on disk: a folder with the tokenizer, `train.bin`, `validation.bin` and a manifest."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from textgen import files
from textgen.text.split import TRAIN, VALIDATION
from textgen.text.tokenizer import Tokenizer, load_tokenizer

FORMAT_VERSION = 1
KIND = "token store"
Tokens = npt.NDArray[Any]
_ABOUT = {"key": str, "dtype": str, "level": str, "vocab_size": int, "corpus_documents": int, "tokens": dict,
          "raw": dict, "bytes": dict, "characters": dict, "documents": dict}  # fmt: skip
"""What the manifest of a store says beyond its files."""


@dataclass(frozen=True)
class TokenStore:
    """A tokenized corpus on disk."""

    folder: Path
    about: dict[str, Any]
    tokenizer: Tokenizer

    @property
    def key(self) -> str:
        return str(self.about["key"])

    def tokens(self, part: str) -> Tokens:
        """All ids of a part, memory-mapped, raw bytes of unseen characters included."""
        if not self.about["tokens"][part]:
            return np.zeros(0, dtype=self.about["dtype"])
        return np.memmap(self.folder / f"{part}.bin", dtype=self.about["dtype"], mode="r")

    def model_tokens(self, part: str) -> Tokens:
        """The ids that a model is shown. Memory-mapped, unless characters that the tokenizer never saw are left out."""
        tokens = self.tokens(part)
        return tokens if not self.about["raw"][part] else self.tokenizer.model_ids(np.asarray(tokens))


def open_store(folder: Path) -> TokenStore:
    """Open a store written by `tokenize`. Raises TextgenError for what is missing or damaged, by name."""
    manifest = files.read_manifest(folder)
    if manifest.get("kind") != KIND or manifest.get("store_version") != FORMAT_VERSION:
        raise files.DamagedError(f"{folder} is not a token store of this version of textgen.")
    for name, kind in _ABOUT.items():
        if not isinstance(manifest.get(name), kind):
            raise files.DamagedError(f"{folder / files.MANIFEST} is damaged: {name} is missing.")
    names = [name for name in manifest["files"] if not name.endswith(".bin")]
    tokenizer = load_tokenizer({name: files.verified(folder, name, manifest) for name in names})
    for part in (TRAIN, VALIDATION):
        files.check_file(folder, f"{part}.bin", manifest)
    return TokenStore(folder, manifest, tokenizer)


def tokenizer_of(folder: Path) -> Tokenizer:
    """The tokenizer of a model folder or a token store. Raises TextgenError for a damaged file, by name."""
    manifest = files.read_manifest(folder)
    names = [name for name in manifest["files"] if name.startswith("tokenizer")]
    return load_tokenizer({name: files.verified(folder, name, manifest) for name in names})

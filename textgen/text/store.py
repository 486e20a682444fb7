"""A tokenized corpus on disk: a folder with the tokenizer, `train.bin`, `validation.bin` and a manifest."""

from __future__ import annotations

import codecs
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from textgen import sealed
from textgen.text.split import TRAIN, VALIDATION
from textgen.text.subword import MODEL_FILE
from textgen.text.symbols import CONFIG_FILE
from textgen.text.tokenizer import Tokenizer, load_tokenizer

COUNTS = "frequencies.bin"
"""How often each token occurs in the training part: little-endian int64."""
CHUNK = 1 << 22
KIND = "token store"
Tokens = npt.NDArray[Any]
DTYPES = ("<u2", "<u4")
COUNTED = ("tokens", "raw", "bytes", "characters", "documents")
_ABOUT = dict.fromkeys(COUNTED, dict) | {
    "key": str,
    "dtype": str,
    "level": str,
    "vocab_size": int,
    "corpus_documents": int,
}
"""The entries of a store's manifest besides its files, and their types."""


@dataclass(frozen=True)
class TokenStore:
    """A tokenized corpus on disk."""

    folder: Path
    about: dict[str, Any]
    tokenizer: Tokenizer

    @property
    def key(self) -> str:
        return str(self.about["key"])

    @cached_property
    def frequencies(self) -> npt.NDArray[np.int64]:
        """How often each token (V,) occurs in the training part. Raises DamagedError."""
        size = self.tokenizer.vocab_size
        content = sealed.verified(self.folder, COUNTS, self.about, 8 * size)
        if len(content) != 8 * size:
            raise sealed.DamagedError(f"{self.folder / COUNTS} is damaged: it does not hold {size:,} counts.")
        return np.frombuffer(content, "<i8").astype(np.int64)

    @cached_property
    def holds_text(self) -> bool:
        """Whether every document of the training part is UTF-8, as all are but those read as raw bytes."""
        tokenizer = self.tokenizer
        if tokenizer.level != "byte":
            return True
        tokens, utf8 = self.tokens(TRAIN), codecs.getincrementaldecoder("utf-8")()
        try:
            for start in range(0, len(tokens), CHUNK):
                chunk = np.asarray(tokens[start : start + CHUNK])
                utf8.decode(np.where(chunk == tokenizer.boundary, ord("\n"), chunk).astype(np.uint8).tobytes())
            utf8.decode(b"", final=True)
        except UnicodeDecodeError:
            return False
        return True

    def tokens(self, part: str) -> Tokens:
        """All ids of a part, memory-mapped, including the raw bytes of unseen characters."""
        if not self.about["tokens"][part]:
            return np.zeros(0, dtype=self.about["dtype"])
        return np.memmap(self.folder / f"{part}.bin", dtype=self.about["dtype"], mode="r").view(np.ndarray)

    def model_tokens(self, part: str) -> Tokens:
        """The ids that a model reads. Memory-mapped, unless raw bytes of unseen characters have to be left out."""
        tokens = self.tokens(part)
        return tokens if not self.about["raw"][part] else self.tokenizer.model_ids(np.asarray(tokens))


def open_store(folder: Path) -> TokenStore:
    """Open a store written by `tokenize`. Raises TextgenError naming a file that is missing or damaged."""
    manifest = sealed.read_manifest(folder)
    if manifest.get("kind") != KIND:
        raise sealed.DamagedError(f"{folder} is not a token store.")
    for name, kind in _ABOUT.items():
        if not isinstance(manifest.get(name), kind):
            raise sealed.DamagedError(f"{folder / sealed.MANIFEST} is damaged: {name} is missing.")
    tokenizer = _tokenizer(folder, manifest)
    binary = [name for name in manifest["files"] if name.endswith(".bin")]
    for name in dict.fromkeys([f"{TRAIN}.bin", f"{VALIDATION}.bin", COUNTS, *binary]):
        sealed.check_file(folder, name, manifest)
    store = TokenStore(folder, manifest, tokenizer)
    _check(store)
    return store


def _check(store: TokenStore) -> None:
    """Raise DamagedError if the type, number or range of the tokens contradicts the manifest or the tokenizer."""
    about, tokenizer, manifest = store.about, store.tokenizer, store.folder / sealed.MANIFEST
    counts = [about[name].get(part) for name in COUNTED for part in (TRAIN, VALIDATION)]
    if about["dtype"] not in DTYPES or any(type(each) is not int or each < 0 for each in counts):
        raise sealed.DamagedError(f"{manifest} is damaged: its dtype or its counts are invalid.")
    if (about["vocab_size"], about["level"]) != (tokenizer.vocab_size, tokenizer.level):
        raise sealed.DamagedError(f"{manifest} is damaged: it describes another tokenizer.")
    highest = tokenizer.vocab_size + tokenizer.raw_symbols - 1
    for part in (TRAIN, VALIDATION):
        path = store.folder / f"{part}.bin"
        if path.stat().st_size != about["tokens"][part] * np.dtype(about["dtype"]).itemsize:
            raise sealed.DamagedError(f"{path} is damaged: it does not hold {about['tokens'][part]:,} tokens.")
        if _highest(path, about["dtype"]) > highest:
            raise sealed.DamagedError(f"{path} is damaged: it holds an id above {highest:,}.")


def _highest(path: Path, dtype: str) -> int:
    """The highest id in a file, -1 if it is empty. Reading in chunks takes less memory than mapping the file."""
    with path.open("rb") as file:
        chunks = iter(lambda: file.read(CHUNK), b"")
        return max((int(np.frombuffer(chunk, dtype).max()) for chunk in chunks), default=-1)


def tokenizer_of(folder: Path) -> Tokenizer:
    """The tokenizer of a model folder or a token store. Raises TextgenError naming a damaged file."""
    return _tokenizer(folder, sealed.read_manifest(folder))


def _tokenizer(folder: Path, manifest: Mapping[str, Any]) -> Tokenizer:
    names = [name for name in (CONFIG_FILE, MODEL_FILE) if name in manifest["files"]]
    return load_tokenizer({name: sealed.verified(folder, name, manifest, sealed.JSON_LIMIT) for name in names})

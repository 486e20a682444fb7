"""Corpora by name: recipes, and data sets of the Hugging Face Hub.

A recipe is a small TOML file in `corpora/` that says where a corpus comes from, under which license, and how it is
usually divided. Its text is looked for in the folder `$TEXTGEN_DATA`, in `corpora/data/`, beside the recipe, and in
the cache, where it is downloaded if need be. Known digests are checked; an unknown one is recorded at the first
download and checked from then on. Data sets of the Hub are streamed once into a temporary table.
"""

from __future__ import annotations

import atexit
import hashlib
import http.client
import json
import os
import re
import shutil
import tempfile
import tomllib
import urllib.request
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path
from typing import Any, BinaryIO

from textgen import storage
from textgen.data.archives import COMPRESSED_ENDINGS, opened
from textgen.data.tables import cell, choose_column
from textgen.errors import TextgenError, UsageError, needed
from textgen.storage import filesystem

TRAIN, VALIDATION, TEST = "train", "validation", "test"
DATA_FOLDER = Path("corpora", "data")
TIMEOUT_SECONDS = 30
READ_BYTES = 1 << 20
Progress = Callable[[str, int, int], None]
"""Called with the activity, the bytes done and the total bytes."""

Part = tuple[Path, tuple[int, int] | None]
"""A file or folder, and the range of bytes of the file; None for all."""

PREFIX = "hub:"
SPELLING = "hub:OWNER/NAME, hub:OWNER/NAME:CONFIG or hub:OWNER/NAME:CONFIG:SPLIT"
DEFAULT_SPLIT = "train"
_NAME = re.compile(r"hub:([\w.-]+(?:/[\w.-]+)?)(?::([^:]*))?(?::([^:]*))?")


@dataclass(frozen=True)
class RecipeFile:
    """A file of a recipe: its path in a data folder, its part, its source, and its checksum and size if known."""

    path: str
    part: str = TRAIN
    url: str | None = None
    member: str | None = None  # of the zip archive behind the url
    sha256: str | None = None
    bytes: int | None = None

    @property
    def name(self) -> str:
        return Path(self.path).name


@dataclass(frozen=True)
class Recipe:
    """A corpus by name. `options` are suitable corpus options; `parts` divide its only file by shares of its bytes."""

    name: str
    about: str
    source: str
    licence: str
    files: tuple[RecipeFile, ...]
    options: Mapping[str, Any]
    parts: Mapping[str, Sequence[float]]

    @property
    def holds_out(self) -> bool:
        """Whether the recipe has a validation part."""
        return VALIDATION in {*self.parts, *(file.part for file in self.files)}

    def fill(self, options: Any) -> Any:
        """Corpus options, with those of the recipe where none were given; tokenizer and vocabulary size go together."""
        chosen = options.tokenizer is not None or options.vocab_size is not None
        own = {key: value for key, value in self.options.items() if getattr(options, key) is None}
        own.pop("document_separator" if getattr(options, "lines", None) else "", None)
        return replace(options, **{k: v for k, v in own.items() if not (chosen and k in ("tokenizer", "vocab_size"))})

    def find_parts(self, progress: Progress) -> dict[str, list[Part]]:
        """Its parts (train, validation, test), local or downloaded. Raises TextgenError naming the file or URL."""
        paths = [_local(file) for file in self.files]
        if None in paths:
            folder = _cached(self, progress)
            paths = [folder / file.name for file in self.files]
        sizes = [_checked(path, file, self) for path, file in zip(paths, self.files, strict=True) if path]
        if self.parts:
            spans = {part: (int(a * sizes[0]), int(b * sizes[0])) for part, (a, b) in self.parts.items()}
            return {part: [(path, span)] for path in paths if path for part, span in spans.items()}
        found: dict[str, list[Part]] = {}
        for path, file in zip(paths, self.files, strict=True):
            if path:
                found.setdefault(file.part, []).append((path, None))
        return found


def home() -> Path:
    """The folder of the recipes: in the installed package, or `corpora/` of a checkout."""
    package = Path(__file__).parents[1]
    return package / "corpora" if (package / "corpora").is_dir() else package.parent / "corpora"


def names() -> list[str]:
    """The names of all recipes."""
    return sorted(path.stem for path in home().glob("*.toml"))


def find(paths: Sequence[str]) -> Recipe | None:
    """The recipe that a corpus argument names, unless a file has that name; None without one. Raises UsageError."""
    known = set(names())
    named = [path for path in paths if path in known and not Path(path).exists()]
    if not named:
        return None
    if len(paths) > 1:
        raise UsageError(f"{named[0]!r} is a corpus with its own parts; name it alone.")
    return load(named[0])


def load(name: str) -> Recipe:
    """A recipe by name. Raises TextgenError if its file is damaged."""
    path = home() / f"{name}.toml"
    try:
        content = tomllib.loads(path.read_text())
        made = tuple(RecipeFile(**entry) for entry in content.pop("files"))
        return Recipe(name=name, files=made, options=content.pop("options", {}), parts=content.pop("parts", {}),
                      **content)  # fmt: skip
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise TextgenError(f"the recipe {str(path)!r} is damaged: {error}.") from None


def _local(file: RecipeFile) -> Path | None:
    """The local path of a file, under its own name or with a compression suffix; None without one."""
    data = os.environ.get("TEXTGEN_DATA")
    folders = [*([Path(data)] if data else []), DATA_FOLDER, home()]
    candidates = [Path(f"{folder / file.path}{ending}") for folder in folders for ending in ("", *COMPRESSED_ENDINGS)]
    return next((path for path in candidates if path.exists()), None)


def _cached(recipe: Recipe, progress: Progress) -> Path:
    """The folder of a downloaded recipe, with verified files."""
    folder = cache_folder() / recipe.name

    def verified(folder: Path) -> Path:
        manifest = storage.verify(folder)
        if not all(file.name in manifest["files"] for file in recipe.files):
            raise storage.DamagedError(f"{folder} does not hold every file of {recipe.name!r}.")
        return folder

    def download() -> None:
        with filesystem.new_folder(folder) as new:
            for url, group in groupby(recipe.files, key=lambda file: file.url):
                _download(recipe, url, list(group), new, progress)

    return filesystem.cached(folder, verified, download)


def cache_folder() -> Path:
    """The folder of downloads: `$XDG_CACHE_HOME/textgen/corpora`, by default in `~/.cache`."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "textgen" / "corpora"


def _download(
    recipe: Recipe, url: str | None, wanted: list[RecipeFile], new: filesystem.FolderWriter, progress: Progress
) -> None:
    place = DATA_FOLDER / wanted[0].path
    if url is None:
        raise TextgenError(
            f"the text of {recipe.name!r} is missing: there is no file {str(home() / wanted[0].path)!r}."
        )
    try:
        with tempfile.TemporaryFile() as spool:
            _fetch(url, spool, lambda done, total: progress(f"downloading {recipe.name}", done, total))
            for file in wanted:
                spool.seek(0)
                stream = zipfile.ZipFile(spool).open(file.member) if file.member else spool
                shutil.copyfileobj(stream, new.create(file.name), READ_BYTES)
    except (OSError, http.client.HTTPException, zipfile.BadZipFile, KeyError) as error:
        reason = getattr(error, "reason", None) or error
        extract = f", extract {wanted[0].member}" if wanted[0].member else ""
        raise TextgenError(
            f"{recipe.name!r} cannot be downloaded from {url} ({str(reason).rstrip('.')}).",
            hint=f"download it by other means{extract} and put it at {place}, or at that path in $TEXTGEN_DATA.",
        ) from None


def _fetch(url: str, spool: BinaryIO, progress: Callable[[int, int], None]) -> None:
    request = urllib.request.Request(url, headers={"User-Agent": "textgen"})
    with urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS) as response:
        total = int(response.headers.get("Content-Length") or 0)
        while block := response.read(READ_BYTES):
            spool.write(block)
            progress(spool.tell(), total)
    if total and spool.tell() != total:
        raise OSError(f"it ended after {spool.tell():,} of {total:,} bytes")


def _checked(path: Path, file: RecipeFile, recipe: Recipe) -> int:
    """The uncompressed size of a file, after verifying what the recipe knows of it. Raises TextgenError."""
    if path.is_dir():
        return 0
    size, digest = 0, hashlib.sha256()
    with opened(path, str(path)) as stream:
        while block := stream.read(READ_BYTES):
            size += len(block)
            digest.update(block)
    if file.bytes not in (None, size) or file.sha256 not in (None, digest.hexdigest()):
        what = f"{size:,} bytes, not {file.bytes:,}" if file.bytes not in (None, size) else "its SHA-256 differs"
        raise TextgenError(
            f"{str(path)!r} is not the file of {recipe.name!r} ({what}).",
            hint="remove it, or name the file itself to train on it.",
        )
    return size


def parse(typed: str) -> tuple[str, str | None, str]:
    """Name, configuration (None for the only or default one) and split of `hub:owner/name[:config][:split]`.

    The configuration may be empty: `hub:owner/name::test`. Raises UsageError.
    """
    match = _NAME.fullmatch(typed)
    if match is None:
        raise UsageError(f"{typed!r} is not the name of a Hub data set.", hint=f"write {SPELLING}.")
    return match[1], match[2] or None, match[3] or DEFAULT_SPLIT


def spool(typed: str, text_column: str | None, beside: Sequence[str] = ()) -> Path:
    """Write the text column of a data set, and any columns of `beside` that it has, to a temporary jsonl file.

    A corpus is read several times; the file is removed when the process ends. Rows without text are skipped unless
    there are columns beside it. Raises TextgenError if the data set cannot be read, or holds something other than text.
    """
    with tempfile.NamedTemporaryFile("wb", prefix="textgen-", suffix=".jsonl", delete=False) as file:
        atexit.register(Path(file.name).unlink, missing_ok=True)
        for row in _rows(typed, text_column, beside):
            file.write(json.dumps(row).encode() + b"\n")
    return Path(file.name)


def _rows(typed: str, asked: str | None, beside: Sequence[str]) -> Iterator[dict[str, Any]]:
    column: str | None = None
    for number, row in enumerate(_stream(typed), 1):
        if column is None:
            others = [key for key in row if isinstance(row[key], str | None) and key not in beside]
            column = choose_column(list(row), others, asked, typed)
        if cell(row.get(column), column, f"row {number} of {typed!r}") or beside:
            yield {name: row.get(name) for name in (column, *beside) if name in row}


def _stream(typed: str) -> Iterator[dict[str, Any]]:
    name, config, split = parse(typed)
    try:
        yield from _load(name, config, split)
    except TextgenError:
        raise
    except Exception as error:  # the library reads many formats over a network and may raise anything
        reason = next((line.strip().rstrip(".") for line in str(error).splitlines() if line.strip()), "")
        raise TextgenError(
            f"the data set {typed!r} cannot be read from the Hub ({reason[:300] or type(error).__name__}).",
            hint=f"check https://huggingface.co/datasets/{name}. Without a connection, name local files instead.",
        ) from error


def _load(name: str, config: str | None, split: str) -> Any:
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    with needed("datasets"):
        import datasets
        from huggingface_hub.utils import logging
    datasets.disable_progress_bars()
    datasets.logging.set_verbosity_error()
    logging.set_verbosity_error()  # type: ignore[no-untyped-call]  # it would report each attempt to reach the Hub
    return datasets.load_dataset(name, config, split=split, streaming=True)

"""Well-known corpora by name: the source, the licence and the usual split of each.

A recipe is a small TOML file in `corpora/`. Its text is searched for in the folder `$TEXTGEN_DATA`, in `corpora/data/`
of the current directory, beside the recipe, and in the cache, where it is downloaded if necessary. Checksums in recipes
are verified; a download without one is verified against its checksum from the first download.
"""

from __future__ import annotations

import hashlib
import http.client
import os
import shutil
import tempfile
import tomllib
import urllib.request
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path
from typing import Any, BinaryIO

from textgen import files, sealed
from textgen.errors import TextgenError, UsageError
from textgen.text.archives import COMPRESSED_ENDINGS, opened

TRAIN, VALIDATION, TEST = "train", "validation", "test"
DATA_FOLDER = Path("corpora", "data")
TIMEOUT_SECONDS = 30
READ_BYTES = 1 << 20
Progress = Callable[[str, int, int], None]
"""Called with the activity, the bytes done and the total bytes."""

Part = tuple[Path, tuple[int, int] | None]
"""A file or folder, and the range of bytes of the file; None for all."""


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
            found.setdefault(file.part, []).append((path, None)) if path else None
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
        manifest = sealed.verify(folder)
        if not all(file.name in manifest["files"] for file in recipe.files):
            raise sealed.DamagedError(f"{folder} does not hold every file of {recipe.name!r}.")
        return folder

    def download() -> None:
        with files.new_folder(folder) as new:
            for url, group in groupby(recipe.files, key=lambda file: file.url):
                _download(recipe, url, list(group), new, progress)

    return files.cached(folder, verified, download)


def cache_folder() -> Path:
    """The folder of downloads: `$XDG_CACHE_HOME/textgen/corpora`, by default in `~/.cache`."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "textgen" / "corpora"


def _download(
    recipe: Recipe, url: str | None, wanted: list[RecipeFile], new: files.FolderWriter, progress: Progress
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

"""Examples on disk: a sealed folder of arrays, for tasks whose data is no single stream of symbols."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import safetensors
import safetensors.numpy

from textgen import files, sealed
from textgen.text.split import TRAIN, VALIDATION

Arrays = dict[str, npt.NDArray[Any]]


@dataclass(frozen=True)
class ExampleStore:
    """The arrays of each part by name, and what the manifest says of them."""

    folder: Path
    about: dict[str, Any]
    parts: dict[str, Arrays]

    @property
    def key(self) -> str:
        return str(self.about["key"])

    def digests(self) -> dict[str, str]:
        """The SHA-256 of every file, by name."""
        return {name: entry["sha256"] for name, entry in self.about["files"].items()}

    def content(self, name: str) -> bytes:
        """A file beside the arrays, held to its digest."""
        return sealed.verified(self.folder, name, self.about, sealed.JSON_LIMIT)


def write_examples(
    folder: Path,
    kind: str,
    key: str,
    parts: Mapping[str, Mapping[str, npt.NDArray[Any]]],
    about: Mapping[str, Any],
    others: Mapping[str, bytes],
) -> None:
    """Commit a folder of examples: the arrays of both parts, what is said of them, and other files as they are."""
    with files.new_folder(folder) as new:
        for part in (TRAIN, VALIDATION):
            arrays = {name: np.ascontiguousarray(array) for name, array in parts[part].items()}
            new.write(_file_of(part), safetensors.numpy.save(arrays))
        for name, content in others.items():
            new.write(name, content)
        new.about = {**about, "kind": kind, "key": key}


def open_examples(folder: Path, kind: str) -> ExampleStore:
    """Open what `write_examples` wrote. Raises TextgenError for what is missing or damaged, by name."""
    manifest = sealed.read_manifest(folder)
    if manifest.get("kind") != kind or not isinstance(manifest.get("key"), str):
        raise sealed.DamagedError(f"{folder} does not hold {kind} of this version of textgen.")
    parts: dict[str, Arrays] = {}
    for part in (TRAIN, VALIDATION):
        try:
            parts[part] = safetensors.numpy.load(sealed.verified(folder, _file_of(part), manifest))
        except (safetensors.SafetensorError, KeyError, ValueError) as error:
            raise sealed.DamagedError(f"{folder / _file_of(part)} is damaged: {error}.") from error
    return ExampleStore(folder, manifest, parts)


def _file_of(part: str) -> str:
    return f"{part}.safetensors"

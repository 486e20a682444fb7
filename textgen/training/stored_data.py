"""The data of a run, opened again. Imports no torch, so that a light install evaluates on what was held out."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from textgen import storage
from textgen.data.encodings import choosing
from textgen.data.recipes import Progress
from textgen.data.sources import gone
from textgen.data.store import no_progress
from textgen.errors import TextgenError
from textgen.storage import ARGUMENTS, TOKENS
from textgen.tasks import options_for, task_of
from textgen.tasks.data import TaskData


def arguments_in(folder: Path) -> dict[str, Any]:
    """The content of the training_args.json of a run, verified against its checksum."""
    return storage.parse_json(storage.verified(folder, ARGUMENTS), str(folder / ARGUMENTS))


def data_of(folder: Path, progress: Progress = no_progress) -> TaskData:
    """The data of a run, created again from its corpus if it is missing. Raises TextgenError if the corpus has
    changed."""
    return data_from(arguments_in(folder), folder.parent / TOKENS, progress)


def data_from(arguments: Mapping[str, Any], cache: Path, progress: Progress = no_progress) -> TaskData:
    """As `data_of`, from the arguments of the run and the cache of tokens."""
    key, paths = arguments["store"], arguments["corpus"]
    options = options_for(arguments["asked"])  # planned values must not change how the corpus is read
    kind = task_of(options).data()
    if (cache / key).is_dir():
        try:
            return kind.open(cache / key)
        except storage.DamagedError:
            if gone(paths):
                raise
    elif lost := gone(paths):
        raise TextgenError(f"the tokens of this run are missing from {str(cache / key)!r}, and its corpus came {lost}.")
    with choosing(arguments.get("encodings")):
        data = kind.prepare(paths, options, cache, progress)
    if data.key != key:
        raise TextgenError(
            f"the corpus has changed since this run began ({', '.join(paths)}).", hint="train a new run."
        )
    return data


def training_ids_of(folder: Path) -> npt.NDArray[np.integer]:
    """The token ids of the training text of a run, a boundary before each document. Raises TextgenError if they are
    missing, or if the model was not trained on text."""
    try:
        ids = data_of(folder).text_ids()
    except TextgenError as error:
        raise TextgenError(f"the training text of {str(folder)!r} is not available: {error}") from error
    if not len(ids):
        raise TextgenError(f"{str(folder)!r} was not trained on text.")
    return ids

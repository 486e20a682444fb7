"""The models that a server offers, by name, and newer versions of them from a training that goes on."""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from textgen import storage
from textgen.errors import TextgenError, did_you_mean
from textgen.generation.language_model import LanguageModel
from textgen.generation.session import Session, model_of_state
from textgen.loading import load
from textgen.serve.protocol import RequestError
from textgen.serve.scheduler import ServedModel
from textgen.tasks import task_of_model

LOG = logging.getLogger("textgen.serve")
RELOAD_SECONDS = 2.0


@dataclass
class Served:
    """A model under its name; `text` is where it writes, None for a model that predicts."""

    name: str
    task: str
    model: Any
    created: int
    folder: Path | None = None
    sealed: str = ""
    """The digest of the folder's manifest, which changes with every part of it."""
    text: ServedModel | None = None

    @property
    def writer(self) -> ServedModel:
        """Where it writes. Raises RequestError for a model that predicts."""
        if self.text is None:
            raise RequestError(f"the model {self.name!r} does not write ({self.task}): use /v1/predict.", "model")
        return self.text

    def to_json(self) -> dict[str, Any]:
        return {
            "id": self.name,
            "object": "model",
            "created": self.created,
            "owned_by": "textgen",
            "task": self.task,
            "digest": getattr(self.model, "digest", ""),
        }


class Models:
    """Models by name; the first one is the default."""

    def __init__(self, folders: Mapping[str, Path | Any], backend: str = "auto") -> None:
        """Each is a model folder, or an opened model. Raises TextgenError if one cannot be opened."""
        self._backend = backend
        self._by_name = {name: self._opened(name, each) for name, each in folders.items()}

    def _opened(self, name: str, source: Path | Any) -> Served:
        is_folder = isinstance(source, Path)
        folder: Path | None = source if is_folder else getattr(source, "folder", None)
        sealed = _seal(folder)  # before it is read: what changes meanwhile is noticed later
        model = load(source, self._backend) if is_folder else source
        task = task_of_model(folder).name if folder else getattr(getattr(model, "config", None), "task", "lm")
        manifest = folder / storage.MANIFEST if folder else None
        created = int(manifest.stat().st_mtime) if manifest else 0
        text = ServedModel(name, model) if isinstance(model, LanguageModel) else None
        return Served(name, task, model, created, folder, sealed, text)

    def __iter__(self) -> Iterator[Served]:
        return iter(list(self._by_name.values()))

    def served(self, name: str | None) -> Served:
        """The model of that name, or the default one. Raises RequestError if there is none."""
        if name is None:
            return next(iter(self._by_name.values()))
        if name not in self._by_name:
            near = did_you_mean(name[:80], self._by_name)
            raise RequestError(f"there is no model {name[:80]!r}.{near}", "model", 404, "model_not_found")
        return self._by_name[name]

    def language(self, name: str | None) -> Served:
        """The same for a model that writes. Raises RequestError for one that predicts."""
        found = self.served(name)
        found.writer  # noqa: B018 - raises
        return found

    def name_of(self, digest: str) -> str | None:
        """The name of the model with these weights; None if it is not served, or no longer."""
        return next((each.name for each in self if getattr(each.model, "digest", "") == digest), None)

    def digest_of_state(self, content: bytes) -> str:
        """The digest of the model that a state file belongs to, once all of it is verified. Raises RequestError."""
        try:
            digest = model_of_state(content, "the state")
            served = next((each for each in self if each.text and each.text.model.digest == digest), None)
            if served is None:
                raise RequestError(
                    "the state belongs to a model that is not served here.", code="state_of_another_model"
                )
            Session.from_bytes(served.writer.model, content, "the state")
        except RequestError:
            raise
        except TextgenError as error:
            raise RequestError(str(error), code="damaged_state") from None
        return digest

    @staticmethod
    def new_id() -> str:
        """An id for a response."""
        return secrets.token_hex(12)

    async def keep_fresh(self, aside: Callable[..., Awaitable[Any]]) -> None:
        """Open a model again whenever its folder has changed. Texts that are being written end with the old one."""
        while True:
            await asyncio.sleep(RELOAD_SECONDS)
            for served in self:
                if served.folder is None or _seal(served.folder) == served.sealed:
                    continue
                try:
                    self._by_name[served.name] = await aside(self._opened, served.name, served.folder)
                    LOG.info("the model %r has been opened again", served.name)
                except TextgenError as error:  # caught while it is being replaced, or damaged: the old one stays
                    LOG.warning("the model %r could not be opened again: %s", served.name, error)


def _seal(folder: Path | None) -> str:
    """A text that changes when the folder is committed anew."""
    try:
        return "" if folder is None else (folder / storage.MANIFEST).read_text()
    except OSError:
        return ""

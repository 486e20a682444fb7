"""Models on the Hugging Face Hub: `hub:owner/name`, or `hub:owner/name@revision`, wherever a model is named.

A downloaded folder is untrusted: only the files that its manifest lists are fetched, within a limit; each is compared
with its digest before it is kept; and none is code. They are kept by commit in a cache, so that a model that was used
once can be used without a connection. The environment variables of huggingface_hub hold: HF_TOKEN, HF_ENDPOINT,
HF_HUB_OFFLINE.
"""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from textgen import storage
from textgen.errors import TextgenError, UsageError, needed
from textgen.formatting import plural
from textgen.storage import filesystem

PREFIX = "hub:"
MOST_BYTES = 4 << 30
"""The largest model that is downloaded."""
_COMMIT = re.compile(r"[0-9a-f]{12,64}")
_NAME = re.compile(r"hub:([\w.-]{1,96}/[\w.-]{1,96})(?:@([\w./-]{1,200}))?", re.ASCII)


@dataclass(frozen=True)
class Pulled:
    """A model folder that was downloaded, or had been: its repository and its commit."""

    folder: Path
    repository: str
    commit: str
    size: int


def parse(name: str) -> tuple[str, str | None]:
    """The repository and the revision, if one is given, of `hub:owner/name[@revision]`. Raises UsageError."""
    match = _NAME.fullmatch(name)
    if match is None:
        raise UsageError(f"{name!r} is not the name of a model on the Hub.", hint="write hub:owner/name.")
    return match[1], match[2]


def cache_folder() -> Path:
    """Where downloaded models are kept."""
    root = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(root) / "textgen" / "hub"


@cache
def cached(name: str) -> Path:
    """The folder of a model on the Hub, downloaded if it is not in the cache. Once in a process, the Hub is asked
    whether there is a newer one; without a connection, the one used last is taken. Raises TextgenError."""
    repository, revision = parse(name)
    try:
        return pull(name).folder
    except HubError as error:
        known = [path for path in cache_folder().glob(f"{_spelled(repository)}--*") if path.is_dir()]
        if revision is not None or not known or not error.passing:
            raise
        return max(known, key=lambda path: path.stat().st_mtime)


class HubError(TextgenError):
    """The Hub did not give what was asked for; `passing` if it could not be reached."""

    passing = False


def pull(name: str, target: Path | None = None, most: int = MOST_BYTES) -> Pulled:
    """Download a model into a new folder, or into the cache. Raises UsageError for a name of another form, HubError if
    the Hub cannot be reached or has no such model, DamagedError for files that are not what the manifest says, and
    TextgenError for a model larger than `most` bytes or a folder that exists."""
    repository, revision = parse(name)
    with _explained(name) as hub:
        info = hub.HfApi(endpoint=_endpoint()).model_info(repository, revision=revision)
    if not _COMMIT.fullmatch(info.sha or ""):
        raise HubError(f"{name}: the Hub names no commit, but {info.sha!r}.")
    folder = target or cache_folder() / f"{_spelled(repository)}--{info.sha[:12]}"
    if target is None and (folder / storage.MANIFEST).is_file():
        folder.touch()
        manifest = storage.read_manifest(folder)
        return Pulled(folder, repository, info.sha, sum(entry["size"] for entry in manifest["files"].values()))
    with tempfile.TemporaryDirectory() as scratch:
        there = Path(scratch)
        _fetch(name, repository, info.sha, storage.MANIFEST, there)
        manifest = storage.read_manifest(there)
        size = sum(entry["size"] for entry in manifest["files"].values())
        if size > most:
            raise TextgenError(f"{name} has {size:,} bytes; at most {most:,} are downloaded.")
        for file in manifest["files"]:
            _fetch(name, repository, info.sha, file, there)
        _write(folder, {file: storage.verified(there, file, manifest) for file in manifest["files"]})
    return Pulled(folder, repository, info.sha, size)


def _fetch(name: str, repository: str, commit: str, file: str, folder: Path) -> None:
    with _explained(name) as hub:
        hub.hf_hub_download(repository, file, revision=commit, local_dir=folder, endpoint=_endpoint())


def _write(folder: Path, contents: Mapping[str, bytes]) -> None:
    """Write a sealed folder. Raises TextgenError if it exists."""
    try:
        with filesystem.new_folder(folder) as new:
            for file, content in contents.items():
                new.write(file, content)
    except FileExistsError:
        raise TextgenError(f"{str(folder)!r} exists already.", hint="choose another name, or remove it.") from None


def push(contents: Mapping[str, bytes], name: str, private: bool = False) -> str:
    """Upload the files of a model folder; returns the address of the commit. Raises UsageError for a name of another
    form, and HubError."""
    repository, revision = parse(name)
    with tempfile.TemporaryDirectory() as scratch:
        sealed = Path(scratch) / "model"
        _write(sealed, contents)
        with _explained(name) as hub:
            api = hub.HfApi(endpoint=_endpoint())
            api.create_repo(repository, private=private, exist_ok=True)
            done = api.upload_folder(
                repo_id=repository,
                folder_path=sealed,
                revision=revision,
                commit_message=f"Upload {plural(len(contents), 'file')} of a textgen model",
            )
    return str(done.commit_url)


def _spelled(repository: str) -> str:
    return repository.replace("/", "--")


def _endpoint() -> str | None:
    return os.environ.get("HF_ENDPOINT")


@contextmanager
def _explained(name: str) -> Iterator[Any]:
    """The package huggingface_hub; its errors become a HubError of one sentence."""
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    with needed("huggingface_hub", "a model on the Hub"):
        import huggingface_hub
        from huggingface_hub import errors
        from huggingface_hub.utils.tqdm import disable_progress_bars
    disable_progress_bars()
    try:
        yield huggingface_hub
    except TextgenError:
        raise
    except errors.RemoteEntryNotFoundError:
        raise HubError(f"{name} holds no textgen model.", hint="its repository has no manifest.json.") from None
    except errors.RevisionNotFoundError:
        raise HubError(f"{name}: there is no such revision.") from None
    except errors.RepositoryNotFoundError:
        hint = "check the spelling; a private one needs HF_TOKEN, or hf auth login."
        raise HubError(f"there is no model {name} on the Hub.", hint=hint) from None
    except Exception as error:  # the library reads and writes over a network and may raise anything
        reason = next((line.strip().rstrip(".") for line in str(error).splitlines() if line.strip()), "")
        answered = getattr(getattr(error, "response", None), "status_code", None)
        found = HubError(f"{name} cannot be reached ({reason[:200] or type(error).__name__}).")
        found.passing = answered is None or answered >= 500
        raise found from error

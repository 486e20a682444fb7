"""Preparing a comparison: a new one, planned and committed, or an interrupted one with the same options."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from textgen.contest import record
from textgen.contest.contest import Comparison
from textgen.contest.planning import Planner, require_both_parts
from textgen.contest.record import COMPARISON, ComparisonRecord
from textgen.contest.settings import ComparisonRequest
from textgen.errors import TextgenError, UsageError
from textgen.parameters import named
from textgen.tasks.language.data import stored_corpus
from textgen.text.split import Progress, no_progress
from textgen.text.store import TokenStore
from textgen.training.new_run import next_folder
from textgen.training.provenance import changes, versions
from textgen.training.train import CACHE


def prepare(
    paths: Sequence[str],
    request: ComparisonRequest,
    output_dir: str | None = None,
    progress: Progress = no_progress,
    dry_run: bool = False,
) -> Comparison:
    """A new comparison, planned and committed, or the existing one with the same options on the same text.

    Raises UsageError for a folder with a comparison of other options, naming the first that differs, and whatever
    `textgen.contest.planning` raises. A dry run plans and creates nothing but the tokens.
    """
    root = Path(output_dir).parent if output_dir else Path("runs")
    store = stored_corpus(paths, request.training, root / CACHE, progress)
    require_both_parts(store)
    folder = Path(output_dir) if output_dir else _folder(root, paths[0], request, store)
    if (folder / COMPARISON).exists():
        stored = record.load(folder)
        _refuse_change(folder, stored, request, store)
        warnings = changes(stored.made_with, versions(stored.made_with["threads"]))
        return Comparison(folder, stored, store, warnings)
    if folder.exists():
        raise TextgenError(
            f"{str(folder)!r} exists already and is not a comparison.", hint=f"name another {named('output_dir')}."
        )
    planned = Planner(request, store).plan(list(paths))
    if not dry_run:
        record.create(folder, planned)
    return Comparison(folder, planned, store)


def _folder(root: Path, path: str, request: ComparisonRequest, store: TokenStore) -> Path:
    """The folder of the newest comparison with this request, else the next free one."""
    free = next_folder(root, "compare", path)
    stem = free.name.rpartition("-")[0]
    numbered = {path.parent.name.rpartition("-")[2]: path.parent for path in root.glob(f"{stem}-*/{COMPARISON}")}
    for number in sorted(filter(str.isdecimal, numbered), key=int, reverse=True):
        folder = numbered[number]
        try:
            stored = record.load(folder)
        except TextgenError:
            continue
        if stored.store == store.key and stored.request == request.to_json():
            return folder
    return free


def _refuse_change(folder: Path, stored: ComparisonRecord, request: ComparisonRequest, store: TokenStore) -> None:
    hint = f"name another {named('output_dir')} for another comparison."
    before, now = stored.request, request.to_json()
    for name in [*now, *before]:
        if now.get(name) != before.get(name):
            raise UsageError(
                f"{named(name)} is {_shown(now.get(name))}, but the comparison in {str(folder)!r} has "
                f"{_shown(before.get(name))}.",
                hint=hint,
            )
    if stored.store != store.key:
        raise UsageError(f"the corpus is not that of the comparison in {str(folder)!r}.", hint=hint)


def _shown(value: object) -> str:
    """The value of an option as it is typed."""
    if isinstance(value, dict):
        return _shown([f"{name}={number}" for name, number in value.items() if number is not None])
    if isinstance(value, list):
        return ",".join(map(str, value)) or "none"
    return "the default" if value is None else str(value)

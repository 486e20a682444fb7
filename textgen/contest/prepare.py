"""A contest from what was asked: a new one, planned and committed, or the one that was begun with the same options."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from textgen.contest import record
from textgen.contest.contest import Contest
from textgen.contest.planning import Planner, refuse_nothing_to_judge
from textgen.contest.record import CONTEST, Record
from textgen.contest.settings import Request
from textgen.errors import TextgenError, UsageError
from textgen.parameters import named
from textgen.tasks.language import stored_corpus
from textgen.text.split import Progress, no_progress
from textgen.text.store import TokenStore
from textgen.training.new_run import next_folder
from textgen.training.provenance import versions
from textgen.training.train import CACHE


def prepare(
    paths: Sequence[str],
    request: Request,
    output_dir: str | None = None,
    progress: Progress = no_progress,
    dry_run: bool = False,
) -> Contest:
    """A new contest, planned and committed, or the one that was begun with the same options on the same text.

    Raises UsageError for a folder that holds a contest of other options, naming the first that differs, and whatever
    `textgen.contest.planning` refuses. A dry run plans and creates nothing but the tokens.
    """
    root = Path(output_dir).parent if output_dir else Path("runs")
    store = stored_corpus(paths, request.training, root / CACHE, progress)
    refuse_nothing_to_judge(store)
    folder = Path(output_dir) if output_dir else _folder(root, paths[0], request, store)
    if (folder / CONTEST).exists():
        kept = record.load(folder)
        _refuse_change(folder, kept, request, store)
        return Contest(folder, kept, store, _changed_versions(kept))
    if folder.exists():
        raise TextgenError(
            f"{str(folder)!r} exists already and is no contest.", hint=f"name another {named('output_dir')}."
        )
    planned = Planner(request, store).plan(list(paths))
    if not dry_run:
        record.create(folder, planned)
    return Contest(folder, planned, store)


def _folder(root: Path, path: str, request: Request, store: TokenStore) -> Path:
    """The folder of this very contest, if there is one, else the next that is free."""
    free = next_folder(root, "contest", path)
    stem = free.name.rpartition("-")[0]
    numbered = {path: path.parent.name.rpartition("-")[2] for path in root.glob(f"{stem}-*/{CONTEST}")}
    ours = [path for path, number in numbered.items() if number.isdigit()]
    for begun in sorted(ours, key=lambda path: int(numbered[path]), reverse=True):
        try:
            kept = record.load(begun.parent)
        except TextgenError:
            continue
        if kept.store == store.key and kept.asked == request.to_json():
            return begun.parent
    return free


def _refuse_change(folder: Path, kept: Record, request: Request, store: TokenStore) -> None:
    asked = request.to_json()
    for name in [*asked, *kept.asked]:
        if asked.get(name) != kept.asked.get(name):
            raise UsageError(
                f"{named(name)} is not what the contest in {str(folder)!r} has: {_shown(asked.get(name))}, "
                f"not {_shown(kept.asked.get(name))}.",
                hint=f"name another {named('output_dir')} for another contest.",
            )
    if kept.store != store.key:
        raise UsageError(f"the corpus is not the one of the contest in {str(folder)!r}.",
                         hint=f"name another {named('output_dir')} for another contest.")  # fmt: skip


def _shown(value: object) -> str:
    """The value of an option as it is typed."""
    if isinstance(value, dict):
        return _shown([f"{name}={number}" for name, number in value.items() if number is not None])
    if isinstance(value, list):
        return ",".join(map(str, value)) or "none"
    return "the default" if value is None else str(value)


def _changed_versions(kept: Record) -> list[str]:
    now = versions(kept.made_with["threads"])
    return [
        f"{name} is now {now[name]}, it was {then}: what is run from here on agrees in quality, not bit for bit."
        for name, then in kept.made_with.items()
        if now.get(name) != then
    ]

"""textgen runs: list training runs, with their progress and best losses, and verify their files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from textgen import storage
from textgen.cli.model_folders import find_run
from textgen.errors import TextgenError
from textgen.formatting import count, figure, plural, table
from textgen.model import CONFIG
from textgen.screen import Output
from textgen.storage import ARGUMENTS, metrics


@click.group("runs", invoke_without_command=True)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.pass_context
def command(ctx: click.Context, as_json: bool) -> None:
    """List the runs in runs/ with their progress and best losses. `textgen runs show RUN` shows one in detail."""
    if ctx.invoked_subcommand is None:
        _list("runs", as_json)


@command.command("list")
@click.argument("folder", default="runs")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def list_command(folder: str, as_json: bool) -> None:
    """List the runs in FOLDER (default: runs/)."""
    _list(folder, as_json)


def _list(folder: str, as_json: bool) -> None:
    root = Path(folder)
    found = sorted(path.parent for path in root.glob(f"*/{ARGUMENTS}")) if root.is_dir() else []
    rows = [summary(run) for run in found]
    if as_json:
        Output().write(json.dumps(rows) + "\n")
        return
    if not rows:
        raise TextgenError(f"no run in {folder}/.", hint="train one: textgen train FILE")
    shown = [{**row, "steps": f"{count(row['step'])}/{count(row['steps'])}",
              "val loss": figure(row["best_loss"]), "bits/byte": figure(row["bits_per_byte"])}
             for row in rows]  # fmt: skip
    Output().write(table(shown, ["run", "task", "cell", "steps", "val loss", "bits/byte"]) + "\n")


def summary(run: Path) -> dict[str, Any]:
    """A run as a row of the list: task, cell, progress and best held-out loss; a damaged run says so."""
    row: dict[str, Any] = {"run": run.name, "task": "?", "cell": "?", "step": 0, "steps": 0}
    row |= {"best_loss": None, "bits_per_byte": None}
    try:
        options = storage.read_json(run / ARGUMENTS)["options"]
        row |= {"task": options.get("task") or "lm", "cell": options["cell"], "steps": options["max_steps"]}
        lines = metrics(run)
    except (TextgenError, KeyError, TypeError):
        return {**row, "cell": "damaged"}
    for line in lines:
        row["step"] = max(row["step"], line.get("step", 0))
        loss = line.get("eval_loss")
        if loss is not None and (line.get("final") or row["best_loss"] is None or loss < row["best_loss"]):
            row |= {"best_loss": loss, "bits_per_byte": line.get("eval_bits_per_byte")}
    return row


@command.command("show")
@click.argument("run", default="latest")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def show(run: str, as_json: bool) -> None:
    """Show RUN in detail (default: the latest).

    Prints its options, plan and all evaluations.
    """
    folder = find_run(run)
    if not (folder / ARGUMENTS).exists():
        raise TextgenError(
            f"{str(folder)!r} is not a run (it has no {ARGUMENTS}).", hint="textgen runs lists all runs."
        )
    arguments = storage.read_json(folder / ARGUMENTS)
    content = {
        **summary(folder),
        "folder": str(folder),
        "checkpoints": [int(path.name.rpartition("-")[2]) for path in storage.checkpoints(folder)],
        **({"parts": arguments["parts"]} if arguments.get("parts") else {}),
        **{name: arguments.get(name) for name in ("corpus", "store", "digests", "made_with", "options")},
    }
    evaluations = [line for line in metrics(folder) if "eval_loss" in line]
    if as_json:
        Output().write(json.dumps({**content, "evaluations": evaluations}) + "\n")
        return
    content["parts"] = [_part_shown(part) for part in content.get("parts", [])] or ["one"]
    Output().write("".join(f"{line}\n" for name, value in content.items() for line in _described(name, value)))
    rows = [
        {"step": count(e["step"]), "val loss": figure(e["eval_loss"]), "val ppl": figure(e.get("eval_perplexity"), 2),
         "bits/byte": figure(e.get("eval_bits_per_byte")), "": "final" if e.get("final") else ""} for e in evaluations
    ]  # fmt: skip
    if rows:
        Output().write("\n" + table(rows, ["step", "val loss", "val ppl", "bits/byte", ""]) + "\n")


def _part_shown(part: dict[str, Any]) -> str:
    return f"steps {count(part['start'])} to {count(part['end'])}, learning rate {part['learning_rate']:.2g}"


def _described(name: str, value: Any) -> list[str]:
    """A name and its value; a list or table takes one line per entry."""
    if isinstance(value, dict):
        shown = [f"{key}: {each}" for key, each in value.items() if each is not None]
    else:
        shown = [str(each) for each in value] if isinstance(value, list) else [str(value)]
    first, *others = shown or ["-"]
    return [f"{name:14} {first}", *(f"{'':14} {other}" for other in others)]


@command.command("verify")
@click.argument("runs", nargs=-1, metavar="[RUN]...")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object per folder.")
def verify(runs: tuple[str, ...], as_json: bool) -> None:
    """Verify the checksums of RUN (default: all).

    Compares all files of the run, its checkpoints and its tokens with their SHA-256 checksums, and prints the name of
    every damaged file; the exit code is 1 if there is any. RUN may also be a model folder or a folder of tokens.
    Without RUN, every run in runs/ is verified.
    """
    folders = [find_run(name) for name in runs] or _committed(Path("runs"))
    seen: dict[Path, storage.Verification] = {}
    for folder in folders:
        if not any((folder / name).exists() for name in (ARGUMENTS, storage.MANIFEST, CONFIG)):
            raise TextgenError(
                f"{str(folder)!r} is not a run, a model folder or a folder of tokens (it has no {storage.MANIFEST})."
            )
        for examined in storage.verify_run(folder):
            if examined.folder not in seen:
                seen[examined.folder] = examined
                _report(examined, as_json)
    damaged = sum(len(examined.damaged) for examined in seen.values())
    if damaged:
        are = "file is" if damaged == 1 else "files are"
        raise TextgenError(
            f"{count(damaged)} {are} damaged.",
            hint="--resume uses the newest undamaged checkpoint; damaged tokens are recreated from the corpus.",
        )


def _committed(root: Path) -> list[Path]:
    """The runs and other folders with a manifest in `root`. Raises TextgenError if there is none."""
    places = (f"*/{ARGUMENTS}", f"*/{storage.MANIFEST}", f"*/*/{ARGUMENTS}")  # the last are the runs of a comparison
    found = {path.parent for place in places for path in root.glob(place) if ".tmp-" not in str(path)}
    if not found:
        raise TextgenError(f"no run in {root}/.", hint="train one: textgen train FILE")
    return sorted(found)


def _report(examined: storage.Verification, as_json: bool) -> None:
    if as_json:
        content = {"folder": str(examined.folder), "files": examined.files, "damaged": examined.damaged}
        Output().write(json.dumps(content) + "\n")
    else:
        whole = f"{examined.folder}: {plural(examined.files, 'file')}, all intact"
        Output().write("".join(f"{line}\n" for line in examined.damaged or [whole]))


@command.command("path")
@click.argument("run", default="latest")
def path(run: str) -> None:
    """Print the folder of RUN (default: the latest)."""
    Output().write(f"{find_run(run)}\n")

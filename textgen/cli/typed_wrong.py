"""Hints for a wrong command line."""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from pathlib import Path

import click
from click.exceptions import MissingParameter, NoSuchCommand

from textgen.errors import UsageError
from textgen.integrity import ARGUMENTS
from textgen.sealed import MANIFEST
from textgen.text.sources import refuse_missing

_EXTRA = re.compile(r"Got unexpected extra arguments? \((.*)\)$", re.DOTALL)


def explained(error: click.ClickException) -> tuple[str, str | None]:
    """The message of a click error, and a hint on what to type."""
    message, context = error.format_message(), getattr(error, "ctx", None)
    if context is None:
        return message, None
    command = context.command_path
    usage = " ".join(context.command.collect_usage_pieces(context)[1:])
    spellings = {each for parameter in context.command.get_params(context) for each in parameter.opts}
    listed = "commands" if isinstance(context.command, click.Group) else "options"
    listing = f"{command} {'--help-all' if '--help-all' in spellings else '--help'} lists all {listed}."
    if found := _EXTRA.match(message):
        message = f"{command} does not take {found[1]!r}."
        if command == "textgen sample":
            return message, _prompt_of(found[1])
        return message, f"{f'{command} {usage}'.strip()}; {listing}"
    if isinstance(error, NoSuchCommand):
        return message, _instead_of_command(command, error.command_name) or listing
    if isinstance(error, MissingParameter) and usage:
        return message, f"{command} {usage}; {listing}"
    return message, listing


def _prompt_of(words: str) -> str:
    """What was meant by `textgen sample WORDS`."""
    if _is_model(words):
        return f"textgen sample -m {shlex.quote(words)}"
    if Path(words).is_file():
        return f"textgen sample --file {shlex.quote(words)}"
    return f"textgen sample --prompt {quoted(words)}"


def _instead_of_command(command: str, name: str) -> str | None:
    """What was meant by an unknown command, if that is clear."""
    if command == "textgen runs" and _is_model(name):
        return f"textgen runs show {shlex.quote(name)}"
    if command == "textgen cells":
        from textgen import plugins

        return f"textgen cells show {name}" if name in plugins.entries() else None
    if command != "textgen":
        return None
    if _is_model(name):
        return f"textgen sample -m {shlex.quote(name)}"
    from textgen.text import recipes

    if Path(name).exists() or name in recipes.names():
        return f"textgen train {shlex.quote(name)}"
    return f"textgen sample --prompt {quoted(name)}" if " " in name.strip() else None


def check_corpus(verb: str, corpus: Sequence[str]) -> None:
    """Raise UsageError for a missing file, and for a model folder, whose README would be read as text."""
    for name in corpus:
        if not _is_run(Path(name)):
            continue
        path = shlex.quote(name)
        instead = {
            "train": f"--resume {path} continues that run, --init-from {path} starts from its weights.",
            "compare": "name the text to train on.",
            "tokenize": "name the text to tokenize.",
        }
        raise UsageError(
            f"{name!r} is a model folder, not a {'table or text' if verb == 'predict' else 'corpus'}.",
            hint=instead.get(
                verb, shlex.join(["textgen", verb, "-m", name, *(each for each in corpus if each != name)])
            ),
        )
    refuse_missing(corpus)


def quoted(text: str) -> str:
    """A text in quotation marks for the command line."""
    return f'"{text}"' if not re.search(r'["\\$`!]', text) else shlex.quote(text)


def _is_model(name: str) -> bool:
    return any(_is_run(folder) for folder in (Path(name), Path("runs") / name))


def _is_run(folder: Path) -> bool:
    return (folder / MANIFEST).is_file() and ((folder / ARGUMENTS).is_file() or (folder / "config.json").is_file())

"""What README and docstrings show is run: Python blocks, doctests, and every command and option they name."""

import doctest
import re
import shlex
import tomllib
from importlib import import_module
from pathlib import Path

import click
import pytest

from textgen import cli, plugins

ROOT = Path(__file__).parents[1]
PAGES = [
    *(ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "corpora" / "README.md"),
    *sorted((ROOT / "docs").glob("*.md")),
    *sorted((ROOT / "plugins").glob("*/README.md")),
]
COMMANDS = [
    pytest.param(shown, id=f"{page.name}:{number}")
    for page in PAGES
    for number, line in enumerate(page.read_text().splitlines(), 1)
    for found in re.findall(r"^\s*(?:\$ )?(textgen [a-z-].*)|`(textgen [a-z-][^`]*)`", line)
    for shown in found
    if shown
]


PROJECTS = [tomllib.loads(path.read_text())["project"] for path in (ROOT / "plugins").glob("textgen-*/pyproject.toml")]
OFFERED = {
    name.removeprefix("commands."): module
    for project in PROJECTS
    for name, module in project["entry-points"]["textgen"].items()
    if name.startswith("commands.")
}
"""The commands of the example packages, installed or not, and their modules."""


def offered(name, monkeypatch):
    for folder in (ROOT / "plugins").glob("textgen-*"):
        monkeypatch.syspath_prepend(str(folder))
    return plugins.load_module(OFFERED[name], "commands", click.Command, "a command")[name]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_python_blocks_run(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "notes.txt").write_text("Once upon a time there was a fox, and it was a good fox.\n" * 200)
    scope = {}
    for block in re.findall(r"```python\n(.*?)```", page.read_text(), flags=re.S):
        exec(compile(block, str(page), "exec"), scope)


@pytest.mark.parametrize("line", COMMANDS)
def test_commands_and_options_exist(line, monkeypatch):
    words = shlex.split(line.split("  #")[0].split(" | ")[0].split(" && ")[0])[1:]
    command = cli.group
    if words[:1] == ["--config"]:
        words = words[2:]
    if words[:1] and words[0] in OFFERED:
        command = offered(words.pop(0), monkeypatch)
    while isinstance(command, click.Group) and words and not words[0].startswith("-"):
        command = command.get_command(click.Context(command), words.pop(0))
        assert command is not None, line
    known = {spelling for p in command.params for spelling in (*p.opts, *p.secondary_opts)} | {
        "-h",
        "--help",
        "--help-all",
    }
    used = {word.split("=")[0] for word in words if re.match(r"--?[a-zA-Z]", word)}
    assert used <= known, f"{line}: {used - known}"


def test_readme_names_every_verb():
    text = (ROOT / "README.md").read_text()
    assert [verb for verb in cli.COMMANDS if f"textgen {verb}" not in text] == []


def test_the_map_of_the_code_names_every_package():
    text = (ROOT / "CONTRIBUTING.md").read_text()
    named = set(re.findall(r"`(\w+)(?:\.py|/)`", text[text.index("## A map") : text.index("## The path")]))
    top = [path for path in (ROOT / "textgen").iterdir() if path.stem[:1] not in "_."]
    assert named <= {path.stem for path in top}
    assert {path.stem for path in top if path.is_dir()} <= named


@pytest.mark.parametrize("name", ["cells", "model.weights", "plugins"])
def test_docstring_examples(name):
    failed, tried = doctest.testmod(import_module(f"textgen.{name}"))
    assert tried and not failed


def test_the_code_of_write_a_task_is_that_of_the_package():
    folder = ROOT / "plugins" / "textgen-tagger" / "textgen_tagger"
    source = {line for path in folder.glob("*.py") for line in path.read_text().splitlines()}
    blocks = re.findall(r"```py\n(.*?)```", (ROOT / "docs" / "write-a-task.md").read_text(), flags=re.S)
    shown = [line for block in blocks for line in block.splitlines()]
    assert len(shown) > 50 and [line for line in shown if line not in source] == []

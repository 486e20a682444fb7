"""Laws of a new package: what is written installs, trains and passes its own tests; what cannot be is one sentence."""

import ast
import errno
import itertools
import keyword
import re
import shlex
import sys
import tomllib
import unittest
from importlib import metadata
from pathlib import Path

import pytest
import torch
from faults import Failing
from hypothesis import given, settings
from hypothesis import strategies as st
from terminal import refusal, run

import textgen
from textgen import plugins
from textgen.cells import Cell, watched
from textgen.cli import load_plugins
from textgen.errors import TextgenError, UsageError
from textgen.scaffold import CELL_KINDS, LICENSES, ScaffoldOptions, contents, create, names_from, refuse_taken
from textgen.storage import filesystem
from textgen.testing.runner import run_laws

GUIDE = (Path(__file__).parents[1] / "docs" / "write-a-cell.md").read_text()
PYTHON = re.findall(r"```python\n(.*?)```", GUIDE, flags=re.S)
HEADINGS = {
    "mit": "MIT License",
    "apache-2.0": "Apache License",
    "bsd-3-clause": "BSD 3-Clause License",
    "cc0": "CC0 1.0 Universal",
    "none": "",
}
LAWS_OF_THE_GUIDE = [
    *("state_structure", "forward_matches_step", "split_sequence", "empty_sequence", "rows_independent"),
    *("gradients_match_step", "all_parameters_used", "no_mutation", "options_json", "meta_device", "parameter_groups"),
]
TINY = ["--hidden-size", "4", "--max-steps", "2", "--batch-size", "2", "--seq-length", "8", "--threads", "1"]


def described(folder):
    return tomllib.loads((folder / "pyproject.toml").read_text())["project"]


def install(folder, monkeypatch):
    """What `pip install -e FOLDER` leaves behind: the folder on the path, and metadata."""
    project = described(folder)
    info = folder / f"{project['name'].replace('-', '_')}-{project['version']}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n")
    points = "".join(f"{name} = {module}\n" for name, module in project["entry-points"]["textgen"].items())
    (info / "entry_points.txt").write_text(f"[textgen]\n{points}")
    monkeypatch.syspath_prepend(str(folder.absolute()))
    monkeypatch.setenv("TEXTGEN_LOAD_PLUGINS", project["name"])


@pytest.fixture
def place(tmp_path, monkeypatch):
    """An empty folder, in which it is also seen when a package is installed."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(filesystem, "system", Failing(0, 0))
    before = set(sys.modules)
    yield tmp_path
    for name in [name for name in sys.modules if name.startswith("textgen_") and name not in before]:
        del sys.modules[name]
    plugins.forget()


@pytest.fixture(params=CELL_KINDS)
def installed(request, place, monkeypatch):
    """A new package of each kind, installed: its kind and its folder."""
    written = create("mycell", ScaffoldOptions(kind=request.param))
    install(written.folder, monkeypatch)
    return request.param, written.folder


# --- what is written works ---


def test_the_cell_trains_samples_and_is_known_by_name(installed, place):
    kind, _ = installed
    (place / "notes.txt").write_text("A small fox sat on a large stone and looked at the sea.\n" * 40)
    assert run("train", "--cell", "mycell", "notes.txt", *TINY).code == 0
    assert len(run("sample", "-n", "5", "--seed", "1").text) >= 5
    cell = plugins.cell("mycell")
    assert cell.__name__ == "MyCell" and issubclass(cell, getattr(textgen, CELL_KINDS[kind].base))
    assert load_plugins.problem_with(plugins.owner("mycell")) is None


def test_the_package_passes_its_own_tests(installed):
    _, folder = installed
    scope = {}
    (test,) = (folder / "tests").iterdir()
    exec(compile(test.read_text(), str(test), "exec"), scope)
    conformance = scope["test_conformance"]
    (laws,) = [mark.args[1] for mark in conformance.pytestmark]
    skipped = 0
    for law in laws:
        try:
            conformance(*law.values)
        except unittest.SkipTest:
            skipped += 1
    assert len(laws) - skipped > 20


def test_the_cell_is_its_step_and_names_its_gates(installed):
    cell = plugins.cell("mycell")(3, 4).double()
    xs = torch.randn(9, 2, 3, dtype=torch.double)
    with watched(cell) as seen:
        slow = Cell.forward(cell, xs)
    torch.testing.assert_close(cell(xs), slow)
    assert [len(values) for values in seen[""].values()] == [9, 9]


@pytest.mark.parametrize("license", LICENSES)
@pytest.mark.parametrize("kind", CELL_KINDS)
def test_the_metadata_is_what_indexes_and_installers_read(kind, license):
    names = names_from("fast-weights")
    options = ScaffoldOptions(kind=kind, license=license, author='Ada "A" Løvelace <ada@example.org>')
    written = {path: content.decode() for path, content in contents(names, options, 2031).items()}
    project = tomllib.loads(written["pyproject.toml"])["project"]
    assert project["name"] == "textgen-fast-weights" and project["version"]
    assert project["authors"] == [{"name": 'Ada "A" Løvelace', "email": "ada@example.org"}]
    assert project["dependencies"] == [f"textgen-lm[train]>={metadata.version('textgen-lm')}"]
    assert project["entry-points"] == {"textgen": {"fast-weights": "textgen_fast_weights"}}
    assert project.get("license", "") == LICENSES[license] and ("LICENSE" in written) == bool(LICENSES[license])
    assert HEADINGS[license] in written.get("LICENSE", "")
    assert project.get("license-files", []) == [path for path in written if path == "LICENSE"]
    if license in ("mit", "bsd-3-clause"):
        assert 'Copyright (c) 2031 Ada "A" Løvelace\n' in written["LICENSE"]
    assert {"textgen_fast_weights.py", "tests/test_fast_weights.py", "README.md", ".gitignore"} <= set(written)
    assert ast.get_docstring(ast.parse(written["textgen_fast_weights.py"]))
    unfilled = {path for path, text in written.items() if re.search(r"\$\{?[a-z]", text)}
    assert unfilled == set()


def test_a_cell_that_refuses_an_option_is_one_sentence(place, monkeypatch):
    """As the guide has it: the constructor raises ValueError, whoever trains reads it."""
    (place / "notes.txt").write_text("A small fox sat on a large stone and looked at the sea.\n" * 40)
    folder = create("leaky", ScaffoldOptions()).folder
    (block,) = [block for block in PYTHON if "class Leaky" in block]
    source = (folder / "textgen_leaky.py").read_text()
    (folder / "textgen_leaky.py").write_text(
        f"{source[: source.index('class ')]}\n{block}\n{source[source.index('@') :]}"
    )
    install(folder, monkeypatch)
    said, _ = refusal(run("train", "--cell", "leaky", "-o", "rate", "5", "notes.txt", *TINY), 2)
    assert said == "cell 'leaky' refuses: rate must be above 0 and at most 1, not 5.0."
    assert run("train", "--cell", "leaky", "-o", "rate", "0.2", "-o", "squash", "relu", "notes.txt", *TINY).code == 0


# --- names ---


@settings(deadline=None)
@given(st.text(st.characters(codec="utf-8"), max_size=80) | st.from_regex(r"[A-Za-z0-9_-]{1,70}", fullmatch=True))
def test_a_name_is_good_or_comes_with_one_that_is(typed):
    try:
        names = names_from(typed)
    except UsageError as error:
        suggested = shlex.split(error.hint)
        assert repr(typed) in str(error) and suggested[:-1] == ["textgen", "plugins", "new"]
        names = names_from(suggested[-1])
        assert names.cell == suggested[-1]
    assert re.fullmatch(r"[a-z][a-z0-9]*(-[a-z0-9]+)*", names.cell) and names_from(names.cell).cell == names.cell
    assert names.module.isidentifier() and names.class_name.isidentifier()
    assert not keyword.iskeyword(names.class_name) and names.class_name not in ("State", "Tensor")


@pytest.mark.parametrize(
    ("typed", "cell", "class_name"),
    [
        ("mycell", "mycell", "MyCell"),
        ("mingru", "mingru", "MinGRU"),
        ("my-lstm", "my-lstm", "MyLSTM"),
        ("sLSTM", "slstm", "SLSTM"),
        ("MyCell", "mycell", "MyCell"),
        ("fast_weights", "fast-weights", "FastWeights"),
        ("textgen-mgu", "mgu", "Mgu"),
        ("tensor", "tensor", "TensorCell"),
        ("None", "none", "NoneCell"),
    ],
)
def test_names_follow_from_one(typed, cell, class_name):
    names = names_from(typed)
    assert (names.cell, names.class_name) == (cell, class_name)


@pytest.mark.parametrize("name", ["lstm", "GRU", "elman", "rnn", "textgen-lstm", "lm", "cells"])
def test_a_name_that_is_taken_is_refused_with_its_owner(place, name):
    said, hint = refusal(run("plugins", "new", name), 2)
    assert "is taken by " in said and ("textgen-lm " in said or "textgen_cells" in said)
    names_from(shlex.split(hint)[-1])
    assert list(place.iterdir()) == []


def test_the_name_of_an_installed_package_is_taken(installed):
    for name in ("mycell", "MyCell", "textgen_mycell"):
        with pytest.raises(UsageError, match=r"'mycell' is taken by textgen-mycell 0\.1\.0\.") as error:
            refuse_taken(names_from(name))
        assert "pip uninstall textgen-mycell" in error.value.hint


# --- what cannot be ---


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        ([], 2, "no name given."),
        (["x y"], 2, "not 'x y'."),
        (["mycell", "--kind", "gatd"], 2, "--kind must be gated, linear or cell, not 'gatd'. Did you mean 'gated'?"),
        (["mycell", "--license", "gpl"], 2, "none, not 'gpl'."),
        (["mycell", "--author", "two\nlines"], 2, r"not 'two\nlines'."),
        (["mycell", "--author", " "], 2, "not ' '."),
        (["mycell", "--output-dir", "."], 1, "'.' exists already."),
        (["mycell", "--output-dir", "file"], 1, "'file' exists already."),
        (["mycell", "--output-dir", "dangling"], 1, "'dangling' exists already."),
        (["mycell", "--output-dir", "file/below/it"], 1, "/file' is not a folder."),
        (["mycell", "--output-dir", "x" * 300], 1, "File name too long."),
    ],
)
def test_a_mistake_is_a_sentence_and_writes_nothing(place, arguments, code, said):
    (place / "file").write_text("mine")
    (place / "dangling").symlink_to("nowhere")
    sentence, _ = refusal(run("plugins", "new", *arguments), code)
    assert sentence.endswith(said)
    assert {path.name for path in place.iterdir()} == {"file", "dangling"} and (place / "file").read_text() == "mine"


@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EACCES])
def test_whichever_write_fails_nothing_is_left(place, monkeypatch, error):
    for at in itertools.count(1):
        monkeypatch.setattr(filesystem, "system", Failing(at, error, lasting=True))
        try:
            create("mycell", ScaffoldOptions(output_dir="deep/deeper/mycell"))
        except TextgenError as said:
            assert str(said).startswith("'deep/deeper/mycell' cannot be written: ")
            assert list(place.iterdir()) == []
        else:
            break
    assert at > 20 and (place / "deep/deeper/mycell/tests/test_mycell.py").is_file()


# --- what is said ---


def test_the_kinds_are_explained(place):
    shown = run("plugins", "new", "--list").text
    for kind in CELL_KINDS.values():
        (line,) = [line for line in shown.splitlines() if line.split()[0] == kind.name]
        assert kind.writes in line and kind.when in line and len(line) <= 100
        assert hasattr(getattr(textgen, kind.base), kind.writes.split("(")[0])


@pytest.mark.parametrize("folder", [None, "else where/x", "/absolute"])
def test_the_next_steps_are_those_of_the_guide(place, folder):
    target = str(place / "y") if folder == "/absolute" else folder
    shown = run("plugins", "new", "mycell", *(["--output-dir", target] if target else []))
    assert shown.text == f"{target or 'textgen-mycell'}\n"
    head, steps = shown.err.split("next:\n")
    assert "MyCell, a GatedCell" in head
    install_line, *rest = [line.strip() for line in steps.splitlines()]
    *pip, where = shlex.split(install_line)
    assert pip == ["pip", "install", "-e"] and re.match(r"\.?/", where) and Path(where).is_dir()
    assert all(line in GUIDE for line in rest)
    assert folder or "textgen plugins new mycell\n" + install_line in GUIDE


def test_every_cell_of_the_guide_keeps_the_laws():
    scope = {}
    for block in PYTHON:
        if "check_cell" not in block:
            exec(compile(block, "write-a-cell.md", "exec"), scope)
    cells = [value for value in scope.values() if isinstance(value, type) and issubclass(value, Cell)]
    assert len(cells) == len(re.findall("^class ", GUIDE, flags=re.M))
    broken = [
        (cell.__name__, r) for cell in cells for r in run_laws(cell, laws=LAWS_OF_THE_GUIDE) if r.status == "failed"
    ]
    assert broken == []

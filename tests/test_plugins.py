"""Laws of plugins: a broken one is named in a line and harms nobody else; listing imports nothing; options are kept."""

import builtins
import importlib
import json
import math
import os
import shutil
import sys
import unicodedata
from pathlib import Path
from typing import Literal

import pytest
from click.shell_completion import ShellComplete
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from installing import OFFERED, registering, site
from terminal import refusal, run

from textgen import __version__, cells, plugin_metadata, plugins
from textgen.cells import Cell
from textgen.cli import group, load_plugins
from textgen.cli import plugins as screen
from textgen.cli import train as _train  # noqa: F401 - it loads every installed task: here, before there are broken ones
from textgen.errors import TextgenError, UsageError
from textgen.loading import load
from textgen.tasks import Task, task

TEXT = "A small fox sat on a large stone and looked at the sea.\n" * 40
MINE = ("textgen-one", "textgen-two")
TINY = ["--hidden-size", "4", "--max-steps", "2", "--batch-size", "2", "--seq-length", "8", "--threads", "1"]


OWN = "textgen-lm"
ASKING = {"cells": ("train", "notes.txt", "--cell"), "models": ("train", "notes.txt", "--init-from"), "commands": ()}
NOISE = """print('hello'); os.write(1, b'{"problem": "forged"}' + os.linesep.encode())\n"""
KINDS = ("cells", "tasks", "models", "commands")
EXPECTED = {  # what may be registered of each kind, as a message says it
    "cells": "must be a subclass of textgen.Cell",
    "tasks": "must be an instance of textgen.tasks.Task",
    "models": "must be the path of a model folder",
    "commands": "must be a click.Command",
}


def offering(kind, *names, thing=None, before=""):
    """A module that registers these names of a kind: the thing that fits, or another one."""
    source, fitting = OFFERED[kind]
    calls = "".join(f"    register({name!r}, {thing or fitting})\n" for name in names)
    return f"{before}{source}{calls}"


def broken(kind):
    """The name of a package and what it offers: what its module says, and what has to be said of it."""
    noun = kind[:-1]
    nothing, good = f"it registers no {noun}", offering(kind, "x")
    others = {
        "absent": ("import nowhere_to_be_found", "No module named 'nowhere_to_be_found'"),
        "no-python": ("def :", "SyntaxError: invalid syntax"),
        "exits": ("raise SystemExit(0)", "it exits with 0"),
        "silent": ("raise RuntimeError", "RuntimeError"),
        "long-winded": ("raise RuntimeError('one\\n\\n  two')", "RuntimeError: one two"),
        "misspelt": (good.replace(f"register_{kind}", f"register_{noun}"), f"unknown hook 'register_{noun}'"),
        "argument": (good.replace("(register):", "(give):"), "{'give'}"),
        "wrong": (offering(kind, "wrong", thing="3"), EXPECTED[kind]),
        "no-name": (good.replace("'x'", "3"), "must be text, not 3"),
        "repeated": (offering(kind, f"{kind}-repeated", f"{kind}-repeated"), f"'{kind}-repeated' is registered twice"),
        "empty": ("", nothing),
        "unmarked": (good.replace("@textgen.hookimpl", ""), nothing),
        "uncalled": (offering(kind), nothing),
        "renamed": (offering(kind, "something else"), "'something else'"),
        "surplus": (offering(kind, f"{kind}-surplus", "extra"), "registers 'extra' without an entry point"),
        "stumbles": (offering(kind) + "    1 / 0", "ZeroDivisionError: division by zero"),
        "other": (offering("models" if kind != "models" else "tasks", f"{kind}-other"), nothing),
        "zz-dies": ("import os; os._exit(3)", "it ends the process (exit code 3)"),
        "zz-late": ("import nowhere_to_be_found", "No module named"),  # loaded after the one before it has died
    }
    if kind == "cells":
        others["no-cell"] = (good.replace("(textgen.Cell)", "(torch.nn.Module)"), EXPECTED[kind])
        others["instance"] = (good.replace(", Leaky)", ", Leaky(1, 1))"), EXPECTED[kind])
    if kind == "models":
        others["nowhere"] = (offering(kind, "nowhere", thing="HERE / 'nowhere'"), EXPECTED[kind])
    return {f"{kind}-{name}": (kind, *case) for name, case in others.items()}


BROKEN = {name: case for kind in KINDS for name, case in broken(kind).items()}
STILL_USABLE = {f"{kind}-surplus" for kind in KINDS}  # what it lists, it registers
DEADLY = {f"{kind}-zz-dies" for kind in KINDS}


@pytest.fixture
def packages(tmp_path):
    with site(tmp_path / "site") as made:
        yield made


@pytest.fixture(scope="module")
def all_broken(tmp_path_factory):
    """Every kind of broken package at once, and what `textgen plugins` says of them."""
    with site(tmp_path_factory.mktemp("broken") / "site") as made:
        for name, (kind, source, _) in BROKEN.items():
            made.install(name, source, kind=kind)
        made.install("impostor", registering("lstm"), ["lstm"])
        made.install("usurper", registering("train", kind="commands"), ["train"], kind="commands")
        made.install("fine", registering("fine").replace("import torch\n", f"import os, torch\n{NOISE}"))
        for kind in KINDS[1:]:
            made.install(f"fine-{kind}", offering(kind, f"fine-{kind}", before=f"import os\n{NOISE}"), kind=kind)
        yield os.environ["TEXTGEN_LOAD_PLUGINS"], run("plugins")


@pytest.fixture
def among_broken(all_broken, monkeypatch, tmp_path):
    monkeypatch.setenv("TEXTGEN_LOAD_PLUGINS", all_broken[0])
    monkeypatch.chdir(tmp_path)
    Path("notes.txt").write_text(TEXT)


# --- broken plugins ---


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_plugin_is_named_in_one_line(all_broken, name):
    _, shown = all_broken
    (line,) = [line for line in shown.text.splitlines() if line.split()[0] == name]
    assert shown.code == 0
    assert line.split()[1:5] == [BROKEN[name][0][:-1], f"textgen-{name}", "1.0", "failed"]
    assert BROKEN[name][2] in line


def test_the_list_holds_one_line_each_and_nothing_else(all_broken):
    _, shown = all_broken
    rows = [line.split()[:5] for line in shown.text.splitlines()]
    assert rows[0] == ["name", "kind", "package", "status", "reason"]
    beside = {"cells": ["elman", "fine", "gru", "lstm", "lstm", "rnn"], "tasks": ["fine-tasks"],
              "models": ["fine-models"], "commands": ["fine-commands", "train"]}  # fmt: skip
    theirs = [row for row in rows[1:] if row[0] not in plugins.BUILT_IN_TASKS]
    expected = [(name, kind[:-1]) for kind in KINDS for name in sorted([*broken(kind), *beside[kind]])]
    assert [(row[0], row[1]) for row in theirs] == expected
    good = {row[0] for row in theirs if row[4] == "ok"}
    assert good == {"elman", "fine", "gru", "lstm", "rnn", "fine-tasks", "fine-models", "fine-commands"}


@pytest.mark.parametrize("name", sorted(BROKEN.keys() - STILL_USABLE - DEADLY))
def test_asking_for_a_broken_one_is_one_sentence(among_broken, name):
    kind, _, reason = BROKEN[name]
    if kind == "tasks":
        with pytest.raises(plugins.PluginError) as raised:
            plugins.registered(kind, name, Task)
        said = str(raised.value)
    else:
        said, _ = refusal(run(*ASKING[kind], name, *(TINY if kind != "commands" else ())), 1)
    assert said.startswith((f"{kind[:-1]} {name!r} comes from textgen-{name} 1.0, which failed to load: ",
                            f"textgen-{name} 1.0 has an entry point for {kind[:-1]} {name!r}, but "))  # fmt: skip
    assert reason in said and not Path("runs").exists()


@pytest.mark.parametrize("kind", KINDS)
def test_a_module_that_failed_is_not_kept(among_broken, kind):
    for name in (f"{kind}-misspelt", f"{kind}-stumbles", f"{kind}-uncalled"):
        with pytest.raises(plugins.PluginError):
            plugins.registered(kind, name, object)
        assert not plugins._manager.has_plugin(f"textgen_try_{name.replace('-', '_')}")
    assert plugins.registered(kind, f"{kind}-surplus", object) is not None
    assert plugins._manager.has_plugin(f"textgen_try_{kind}_surplus")


def test_everything_else_works_beside_broken_plugins(among_broken):
    assert run("--help").code == 0
    assert {line.split()[0] for line in run("cells").text.splitlines()} >= {*broken("cells"), "lstm"}
    for cell in ("lstm", "cells-surplus", "fine"):
        assert run("cells", "show", cell, "--json").code == 0
    for command in ("commands-surplus", "fine-commands"):
        assert run(command, "--name", "fox").out == b"Hello, fox!\n"
    assert plugins.find("fine-models").is_dir() and isinstance(task("fine-tasks"), Task)
    assert run("train", "notes.txt", "--cell", "lstm", *TINY).code == 0
    assert run("sample", "-n", "5", "--seed", "1").code == 0


def test_a_name_of_ours_stays_ours(all_broken, among_broken):
    (impostor,) = [line for line in all_broken[1].text.splitlines() if "textgen-impostor" in line]
    assert "failed" in impostor and "the name 'lstm' is taken by textgen-lm" in impostor
    assert plugins.cell("lstm").__module__ == "textgen_cells.lstm"
    assert plugins.owner("lstm").distribution == "textgen-lm"


def test_a_built_in_command_stays_ours(all_broken, among_broken):
    (usurper,) = [line for line in all_broken[1].text.splitlines() if "textgen-usurper" in line]
    assert "failed" in usurper and "the name 'train' is taken by textgen-lm" in usurper
    assert "Hello" not in run("train", "--help").text and "textgen_try_usurper" not in sys.modules
    assert run("--help").text.count("\n  train ") == 1


def test_a_built_in_task_stays_ours(packages, monkeypatch):
    packages.install("ours", offering("tasks", "mine"))
    monkeypatch.setitem(plugins.BUILT_IN_TASKS, "mine", "textgen_try_ours")
    packages.install("theirs", "raise Exception", ["mine", "sort"], kind="tasks")
    assert plugins.names("tasks")[-2:] == ["mine", "sort"] and plugins.owner("mine", "tasks").distribution == OWN
    assert isinstance(task("mine"), Task)
    assert [(entry.name, reason) for entry, reason in plugins.refusals()] == [
        ("mine", f"the name 'mine' is taken by {OWN} {__version__}")
    ]


@pytest.mark.parametrize("kind", KINDS)
def test_one_name_may_be_of_every_kind(packages, kind):
    for each in KINDS:
        packages.install(f"shared-{each}", offering(each, "shared"), ["shared"], kind=each)
    assert not plugins.refusals() and plugins.owner("shared", kind).distribution == f"textgen-shared-{kind}"


@pytest.mark.parametrize("kind", KINDS)
def test_two_packages_with_one_name_are_both_named_and_neither_is_used(packages, monkeypatch, kind):
    for package in ("this", "that"):
        packages.install(package, offering(kind, "shared"), ["shared"], kind=kind)
    with pytest.raises(plugins.PluginError) as raised:
        plugins.registered(kind, "shared", object)
    assert f"{kind[:-1]} 'shared' is claimed by textgen-that 1.0 and textgen-this 1.0" in str(raised.value)
    if kind == "commands":
        assert str(raised.value) == refusal(run("shared"), 1)[0]
        assert "Cannot be used: command 'shared' is claimed by" in " ".join(run("--help").text.split())
    if kind == "cells":
        assert str(raised.value) == refusal(run("cells", "show", "shared"), 1)[0]
        assert "claimed by textgen-that 1.0 and textgen-this 1.0" in run("cells").text
    reasons = {entry.distribution: reason for entry, reason in plugins.refusals()}
    assert {"textgen-this", "textgen-that"} == reasons.keys()
    assert "textgen-that 1.0" in reasons["textgen-this"] and "textgen-this 1.0" in reasons["textgen-that"]
    monkeypatch.setenv("TEXTGEN_LOAD_PLUGINS", "textgen-this")
    assert plugins.owner("shared", kind).distribution == "textgen-this" and not plugins.refusals()


def test_a_plugin_that_hangs_is_named(packages, monkeypatch):
    packages.install("hangs", "while True:\n    pass\n")
    monkeypatch.setattr(screen, "SECONDS_EACH", 0.2)
    (problem,) = screen._load_elsewhere([plugins.owner("hangs")]).values()
    assert "longer than" in problem


def test_what_a_plugin_prints_is_no_result(packages, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("notes.txt").write_text(TEXT)
    source = registering("loud").replace("import torch\n", "import torch\nprint('hello from loud')\n")
    packages.install("loud", source.replace("    register(", "    print('once more')\n    register("))
    done = run("train", "notes.txt", "--cell", "loud", *TINY)
    assert (done.code, done.out) == (0, b"") and "hello from loud\nonce more\n" in done.err


# --- finding ---


def test_listing_imports_no_plugin_and_shows_its_first_line(packages):
    modules = [packages.install("leaky", registering("leaky")), packages.install("bad", "raise Exception")]
    for kind in KINDS[1:]:
        modules.append(packages.install(f"good-{kind}", offering(kind, f"good-{kind}"), kind=kind))
        modules.append(packages.install(f"bad-{kind}", "raise Exception", kind=kind))
    for arguments in ([], ["cells"], ["cells", "--json"], ["cells", "list"], ["--help"], ["completion", "bash"],
                      ["train", "--help"], ["env"], ["no-such-command"]):  # fmt: skip
        assert run(*arguments).code in (0, 2)
    (leaky,) = [row for row in json.loads(run("cells", "--json", "list").out) if row["cell"] == "leaky"]
    assert leaky == {"cell": "leaky", "package": "textgen-leaky 1.0", "about": "A cell that forgets slowly."}
    assert not sys.modules.keys() & set(modules)


@pytest.mark.parametrize(
    ("value", "found"),
    [
        (None, {"one", "two", "alias"}),
        ("", set()),
        ("textgen-one", {"one"}),
        ("two", {"two"}),
        (" alias , textgen-one ", {"alias", "one"}),
        ("textgen_one", {"one"}),
        ("nothing", set()),
    ],
)
@pytest.mark.parametrize("kind", KINDS)
def test_the_variable_restricts_to_packages_or_names(packages, monkeypatch, value, found, kind):
    packages.install("one", offering(kind, "one"), kind=kind)
    packages.install("two", offering(kind, "two", "alias"), ["two", "alias"], kind=kind)
    if value is None:
        monkeypatch.delenv("TEXTGEN_LOAD_PLUGINS")
    else:
        monkeypatch.setenv("TEXTGEN_LOAD_PLUGINS", value)
    mine = {e.name for claims in plugins.entries(kind).values() for e in claims if e.distribution in MINE}
    assert mine == found and plugins.entries().keys() >= {"rnn", "elman", "lstm", "gru"}
    owners = [plugins.owner(name, kind) for name in sorted(found)]
    assert [load_plugins.problem_with(owner) for owner in owners] == [None] * len(found)


def test_of_a_package_found_twice_the_one_that_is_imported_counts(packages, tmp_path, monkeypatch):
    packages.install("twice", registering("twice"), version="2.0")
    packages.install("twice", "raise Exception", version="1.0", folder=tmp_path / "older")
    monkeypatch.setattr(sys, "path", [*sys.path, str(tmp_path / "older")])
    assert [entry.version for entry in plugins.entries()["twice"]] == ["2.0"]
    assert plugins.cell("twice").__name__ == "Leaky"


@pytest.fixture
def scans(monkeypatch):
    """How often the metadata of all packages is read."""
    plugins.forget()
    real, count = plugin_metadata._entries, []
    monkeypatch.setattr(plugin_metadata, "_entries", lambda: count.append(1) or real())
    return count


def test_metadata_is_read_once_however_often_it_is_asked_for(packages, scans):
    packages.install("leaky", registering("leaky"))
    plugins.cell("leaky")  # its compiled module is a change of the folder
    plugins.forget()
    scans.clear()
    for name in ["lstm", "gru", "leaky"] * 4:
        plugins.cell(name), plugins.owner(name), plugins.entries(), plugins.refusals(), plugins.names("commands")
    assert len(scans) == 1


def test_a_whole_training_reads_metadata_once(packages, scans, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [path for path in sys.path if path])  # what it writes here is not on the path
    Path("notes.txt").write_text(TEXT)
    assert run("train", "notes.txt", "--minutes", "0.02", "--threads", "1").code == 0
    assert len(scans) == 1


def test_a_package_installed_or_removed_meanwhile_is_noticed(packages, tmp_path, monkeypatch):
    monkeypatch.delenv("TEXTGEN_LOAD_PLUGINS")
    assert "late" not in plugins.entries()
    packages.install("late", registering("late"))
    assert plugins.cell("late").__name__ == "Leaky"
    shutil.rmtree(packages.folder / "textgen_late-1.0.dist-info")
    assert "late" not in plugins.entries()
    packages.install("elsewhere", registering("elsewhere"), folder=tmp_path / "other")
    assert "elsewhere" not in plugins.entries()
    monkeypatch.setattr(sys, "path", [*sys.path, str(tmp_path / "other")])
    assert "elsewhere" in plugins.entries()


# --- one manager ---


@pytest.mark.parametrize("kind", KINDS)
def test_a_module_is_imported_once_and_only_its_own_hook_is_called(packages, kind):
    count = f"import builtins\nbuiltins.{kind}_calls = getattr(builtins, '{kind}_calls', []) + ['{{}}']\n"
    source = offering(kind, "one", "two", before=count.format("import"))
    packages.install("one", source + "    " + count.format("hook").splitlines()[1], ["one", "two"], kind=kind)
    packages.install("other", offering(kind, "other"), kind=kind)
    try:
        for name in ("one", "two", "other", "one"):
            assert plugins.registered(kind, name, object) is not None
        assert getattr(builtins, f"{kind}_calls") == ["import", "hook"]
    finally:
        delattr(builtins, f"{kind}_calls")


def test_one_module_may_offer_every_kind_and_fails_as_a_whole(packages):
    offers = "\n".join(offering(kind, f"my-{kind}") for kind in KINDS)
    module = packages.install("all", offers)
    (packages.folder / "textgen_all-1.0.dist-info" / "entry_points.txt").write_text(
        f"[textgen]\nmy-cells = {module}\n" + "".join(f"{kind}.my-{kind} = {module}\n" for kind in KINDS[1:])
    )
    assert [plugins.owner(f"my-{kind}", kind).noun for kind in KINDS] == [kind[:-1] for kind in KINDS]
    assert all(plugins.registered(kind, f"my-{kind}", object) for kind in KINDS)
    assert [load_plugins.problem_with(plugins.owner(f"my-{kind}", kind)) for kind in KINDS] == [None] * 4
    plugins.forget()
    del sys.modules[module]
    (packages.folder / f"{module}.py").write_text(offers.replace("def register_models", "def register_model"))
    importlib.invalidate_caches()
    for kind in KINDS:
        with pytest.raises(plugins.PluginError, match="unknown hook 'register_model'"):
            plugins.registered(kind, f"my-{kind}", object)


def test_a_hook_under_another_name_is_called_for_its_own_module_alone(packages):
    renamed = registering("named").replace("hookimpl", "hookimpl(specname='register_cells')")
    packages.install("named", renamed.replace("def register_cells", "def mine"))
    packages.install("leaky", registering("leaky"))
    assert plugins.cell("named").__module__ == "textgen_try_named"
    assert plugins.cell("leaky").__module__ == "textgen_try_leaky"


def test_what_is_registered_must_be_what_was_asked_for(packages):
    packages.install("sort", offering("tasks", "sort"), kind="tasks")
    with pytest.raises(
        plugins.PluginError, match=r"task 'sort' comes from textgen-sort 1\.0, .* 'sort' must be an inst"
    ):
        plugins.registered("tasks", "sort", Path)
    with pytest.raises(plugins.PluginError, match="'sort' must be something else, not "):
        plugins.registered("tasks", "sort", lambda thing: False, "something else")
    assert isinstance(plugins.registered("tasks", "sort", lambda thing: hasattr(thing, "load")), Task)
    with pytest.raises(UsageError, match=r"no task named 'sirt'\. Did you mean 'sort'\?"):
        plugins.registered("tasks", "sirt", Task)


# --- commands ---


def greeting(does):
    """A command whose work is this line."""
    return offering("commands", "greet").replace('click.echo(f"Hello, {name}!")', does)


def test_a_command_is_listed_with_its_summary_and_run_like_a_built_in_one(packages, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    module = packages.install("greet", greeting("click.echo(name)"), kind="commands", summary="Greet somebody.")
    packages.install("no-summary", offering("commands", "no-summary"), kind="commands")
    shown = run("--help").text
    mine = shown[shown.index("Commands of installed packages:") :].splitlines()
    assert [line.split(maxsplit=1) for line in mine[1:]] == [["greet", "Greet somebody."],
                                                             ["no-summary", "A command that greets."]]  # fmt: skip
    assert shown.index("\nCommands:") < shown.index("Commands of installed")
    assert "greet" in [item.value for item in completions("gr")] and module not in sys.modules
    assert (run("greet").out, run("greet", "--name", "fox").out) == (b"you\n", b"fox\n")
    assert "Usage: textgen greet [OPTIONS]" in run("greet", "-h").text
    assert [item.value for item in completions("--na", "greet")] == ["--name"]
    Path("textgen.toml").write_text('[greet]\nname = "hen"\n')
    assert run("greet").out == b"hen\n"
    said, hint = refusal(run("greet", "--nam"), 2)
    assert said.startswith("No such option '--nam'.") and hint == "textgen greet --help lists all options."
    said, _ = refusal(run("greeet"), 2)
    assert said == "No such command 'greeet'. Did you mean 'greet'?"


def completions(incomplete, *before):
    return ShellComplete(group, {}, "textgen", "_TEXTGEN_COMPLETE").get_completions(list(before), incomplete)


def test_help_without_installed_commands_has_no_section_for_them():
    assert "installed packages" not in run("--help").text


ENDS = {  # what a command does: the exit code, and what is said on standard error
    "return 3": (3, ""),
    "raise SystemExit": (0, ""),
    "raise SystemExit(4)": (4, ""),
    "raise SystemExit('enough.')": (1, "Error: enough.\n"),
    "raise click.ClickException('no greeting')": (1, "Error: no greeting.\n"),
    "raise click.UsageError('no')": (2, "Error: no.\nHint: textgen greet --help lists all options.\n"),
    "raise click.Abort": (130, "Stopped.\n"),
    "raise KeyboardInterrupt": (130, "\nStopped.\n"),
    "open('nowhere.txt')": (1, "Error: nowhere.txt: No such file or directory.\n"),
    "raise textgen.TextgenError('it rains.')": (1, "Error: it rains.\n"),
    "1 / 0": (1, "Error: command 'greet' of textgen-greet 1.0 failed at textgen_try_greet.py:8: ZeroDivisionError: "
                 "division by zero.\nHint: textgen --traceback COMMAND ... shows the whole traceback.\n"),
    "import nowhere": (1, "Error: command 'greet' of textgen-greet 1.0 failed at textgen_try_greet.py:8: "
                          "ModuleNotFoundError: No module named 'nowhere'.\n"
                          "Hint: textgen --traceback COMMAND ... shows the whole traceback.\n"),
    "textgen.train('x.txt', max_steps=0)": (2, "Error: --max-steps must be"),
}  # fmt: skip


@pytest.mark.parametrize("does", ENDS)
def test_a_command_ends_as_built_in_ones_do(packages, tmp_path, monkeypatch, does):
    monkeypatch.chdir(tmp_path)
    packages.install("greet", greeting(does), kind="commands")
    code, said = ENDS[does]
    done = run("greet")
    assert (done.code, done.out) == (code, b"") and done.err.startswith(said) and bool(said) == bool(done.err)


def test_the_traceback_of_a_command_is_shown_when_it_is_asked_for(packages, monkeypatch):
    monkeypatch.setenv("TEXTGEN_RAISE_ERRORS", "1")
    packages.install("greet", greeting("1 / 0"), kind="commands")
    packages.install("bad", "1 / 0", kind="commands")
    with pytest.raises(ZeroDivisionError):
        run("--traceback", "greet")
    with pytest.raises(plugins.PluginError) as raised:
        run("--traceback", "bad")
    assert isinstance(raised.value.__cause__.__cause__, ZeroDivisionError)


def test_a_broken_command_is_completed_by_name_and_stays_silent(packages):
    packages.install("bad", "raise SystemExit(3)", kind="commands")
    assert [item.value for item in completions("ba")] == ["bad"] and completions("--na", "bad") == []


# --- models ---


def test_training_starts_from_an_installed_model(packages, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("notes.txt").write_text(TEXT)
    assert run("train", "notes.txt", *TINY, "--tokenizer", "char", "--output-dir", "made").code == 0
    packages.install("base", offering("models", "base-fox", thing="HERE / 'base'"), ["base-fox"], kind="models")
    Path("made").rename(packages.folder / "base")
    assert plugins.base_names() == ["base-fox"] and plugins.find("base-fox") == packages.folder / "base"
    assert plugins.find("base-hen") is None
    assert run("train", "notes.txt", "--init-from", "base-fox", *TINY[2:], "--output-dir", "tuned").code == 0
    assert json.loads(Path("tuned", "config.json").read_text())["hidden_size"] == 4
    said, hint = refusal(run("train", "notes.txt", "--init-from", "base-hen", *TINY[2:]), 1)
    assert said == "there is no model folder 'base-hen' to start from." and hint == "installed models: base-fox."
    Path("base-fox").mkdir()
    said, _ = refusal(run("train", "notes.txt", "--init-from", "base-fox", *TINY[2:]), 1)
    assert "'base-fox' is not a model folder" in said, "a folder comes before a package"


# --- metadata of any content ---

HEAD = b"Metadata-Version: 2.1\nName: textgen-odd\nVersion: 1.5\n"
POINTS = {  # the bytes of entry_points.txt, and what has to be said of them
    "a hyphen": (b"[textgen]\nhy = textgen-hy", "its entry point 'hy' is 'textgen-hy', which is not the name of a mod"),
    "no value": (b"[textgen]\nhy =", "is '', which is not the name of a module"),
    "no equals sign": (b"[textgen]\nhy", "is '', which is not the name of a module"),
    "a digit first": (b"[textgen]\nhy = 1abc", "'1abc', which is not the name of a module"),
    "two dots": (b"[textgen]\nhy = a..b", "'a..b'"),
    "a dot at the end": (b"[textgen]\nhy = a.", "'a.'"),
    "quotes": (b'[textgen]\nhy = "textgen_hy"', "which is not the name of a module"),
    "a path": (b"[textgen]\nhy = ./textgen_hy.py", "'./textgen_hy.py'"),
    "a long value": (b"[textgen]\nhy = " + b"-" * 100_000, "---...', which is not"),
    "no name": (b"[textgen]\n = textgen_hy", "is named '', which cannot be the name of a cell"),
    "an escape in the name": (b"[textgen]\nh\x1b[31my = textgen_hy", "which cannot be the name of a cell"),
    "an escape in the value": (b"[textgen]\nhy = \x1b]0;title\x07", "which is not the name of a module"),
    "no UTF-8": (b"[textgen]\nhy = \xff\xfe\x00", "which is not the name of a module"),
    "no UTF-8 elsewhere": (b"# \xff\n[textgen]\nhy = textgen-hy", "'textgen-hy'"),
    "two values": (b"[textgen]\nhy = one\nhy = two", "it has 2 entry points named 'hy': 'one', 'two'"),
    "a section that stays open": (b"[textgen\n[textgen]\nhy = a b", "'a b'"),
    "a module that is not there": (b"[textgen]\nhy = no_such_module_anywhere", "No module named 'no_such_module_anywh"),
    "extras": (b"[textgen]\nhy = no_such_module_anywhere [fast]", "No module named 'no_such_module_anywhere'"),
    "an attribute": (b"[textgen]\nhy = no_such_module_anywhere:Cell", "No module named 'no_such_module_anywhere'"),
    "letters of another script": ("[textgen]\nhy = módulo_ausente".encode(), "No module named 'módulo_ausente'"),
    "an unknown kind": (b"[textgen]\nhats.hy = textgen_hy", "'hats.hy' begins with none of tasks., models., commands."),
    "the kind of a bare name": (b"[textgen]\ncells.hy = textgen_hy", "'cells.hy' begins with none of tasks., models."),
    "a reserved word": (b"[textgen]\nhy = class", "No module named 'class'"),
}


def odd(packages, points, about=HEAD, folder="textgen_odd-1.5.dist-info"):
    """A package of these metadata files, the only one besides ours."""
    info = packages.folder / folder
    info.mkdir(exist_ok=True)
    (info / "entry_points.txt").write_bytes(points)
    (info / "METADATA").write_bytes(about)
    plugins.forget()  # of another example, perhaps, in the same folder


def those_of(distribution):
    return [e for claims in plugins.entries().values() for e in claims if e.distribution == distribution]


@pytest.mark.parametrize("kind", POINTS)
def test_a_strange_entry_point_is_named_and_harms_nobody(packages, monkeypatch, tmp_path, kind):
    monkeypatch.chdir(tmp_path)
    odd(packages, POINTS[kind][0])
    packages.install("leaky", registering("leaky"))
    for restricted in ("textgen-odd,leaky", "leaky", ""):
        monkeypatch.setenv("TEXTGEN_LOAD_PLUGINS", restricted)
        for arguments in (["cells"], ["--help"], ["train", "--help"], ["env"], ["cells", "show", "lstm"]):
            assert run(*arguments).code == 0, arguments
    monkeypatch.setenv("TEXTGEN_LOAD_PLUGINS", "textgen-odd,leaky")
    (entry,) = those_of("textgen-odd")
    with pytest.raises(plugins.PluginError) as raised:
        plugins.load(entry)
    assert POINTS[kind][1] in str(raised.value) and "textgen-odd 1.5" in str(raised.value)
    assert str(raised.value).isprintable() and raised.value.hint
    assert plugins.cell("leaky").__name__ == "Leaky"


def test_the_list_of_plugins_shows_strange_entry_points_as_failed(packages):
    odd(packages, b"[textgen]\nhy = textgen-hy\n\x1b = x\n", HEAD + b"Requires-Dist: textgen-lm>=99\n")
    packages.install("leaky", registering("leaky"))
    os.environ["TEXTGEN_LOAD_PLUGINS"] += ",textgen-odd"
    shown = run("plugins")
    rows = {line.split()[0]: line for line in shown.text.splitlines()}
    assert shown.code == 0 and "\x1b" not in shown.text
    assert "textgen-odd 1.5    failed" in rows["hy"] and "'textgen-hy', which is not the name of a module" in rows["hy"]
    assert "failed" in rows["\\x1b"] and " ok" in rows["leaky"] and " ok" in rows["lstm"]


@given(
    points=st.lists(st.tuples(st.text(max_size=12), st.text(max_size=20)) | st.binary(max_size=40), max_size=4),
    about=st.binary(max_size=60) | st.lists(st.text(max_size=20), max_size=3).map(lambda r: "".join(r).encode()),
    requires=st.text(max_size=20),
)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=15)
def test_whatever_a_package_contains_the_command_works_and_the_package_is_named(packages, points, about, requires):
    lines = [p if isinstance(p, bytes) else f"{p[0]} = {p[1]}".encode() for p in points]
    odd(packages, b"[textgen]\n" + b"\n".join(lines), HEAD + f"Requires-Dist: {requires}\n".encode() + about)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TEXTGEN_LOAD_PLUGINS", "textgen-odd")
        shown = run("cells")
        assert shown.code == 0
        assert not {unicodedata.category(c) for c in shown.text if c != "\n"} & {"Cc", "Cf", "Cs"}
        mine = those_of("textgen-odd")
        assert shown.text.count("\n") == 1 + len(plugins.entries())
        assert {entry for entry, _ in plugins.refusals()} <= {*mine}
        for entry in mine:
            with pytest.raises(plugins.PluginError, match=r"textgen-odd 1\.5"):
                plugins.load(entry)
        assert plugins.owner("lstm").distribution == "textgen-lm"


@pytest.mark.parametrize(
    "about, named",
    [
        (b"", "textgen_odd 1.5"),
        (b"Metadata-Version: 2.1\n", "textgen_odd 1.5"),
        (b"Name: textgen-odd\n", "textgen-odd 1.5"),
        (b"Version: 2\n", "textgen_odd 2"),
        (b"\xff\xfe\n", "textgen_odd 1.5"),
        (b"Name: textgen-odd\nSummary: \xe9t\xe9\nVersion: 3\n", "textgen-odd 3"),
        (b"Name: textgen\x1b-odd\nVersion: 1.0\x07\n", "textgen\\x1b-odd 1.0\\x07"),
    ],
)
def test_a_package_whose_metadata_cannot_be_read_is_named_all_the_same(packages, monkeypatch, about, named):
    odd(packages, b"[textgen]\nhy = textgen-hy", about)
    monkeypatch.setenv("TEXTGEN_LOAD_PLUGINS", "hy")
    said, _ = refusal(run("cells", "show", "hy"), 1)
    assert said.startswith(f"cell 'hy' comes from {named}, which failed to load: ")


def test_metadata_that_is_not_there_at_all_is_no_error(packages):
    (packages.folder / "textgen_empty-1.dist-info").mkdir()
    (packages.folder / "textgen_file-1.dist-info").write_text("no folder")
    odd(packages, b"[other]\nhy = textgen-hy")
    assert not those_of("textgen-odd") and run("cells").code == 0


REQUIREMENTS = {  # lines of metadata: whether the plugin is refused, and what is said
    "Requires-Dist: textgen-lm>=99": (True, "it requires textgen-lm>=99, and textgen-lm 0.1.0 is installed"),
    "Requires-Dist: TextGen_LM (>=99)": (True, "TextGen_LM>=99, and TextGen_LM 0.1.0 is installed"),
    "Requires-Dist: textgen-lm<0.0.1 ; python_version > '3'": (True, "textgen-lm<0.0.1"),
    "Requires-Python: >=99": (True, "it requires Python >=99, and this is Python 3."),
    "Requires-Dist: numpy<1": (False, "it requires numpy<1, and numpy "),
    "Requires-Dist: no-such-package-anywhere>=2": (False, "no-such-package-anywhere>=2, which is not installed"),
    "Requires-Dist: no-such-package-anywhere ; extra == 'x'": (False, ""),
    "Requires-Dist: no-such-package ; python_version < '3'": (False, ""),
    "Requires-Dist: textgen-lm>=0.1": (False, ""),
    "Requires-Dist: textgen-lm @ https://example.org/textgen.zip": (False, ""),
    "Requires-Dist: >>> nonsense": (False, ""),
    "Requires-Dist: x ; nonsense == '1'": (False, ""),
    "Requires-Python: nonsense": (False, ""),
}


@pytest.mark.parametrize("line", REQUIREMENTS)
def test_what_a_plugin_requires_and_does_not_find_is_said(packages, line):
    refused, said = REQUIREMENTS[line]
    module = packages.install("leaky", registering("leaky"))
    info = packages.folder / "textgen_leaky-1.0.dist-info" / "METADATA"
    info.write_text(f"{info.read_text()}{line}\n")
    entry = plugins.owner("leaky")
    if not refused:
        assert not entry.refusal and plugins.cell("leaky").__name__ == "Leaky"
        assert said in entry.notice and bool(said) == bool(entry.notice)
        return
    assert [(e, said in reason) for e, reason in plugins.refusals()] == [(entry, True)]
    with pytest.raises(plugins.PluginError, match=r"'leaky' comes from textgen-leaky 1\.0, which failed to load: it r"):
        plugins.cell("leaky")
    assert module not in sys.modules
    assert said in run("cells").text


def test_a_plugin_that_cannot_be_imported_says_which_requirement_is_missing(packages):
    packages.install("needy", "import no_such_package")
    info = packages.folder / "textgen_needy-1.0.dist-info" / "METADATA"
    info.write_text(f"{info.read_text()}Requires-Dist: no-such-package>=2\n")
    with pytest.raises(plugins.PluginError, match=r"\(it requires no-such-package>=2, which is not installed\)\.$"):
        plugins.cell("needy")


def test_a_broken_claim_to_a_name_does_not_stop_a_good_one(packages):
    odd(packages, b"[textgen]\nleaky = textgen-hy\nlstm = textgen-hy")
    packages.install("leaky", registering("leaky"))
    os.environ["TEXTGEN_LOAD_PLUGINS"] += ",textgen-odd"
    assert plugins.cell("leaky").__name__ == "Leaky" and plugins.owner("lstm").distribution == "textgen-lm"
    assert all("not the name of a module" in reason for _, reason in plugins.refusals())


def test_an_unknown_cell_is_suggested(packages):
    packages.install("leaky", registering("leaky"))
    said, hint = refusal(run("cells", "show", "leeky"), 2)
    assert said == "no cell named 'leeky'. Did you mean 'leaky'?"
    assert hint == "installed: elman, gru, leaky, lstm, rnn."


# --- options of a cell ---


class Choosy(Cell):
    """One option of each kind."""

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        wide: bool = False,
        heads: int = 2,
        rate: float = 1,
        label: str = "a",
        shape: Literal["round", "square"] = "round",
        order: Literal[1, 2] = 1,
    ) -> None:
        super().__init__(input_size, hidden_size)

    def step(self, x, state):
        return state[0], state


OPTIONS = {option.name: option for option in cells.describe(Choosy)}


def test_options_are_read_from_the_constructor():
    kinds = {name: (option.kind, option.default, option.choices) for name, option in OPTIONS.items()}
    assert kinds == {
        "wide": (bool, False, ()),
        "heads": (int, 2, ()),
        "rate": (float, 1, ()),
        "label": (str, "a", ()),
        "shape": (str, "round", ("round", "square")),
        "order": (int, 1, (1, 2)),
    }


@given(st.integers(-(10**30), 10**30), st.floats(allow_nan=False, allow_infinity=False), st.booleans(), st.text())
def test_a_value_is_the_same_typed_or_from_json(heads, rate, wide, label):
    values = {"heads": heads, "rate": rate, "wide": wide, "label": label}
    as_typed = {name: value if name == "label" else str(value) for name, value in values.items()}
    for asked in (values, as_typed, json.loads(json.dumps(values))):
        parsed = cells.parse(Choosy, "choosy", asked)
        assert parsed == {**values, "shape": "round", "order": 1}
        assert [type(parsed[name]) for name in values] == [int, float, bool, str]


WRONG = {
    "wide": ["maybe", "", 2, 0.5, None, []],
    "heads": ["2.5", "x", "", "nan", "inf", 2.5, True, math.nan, math.inf, None, [], {}],
    "rate": ["x", "", "nan", "inf", "1e999", True, math.nan, -math.inf, None, [], "0x1"],
    "label": [1, True, None, []],
    "shape": ["oval", "", 1, None],
    "order": ["3", 3, "x", True, None],
}


@pytest.mark.parametrize(("name", "value"), [(name, value) for name, values in WRONG.items() for value in values])
def test_a_wrong_value_is_a_usage_error_that_shows_it(name, value):
    with pytest.raises(UsageError) as error:
        cells.parse(Choosy, "choosy", {name: value})
    assert name in str(error.value) and f"not {value!r}." in str(error.value)
    for choice in OPTIONS[name].choices:
        assert repr(choice) in str(error.value)


def test_an_unknown_option_is_suggested_and_the_others_are_listed():
    with pytest.raises(UsageError, match=r"cell 'choosy' has no option 'head'\. Did you mean 'heads'\?") as error:
        cells.parse(Choosy, "choosy", {"head": 1})
    assert all(name in error.value.hint for name in OPTIONS)
    with pytest.raises(UsageError, match="'gru' has no option 'x'") as error:
        cells.parse(plugins.cell("gru"), "gru", {"x": 1})
    assert "none" in error.value.hint


@pytest.mark.parametrize("default", [None, (), math.inf, math.nan, object, "empty"])
def test_a_default_that_json_cannot_hold_is_refused(default):
    def build(self, input_size, hidden_size, sizes=default):
        raise AssertionError

    if default == "empty":
        build.__defaults__ = ()
    made = type("Unsaveable", (Choosy,), {"__init__": build})
    with pytest.raises(TextgenError, match=r"Unsaveable\.sizes needs a default"):
        cells.describe(made)


def test_a_type_that_cannot_be_read_is_a_sentence():
    def build(self, input_size, hidden_size, rate: "Nowhere" = 1.0):  # noqa: F821
        raise AssertionError

    with pytest.raises(TextgenError, match=r"constructor of Vague cannot be read: name 'Nowhere'"):
        cells.describe(type("Vague", (Choosy,), {"__init__": build}))


def test_options_are_saved_with_the_model_and_given_back(packages, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("notes.txt").write_text(TEXT)
    packages.install("leaky", registering("leaky"), version="1.5")
    command = ["train", "notes.txt", "--cell", "leaky", *TINY, "--output-dir", "run"]
    assert run(*command, "-o", "rate", "0.25").code == 0
    config = json.loads(Path("run", "config.json").read_text())
    assert config["cell_options"] == {"rate": 0.25}
    assert (config["cell_distribution"], config["cell_version"]) == ("textgen-leaky", "1.5")
    assert [layer.rate for layer in load("run", backend="torch").stepper._model.stack.layers] == [0.25]
    shown = json.loads(run("cells", "show", "leaky", "--hidden-size", "6", "--json").out)
    assert shown["options"] == {"rate": {"default": 0.5, "choices": "float"}}
    assert shown["parameters"]["count"] == sum(p.numel() for p in plugins.cell("leaky")(6, 6).parameters())
    monkeypatch.setenv("TEXTGEN_LOAD_PLUGINS", "")
    for arguments in (["sample", "-m", "run", "--backend", "torch"], ["train", "--resume", "run"]):
        said, _ = refusal(run(*arguments), 1)
        assert "needs cell 'leaky' (textgen-leaky 1.5), which is not installed." in said
    assert run("sample", "-m", "run", "-n", "5").code == 0, "the stored step needs no plugin"

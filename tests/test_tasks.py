"""Laws over tasks and cells: every cell is trained for every task by one trainer, into one kind of folder, and whatever
is fed back goes round one loop."""

import ast
import json
import math
import random
import time
from pathlib import Path

import numpy as np
import pytest
from faults import Quick
from zoo import INSTALLED, WORKED

import textgen
from textgen import plugins, storage
from textgen.errors import TextgenError, UsageError
from textgen.generation import language_model
from textgen.model import CONFIG, WEIGHTS
from textgen.storage import filesystem
from textgen.tasks import built_in_tasks, options_for
from textgen.tasks import task as task_named
from textgen.tasks.objective import Objective
from textgen.training.runs import ARGUMENTS, METRICS, OPTIMIZER, STATE
from textgen.training.start import resume, start
from textgen.training.trainer import Trainer

ONCE = [next(name for name in INSTALLED if INSTALLED[name] is cell) for cell in dict.fromkeys(INSTALLED.values())]
EVERY_CELL = {**{name: INSTALLED[name] for name in ONCE}, **WORKED}
STEPS = 6
WRITING = ("lm", "complete")
"""The tasks whose models write text."""
TINY = {
    "hidden_size": 6, "embedding_size": 5, "num_layers": 1, "batch_size": 4, "seq_length": 12, "max_steps": STEPS,
    "learning_rate": 0.02, "dropout": 0.1, "eval_steps": 2, "save_steps": 1, "save_total_limit": STEPS + 1,
    "logging_steps": 2, "threads": 1, "device": "cpu",
}  # fmt: skip


def text(folder):
    path = folder / "text.txt"
    path.write_text("the cat sat on the mat. the dog sat on the log. " * 8)
    return path, {"tokenizer": "char"}


def pairs(folder):
    path, chance = folder / "pairs.jsonl", random.Random(1)
    words = ["".join(chance.choices("abcde", k=chance.randrange(2, 6))) for _ in range(60)]
    path.write_text("".join(json.dumps({"ask": word, "answer": word[::-1]}) + "\n" for word in words))
    return path, {"tokenizer": "char", "prompt_column": "ask", "completion_column": "answer"}


def labels(folder):
    path, chance = folder / "labels.csv", random.Random(2)
    rows = [(chance.choice(["a good one", "such a good film"]), "yes") for _ in range(30)]
    rows += [(chance.choice(["a bad one", "such a bad film, bad"]), "no") for _ in range(30)]
    path.write_text("text,label\n" + "".join(f'"{words}",{label}\n' for words, label in rows))
    return path, {"tokenizer": "char", "task": "classify", "label_column": "label"}


def series(folder):
    path, chance = folder / "series.csv", random.Random(3)
    values = [10 + 3 * math.sin(day * 2 * math.pi / 7) + chance.random() for day in range(120)]
    dates = [str(day) for day in np.arange("2024-01-01", "2024-04-30", dtype="datetime64[D]")]
    path.write_text("day,value\n" + "".join(f"{day},{value:.3f}\n" for day, value in zip(dates, values, strict=True)))
    return path, {"task": "forecast", "time_column": ["day"], "target_column": ["value"], "horizon": 3}


CORPORA = {"lm": text, "complete": pairs, "classify": labels, "forecast": series}
each_task = pytest.mark.parametrize("task", CORPORA)


@pytest.fixture(autouse=True)
def quick_disk(monkeypatch):
    monkeypatch.setattr(filesystem, "system", Quick())


@pytest.fixture
def every_cell(monkeypatch):
    """The worked packages as if they were installed."""
    entry = plugins.Entry
    worked = {name: [entry(name, cell.__module__, f"textgen-{name}", "0.1")] for name, cell in WORKED.items()}
    entries = {**worked, **plugins.entries()}
    known, owner = plugins.entries, plugins.owner
    monkeypatch.setattr(plugins, "entries", lambda kind="cells": entries if kind == "cells" else known(kind))
    monkeypatch.setattr(
        plugins, "owner", lambda name, kind="cells": entries[name][0] if kind == "cells" else owner(name, kind)
    )
    monkeypatch.setattr(plugins, "cell", EVERY_CELL.__getitem__)


def begin(folder, task, name="run", **options):
    path, own = CORPORA[task](folder)
    return start(
        [str(path)], options_for( {**TINY, **own, "output_dir": str(folder / name), **options}),
        time.monotonic(),
    )  # fmt: skip


def train(session):
    for _ in session.events():
        pass
    return session.run.folder


def outcome(folder):
    names = [WEIGHTS, *(f"checkpoint-{STEPS}/{name}" for name in (WEIGHTS, OPTIMIZER, STATE))]
    lines = [json.loads(line) for line in (folder / METRICS).read_text().splitlines()]
    logged = [{name: value for name, value in line.items() if name != "tokens_per_second"} for line in lines]
    return [(folder / name).read_bytes() for name in names], logged


def test_every_task_has_its_laws_here():
    assert list(CORPORA) == [task.name for task in built_in_tasks()]


# --- every cell, every task ---


@pytest.mark.parametrize("cell", EVERY_CELL)
@each_task
def test_every_cell_learns_every_task_and_goes_on_with_the_same_bits(tmp_path, every_cell, task, cell):
    whole = train(begin(tmp_path, task, "whole", cell=cell))
    session = begin(tmp_path, task, cell=cell)
    for event in session.events():
        session.trainer.stop = session.trainer.progress.step == STEPS // 2
        del event
    assert session.trainer.progress.step == STEPS // 2
    session = resume(session.run.folder, {})
    assert session.trainer.progress.step == STEPS // 2
    assert outcome(train(session)) == outcome(whole)
    final = outcome(whole)[1][-1]
    assert final["final"] and math.isfinite(final["eval_loss"])


# --- one trainer, one kind of folder, one loop ---


@each_task
def test_the_trainer_and_the_folders_are_the_same_for_every_task(tmp_path, task):
    session = begin(tmp_path, task)
    assert type(session.trainer) is Trainer
    assert isinstance(session.data, task_named(task).data()) and isinstance(session.trainer.objective, Objective)
    folder = train(session)
    storage.verify(folder)
    assert {CONFIG, ARGUMENTS, WEIGHTS, METRICS, storage.MANIFEST, "README.md"} <= {
        each.name for each in folder.iterdir()
    }
    kept = {path.name for path in (folder / f"checkpoint-{STEPS}").iterdir()}
    assert kept == {storage.MANIFEST, WEIGHTS, OPTIMIZER, STATE}
    assert json.loads((folder / CONFIG).read_text())["task"] == task
    if not task_named(task).generates:
        with pytest.raises(TextgenError, match="does not write"):
            language_model.load(folder)
    assert textgen.load(folder).config.task == task


@each_task
def test_stored_data_that_is_damaged_is_made_again(tmp_path, task):
    data = begin(tmp_path, task, "first").data
    largest = max(
        (path for path in data.folder.iterdir() if path.name != storage.MANIFEST), key=lambda p: p.stat().st_size
    )
    largest.write_bytes(largest.read_bytes()[:-1] + b"?")
    assert begin(tmp_path, task, "second").data.digests() == data.digests()
    storage.verify(data.folder)


LIBRARY = Path(textgen.__file__).parent


def calls(path):
    tree = ast.parse(path.read_text())
    return {
        node.func.attr for node in ast.walk(tree) if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)
    }


def test_only_the_trainer_trains():
    """No task has a training loop, an optimizer or a checkpoint of its own."""
    for path in (LIBRARY / "tasks").rglob("*.py"):
        assert not calls(path) & {"backward", "zero_grad", "AdamW", "Adam", "SGD", "publish", "state_dict"}, path
    training = {path.relative_to(LIBRARY).as_posix() for path in LIBRARY.rglob("*.py") if "backward" in calls(path)}
    allowed = {"training/optimization.py", "cells/engine.py"}
    assert {name for name in training if not name.startswith("testing/")} == allowed


def test_whatever_is_fed_back_goes_round_one_loop(tmp_path, monkeypatch):
    from textgen.generation import generate
    from textgen.model.stepper import closed_loop
    from textgen.tasks.forecasting import rolling as series_loop

    gone_round = []

    def counted(module):
        def loop(*arguments):
            gone_round.append(module.__name__)
            return closed_loop(*arguments)

        return loop

    for module in (generate, series_loop):
        monkeypatch.setattr(module, "closed_loop", counted(module))
    for task in WRITING:
        folder = tmp_path / task
        folder.mkdir()
        textgen.generate(textgen.load(train(begin(folder, task))), "the", max_new_tokens=2, seed=1)
    assert gone_round == [generate.__name__] * len(WRITING)
    (tmp_path / "forecast").mkdir()
    folder = train(begin(tmp_path / "forecast", "forecast"))
    textgen.load(folder).predict(str(tmp_path / "forecast" / "series.csv"))
    assert series_loop.__name__ in gone_round


# --- what belongs to which task ---


OWN = {
    "complete": {"prompt_column": "a", "completion_column": "b"},
    "classify": {"label_column": "a"},
    "forecast": {"target_column": ["a"]},
    "lm": {"sampled_softmax": 5},
}


@each_task
def test_an_option_of_another_task_is_refused_by_name(task):
    for other, options in OWN.items():
        if other == task:
            asked = options_for({"task": task, **options})
            assert type(asked) is task_named(task).options and asked.task == task
            assert options_for(options) == asked
        else:
            with pytest.raises(UsageError, match=f"{next(iter(options))} goes with task={other}, not with {task}"):
                options_for({"task": task, **options})


def test_options_of_two_tasks_are_refused():
    with pytest.raises(UsageError, match="label_column goes with task=classify, not with forecast"):
        options_for({"horizon": 3, "label_column": "a"})


def test_without_a_task_the_text_is_modeled():
    assert options_for({}).task == options_for({"tokenizer": "char", "task": None}).task == "lm"
    assert options_for({"label_column": None}).task == "lm"


@pytest.mark.parametrize("given", [{"horizn": 3}, {"task": "lm", "dropot": 0.1}])
def test_an_unknown_option_is_refused_with_the_nearest_one(given):
    with pytest.raises(UsageError, match=r"there is no option '.*'. Did you mean '"):
        options_for(given)


@pytest.mark.parametrize("name", ["classfy", "LM", "", 3, ["lm"]])
def test_an_unknown_task_is_refused_by_name(name):
    with pytest.raises(UsageError, match=r"no task named|must be text"):
        options_for({"task": name})


def test_no_other_module_knows_a_task_by_name():
    """The trainer, run folders, `load` and the command line take any task."""
    own = [LIBRARY / name for name in ("tasks", "plugins.py")]
    others = {"options.py": {"classify"}, "tables.py": {"forecast"}, "outputs.py": {"forecast"}}  # method, columns
    for path in LIBRARY.rglob("*.py"):
        if not any(path.is_relative_to(place) for place in own):
            texts = {node.value for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Constant)}
            assert texts & {"complete", "classify", "forecast"} == others.get(path.name, set()), path


# --- what a task of another package imports ---


def test_all_that_is_offered_is_there():
    import textgen.tasks

    assert all(getattr(textgen.tasks, name) is not None for name in textgen.tasks.__all__)
    assert textgen.tasks.Objective is Objective
    with pytest.raises(AttributeError, match="has no attribute 'Objectiv'"):
        textgen.tasks.Objectiv


@pytest.mark.parametrize("window", [3, 100])
def test_every_label_of_a_token_is_a_target_once_an_epoch(window):
    from textgen.tasks.data import IGNORED, LabelledTexts, Texts
    from textgen.tasks.objective import Batches, RareTokens, TokenLabelObjective

    ids = np.arange(1, 38, dtype=np.int32)
    texts = Texts(ids, np.array([5, 6, 14, 20, 37]))
    labels = np.where(ids % 4 == 0, IGNORED, ids + 100)
    part, rare = LabelledTexts(texts, labels), RareTokens(np.zeros(40, np.float32), None)
    task = TokenLabelObjective(Batches(texts.lengths, 2, window, seed=1), part, part, "ab", rare)
    for epoch in range(2):
        found = {}
        for step in range(epoch * task.steps_per_epoch, (epoch + 1) * task.steps_per_epoch):
            read, targets = (tensor.numpy() for tensor in task.window(step))
            assert read.shape == targets.shape and read.shape[1] == 2
            counts = targets != IGNORED
            assert not found.keys() & set(read[counts].tolist())
            found |= dict(zip(read[counts].tolist(), targets[counts].tolist(), strict=True))
        assert found == {int(id): int(id) + 100 for id in ids if id % 4}


def test_a_model_of_a_task_that_is_not_installed_is_named(tmp_path, monkeypatch):
    folder = train(begin(tmp_path, "lm"))
    monkeypatch.delitem(plugins.BUILT_IN_TASKS, "lm")
    with pytest.raises(TextgenError, match=r"is for the task 'lm', which no installed package offers\.$"):
        textgen.load(folder)

"""Laws of extending a run: it trains on from its last checkpoint, with a schedule of its own, and survives any kill."""

import json
import math
import time
from itertools import pairwise
from types import SimpleNamespace

import pytest

from textgen import storage
from textgen.cli import main
from textgen.cli.train import _judge
from textgen.errors import UsageError
from textgen.tasks import options_for
from textgen.training import Evaluated, Logged, Saved, Tick
from textgen.training.guards import best_came_early
from textgen.training.optimization import Part, next_part, rate_at
from textgen.training.runs import ARGUMENTS, METRICS
from textgen.training.start import resume, start

STEPS = 12
TINY = {"cell": "gru", "hidden_size": 6, "batch_size": 4, "seq_length": 8, "max_steps": STEPS, "eval_steps": 4,
        "save_steps": 4, "logging_steps": 1, "threads": 1, "tokenizer": "char"}  # fmt: skip


def begin(folder, **options):
    (folder / "text.txt").write_text("the cat sat on the mat. " * 40 + "a dog ran.\n" * 20)
    options = {**TINY, "output_dir": str(folder / "run"), **options}
    return start([str(folder / "text.txt")], options_for(options), time.monotonic())


def finished(folder, **options):
    session = begin(folder, **options)
    events = list(session.events())
    return session.run.folder, events


def arguments(folder):
    return storage.read_json(folder / ARGUMENTS)


def outcome(folder):
    storage.verify(folder)
    lines = [json.loads(line) for line in (folder / METRICS).read_text().splitlines()]
    last = max(int(path.name.rpartition("-")[2]) for path in folder.glob("checkpoint-*"))
    files = [(folder / "model.safetensors").read_bytes(), (folder / ARGUMENTS).read_bytes()]
    files += [path.read_bytes() for path in sorted((folder / f"checkpoint-{last}").glob("*s*t*"))]
    return files, [{k: v for k, v in line.items() if k != "tokens_per_second"} for line in lines]


@pytest.mark.parametrize("options", [{}, {"average_weights": 0.9}, {"optimizer": "sgd", "lr_scheduler": "plateau"}])
def test_a_finished_run_goes_on_with_a_schedule_of_its_own(tmp_path, options):
    folder, _ = finished(tmp_path, **options)
    session = resume(folder, {"max_steps": 30})
    assert session.trainer.progress.step == STEPS and (session.extension.part.start, session.options.max_steps) == (
        12,
        30,
    )
    assert arguments(folder)["options"]["max_steps"] == STEPS, "nothing is committed before it trains"
    events = list(session.events())
    assert [event.step for event in events if isinstance(event, Tick)] == list(range(STEPS + 1, 31))
    stored = arguments(folder)
    assert [(part["start"], part["end"]) for part in stored["parts"]] == [(0, 12), (12, 30)]
    assert stored["options"]["max_steps"] == 30
    rates = [event.learning_rate for event in events if isinstance(event, Logged)]
    if not options.get("optimizer"):
        peak = stored["options"]["learning_rate"]
        assert max(rates) == peak and rates[-1] < 0.1 * peak
        after_warmup = rates[rates.index(peak) :]
        assert all(a >= b for a, b in pairwise(after_warmup))


def test_an_extension_that_is_stopped_after_any_step_goes_on_with_the_same_bits(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        finished(tmp_path / name)
    list(resume(tmp_path / "a" / "run", {"max_steps": 22}).events())
    folder, given, step = tmp_path / "b" / "run", {"max_steps": 22}, STEPS
    while step < 22:
        session = resume(folder, given)
        events = session.events()
        for event in events:
            if isinstance(event, Tick):
                session.trainer.stop, step = True, event.step
        given = {}
    wholes = [outcome(tmp_path / name / "run") for name in ("a", "b")]
    for whole, name in zip(wholes, ("a", "b"), strict=True):
        whole[0][1] = whole[0][1].replace(f"/{name}/".encode(), b"/")
    assert wholes[0][0] == wholes[1][0]
    assert [line for line in wholes[0][1] if "loss" in line] == [line for line in wholes[1][1] if "loss" in line]


def test_an_extension_is_committed_before_its_first_step(tmp_path):
    folder, _ = finished(tmp_path)
    events = resume(folder, {"max_steps": 20}).events()
    next(events)
    events.close()  # as a kill: nothing of the step was saved
    assert arguments(folder)["parts"][-1]["end"] == 20
    again = resume(folder, {})
    assert again.extension is None and again.trainer.progress.step == STEPS and not again.trainer.finished
    assert isinstance(list(again.events())[-2], Evaluated) and again.trainer.progress.step == 20


def test_an_extended_run_no_longer_says_that_more_would_not_help(tmp_path):
    folder, _ = finished(tmp_path)
    stored = arguments(folder)
    estimate = {**stored["estimate"], "ends_early": True, "train_seconds": 3.0}
    resume(folder, {}).run.commit_arguments({**stored, "estimate": estimate})
    assert resume(folder, {}).estimate.ends_early
    list(resume(folder, {"max_steps": 20}).events())
    assert not resume(folder, {}).estimate.ends_early


def test_a_run_that_is_not_finished_changes_its_plan_and_keeps_its_rate(tmp_path):
    session = begin(tmp_path, max_steps=40)
    for event in session.events():
        if isinstance(event, Saved) and event.step == 8:
            break
    before = session.trainer._learning_rate(8)
    longer = resume(session.run.folder, {"max_steps": 60})
    assert longer.trainer._learning_rate(8) == before
    assert longer.trainer._learning_rate(59) < 0.1 * before
    shorter = resume(session.run.folder, {"max_steps": 10})
    list(shorter.events())
    assert shorter.trainer.progress.step == 10 and resume(session.run.folder, {}).trainer.finished


@pytest.mark.parametrize("given", [{"epochs": 3.0}, {"minutes": 0.06}])
def test_epochs_are_those_of_the_whole_run_and_minutes_count_from_now(tmp_path, given):
    folder, _ = finished(tmp_path)
    session = resume(folder, given)
    if "epochs" in given:
        expected = round(3 * session.data.training_tokens / 32)
        assert session.options.max_steps == expected
    else:
        assert session.options.max_steps >= STEPS + 10 and session.estimate.step_seconds
    stored = session.extension.arguments["options"]
    assert {name: stored[name] for name in ("minutes", "epochs")} == {"minutes": None, "epochs": None, **given}


@pytest.mark.parametrize("given", [{"max_steps": 5}, {"epochs": 0.01}])
def test_an_extension_without_a_step_is_refused_with_a_way_on(tmp_path, given):
    folder, _ = finished(tmp_path)
    with pytest.raises(UsageError, match="does not extend this run: it has 12 steps") as caught:
        resume(folder, given)
    assert "max_steps=24" in caught.value.hint
    assert resume(folder, {"max_steps": STEPS}).extension is None, "the same number is no change"
    with pytest.raises(UsageError, match="minutes and epochs exclude each other"):
        resume(folder, {"minutes": 1.0, "epochs": 2.0})
    with pytest.raises(UsageError, match="hidden_size=9 cannot change"):
        resume(folder, {"max_steps": 30, "hidden_size": 9})


def test_a_run_that_ended_early_trains_on(tmp_path):
    folder, events = finished(tmp_path, learning_rate=1.0, early_stopping_patience=1, max_steps=60, save_steps=2,
                              eval_steps=2, lr_scheduler="constant")  # fmt: skip
    assert events[-1].reason == "early stopping"
    step = events[-1].step
    assert resume(folder, {}).trainer.finished
    session = resume(folder, {"max_steps": 70})
    first = next(event for event in session.events() if isinstance(event, Tick))
    assert first.step == step + 1
    assert not resume(folder, {}).trainer.finished, "nor does a kill bring the early end back"


def test_several_extensions_each_have_a_schedule(tmp_path):
    folder, _ = finished(tmp_path)
    for end in (20, 28):
        list(resume(folder, {"max_steps": end}).events())
    parts = arguments(folder)["parts"]
    assert [(part["start"], part["end"]) for part in parts] == [(0, 12), (12, 20), (20, 28)]


def test_the_command_says_what_it_extends_and_how(tmp_path, capsys, monkeypatch):
    finished(tmp_path)
    monkeypatch.chdir(tmp_path)

    def said(*words):
        assert main(["train", "--resume", "run", "--progress", "plain", *words]) == 0
        return capsys.readouterr().err

    err = said()
    assert "This run is finished (12 steps planned)." in err
    assert "To extend it: textgen train --resume run --minutes 10 (or --max-steps 24)" in err
    err = said("--max-steps", "20", "--dry-run")
    assert "extends 8 more steps, from 12 to 20 · a new schedule from learning rate" in err and "finished" not in err
    assert "parts" not in arguments(tmp_path / "run")
    said("--max-steps", "20")
    assert main(["runs", "show", "run"]) == 0
    out = capsys.readouterr().out
    assert "steps 0 to 12, learning rate" in out and "steps 12 to 20, learning rate" in out


# --- what a schedule is ---


def test_each_step_follows_the_last_part_that_has_begun():
    parts = [Part(0, 100, 0.1, 10), Part(100, 200, 0.05, 5)]
    assert rate_at(parts, "cosine", 10, 0) == 0.1 and math.isclose(rate_at(parts, "cosine", 99, 0), 0.002, rel_tol=0.05)
    assert rate_at(parts, "cosine", 105, 0) == 0.05 and rate_at(parts, "cosine", 100, 0) < 0.01
    assert math.isclose(rate_at(parts, "cosine", 199, 0), 0.001, rel_tol=0.05)


@pytest.mark.parametrize("step", [3, 10, 40, 90])
def test_within_a_part_the_rate_goes_on_where_it_is(step):
    parts = [Part(0, 100, 0.1, 10)]
    longer = [*parts, next_part(parts, "cosine", step, 300, False, 0)]
    if step >= 10:
        assert math.isclose(rate_at(longer, "cosine", step, 0), rate_at(parts, "cosine", step, 0))
    assert max(rate_at(longer, "cosine", each, 0) for each in range(step, 300)) <= 0.1
    assert rate_at(longer, "cosine", 299, 0) <= 0.003


# --- what the evaluations tell ---


@pytest.mark.parametrize(
    ("best_step", "best", "step", "last", "early"),
    [(302, 2.0, 3018, 2.5, True), (302, 2.0, 3018, 2.01, False), (2000, 2.0, 3018, 2.5, False),
     (100, -2.0, 1000, -1.5, True), (10, 0.0, 10, 0.0, False)],
)  # fmt: skip
def test_an_early_best_is_told_from_noise(best_step, best, step, last, early):
    assert best_came_early(best_step, best, step, last) == early


def test_a_diverged_loss_is_never_best(tmp_path):
    """Weights that blow up are finite for long: their loss is worse than guessing."""
    folder, events = finished(tmp_path, optimizer="sgd", learning_rate=100.0, max_grad_norm=1e3, warmup_steps=0)
    scores = [event for event in events if isinstance(event, Evaluated)]
    assert scores and min(event.score.loss for event in scores) > 10
    assert not any(event.best for event in scores)
    assert resume(folder, {}).trainer.progress.best_step is None


def test_an_early_best_and_divergence_are_said(tmp_path, capsys, monkeypatch):
    (tmp_path / "text.txt").write_text("the cat sat on the mat. " * 40 + "a dog ran.\n" * 20)
    monkeypatch.chdir(tmp_path)
    words = ["train", "text.txt", "--cell", "gru", "--hidden-size", "6", "--threads", "1", "--progress", "plain",
             "--batch-size", "4", "--seq-length", "8", "--max-steps", "12", "--optimizer", "sgd"]  # fmt: skip
    blown = ["--learning-rate", "100", "--max-grad-norm", "1e3", "--warmup-steps", "0"]
    assert main([*words, *blown, "--output-dir", "a"]) == 0
    err = capsys.readouterr().err
    assert "No evaluation was better than guessing: training diverged." in err and "best" not in err
    progress = SimpleNamespace(best_step=302, best_loss=2.0, step=3018)
    _judge(SimpleNamespace(trainer=SimpleNamespace(progress=progress)), 2.5)
    said = "best at step 302 of 3,018: shorter training or more regularization would give a better model\n"
    assert capsys.readouterr().err == said

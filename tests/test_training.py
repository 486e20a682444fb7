"""Laws of training: whenever it is stopped, it ends with the same bits; nonsense stops it; every cell learns; and no
folder but a run is ever replaced."""

import io
import json
import math
import random
import re
import shutil
import signal
import sys
import time
from dataclasses import fields
from itertools import pairwise
from types import SimpleNamespace

import pytest
import torch
from faults import Dying, Quick, tree
from hypothesis import given, settings
from hypothesis import strategies as st
from process import in_child
from zoo import CELLS, INSTALLED, WRITTEN

from textgen import storage
from textgen.errors import TextgenError, UsageError
from textgen.evaluation import Score
from textgen.model import CONFIG, WEIGHTS, ModelConfig
from textgen.model.stack import build_model
from textgen.model.weights import model_tensors, pack
from textgen.options import declared, value_type
from textgen.storage import TOKENS, filesystem
from textgen.tasks import TrainOptions, options_for
from textgen.tasks.language import data as tasks
from textgen.tasks.language import objective
from textgen.tasks.objective import Objective
from textgen.training import CHANGEABLE, LENGTHS, Ended, Evaluated, Logged, Saved, Tick
from textgen.training.optimization import Part, named_optimizer_state
from textgen.training.planner import FASTEST, FINETUNING_RATE, learning_rate
from textgen.training.runs import ARGUMENTS, METRICS, OPTIMIZER, STATE, Run
from textgen.training.start import resume, start, train
from textgen.training.trainer import Trainer

TRAIN = sys.modules["textgen.training.start"]  # `textgen.training.start` is the function
ONCE = [next(name for name in INSTALLED if INSTALLED[name] is cell) for cell in dict.fromkeys(INSTALLED.values())]
TEXT = "the cat sat on the mat. the dog sat on the log. " * 3
STEPS = 13
TINY = {
    "cell": "gru", "tokenizer": "char", "hidden_size": 5, "embedding_size": 4, "num_layers": 2, "batch_size": 3,
    "seq_length": 8, "max_steps": STEPS, "learning_rate": 0.02, "dropout": 0.2, "embedding_dropout": 0.1,
    "weight_drop": 0.2, "eval_steps": 3, "save_steps": 5, "logging_steps": 4, "threads": 1, "device": "cpu",
}  # fmt: skip


@pytest.fixture(autouse=True)
def quick_disk(monkeypatch):
    monkeypatch.setattr(filesystem, "system", Quick())


@pytest.fixture
def text(tmp_path):
    path = tmp_path / "text.txt"
    path.write_text(TEXT)
    return path


def begin(text, name="run", **options):
    """A session of a new run beside its text."""
    options = {**TINY, "output_dir": str(text.parent / name), **options}
    return start([str(text)], options_for(options), time.monotonic())


def run_through(session):
    """All that happens; whatever is said to be saved is read back."""
    events = []
    for event in session.events():
        events.append(event)
        if isinstance(event, Saved):
            found, wrong = session.run.latest()
            assert (found.step, wrong) == (event.step, [])
    return events


def outcome(folder, steps=STEPS):
    """The bits at the end of a run: the weights that it publishes, and all of its last checkpoint."""
    storage.verify(folder)
    paths = [folder / WEIGHTS, *(folder / f"checkpoint-{steps}" / name for name in (WEIGHTS, OPTIMIZER, STATE))]
    return [path.read_bytes() for path in paths]


def metrics(folder):
    """What was logged, without the speed."""
    lines = [json.loads(line) for line in (folder / METRICS).read_text().splitlines()]
    return [{name: value for name, value in line.items() if name != "tokens_per_second"} for line in lines]


@pytest.fixture(scope="module")
def never_stopped(tmp_path_factory):
    text = tmp_path_factory.mktemp("never_stopped") / "text.txt"
    text.write_text(TEXT)
    session = begin(text, "whole")
    assert session.trainer.objective.steps_per_epoch < STEPS / 2, "the laws below are to cross epochs"
    run_through(session)
    return session.run.folder


@pytest.fixture
def whole(text, never_stopped):
    """A run of the text that was never stopped."""
    shutil.copytree(never_stopped.parent / TOKENS, text.parent / TOKENS)
    return shutil.copytree(never_stopped, text.parent / "whole")


def assert_same(folder, other):
    assert outcome(folder) == outcome(other) and metrics(folder) == metrics(other)


# --- stopping and going on ---


@pytest.mark.parametrize("options", [
    *({"cell": cell} for cell in ONCE),
    {"cell": "lstm", "average_weights": 0.9, "gradient_accumulation_steps": 2},
    {"cell": "gru", "optimizer": "sgd", "momentum": 0.9, "lr_scheduler": "plateau", "learning_rate": 0.5,
     "tie_weights": True, "residual": True, "layer_norm": True},
], ids=lambda options: " ".join(map(str, options.values())))  # fmt: skip
def test_a_run_stopped_after_any_step_goes_on_with_the_same_bits(text, options):
    """Two runs save after each step; one never stops, the other is stopped and resumed each time."""
    options = {**options, "save_total_limit": STEPS}
    whole = begin(text, "whole", save_steps=1, **options)
    run_through(whole)
    session, reasons = begin(text, save_steps=1000, **options), []
    while reasons[-1:] != ["done"]:
        session.trainer.stop = True
        reasons.append(run_through(session)[-1].reason)
        session = resume(session.run.folder, {})
        assert session.warnings == []
    assert reasons == STEPS * ["interrupted"] + ["done"]
    for step in range(1, STEPS + 1):
        assert outcome(session.run.folder, step) == outcome(whole.run.folder, step)
    assert metrics(session.run.folder) == metrics(whole.run.folder)


def go_on(folder, calls=0, seconds=0.0):
    """Resume a run in a process that is killed at a call of the disk or after some seconds (0: never)."""
    filesystem.system = Dying(calls)
    signal.signal(signal.SIGALRM, signal.SIG_DFL)  # which ends the process then and there
    signal.setitimer(signal.ITIMER_REAL, seconds)
    run_through(resume(folder, {}))


@pytest.mark.parametrize("way", ["calls of the disk", "moments"])
def test_a_killed_run_goes_on_with_the_same_bits(text, whole, way):
    """Killed at random, over and over, and then left alone."""
    folder, draw = begin(text).run.folder, random.Random(3)
    if way == "moments":
        kills = [(0, seconds) for seconds in (0.003, *(draw.uniform(0.01, 0.1) for _ in range(5)))]
    else:
        kills = [(draw.randint(20, 60), 0.0) for _ in range(6)]
    ends = [in_child(go_on, folder, *kill) for kill in kills]
    assert ends[0] < 0 and set(ends) <= {0, -signal.SIGKILL, -signal.SIGALRM}
    assert in_child(go_on, folder) == 0
    assert_same(folder, whole)
    assert not [path for path in folder.rglob("*") if ".tmp-" in path.name]


def test_going_on_with_a_run_that_is_done_changes_nothing(whole):
    before = tree(whole)
    events = run_through(resume(whole, {}))
    assert [type(event) for event in events] == [Evaluated, Ended] and events[-1].reason == "done"
    assert tree(whole) == before


def test_a_run_without_a_checkpoint_begins_from_its_arguments(text, whole):
    folder = begin(text).run.folder
    assert not list(folder.glob("checkpoint-*"))
    run_through(resume(folder, {}))
    assert_same(folder, whole)


@pytest.mark.parametrize("damaged", [1, 2])
def test_a_damaged_checkpoint_costs_steps_and_nothing_else(text, whole, damaged):
    session = begin(text)
    for event in session.events():
        session.trainer.stop = event.step == 11
    folder = session.run.folder
    assert session.run.checkpoints() == [10, 11]
    for step in (11, 10)[:damaged]:
        path = folder / f"checkpoint-{step}" / OPTIMIZER
        path.write_bytes(path.read_bytes()[:-1])
    session = resume(folder, {})
    assert len(session.warnings) == damaged and all(OPTIMIZER in warning for warning in session.warnings)
    assert all(("older checkpoint" if damaged == 1 else "step 0") in warning for warning in session.warnings)
    run_through(session)
    assert session.run.checkpoints() == [10, STEPS] and session.run.latest()[1] == []
    assert_same(folder, whole)


def test_a_run_that_started_from_a_model_goes_on_without_it(text, whole):
    run_through(begin(text, "other", init_from=str(whole)))
    session = begin(text, init_from=str(whole))
    for event in session.events():
        session.trainer.stop = event.step == 2
    shutil.rmtree(whole)
    run_through(resume(session.run.folder, {}))
    assert_same(session.run.folder, text.parent / "other")


def test_time_that_is_up_stops_a_run_that_can_go_on(text, whole):
    session = begin(text, max_time=1e-9)
    folder, ended = session.run.folder, run_through(session)[-1]
    assert (ended.step, ended.reason) == (1, "time")
    ended = run_through(resume(folder, {}))[-1]
    assert (ended.step, ended.reason) == (2, "time")
    assert run_through(resume(folder, {"max_time": 1000.0}))[-1].reason == "done"
    assert_same(folder, whole)


def test_a_run_has_one_trainer(text):
    session = begin(text)
    folder, events = session.run.folder, session.events()
    while not isinstance(next(events), Saved):
        pass
    session.run.log({"step": 6, "loss": 1.0})
    before = tree(folder)
    with pytest.raises(TextgenError, match="another process"):
        run_through(resume(folder, {}))
    with pytest.raises(TextgenError, match="another process"):
        begin(text, overwrite_output_dir=True)
    assert tree(folder) == before
    events.close()


def test_a_trainer_that_was_overtaken_changes_nothing(text, whole):
    folder = begin(text).run.folder
    late = resume(folder, {})
    run_through(resume(folder, {}))
    before = tree(folder)
    with pytest.raises(TextgenError, match="another process"):
        run_through(late)
    assert tree(folder) == before


def test_other_versions_are_named(monkeypatch, whole):
    made = json.loads((whole / ARGUMENTS).read_text())["made_with"]
    assert resume(whole, {}).warnings == []
    for name in made:
        monkeypatch.setattr(TRAIN, "made_with", lambda *_, name=name: {**made, name: "another"})
        (warning,) = resume(whole, {}).warnings
        assert name in warning and "another" in warning and str(made[name]) in warning


# --- what a resumed run may be given ---


OTHERS = {"task": "complete", "cell": "lstm", "cell_options": {"a": 1},
          "tokenizer": "byte", "lr_scheduler": "constant", "size": "tiny",
          "optimizer": "sgd", "dtype": "bfloat16", "report_to": ["tensorboard"], "vocab_size": 300,
          "early_stopping_patience": 3, "sampled_softmax": 100, "verify_steps": 5, "minutes": 1.0, "epochs": 1.0,
          "max_time": 1.0}  # fmt: skip


def another(name, value):
    """A valid value that is not this one."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, (int, float)):
        return value + 1 if isinstance(value, int) else value / 2 or 0.5
    declaration = {f.name: its for f, its in declared(TrainOptions)}[name]
    kind = value_type(TrainOptions, name)[0]
    fitting = {list: ["other"], int: 7, float: 0.5}.get(kind, "other")
    return OTHERS.get(name, next((each for each in declaration.choices if each != value), fitting))


@pytest.mark.parametrize("name", [f.name for f in fields(TrainOptions)])
def test_an_option_may_change_on_resume_or_is_refused_by_name(resumable, name):
    stored = getattr(resumable.options, name)
    assert resume(resumable.run.folder, {name: stored}).options == resumable.options
    changed = another(name, stored)
    if name in LENGTHS:
        extended = resume(resumable.run.folder, {name: changed})
        assert extended.extension is not None and getattr(extended.options, name) == changed
    elif name in CHANGEABLE:
        assert getattr(resume(resumable.run.folder, {name: changed}).options, name) == changed
    else:
        said = f"exclude each other|has no option 'a'|{re.escape(f'{name}={changed} cannot change')}"
        with pytest.raises(UsageError, match=said):
            resume(resumable.run.folder, {name: changed})


@pytest.fixture(scope="module")
def resumable(tmp_path_factory):
    text = tmp_path_factory.mktemp("resumable") / "text.txt"
    text.write_text(TEXT)
    return begin(text)


@pytest.mark.parametrize(
    "given", [{"max_time": -1.0}, {"max_time": "1"}, {"save_total_limit": 0}, {"max_tim": 1.0}], ids=str
)
def test_nonsense_is_no_option_of_a_resumed_run(resumable, given):
    with pytest.raises(UsageError, match=next(iter(given)).replace("_", ".")):
        resume(resumable.run.folder, given)


def test_there_must_be_a_run_to_resume(tmp_path):
    for folder in (tmp_path, tmp_path / "nothing"):
        with pytest.raises(TextgenError, match=re.escape(repr(str(folder)))):
            resume(folder, {})


# --- the corpus of a resumed run ---


def remove_store(text):
    shutil.rmtree(text.parent / TOKENS)


def damage_store(text):
    (path,) = (text.parent / TOKENS).glob("*/train.bin")
    path.write_bytes(path.read_bytes()[:-1])


def remove_corpus(text):
    text.unlink()


@pytest.mark.parametrize("lose", [remove_store, damage_store, remove_corpus])
def test_text_or_tokens_are_enough_to_go_on(text, whole, lose):
    session = begin(text)
    for _ in session.events():
        session.trainer.stop = True
    lose(text)
    run_through(resume(session.run.folder, {}))
    assert_same(session.run.folder, whole)


def test_a_run_does_not_go_on_with_another_text(text):
    folder = begin(text).run.folder
    remove_store(text)
    text.write_text(TEXT.replace("cat", "cow"))
    with pytest.raises(TextgenError, match=f"changed.*{re.escape(str(text))}"):
        resume(folder, {})


@pytest.mark.parametrize("lose", [remove_store, damage_store])
def test_a_text_that_came_by_pipe_lives_in_its_tokens(monkeypatch, text, lose):
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(TEXT.encode())))
    options = options_for({**TINY, "output_dir": str(text.parent / "run")})
    folder = start(["-"], options, time.monotonic()).run.folder
    resume(folder, {})
    lose(text)
    with pytest.raises(TextgenError, match=re.escape(TOKENS)):
        resume(folder, {})


# --- where a run may be ---


def put_strangers_folder(place):
    place.mkdir()
    (place / "precious").write_bytes(b"precious")


def put_strangers_arguments(place):
    put_strangers_folder(place)
    (place / ARGUMENTS).write_text("{}")


def put_strangers_model(place):
    with filesystem.new_folder(place) as new:
        new.write(CONFIG, b"{}")


def put_file(place):
    place.write_bytes(b"precious")


def put_folder_of_runs(place):
    with filesystem.new_folder(place / "run") as new:
        new.write(ARGUMENTS, b"{}")


def put_link_to_run(place):
    with filesystem.new_folder(place.parent / "elsewhere") as new:
        new.write(ARGUMENTS, b"{}")
    place.symlink_to("elsewhere")


STRANGERS = [put_strangers_folder, put_strangers_arguments, put_strangers_model, put_file, put_folder_of_runs,
             put_link_to_run]  # fmt: skip


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize("put", STRANGERS)
def test_what_is_no_run_is_never_removed(text, put, overwrite):
    put(text.parent / "run")
    before = tree(text.parent)
    with pytest.raises(TextgenError, match=re.escape(repr(str(text.parent / "run")))):
        begin(text, overwrite_output_dir=overwrite)
    assert tree(text.parent) == before


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize("put", STRANGERS)
def test_what_appears_while_a_run_is_planned_is_not_removed(monkeypatch, text, put, overwrite):
    place = text.parent / "run"
    monkeypatch.setattr(tasks.LanguageData, "objective", lambda data, options: put(place))
    with pytest.raises(TextgenError, match=re.escape(repr(str(place)))):
        begin(text, overwrite_output_dir=overwrite)
    (text.parent / "beside").mkdir()
    put(text.parent / "beside" / "run")
    assert tree(text.parent / "beside").items() <= tree(text.parent).items()


def test_a_run_is_replaced_only_when_that_is_asked_for(text, whole):
    before = tree(whole)
    with pytest.raises(TextgenError, match="exists already") as caught:
        begin(text, "whole")
    assert "--resume" in caught.value.hint and "overwrite_output_dir" in caught.value.hint
    assert tree(whole) == before
    session = begin(text, "whole", overwrite_output_dir=True, seed=1)
    assert not session.run.checkpoints() and not (whole / METRICS).exists()
    assert not [path for path in text.parent.rglob("*") if ".tmp-" in path.name]
    run_through(session)
    assert outcome(whole)[1:3] != [before[f"checkpoint-{STEPS}/{name}"] for name in (WEIGHTS, OPTIMIZER)]


def test_a_run_never_replaces_the_model_that_it_starts_from(text, whole):
    before = tree(whole)
    with pytest.raises(TextgenError, match=re.escape(repr(str(whole)))):
        begin(text, "whole", overwrite_output_dir=True, init_from=str(whole))
    assert tree(whole) == before


def test_an_empty_folder_is_free(text):
    (text.parent / "run").mkdir()
    storage.verify(begin(text).run.folder)


def test_a_run_named_by_itself_takes_the_first_free_number(monkeypatch, text):
    monkeypatch.chdir(text.parent)
    names = [begin(text, output_dir=None).run.folder.as_posix() for _ in range(2)]
    assert names == ["runs/gru-text-1", "runs/gru-text-2"]


def test_a_dry_run_leaves_no_run(text, whole):
    before = tree(text.parent)
    for name in ("run", "whole"):
        given = {**TINY, "output_dir": str(text.parent / name), "overwrite_output_dir": True}
        start([str(text)], options_for(given), time.monotonic(), dry_run=True)
    assert tree(text.parent) == before


def test_a_run_is_a_folder_that_verifies_from_its_first_second(text):
    session = begin(text)
    assert {ARGUMENTS, CONFIG} <= set(storage.verify(session.run.folder)["files"])
    for _ in session.events():
        storage.verify(session.run.folder)


def test_train_returns_the_folder_of_a_whole_run(text, whole):
    folder = train(text, **{**TINY, "output_dir": str(text.parent / "run")})
    assert folder == text.parent / "run"
    assert_same(folder, whole)


def test_another_seed_gives_another_model_and_the_same_one_the_same(text, whole):
    for name, seed in (("same", 1337), ("other", 1)):
        run_through(begin(text, name, seed=seed))
    assert_same(text.parent / "same", whole)
    assert outcome(text.parent / "other") != outcome(whole)


# --- what is told ---


def test_metrics_tell_each_step_once_and_what_the_events_told(text):
    session = begin(text)
    events, lines = run_through(session), metrics(session.run.folder)
    assert [event.step for event in events if isinstance(event, Tick)] == list(range(1, STEPS + 1))
    trained = [line for line in lines if "loss" in line]
    assert [line["step"] for line in trained] == [4, 8, 12, STEPS]
    assert [line["step"] for line in lines if line.get("final") is False] == [3, 6, 9, 12, STEPS]
    assert [line["step"] for line in lines if line.get("final")] == [STEPS]
    losses = {event.step: event.loss for event in events if isinstance(event, Tick)}
    for before, line in pairwise([{"step": 0}, *trained]):
        meant = [losses[step] for step in range(before["step"] + 1, line["step"] + 1)]
        assert math.isclose(line["loss"], sum(meant) / len(meant))
    assert [event.loss for event in events if isinstance(event, Logged)] == [line["loss"] for line in trained]


# --- learning ---


class Repeating(Objective):
    """The letters 0 to 6 over and over; scores are read from a list."""

    steps_per_epoch, tokens_per_step = 4, 24

    def __init__(self, scores=()):
        self.quick_scores, self.has_scores = list(scores), bool(scores)

    def fresh(self, step):
        return torch.full((3,), step % 4 == 0)

    def window(self, step):
        ids = (torch.arange(9).view(9, 1) + torch.arange(3) + 8 * (step % 4)) % 7
        return ids[:-1], ids[1:]

    def loss(self, outputs, targets):
        return torch.nn.functional.cross_entropy(outputs.flatten(0, 1), targets.flatten())

    def evaluate(self, model, quick):
        if not self.has_scores:
            return None
        return Score(self.quick_scores.pop(0) if quick else 0.5, tokens=1, characters=1, bytes=1)


def test_a_fresh_lane_has_the_initial_state_and_the_others_keep_theirs():
    initial, before = (torch.ones(3, 2), torch.ones(3, 2, 4)), (torch.zeros(3, 2), torch.zeros(3, 2, 4))
    task = Repeating()
    task.fresh = lambda step: torch.tensor([True, False, True]) & (step > 0)
    assert task.window_state(1, initial, ()) == initial and task.window_state(0, initial, before) == before
    for tensor in task.window_state(1, initial, before):
        assert tensor.flatten(1).tolist() == [[each] * tensor[0].numel() for each in (1.0, 0.0, 1.0)]


def trainer_of(folder, cell=CELLS["gru"], scores=(), **options):
    config = ModelConfig(vocab_size=7, embedding_size=6, hidden_size=8, num_layers=2)
    torch.manual_seed(4)
    model = build_model(config, cell)
    run = Run(folder) if folder.exists() else Run.create(folder, {CONFIG: filesystem.to_json(config.to_json())})
    defaults = {"batch_size": 3, "seq_length": 8, "max_steps": 10, "learning_rate": 0.03, "warmup_steps": 0,
                "logging_steps": 100, "eval_steps": 100, "save_steps": 100}  # fmt: skip
    return Trainer(run, Repeating(scores), model, options_for({**defaults, **options}))


@pytest.mark.parametrize("name", [*ONCE, *WRITTEN])
def test_every_cell_learns_with_all_of_its_parameters(tmp_path, name):
    trainer = trainer_of(tmp_path / "run", CELLS[name], max_steps=30)
    before = {name: tensor.detach().clone() for name, tensor in trainer.model.named_parameters()}
    losses = [event.loss for event in trainer.run() if isinstance(event, Tick)]
    assert sum(losses[-5:]) / 5 < 0.8 * losses[0]
    for parameter, tensor in trainer.model.named_parameters():
        assert not torch.equal(tensor, before[parameter]), parameter
    assert pack(trainer.run_folder.best_weights()) == pack(model_tensors(trainer.model))


class Noisy(CELLS["gru"]):
    """Draws noise of its own while it learns."""

    def forward(self, xs, state=None, recurrent_mask=None):
        return super().forward(xs + torch.randn_like(xs) if self.training else xs, state, recurrent_mask)


@pytest.mark.parametrize("cell", [*WRITTEN.values(), Noisy], ids=lambda cell: cell.__name__)
def test_every_cell_goes_on_with_the_same_bits(tmp_path, cell):
    list(trainer_of(tmp_path / "whole", cell, max_steps=7).run())
    first = trainer_of(tmp_path / "run", cell, max_steps=7)
    for event in first.run():
        first.stop = event.step == 3
    second = trainer_of(tmp_path / "run", cell, max_steps=7)
    second.resume(second.run_folder.load(3))
    list(second.run())
    assert outcome(tmp_path / "run", 7) == outcome(tmp_path / "whole", 7)


def test_the_state_is_carried_within_an_epoch_and_dropped_between(tmp_path):
    trainer, carried = trainer_of(tmp_path / "run"), []
    forward = trainer.model.forward
    trainer.model.forward = lambda xs, state, *rest: (carried.append(state), forward(xs, state, *rest))[1]
    ends = [trainer.update.state for event in trainer.run() if isinstance(event, Tick)]
    for step, state in enumerate(carried):
        assert all(not tensor.requires_grad for tensor in state)
        if step % 4 == 0:
            assert all(not tensor.any() for tensor in state)
        else:
            assert all(tensor.any() for tensor in state) and all(map(torch.equal, state, ends[step - 1]))


# --- early stopping and the best weights ---


@pytest.mark.parametrize(("scores", "patience", "ends_at", "best"), [
    ([3.0, 2.0, 2.5, 2.4, 1.0], 2, 8, 4),
    ([3.0, 3.0, 3.0, 1.0, 1.0], 2, 6, 2),
    ([3.0, 2.0, 2.5, 1.0, 1.5], 2, 10, 8),
    ([3.0, 4.0, 1.0, 1.0, 1.0], 1, 4, 2),
    ([3.0, 4.0, 5.0, 6.0, 7.0], None, 10, 2),
])  # fmt: skip
def test_training_ends_when_no_better_score_comes(tmp_path, scores, patience, ends_at, best):
    options = {"eval_steps": 2, "save_steps": 2, "save_total_limit": 9, "early_stopping_patience": patience}
    trainer = trainer_of(tmp_path / "run", scores=scores, **options)
    events = list(trainer.run())
    assert (events[-1].step, events[-1].reason) == (ends_at, "done" if ends_at == 10 else "early stopping")
    evaluated = [(event.step, event.score.nats, event.final) for event in events if isinstance(event, Evaluated)]
    assert evaluated == [*zip(range(2, ends_at + 1, 2), scores, [False] * 5, strict=False), (ends_at, 0.5, True)]
    assert [event.step for event in events if isinstance(event, Evaluated) and event.best][-1] == best
    wanted = trainer.run_folder.load(best).weights
    assert pack(trainer.run_folder.best_weights()) == pack(model_tensors(trainer.model)) == pack(wanted)


def test_a_run_that_stopped_early_goes_on_only_with_more_patience(tmp_path):
    options = {"eval_steps": 2, "save_steps": 2}
    first = trainer_of(tmp_path / "run", scores=[1.0, 2.0, 3.0], early_stopping_patience=2, **options)
    assert list(first.run())[-1].step == 6
    for patience, last in ((2, 6), (3, 8), (None, 10)):
        scores = [4.0, 5.0]
        trainer = trainer_of(tmp_path / "run", scores=scores, early_stopping_patience=patience, **options)
        trainer.resume(trainer.run_folder.load(6))
        events = list(trainer.run())
        assert events[-1].step == last and events[-1].reason == ("done" if last == 10 else "early stopping")
        shutil.rmtree(tmp_path / "run" / "checkpoint-8", ignore_errors=True)


def test_without_anything_held_out_the_last_weights_are_the_model(text):
    session = begin(text, validation_split=0.0)
    events = run_through(session)
    assert not [event for event in events if isinstance(event, Evaluated)]
    published, *_, last = outcome(session.run.folder)
    assert published == outcome(session.run.folder)[1] and json.loads(last)["best_step"] is None


# --- nonsense ---


def poison(trainer, name, value):
    """From now on the gradient of one parameter has one such entry."""

    def spoil(gradient):
        spoiled = gradient.clone()
        spoiled.view(-1)[-1] = value
        return spoiled

    dict(trainer.model.named_parameters())[name].register_hook(spoil)


def learned(trainer):
    """All bits that a step changes, but for the carried state."""
    return pack(model_tensors(trainer.model)), pack(named_optimizer_state(trainer.model, trainer.update.optimizer))


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("where", ["the loss", "encoder.weight", "stack.layers.1.weight_hh", "readout.linear.bias"])
def test_nonsense_stops_training_before_it_is_learned(tmp_path, where, value):
    trainer = trainer_of(tmp_path / "run", save_steps=2)
    events = trainer.run()
    while not (isinstance(event := next(events), Tick) and event.step == 5):
        pass
    before, carry, stored = learned(trainer), trainer.update.state, tree(tmp_path / "run")
    if where == "the loss":
        trainer.objective.loss = lambda outputs, targets: outputs.sum() + value  # finite gradients
    else:
        poison(trainer, where, value)
    with pytest.raises(TextgenError, match=f"{re.escape(where)} is not finite at step 6 ") as caught:
        list(events)
    assert learned(trainer) == before and trainer.update.state is carry and tree(tmp_path / "run") == stored
    assert "checkpoint-4 is intact" in caught.value.hint


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_score_that_is_nonsense_is_never_the_best(tmp_path, value):
    trainer = trainer_of(tmp_path / "run", scores=[2.0, value], eval_steps=2, save_steps=2)
    with pytest.raises(TextgenError, match="held-out loss is not finite at step 4"):
        list(trainer.run())
    assert pack(trainer.run_folder.best_weights()) == pack(trainer.run_folder.load(2).weights)


def test_a_long_gradient_is_shortened_and_a_short_one_is_not(tmp_path):
    long, short = (trainer_of(tmp_path / name, max_grad_norm=most) for name, most in (("a", 1e-3), ("b", 1e6)))
    seen = []
    for trainer in (long, short):
        step = trainer.update.optimizer.step

        def watch(trainer=trainer, step=step):
            seen.append(torch.cat([p.grad.flatten() for p in trainer.model.parameters()]))
            step()

        trainer.update.optimizer.step = watch
        event = next(trainer.run())
        assert event.step == 1
    torch.testing.assert_close(seen[0].norm().item(), 1e-3, rtol=1e-2, atol=0)
    torch.testing.assert_close(seen[0] / seen[0].norm(), seen[1] / seen[1].norm())
    torch.testing.assert_close(seen[1].norm().item(), short.progress.norm_sum, rtol=1e-5, atol=0)


# --- the learning rate ---


@pytest.mark.parametrize(("cell", "hidden_size", "rate"), [
    ("gru", 384, 0.005), ("gru", 1536, 0.0025), ("lstm", 1536, 0.00375), ("lstm", 24, FASTEST), ("rnn", 384, 0.005),
])  # fmt: skip
def test_the_planned_learning_rate_follows_the_width_and_what_the_cell_asks_for(cell, hidden_size, rate):
    config = ModelConfig(60, cell, hidden_size=hidden_size)
    assert learning_rate(config) == pytest.approx(rate)
    assert learning_rate(config, finetuning=True) == pytest.approx(FINETUNING_RATE * rate, abs=1e-5)
    assert learning_rate(config, dropout=0.5) == pytest.approx(min(FASTEST, 2 * rate))


@settings(deadline=None)
@given(warmup=st.integers(0, 30), steps=st.integers(1, 60), rate=st.floats(1e-6, 10))
def test_the_learning_rate_rises_to_its_highest_and_falls_to_a_fiftieth(warmup, steps, rate):
    part = Part(0, steps, rate, warmup)
    rates = [part.rate("cosine", step) for step in range(steps)]
    rising, falling = rates[:warmup], rates[warmup:]
    assert all(0 < a < b for a, b in pairwise(rising)) and all(value < rate for value in rising)
    assert all(a > b for a, b in pairwise(falling)) and falling[:1] in ([rate], [])
    assert all(value >= 0.02 * rate * (1 - 1e-9) for value in falling)
    assert math.isclose(part.rate("cosine", max(steps, warmup + 1)), 0.02 * rate)
    assert [part.rate("constant", step) for step in range(steps)] == [*rising, *[rate] * len(falling)]


def test_cells_may_ask_for_other_rates_and_no_decay(tmp_path):
    class Slow(CELLS["gru"]):
        def parameter_groups(self):
            frozen, *rest = self.parameters()
            return [{"params": [frozen], "decay": 0.0, "rate": 0.0}, {"params": rest, "decay": 1.0, "rate": 1.0}]

    trainer = trainer_of(tmp_path / "run", Slow, weight_decay=0.1)
    frozen = trainer.model.stack.layers[0].weight_ih
    before, bias = frozen.detach().clone(), trainer.model.stack.layers[0].bias_ih.detach().clone()
    list(trainer.run())
    assert torch.equal(frozen, before) and not torch.equal(trainer.model.stack.layers[0].bias_ih, bias)
    decays = {id(p): group["weight_decay"] for group in trainer.update.optimizer.param_groups for p in group["params"]}
    assert decays[id(frozen)] == 0 and decays[id(trainer.model.encoder.weight)] == 0.1
    assert sorted(decays) == sorted(map(id, trainer.model.parameters()))


def test_a_text_too_short_for_its_sizes_leaves_no_run(text):
    with pytest.raises(TextgenError, match="tokens; one batch of 100 x 8 needs") as caught:
        begin(text, batch_size=100)
    assert not (text.parent / "run").exists()
    batch, length = map(int, re.findall(r"\d+", caught.value.hint))
    run_through(begin(text, batch_size=batch, seq_length=length, max_steps=1))


# --- the task ---


def uniform(task):
    """A model that finds every symbol equally likely."""
    size = task.store.tokenizer.vocab_size
    model = build_model(ModelConfig(vocab_size=size, embedding_size=3, hidden_size=4), CELLS["rnn"])
    with torch.no_grad():
        for parameter in model.readout.parameters():
            parameter.zero_()
    return model, math.log(size)


def test_what_is_held_out_is_scored_whole_and_by_a_quick_look(monkeypatch, text):
    text.write_text(TEXT * 9 + "ünseen letters: Ω≈ç√. " * 5)
    task = begin(text).trainer.objective
    model, nats = uniform(task)
    about, raw = task.store.about, task.store.about["raw"]["validation"]
    assert raw > 0
    score = task.evaluate(model, quick=False)
    assert (score.bytes, score.characters) == (about["bytes"]["validation"], about["characters"]["validation"])
    assert math.isclose(score.nats, score.tokens * nats + raw * 8 * math.log(2), rel_tol=1e-6)
    monkeypatch.setattr(objective, "QUICK_LOOK", score.tokens // 3)
    look = task.evaluate(model, quick=True)
    assert score.tokens / 4 < look.tokens < score.tokens / 2
    assert math.isclose(look.bits_per_byte, score.bits_per_byte, rel_tol=0.05)
    assert math.isclose(look.nats_per_character, score.nats_per_character, rel_tol=0.05)


def test_the_loss_is_the_mean_of_nats(text):
    task = begin(text).trainer.objective
    model, nats = uniform(task)
    inputs, targets = task.window(0)
    assert math.isclose(task.loss(model(inputs)[0], targets).item(), nats, rel_tol=1e-6)

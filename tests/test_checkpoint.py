"""Laws of run folders: what is saved comes back with the same bits, what does not fit is named, the newest whole one
is found."""

import errno
import itertools
import json
import re
import struct

import pytest
import torch
from faults import Disk, Failing, Quick, Watched, plant, tree
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from zoo import INSTALLED

from textgen import storage
from textgen.errors import TextgenError
from textgen.model import CONFIG, WEIGHTS, ModelConfig, read_config
from textgen.model.weights import load_tensors, load_weights, make_model, model_tensors, pack, unpack
from textgen.storage import DamagedError, filesystem
from textgen.tasks import TrainOptions
from textgen.training.optimization import load_optimizer_state, make_optimizer, named_optimizer_state
from textgen.training.runs import METRICS, OPTIMIZER, STATE, Checkpoint, Run

SMALL = ModelConfig(vocab_size=7, cell="gru", embedding_size=3, hidden_size=4)
CONFIGS = {
    "tied": ModelConfig(vocab_size=7, embedding_size=4, hidden_size=4, tie_word_embeddings=True),
    "tied, projected": ModelConfig(vocab_size=7, embedding_size=3, hidden_size=4, tie_word_embeddings=True),
    "deep": ModelConfig(vocab_size=7, embedding_size=4, hidden_size=4, num_layers=3, residual=True, layer_norm=True),
    "with options": ModelConfig(vocab_size=7, cell="rnn", cell_options={"nonlinearity": "relu"}, hidden_size=2),
    **{name: ModelConfig(vocab_size=7, cell=name, embedding_size=3, hidden_size=4) for name in INSTALLED},
}
STATES = {"global_step": 5, "loss_sum": 0.1 + 0.2, "best_loss": 1e-323, "best_step": None}


@pytest.fixture(autouse=True)
def quick_disk(monkeypatch):
    monkeypatch.setattr(filesystem, "system", Quick())


@pytest.fixture(params=CONFIGS)
def config(request):
    return CONFIGS[request.param]


def new_run(folder, config=SMALL):
    return Run.create(folder, {CONFIG: filesystem.to_json(config.to_json())})


@pytest.fixture
def run(tmp_path):
    return new_run(tmp_path / "run")


def trained(config, steps=3):
    """A model and its optimizer after a few steps."""
    model = make_model(config)
    optimizer = make_optimizer(model, TrainOptions())
    for _ in range(steps):
        train_once(model, optimizer)
    return model, optimizer


def train_once(model, optimizer):
    for group in optimizer.param_groups:
        group["lr"] = 0.01
    model(torch.arange(21).view(7, 3) % 7)[0].log_softmax(-1).square().sum().backward()
    optimizer.step()
    optimizer.zero_grad()


def same(these, those):
    """The same names, types, shapes and bits."""
    return pack(these) == pack(those)


def checkpoint(step, model=None, optimizer=None, carry=(), state=STATES):
    weights = model_tensors(model) if model else {"w": torch.full((2,), float(step))}
    moments = named_optimizer_state(model, optimizer) if optimizer else {"w/exp_avg": torch.full((2,), step / 3)}
    return Checkpoint(step, weights, moments, tuple(carry), dict(state))


def assert_same(one, other):
    assert (one.step, one.state) == (other.step, other.state)
    assert same(one.weights, other.weights)
    assert sorted(one.optimizer) == sorted(other.optimizer)
    assert all(torch.equal(one.optimizer[name], other.optimizer[name]) for name in one.optimizer)
    assert len(one.hidden) == len(other.hidden)
    assert all(map(torch.equal, one.hidden, other.hidden))


# --- weights ---


def test_a_published_model_comes_back_with_the_same_bits(tmp_path, config):
    run = new_run(tmp_path / "run", config)
    for steps in (0, 2):  # the second replaces the first
        model, _ = trained(config, steps)
        run.publish(model)
        manifest = storage.verify(run.folder)
        assert read_config(run.folder, manifest) == config
        loaded = load_weights(run.folder, manifest, config)
        assert same(model_tensors(loaded), model_tensors(model)) and same(run.best_weights(), model_tensors(model))
        assert not loaded.training
        ids = torch.arange(10).view(5, 2) % 7
        assert torch.equal(loaded(ids)[0], model(ids)[0])


@pytest.mark.parametrize("name", ["tied", "tied, projected"])
def test_tied_weights_are_stored_once_and_stay_tied(tmp_path, name):
    run = new_run(tmp_path / "run", CONFIGS[name])
    run.publish(make_model(CONFIGS[name]))
    assert [n for n, t in run.best_weights().items() if t.shape[0] == 7 and t.dim() == 2] == ["encoder.weight"]
    loaded = load_weights(run.folder, storage.verify(run.folder), CONFIGS[name])
    assert loaded.readout.linear.weight is loaded.encoder.weight


class Buffered(nn.Module):
    def __init__(self):
        super().__init__()
        self.strided = nn.Parameter(torch.arange(6.0).view(2, 3).t())
        self.register_buffer("counts", torch.arange(3))
        self.register_buffer("rough", torch.ones(2, dtype=torch.bfloat16))
        self.register_buffer("flags", torch.tensor([True, False]))
        self.register_buffer("scratch", torch.zeros(9), persistent=False)


def test_buffers_of_any_type_come_back_and_scratch_is_left_out():
    content = pack(model_tensors(Buffered()))
    emptied = Buffered()
    for tensor in emptied.state_dict().values():
        tensor.zero_()
    load_tensors(emptied, unpack(content, "name"), "name")
    assert same(model_tensors(emptied), model_tensors(Buffered()))
    assert set(unpack(content, "name")) == {"strided", "counts", "rough", "flags"}


def spoiled(tensors, name):
    """Every way in which a table of tensors may fail to fit, with `name` as the tensor at fault."""
    whole = tensors[name]
    yield {k: t for k, t in tensors.items() if k != name}
    yield {**tensors, name: whole.double()}
    yield {**tensors, name: whole.unsqueeze(0)}
    yield {**tensors, name: torch.cat([whole, whole])}
    yield {**tensors, name: whole[:0]}


def test_weights_that_do_not_fit_are_named_and_nothing_is_loaded(config):
    model = make_model(config)
    tensors = model_tensors(make_model(config))
    before = pack(model_tensors(model))
    for name in tensors:
        for wrong in spoiled(tensors, name):
            with pytest.raises(DamagedError, match=f"the-file .*{re.escape(repr(name))}"):
                load_tensors(model, wrong, "the-file")
    with pytest.raises(DamagedError, match=r"the-file .*'stranger'"):
        load_tensors(model, {**tensors, "stranger": torch.ones(1)}, "the-file")
    assert pack(model_tensors(model)) == before


def test_a_folder_whose_weights_do_not_fit_its_configuration_is_refused(run):
    tensors = model_tensors(make_model(SMALL))
    for name in ("encoder.weight", "stack.layers.0.weight_hh"):
        for wrong in [*spoiled(tensors, name), {**tensors, name + "x": torch.ones(1)}]:
            filesystem.replace_in_folder(run.folder, WEIGHTS, pack(wrong))
            with pytest.raises(DamagedError, match=f"{re.escape(str(run.folder / WEIGHTS))} .*'{re.escape(name)}"):
                load_weights(run.folder, storage.verify(run.folder), SMALL)


def test_a_model_too_large_for_its_weights_takes_no_memory(run):
    run.publish(make_model(SMALL))
    huge = ModelConfig(vocab_size=10_000_000, cell="gru", embedding_size=60_000, hidden_size=60_000)
    with pytest.raises(DamagedError, match="does not fit"):
        load_weights(run.folder, storage.verify(run.folder), huge)


def test_a_folder_without_weights_says_how_to_get_some(run):
    with pytest.raises(TextgenError, match="no weights") as caught:
        load_weights(run.folder, storage.verify(run.folder), SMALL)
    assert str(run.folder) in caught.value.hint


def crafted(header):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + bytes(8)


@pytest.mark.parametrize("content", [
    b"", b"x", b"\x80\x04N.", bytes(8), bytes(100), b"\xff" * 100, struct.pack("<Q", 1 << 62) + b"{}", crafted(b"[]"),
    pack({"w": torch.ones(5)})[:-1], pack({"w": torch.ones(5)}) + b"x", pack({"w": torch.ones(5)})[8:],
    *(crafted({"w": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8], **lie}}) for lie in (
        {"shape": [3]}, {"shape": [-2]}, {"shape": [1 << 62, 1 << 62]}, {"shape": "x"}, {"dtype": "F64"},
        {"dtype": "object"}, {"data_offsets": [0, 99]}, {"data_offsets": [8, 0]}, {"data_offsets": [-8, 0]})),
], ids=lambda content: ascii(content[-30:]))  # fmt: skip
def test_what_is_no_table_of_tensors_is_refused_by_name(content):
    with pytest.raises(DamagedError, match="the-file is damaged"):
        unpack(content, "the-file")


# --- the optimizer ---


def test_an_optimizer_goes_on_as_if_never_stopped(config):
    model, optimizer = trained(config)
    tensors = unpack(pack(named_optimizer_state(model, optimizer)), "name")
    other = make_model(config)
    load_tensors(other, model_tensors(model), "name")
    resumed = make_optimizer(other, TrainOptions())
    load_optimizer_state(other, resumed, dict(reversed(tensors.items())), "name")
    for _ in range(2):
        train_once(model, optimizer)
        train_once(other, resumed)
    assert same(model_tensors(model), model_tensors(other))
    assert same(named_optimizer_state(model, optimizer), named_optimizer_state(other, resumed))


def test_optimizer_state_that_does_not_fit_is_named(config):
    model, optimizer = trained(config)
    tensors = named_optimizer_state(model, optimizer)
    for name, tensor in tensors.items():
        renamed = {f"x{name}": tensor}, {name.replace("/", "."): tensor}
        for wrong in ({name: torch.ones(2, *tensor.shape)}, {name: tensor.double()}, *renamed):
            with pytest.raises(DamagedError, match=f"the-file .*{re.escape(repr(next(iter(wrong))))}"):
                load_optimizer_state(model, optimizer, {**tensors, **wrong}, "the-file")


# --- checkpoints ---


@pytest.mark.parametrize("states", [0, 1, 12])
def test_a_checkpoint_comes_back_whole(run, states):
    model, optimizer = trained(SMALL)
    saved = checkpoint(5, model, optimizer, carry=[torch.randn(3, 1 + k) for k in range(states)])
    folder = run.save(saved, keep=2)
    storage.verify(folder)
    assert_same(run.load(5), saved)
    assert run.latest()[0].step == 5 and run.latest()[1] == []


def test_the_last_ones_are_kept_in_the_order_of_numbers(run):
    for step in (8, 9, 10, 99, 100):
        run.save(checkpoint(step), keep=3)
    assert run.checkpoints() == [10, 99, 100]
    for stranger in ("checkpoint-", "checkpoint-7x", "xcheckpoint-7"):
        (run.folder / stranger).mkdir()
    (run.folder / "checkpoint-7").touch()
    assert run.checkpoints() == [10, 99, 100]


@pytest.mark.parametrize("name", [WEIGHTS, OPTIMIZER, STATE, storage.MANIFEST])
@pytest.mark.parametrize("damage", ["flip", "cut", "remove"])
def test_a_damaged_checkpoint_is_passed_over_and_named(run, name, damage):
    for step in (1, 2, 3):
        run.save(checkpoint(step), keep=3)
    for left, step in ((2, 3), (1, 2), (None, 1)):
        path = run.folder / f"checkpoint-{step}" / name
        content = path.read_bytes()
        changed = {"flip": content[:-9] + bytes([content[-9] ^ 4]) + content[-8:], "cut": content[:-9], "remove": b""}
        path.write_bytes(changed[damage])
        if damage == "remove":
            path.unlink()
        found, wrong = run.latest()
        assert (found and found.step) == left
        assert all(str(run.folder / f"checkpoint-{3 - k}" / name) in str(e) for k, e in enumerate(wrong))
        assert len(wrong) == 4 - step and all(isinstance(error, DamagedError) for error in wrong)


def test_a_run_without_checkpoints_has_no_latest(run):
    assert run.latest() == (None, []) and run.checkpoints() == []


def test_a_fault_while_saving_harms_no_checkpoint(monkeypatch, tmp_path, run):
    run.save(checkpoint(1), keep=2)
    run.save(checkpoint(2), keep=2)
    before, counter = tree(run.folder), Watched()
    monkeypatch.setattr(filesystem, "system", counter)
    Run(plant(tmp_path / "count", before)).save(checkpoint(3), keep=2)
    for at, lasting in itertools.product(range(1, counter.count + 1), (False, True)):
        place = Run(plant(tmp_path / f"{at}-{lasting}", before))
        monkeypatch.setattr(filesystem, "system", Failing(at, errno.ENOSPC, lasting))
        with pytest.raises(OSError, match="No space"):
            place.save(checkpoint(3), keep=2)
        monkeypatch.setattr(filesystem, "system", Quick())
        found, wrong = place.latest()
        assert found.step in (2, 3) and wrong == [] and len(place.checkpoints()) >= 2
        assert_same(found, checkpoint(found.step))


def test_a_crash_while_saving_leaves_the_old_or_the_new_checkpoint(monkeypatch, tmp_path, run):
    run.save(checkpoint(1), keep=2)
    run.save(checkpoint(2), keep=2)
    disk = Disk(run.folder)
    monkeypatch.setattr(filesystem, "system", disk)
    run.save(checkpoint(3), keep=2)
    steps = set()
    for number, state in enumerate(disk.states):
        place = Run(plant(tmp_path / str(number), state))
        found, wrong = place.latest()
        steps.add(found.step)
        assert wrong == [] and len(place.checkpoints()) >= 2
        assert_same(found, checkpoint(found.step))
    assert steps == {2, 3}


# --- beginning, going back ---


def test_a_run_never_takes_the_place_of_another_folder(tmp_path):
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "precious").write_bytes(b"precious")
    before = tree(tmp_path)
    with pytest.raises(TextgenError, match="exists already"):
        new_run(tmp_path / "taken")
    assert tree(tmp_path) == before


@settings(deadline=None)
@given(
    steps=st.lists(st.integers(0, 9), max_size=12),
    final=st.lists(st.booleans(), min_size=12, max_size=12),
    torn=st.integers(0, 30),
    back_to=st.integers(0, 10),
)
def test_going_back_keeps_the_metrics_up_to_there(tmp_path_factory, steps, final, torn, back_to):
    run = Run(tmp_path_factory.mktemp("run"))
    lines = [{"step": step, "final": is_final} for step, is_final in zip(steps, final, strict=False)]
    for metrics in lines:
        run.log(metrics)
    path = run.folder / METRICS
    with open(path, "ab") as file:
        file.write(json.dumps({"step": 0, "loss": 1.5}).encode()[:torn])
    run.go_back_to(back_to)
    kept = [json.loads(line) for line in path.read_text().splitlines()]
    assert kept == [each for each in lines if 0 < back_to >= each["step"] and not each["final"]]  # 0: it starts again
    run.log({"step": 10})
    assert path.read_bytes().endswith(b'}\n{"step": 10}\n') or path.read_bytes() == b'{"step": 10}\n'


def test_going_back_removes_damaged_checkpoints_and_keeps_earlier_ones(run):
    for step in (1, 2, 3):
        run.save(checkpoint(step), keep=3)
    (run.folder / "checkpoint-3" / STATE).unlink()
    run.go_back_to(2)
    assert run.checkpoints() == [1, 2] and storage.verify(run.folder)
    run.save(checkpoint(3), keep=3)
    assert_same(run.load(3), checkpoint(3))


def test_going_back_behind_a_whole_checkpoint_is_refused(run):
    for step in (1, 2, 3):
        run.save(checkpoint(step), keep=3)
    run.log({"step": 3})
    before = tree(run.folder)
    with pytest.raises(TextgenError, match="another process"):
        run.go_back_to(2)
    assert tree(run.folder) == before

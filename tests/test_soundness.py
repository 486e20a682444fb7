"""Laws of what stops a training: weights that are not finite are never stored; memory and disk are counted rightly."""

import math

import pytest
import torch
from faults import Quick, tree
from test_training import trainer_of

from textgen.errors import TextgenError
from textgen.storage import filesystem
from textgen.tasks import TrainOptions
from textgen.training import Saved, Tick
from textgen.training.guards import copies_kept, in_bytes, needed_memory
from textgen.training.optimization import named_optimizer_state


@pytest.fixture(autouse=True)
def quick_disk(monkeypatch):
    monkeypatch.setattr(filesystem, "system", Quick())


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("name", ["encoder.weight", "stack.layers.1.weight_hh", "readout.linear.bias"])
def test_weights_that_an_update_made_infinite_are_never_stored(tmp_path, name, value):
    trainer = trainer_of(tmp_path / "run", save_steps=2, max_steps=6, scores=[1.0, 1.0, 0.5], eval_steps=2)
    events = trainer.run()
    while not isinstance(next(events), Saved):
        pass
    step, stored = trainer.update.optimizer.step, tree(tmp_path / "run")

    def overflow():
        step()
        if trainer.progress.step == 3:
            with torch.no_grad():
                dict(trainer.model.named_parameters())[name].view(-1)[-1] = value

    trainer.update.optimizer.step = overflow
    with pytest.raises(TextgenError, match=f"{name} is not finite at step 4 ") as caught:
        [event for event in events if isinstance(event, Tick)]
    assert "checkpoint-2 is intact" in caught.value.hint
    assert {**tree(tmp_path / "run"), "metrics.jsonl": b""} == {**stored, "metrics.jsonl": b""}


@pytest.mark.parametrize(
    "options", [{}, {"average_weights": 0.9}, {"optimizer": "sgd"}, {"optimizer": "sgd", "momentum": 0.9}], ids=str
)
def test_a_checkpoint_is_as_large_as_was_counted(tmp_path, options):
    trainer = trainer_of(tmp_path / "run", max_steps=2, **options)
    list(trainer.run())
    kept = sum(t.numel() for t in named_optimizer_state(trainer.model, trainer.update.optimizer).values() if t.dim())
    kept += sum(t.numel() for t in trainer.update.average.tensors.values()) if trainer.update.average else 0
    weights = sum(p.numel() for p in trainer.model.parameters())
    assert kept == copies_kept(trainer.options) * weights


def test_more_of_anything_needs_more_memory_and_parts_need_less(tmp_path):
    model = trainer_of(tmp_path / "run").model
    base = TrainOptions(batch_size=8, seq_length=16)
    needed = needed_memory(model, base)
    for more in ({"batch_size": 16}, {"seq_length": 32}):
        assert needed_memory(model, TrainOptions(**{"batch_size": 8, "seq_length": 16, **more})) > needed
    assert needed_memory(model, TrainOptions(batch_size=8, seq_length=16, gradient_accumulation_steps=4)) < needed


def test_bytes_are_said_in_the_unit_that_suits_them():
    assert [in_bytes(n) for n in (7, 1200, 3.45e6, 2e9)] == ["7 bytes", "1.2 kB", "3.45 MB", "2 GB"]

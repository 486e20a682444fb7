"""Laws of ensembles: the mean of the outputs of models that learn for themselves."""

import numpy as np
import pytest
import torch
from sayings import TINY, csv_of, sayings
from zoo import CELLS

import textgen
from textgen.model import ModelConfig
from textgen.model.ensemble import Ensemble
from textgen.model.stack import build_model
from textgen.model.weights import load_weights, model_tensors
from textgen.storage import read_manifest
from textgen.tasks import options_for
from textgen.training.start import start


def ensemble(cell, members=3):
    config = ModelConfig(11, embedding_size=5, hidden_size=6, task="classify", outputs=2)
    return Ensemble([build_model(config, CELLS[cell]) for _ in range(members)])


@pytest.mark.parametrize("cell", ["rnn", "lstm", "MinGru"])
def test_outputs_are_the_mean_of_those_of_the_members(cell):
    torch.manual_seed(2)
    model = ensemble(cell).eval()
    ids = torch.randint(0, 11, (4, 3))
    alone = [member(ids)[0] for member in model.models]
    found, after = model(ids)
    assert torch.allclose(found, sum(alone) / 3, atol=1e-6) and found.shape == (4, 3, 2)
    state = model.initial_state(3)
    for t, column in enumerate(ids):
        logits, state = model.step(column, state)
        assert torch.allclose(logits, found[t], atol=1e-5)
    assert all(torch.allclose(one, other, atol=1e-5) for one, other in zip(after, state, strict=True))


def test_while_training_each_member_has_outputs_of_its_own():
    torch.manual_seed(2)
    model = ensemble("lstm").train()
    ids = torch.randint(0, 11, (4, 3))
    alone = torch.cat([member(ids)[0] for member in model.models], dim=-1)
    assert torch.equal(model(ids)[0], alone)


def test_the_loss_is_the_mean_of_the_losses_of_the_members(tmp_path):
    table = csv_of(sayings(60), tmp_path / "a.csv")
    session = start([str(table)], options_for({**TINY, "ensemble": 3, "output_dir": str(tmp_path / "run")}), 0.0)
    task = session.trainer.objective
    ids, targets = task.window(0)
    outputs = torch.randn(len(ids), ids.shape[1], 6)
    apart = [task.loss(outputs[:, :, k : k + 2], targets) for k in (0, 2, 4)]
    assert task.loss(outputs, targets).item() == pytest.approx(sum(apart).item() / 3, abs=1e-6)


def test_members_begin_with_different_weights_and_run_without_torch(tmp_path):
    table = csv_of(sayings(60), tmp_path / "a.csv")
    folder = textgen.train(table, output_dir=str(tmp_path / "run"), **{**TINY, "ensemble": 3, "max_steps": 5})
    model = textgen.load(folder, "torch")
    assert model.config.members == 3
    texts = [text for text, _ in sayings(9, seed=3)]
    for one, other in zip(model.classify(texts), textgen.load(folder, "numpy").classify(texts), strict=True):
        assert one.probabilities == pytest.approx(other.probabilities, abs=1e-5)
    tensors = model_tensors(load_weights(folder, read_manifest(folder), model.config))
    first, second = (tensors[f"members.{k}.encoder.weight"].detach().numpy() for k in (0, 1))
    assert np.abs(first - second).max() > 0.1


def test_members_that_start_from_a_model_have_its_weights(tmp_path):
    table = csv_of(sayings(60), tmp_path / "a.csv")
    base = textgen.train(table, output_dir=str(tmp_path / "base"), **{**TINY, "ensemble": 1, "max_steps": 5})
    sizes = {name: value for name, value in TINY.items() if name not in ("hidden_size", "embedding_size")}
    options = {**sizes, "ensemble": 2, "init_from": str(base), "output_dir": str(tmp_path / "run")}
    model = start([str(table)], options_for(options), 0.0).trainer.model
    theirs = model_tensors(load_weights(base, read_manifest(base), textgen.load(base).config))
    for name, tensor in model_tensors(model).items():
        assert torch.equal(tensor.detach(), theirs[name.split(".", 2)[2]].detach()), name

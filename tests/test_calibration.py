"""Laws of calibrated probabilities: the label stays, the held-out loss never gets worse, every export agrees, and what
is measured on held-out texts is not flattered by the fit."""

import json
import shutil

import numpy as np
import pytest
from click.testing import CliRunner
from faults import Quick
from hypothesis import given
from hypothesis import strategies as st
from sayings import TINY, csv_of, sayings

import textgen
from textgen import storage
from textgen.cli import group
from textgen.export import export
from textgen.generation.sampling import log_softmax
from textgen.storage import filesystem
from textgen.tasks import options_for
from textgen.tasks.classification.calibration import (
    CALIBRATION,
    HIGHEST,
    LOWEST,
    cross_fitted,
    fit_temperature,
    tempered,
)
from textgen.tasks.classification.model import log_probabilities
from textgen.training.start import resume, start
from textgen.training.stored_data import data_of


@pytest.fixture(autouse=True)
def quick_disk(monkeypatch):
    monkeypatch.setattr(filesystem, "system", Quick())


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A model whose labels are partly noise, so that it is overconfident."""
    root = tmp_path_factory.mktemp("calibration")
    noise = np.random.default_rng(5)
    rows = [
        (text, label if noise.random() < 0.75 else ("neg", "pos")[noise.integers(2)]) for text, label in sayings(160)
    ]
    return textgen.train(csv_of(rows, root / "sayings.csv"), output_dir=str(root / "run"), **TINY)


def nats(log_probs, true):
    return -log_probs[np.arange(len(true)), true].sum()


@given(st.integers(1, 40), st.integers(2, 5), st.floats(0.01, 60), st.integers(0, 999))
def test_a_fit_never_raises_the_loss_and_never_changes_a_label(texts, labels, scale, seed):
    random = np.random.default_rng(seed)
    log_probs = log_softmax(scale * random.normal(size=(texts, labels)))
    true = random.integers(0, labels, texts)
    temperature = fit_temperature(log_probs, true)
    found = tempered(log_probs, temperature)
    assert LOWEST <= temperature <= HIGHEST
    assert nats(found, true) <= nats(log_probs, true)
    assert found.argmax(axis=1).tolist() == log_probs.argmax(axis=1).tolist()
    assert np.exp(found).sum(axis=1) == pytest.approx(np.ones(texts))


@pytest.mark.parametrize("scale", [0.4, 1.0, 3.0])
def test_a_fit_finds_by_how_much_scores_are_too_large(scale):
    random = np.random.default_rng(1)
    scores = random.normal(size=(20_000, 3)) * 2
    true = (np.exp(log_softmax(scores)).cumsum(axis=1) < random.random((20_000, 1))).sum(axis=1)
    assert fit_temperature(log_softmax(scale * scores), np.minimum(true, 2)) == pytest.approx(scale, rel=0.05)


def test_a_few_texts_do_not_make_a_model_certain():
    log_probs = np.log(np.array([[0.8, 0.2]] * 4))
    assert np.exp(tempered(log_probs, fit_temperature(log_probs, np.zeros(4, int)))).max() < 0.97
    many = np.repeat(log_probs, 500, axis=0)
    assert np.exp(tempered(many, fit_temperature(many, np.zeros(2000, int)))).max() > 0.99


@given(st.integers(2, 30), st.integers(0, 99))
def test_what_is_cross_fitted_knows_only_the_other_half(texts, seed):
    random = np.random.default_rng(seed)
    log_probs, true = log_softmax(5 * random.normal(size=(texts, 3))), random.integers(0, 3, texts)

    def found(labels):
        return cross_fitted(log_probs, lambda half: fit_temperature(log_probs[half], labels[half]))

    changed = np.where(np.arange(texts) % 2 == 0, (true + 1) % 3, true)
    assert found(true)[::2].tolist() == found(changed)[::2].tolist()


def test_training_stores_what_lowers_the_held_out_loss(folder):
    model = textgen.load(folder)
    texts, true = data_of(folder).labelled("validation")
    raw = log_probabilities(model.reader, texts, model.pooling)
    assert model.temperature > 1.1, "this model is overconfident"
    assert nats(tempered(raw, model.temperature), true) < nats(raw, true)
    assert json.loads((folder / CALIBRATION).read_text())["temperature"] == model.temperature


def test_the_label_is_that_without_calibration(folder, tmp_path):
    plain = shutil.copytree(folder, tmp_path / "plain")
    manifest = storage.read_manifest(plain)
    del manifest["files"][CALIBRATION]
    (plain / storage.MANIFEST).write_bytes(filesystem.seal(manifest))
    (plain / CALIBRATION).unlink()
    texts = [text for text, _ in sayings(40, seed=3)]
    before, after = textgen.load(plain), textgen.load(folder)
    assert before.temperature == 1
    for one, other in zip(before.classify(texts), after.classify(texts), strict=True):
        assert one.label == other.label and other.probability < one.probability
        odds = [np.log(answer.probabilities["pos"] / answer.probabilities["neg"]) for answer in (one, other)]
        assert odds[0] == pytest.approx(odds[1] * after.temperature)


@pytest.mark.parametrize("value", [0, -1, 1e9, "1", None, True, [1]])
def test_a_temperature_that_is_none_is_refused(folder, tmp_path, value):
    copy = shutil.copytree(folder, tmp_path / "copy")
    filesystem.replace_in_folder(copy, CALIBRATION, json.dumps({"temperature": value}).encode())
    with pytest.raises(storage.DamagedError, match=r"'temperature' must be a number from 0.05 to 20, not "):
        textgen.load(copy)


def test_a_graph_and_its_metadata_give_the_probabilities_of_predict(folder, tmp_path):
    pytest.importorskip("onnx")
    onnxruntime = pytest.importorskip("onnxruntime")
    (content,) = export(folder, tmp_path / "model.onnx").values()
    session = onnxruntime.InferenceSession(content)
    about = json.loads(session.get_modelmeta().custom_metadata_map["textgen"])
    model = textgen.load(folder)
    assert about["pooling"] == "last" and about["labels"] == ["neg", "pos"]
    state = {}
    for each in about["states"]:
        shape = [1 if size == "B" else size for size in each["shape"]]
        state[each["name"]] = np.full(shape, each["begins"], each["dtype"])
    for ids in model.encoded([b"a fine w1"]):
        for each in ids:
            logits, *after = session.run(None, {"ids": np.array([each], np.int64), **state})
            state = dict(zip(state, after, strict=True))
    wanted = list(model.classify(["a fine w1"])[0].probabilities.values())
    assert np.exp(log_softmax(logits / about["temperature"]))[0] == pytest.approx(wanted, abs=1e-5)


def test_a_run_that_was_stopped_is_calibrated_as_one_that_was_not(tmp_path):
    path = csv_of(sayings(60), tmp_path / "x.csv")
    options = {**TINY, "max_steps": 12, "eval_steps": 4, "save_steps": 5, "dropout": 0.3}
    list(start([str(path)], options_for({**options, "output_dir": str(tmp_path / "whole")}), 0.0).events())
    session = start([str(path)], options_for({**options, "output_dir": str(tmp_path / "cut")}), 0.0)
    while not session.trainer.finished:
        session.trainer.stop = session.trainer.progress.step < 11
        list(session.events())
        session = resume(tmp_path / "cut", {})
    list(session.events())  # a finished run ends again
    for name in (CALIBRATION, "model.safetensors"):
        assert (tmp_path / "whole" / name).read_bytes() == (tmp_path / "cut" / name).read_bytes()


def test_evaluate_says_that_it_was_calibrated_on_what_it_measures(folder):
    model = textgen.load(folder)
    held = json.loads(CliRunner().invoke(group, ["evaluate", "-m", str(folder), "--json"]).stdout)
    texts, true = data_of(folder).labelled("validation")
    raw = log_probabilities(model.reader, texts, model.pooling)
    assert held["temperature"] == model.temperature
    assert held["nats_per_text"] > nats(tempered(raw, model.temperature), true) / len(true), "not the fit on itself"
    shown = CliRunner().invoke(group, ["evaluate", "-m", str(folder)]).stdout
    assert f"temperature {model.temperature:.2f}" in shown and "the other half" in shown

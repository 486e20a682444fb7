"""Laws of what `textgen evaluate` compares a classifier with: the same texts, a plain linear model trained on the
training part alone, and a message if there is none."""

import json
import shutil
import sys

import numpy as np
import pytest
from faults import Quick
from hypothesis import given
from hypothesis import strategies as st
from sayings import TINY, csv_of, run, sayings

import textgen
from textgen.storage import filesystem
from textgen.tasks.classification.baselines import LinearModel, most_frequent, texts_of
from textgen.tasks.metrics import ClassificationMetrics
from textgen.training.stored_data import data_of


@pytest.fixture(autouse=True)
def quick_disk(monkeypatch):
    monkeypatch.setattr(filesystem, "system", Quick())


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("baselines")
    return textgen.train(csv_of(sayings(80), root / "x.csv"), output_dir=str(root / "run"), **{**TINY, "max_steps": 20})


@given(st.lists(st.integers(0, 3), min_size=1, max_size=40), st.integers(0, 99))
def test_no_constant_label_is_better_than_the_most_frequent_one(true, seed):
    predicted = np.random.default_rng(seed).integers(0, 4, len(true))
    label, metrics = most_frequent(ClassificationMetrics.of_predictions("abcd", np.array(true), predicted))
    assert metrics.accuracy == max(true.count(each) for each in range(4)) / len(true)
    assert metrics.accuracy == pytest.approx(true.count("abcd".index(label)) / len(true))


def test_the_stored_texts_are_those_of_the_table(folder):
    data = data_of(folder)
    stored = sorted(texts_of(data, "train") + texts_of(data, "validation"))
    assert stored == sorted(text for text, _ in sayings(80))


@pytest.mark.parametrize("held_out", [True, False])
def test_the_linear_model_is_trained_on_the_training_part_alone(folder, tmp_path, held_out):
    pytest.importorskip("sklearn")
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline

    rows = sayings(60, seed=4)
    data = data_of(folder)
    plain = make_pipeline(TfidfVectorizer(ngram_range=(1, 2)), LogisticRegression(max_iter=1000))
    plain.fit(texts_of(data, "train"), data.labelled("train").labels)
    if held_out:
        texts, true = texts_of(data, "validation"), data.labelled("validation").labels
    else:
        texts, true = [text for text, _ in rows], [int(label == "pos") for _, label in rows]
    corpus = [] if held_out else [csv_of(rows, tmp_path / "x.csv")]
    found = json.loads(run("evaluate", "-m", folder, *corpus, "--json").stdout)["baselines"]
    assert found["linear"]["accuracy"] == pytest.approx(plain.score(texts, true))
    assert found["majority"]["accuracy"] == pytest.approx(np.bincount(true).max() / len(true))
    shown = run("evaluate", "-m", folder, *corpus).stdout
    assert "TF-IDF, logistic regression" in shown and f"always {found['majority']['label']!r}" in shown


def test_without_scikit_learn_a_line_says_how_to_get_it(folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn", None)
    result = run("evaluate", "-m", folder)
    assert "No linear model: " in result.stdout and "pip install 'textgen-lm[bench]'" in result.stdout
    assert "always '" in result.stdout
    assert json.loads(run("evaluate", "-m", folder, "--json").stdout)["baselines"]["linear"] is None
    asked = run("evaluate", "-m", folder, "--baselines", "linear")
    assert "needs scikit-learn, which is not installed" in str(asked.exception)


def test_without_the_training_part_there_is_no_linear_model(folder, tmp_path):
    pytest.importorskip("sklearn")
    alone = shutil.copytree(folder, tmp_path / "elsewhere" / "run")
    (alone / "training_args.json").unlink()
    path = csv_of(sayings(20, seed=4), tmp_path / "x.csv")
    result = run("evaluate", "-m", alone, path)
    assert result.exit_code == 0 and "No linear model: " in result.stdout
    assert run("evaluate", "-m", alone, path, "--baselines", "linear").exception is not None


def test_none_trains_none(folder, monkeypatch):
    def refuse(*given):
        raise AssertionError("a linear model was trained")

    monkeypatch.setattr(LinearModel, "fit", refuse)
    assert "always '" in run("evaluate", "-m", folder, "--baselines", "none").stdout
    wrong = run("evaluate", "-m", folder, "--baselines", "ets").exception
    assert "baselines must be linear or none, not 'ets'" in str(wrong)


def test_a_script_without_spaces_is_compared_by_its_characters():
    pytest.importorskip("sklearn")
    texts, labels = ["这部电影很好我们都好极了今天晚上", "这部电影很坏我们都坏极了今天晚上"] * 9, np.array([0, 1] * 9)
    assert LinearModel.fit(texts, labels).predicted(["今天好", "今天坏"]).tolist() == [0, 1]

"""Laws of thresholds: a label is kept exactly if its probability reaches the threshold; coverage falls as it rises."""

import json

import numpy as np
import pytest
from faults import Quick
from hypothesis import given
from hypothesis import strategies as st
from sayings import TINY, csv_of, run, sayings

import textgen
from textgen.errors import UsageError
from textgen.storage import filesystem
from textgen.tasks.classification.model import Prediction
from textgen.tasks.metrics import THRESHOLDS, ClassificationMetrics


@pytest.fixture(autouse=True)
def quick_disk(monkeypatch):
    monkeypatch.setattr(filesystem, "system", Quick())


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("thresholds")
    return textgen.train(csv_of(sayings(80), root / "x.csv"), output_dir=str(root / "run"), **{**TINY, "max_steps": 20})


@given(st.lists(st.floats(0.01, 1), min_size=2, max_size=5), st.floats(0, 1))
def test_a_label_is_kept_if_its_probability_reaches_the_threshold(weights, threshold):
    probabilities = {str(k): weight / sum(weights) for k, weight in enumerate(weights)}
    kept, free = Prediction.of(probabilities, threshold), Prediction.of(probabilities)
    assert free.label is not None and kept.probabilities == free.probabilities
    assert (kept.label == free.label) == (free.probability >= threshold) and kept.label in (free.label, None)


@given(st.integers(1, 60), st.integers(2, 4), st.integers(0, 99), st.floats(0, 1))
def test_coverage_and_accuracy_are_those_counted_by_hand(texts, labels, seed, threshold):
    random = np.random.default_rng(seed)
    probabilities, true = random.dirichlet(np.ones(labels), texts), random.integers(0, labels, texts)
    metrics = ClassificationMetrics.of([str(k) for k in range(labels)], true, np.log(probabilities))
    kept = np.exp(np.log(probabilities)).max(axis=1) >= threshold
    found = metrics.covered(threshold)
    assert found.coverage == pytest.approx(kept.mean()) and found.texts == kept.sum()
    right = (probabilities.argmax(axis=1) == true)[kept]
    assert found.accuracy is None if not kept.any() else found.accuracy == pytest.approx(right.mean())
    assert metrics.covered(0).accuracy == pytest.approx(metrics.accuracy)
    coverages = [metrics.covered(each).coverage for each in sorted([threshold, *THRESHOLDS])]
    assert coverages == sorted(coverages, reverse=True)


def test_predict_leaves_the_label_empty_and_keeps_the_probabilities(folder, tmp_path):
    path = csv_of(sayings(40, seed=2), tmp_path / "x.csv")
    answers = textgen.load(folder).classify(text for text, _ in sayings(40, seed=2))
    threshold = float(np.median([answer.probability for answer in answers]))
    plain, unsure = run("predict", "-m", folder, path), run("predict", "-m", folder, path, "--threshold", threshold)
    pairs = zip(plain.stdout.splitlines()[1:], unsure.stdout.splitlines()[1:], answers, strict=True)
    for before, after, answer in pairs:
        assert after.split("\t")[0] == (answer.label if answer.probability >= threshold else "")
        assert after.split("\t")[1:] == before.split("\t")[1:]
    without = sum(answer.probability < threshold for answer in answers)
    assert 0 < without < 40 and f"{without} texts got no label: no probability of at least" in unsure.stderr
    objects = run("predict", "-m", folder, path, "--threshold", threshold, "--json").stdout.splitlines()
    assert [json.loads(line)["label"] for line in objects].count(None) == without


def test_evaluate_shows_what_a_threshold_keeps(folder, tmp_path):
    path = csv_of(sayings(40, seed=2), tmp_path / "x.csv")
    found = json.loads(run("evaluate", "-m", folder, path, "--json", "--threshold", "0.62").stdout)
    table = {row["threshold"]: row for row in found["thresholds"]}
    assert sorted(table) == sorted({*THRESHOLDS, 0.62}) and table[0.5]["coverage"] == 1
    assert table[0.5]["accuracy"] == pytest.approx(found["accuracy"])
    shown = run("evaluate", "-m", folder, path, "--threshold", "0.62").stdout
    assert f"confidence at least 0.62: coverage {table[0.62]['coverage']:.2%}" in shown


@pytest.mark.parametrize("value", [-0.1, 1.5, float("nan"), "high"])
def test_a_threshold_is_a_probability(folder, value):
    with pytest.raises(UsageError, match="threshold must be a number from 0 to 1"):
        textgen.load(folder).classify(["fine"], threshold=value)

"""Laws of several labels per text: every format says the same, metrics are those of scikit-learn, a model learns each
label by itself, and a cell that says nothing is reported with its row."""

import json

import numpy as np
import pytest
import torch
from faults import Quick
from hypothesis import given, settings
from hypothesis import strategies as st
from node import in_node, needs_node
from sayings import TINY, csv_of, run

import textgen
from textgen.data.sources import SourceOptions
from textgen.data.store import no_progress
from textgen.errors import TextgenError, UsageError
from textgen.export import export
from textgen.serve.models import Served
from textgen.serve.predict import _labels
from textgen.storage import filesystem
from textgen.tasks import options_for
from textgen.tasks.classification.multilabel import (
    MultiLabelMetrics,
    fit_temperature,
    most_frequent_set,
    nats_of,
    sigmoid,
)
from textgen.tasks.classification.reading import LabelColumns, find_labelled, read_labelled, scan_labels
from textgen.tasks.classification.splits import held_out_texts
from textgen.training.start import start

LABELS = ("cold", "dull", "fine")


def texts_with(count, seed=0):
    """Texts of some words, and the labels that they name, of which there may be none."""
    noise = np.random.default_rng(seed)
    found = []
    for _ in range(count):
        labels = [label for label in LABELS if noise.random() < 0.4]
        words = [*labels, *(f"w{word}" for word in noise.integers(0, 9, noise.integers(1, 5)))]
        found.append((" ".join(noise.permutation(words)), sorted(labels)))
    return found


def jsonl_of(rows, path):
    path.write_text("".join(json.dumps({"text": text, "label": labels}) + "\n" for text, labels in rows))
    return path


@pytest.fixture(autouse=True)
def quick_disk(monkeypatch):
    monkeypatch.setattr(filesystem, "system", Quick())


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("several")
    return textgen.train(jsonl_of(texts_with(160), root / "x.jsonl"), output_dir=str(root / "run"), **TINY)


def read(path, separator=None):
    columns = LabelColumns(separator=separator)
    return [(b"".join(t.chunks).decode(), t.label)
            for t in read_labelled(find_labelled([str(path)], None), SourceOptions(), columns)]  # fmt: skip


# --- reading ---


def test_every_format_says_the_same(tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    rows = texts_with(20)
    texts, labels = zip(*rows, strict=True)
    parquet.write_table(pyarrow.table({"text": list(texts), "label": list(labels)}), tmp_path / "a.parquet")
    jsonl_of(rows, tmp_path / "a.jsonl")
    csv_of([(text, " ; ".join(labels)) for text, labels in rows], tmp_path / "a.csv")
    wanted = [(text, tuple(labels)) for text, labels in rows]
    assert any(not labels for _, labels in wanted)
    assert read(tmp_path / "a.jsonl") == read(tmp_path / "a.parquet") == read(tmp_path / "a.csv", ";") == wanted


@pytest.mark.parametrize(("rows", "said"), [
    ([["a"], "b"], "line 1 of .* has a list of labels, but line 2 of .* has one label."),
    (["b", ["a"]], "line 2 of .* has a list of labels, but line 1 of .* has one label."),
    ([["a"], None], "line 2 of .* has no label"),
    ([["a"], ["b", ""]], "line 2 of .* has no label"),
    ([["a"], [["b"]]], "line 2 of .* column 'label' holds a list, which is no label"),
    ([[], []], "no text has a label; at least one label is needed."),
])  # fmt: skip
def test_what_says_no_labels_is_refused_in_a_sentence(tmp_path, rows, said):
    path = jsonl_of([("some text", labels) for labels in rows], tmp_path / "x.jsonl")
    with pytest.raises(TextgenError, match=said):
        scan_labels(read_labelled(find_labelled([str(path)], None), SourceOptions()), no_progress)


def test_an_empty_separator_is_refused_and_one_for_folders_too(tmp_path):
    path = csv_of([("a", "b")], tmp_path / "x.csv")
    with pytest.raises(UsageError, match="label_separator must not be empty"):
        textgen.train(path, label_separator="", output_dir=str(tmp_path / "run"))
    (tmp_path / "in" / "pos").mkdir(parents=True)
    (tmp_path / "in" / "pos" / "a.txt").write_text("fine")
    with pytest.raises(UsageError, match=r"label_separator goes with a table; '.*a.txt' is plain text"):
        textgen.train(tmp_path / "in", label_separator=",", output_dir=str(tmp_path / "run"))


@given(st.integers(2, 60), st.integers(1, 6), st.floats(0.01, 0.9), st.integers(0, 99))
def test_every_label_that_occurs_is_trained_on(texts, labels, share, seed):
    has = (np.random.default_rng(seed).random((texts, labels)) < 0.1).astype(np.int64)
    held = held_out_texts(has, (), [str(k) for k in range(labels)], share, seed)
    assert not held.all() and held.sum() <= max(1, round(share * texts))
    assert has[~held].any(axis=0).tolist() == has.any(axis=0).tolist()


# --- metrics ---


@settings(deadline=None)  # the first import takes a second
@given(st.integers(1, 30), st.integers(2, 5), st.integers(0, 999), st.floats(0.05, 0.95))
def test_metrics_are_those_of_scikit_learn(texts, labels, seed, threshold):
    measured = pytest.importorskip("sklearn.metrics")
    random = np.random.default_rng(seed)
    true, found = (random.random((texts, labels)) < 0.4).astype(int), random.random((texts, labels))
    names = [str(k) for k in range(labels)]
    metrics = MultiLabelMetrics(tuple(names), true, found, threshold=threshold)
    predicted = (found >= threshold).astype(int)
    known = np.flatnonzero(true.any(axis=0) | predicted.any(axis=0))
    f1 = measured.f1_score(true, predicted, average=None, zero_division=0)
    assert metrics.micro_f1 == pytest.approx(measured.f1_score(true, predicted, average="micro", zero_division=0))
    assert metrics.macro_f1 == pytest.approx(f1[known].mean() if len(known) else 0.0)
    assert metrics.subset_accuracy == pytest.approx((true == predicted).all(axis=1).mean())
    assert [value for value in metrics.to_json()["f1"] if value is not None] == pytest.approx(f1[known].tolist())


@given(st.integers(1, 30), st.integers(1, 4), st.floats(0.01, 40), st.integers(0, 999))
def test_a_temperature_keeps_the_labels_and_never_raises_the_loss(texts, labels, scale, seed):
    random = np.random.default_rng(seed)
    scores, true = scale * random.normal(size=(texts, labels)), random.integers(0, 2, (texts, labels))
    temperature = fit_temperature(scores, true)
    assert nats_of(scores / temperature, true) <= nats_of(scores, true)
    assert ((sigmoid(scores / temperature) >= 0.5) == (sigmoid(scores) >= 0.5)).all()


@given(st.integers(1, 20), st.integers(0, 99))
def test_loss_of_scores_is_that_of_their_probabilities(texts, seed):
    random = np.random.default_rng(seed)
    scores, true = 5 * random.normal(size=(texts, 3)), random.integers(0, 2, (texts, 3))
    by_scores = MultiLabelMetrics.of_scores("abc", true, scores)
    assert by_scores.loss == pytest.approx(MultiLabelMetrics.of_probabilities("abc", true, sigmoid(scores)).loss)
    assert by_scores.loss == pytest.approx(-np.log(np.where(true, sigmoid(scores), sigmoid(-scores))).sum() / texts)


def test_the_most_frequent_set_is_right_most_often():
    true = np.array([[1, 0], [1, 1], [1, 1], [0, 0]])
    name, metrics = most_frequent_set(MultiLabelMetrics(("a", "b"), true, true.astype(float)))
    assert name == "'a', 'b'" and metrics.subset_accuracy == 0.5


# --- from a table to a model ---


def test_a_model_learns_each_label(folder):
    rows = texts_with(80, seed=1)
    answers = textgen.load(folder).classify(text for text, _ in rows)
    right = [sorted(answer.labels) == labels for answer, (_, labels) in zip(answers, rows, strict=True)]
    assert np.mean(right) > 0.8 and all(answer.label is None for answer in answers)
    assert any(not labels for _, labels in rows) and any(len(labels) > 1 for _, labels in rows)


def test_a_table_with_separators_trains_the_same_model(folder, tmp_path):
    path = csv_of([(text, "|".join(labels)) for text, labels in texts_with(160)], tmp_path / "x.csv")
    other = textgen.train(path, output_dir=str(tmp_path / "run"), label_separator="|", **TINY)
    assert (other / "model.safetensors").read_bytes() == (folder / "model.safetensors").read_bytes()
    found = json.loads(run("evaluate", "-m", other, path, "--json").stdout)
    assert found["micro_f1"] > 0.9, "the separator is remembered"


def test_balanced_weights_find_rare_labels(tmp_path):
    rows = [("w1 " * (k % 3) + ("w2" if k % 10 else "rare w2"), [] if k % 10 else ["rare"]) for k in range(60)]
    options = {**TINY, "max_steps": 8}
    found = []
    for kind in ("none", "balanced"):
        folder = textgen.train(
            jsonl_of(rows, tmp_path / "x.jsonl"), output_dir=str(tmp_path / kind), class_weights=kind, **options
        )
        found.append(textgen.load(folder, "torch").classify(["rare w2"])[0].probabilities["rare"])
    assert found[1] > found[0]


def test_parts_of_a_batch_add_up_to_the_whole(tmp_path):
    path = jsonl_of(texts_with(50), tmp_path / "x.jsonl")
    options = {**TINY, "batch_size": 7, "class_weights": "balanced"}
    task = start([str(path)], options_for({**options, "output_dir": str(tmp_path / "run")}), 0.0).trainer.objective
    ragged = next(step for step in range(task.steps_per_epoch) if (task.window(step)[1][0] < 0).any())
    for step in (0, ragged):
        ids, targets = task.window(step)
        outputs = torch.randn(len(ids), ids.shape[1], 3)
        parts = [slice(0, 3), slice(3, 7)]
        summed = sum(task.loss(outputs[:, p], targets[:, p]) * task.share(targets, p) for p in parts)
        assert summed.item() == pytest.approx(task.loss(outputs, targets).item(), abs=1e-5)


def test_predict_prints_the_labels_and_every_probability(folder, tmp_path):
    (tmp_path / "a.txt").write_text("w1 cold w2 fine\n\nw3\n")
    lines = run("predict", "-m", folder, tmp_path / "a.txt").stdout.split("\n")
    assert lines[0].split("\t") == ["labels", *LABELS] and lines[1].split("\t")[0] == "cold,fine" and not lines[2]
    assert lines[3].startswith("\t") and len(lines[3].split("\t")) == 4
    printed = run("predict", "-m", folder, tmp_path / "a.txt", "--json").stdout
    objects = [json.loads(line) for line in printed.splitlines()]
    assert [each.get("labels") for each in objects] == [["cold", "fine"], None, []]
    assert objects[1]["probabilities"] is None
    all_of_them = run("predict", "-m", folder, tmp_path / "a.txt", "--threshold", "0").stdout.splitlines()
    assert all_of_them[1].split("\t")[0] == "cold,dull,fine"


def test_evaluate_shows_f1_of_each_label_and_baselines(folder, tmp_path):
    pytest.importorskip("sklearn")
    path = jsonl_of(texts_with(40, seed=2), tmp_path / "x.jsonl")
    shown = run("evaluate", "-m", folder, path).stdout
    assert shown.startswith("micro F1 ") and all(f"\n{label} " in shown for label in LABELS)
    assert "TF-IDF, logistic regression" in shown and "always " in shown
    found = json.loads(run("evaluate", "-m", folder, path, "--json", "--threshold", "0.7").stdout)
    assert found["threshold"] == 0.7 and found["texts"] == 40
    rows = {row["threshold"]: row for row in found["thresholds"]}
    assert rows[0.7]["micro_f1"] == found["micro_f1"] and set(found["baselines"]["linear"]) >= {"subset_accuracy"}
    assert textgen.load(folder).evaluate(path).micro_f1 == pytest.approx(rows[0.5]["micro_f1"])
    held = json.loads(run("evaluate", "-m", folder, "--json").stdout)
    assert held["texts"] == 40 and held["micro_f1"] > 0.8
    plotted = run("evaluate", "-m", folder, path, "--plot", tmp_path / "x.png")
    assert "several labels per text" in str(plotted.exception)


def test_other_labels_are_named_with_their_row(folder, tmp_path):
    path = jsonl_of([("fine", ["fine"]), ("so", ["fine", "colt"])], tmp_path / "x.jsonl")
    with pytest.raises(TextgenError, match=r"line 2 of .* has the label 'colt', which the model does not know"):
        textgen.load(folder).evaluate(path)


def test_a_model_of_one_label_refuses_a_list(tmp_path):
    rows = [(f"w{k} {word}", label) for k in range(4) for word, label in (("fine", "pos"), ("dull", "neg"))]
    path = csv_of(rows, tmp_path / "x.csv")
    folder = textgen.train(path, output_dir=str(tmp_path / "run"), **{**TINY, "max_steps": 2})
    with pytest.raises(TextgenError, match=r"line 1 of .* has a list of labels, but the model gives"):
        textgen.load(folder).evaluate(jsonl_of([("fine", ["pos"])], tmp_path / "y.jsonl"))


@needs_node
def test_the_server_and_the_page_give_the_same_probabilities(folder, tmp_path):
    served = Served("run", "classify", textgen.load(folder), 0)
    (answer,) = _labels(served, {"input": "w1 cold w2 fine"})
    assert list(answer["labels"]) == ["cold", "fine"] and "label" not in answer
    for name, content in export(folder, tmp_path / "js", "js").items():
        (tmp_path / "js").mkdir(exist_ok=True)
        (tmp_path / "js" / name).write_bytes(content)
    (found,) = in_node(tmp_path, tmp_path / "js", ["classify", "w1 cold w2 fine"])
    assert found == pytest.approx(answer["probabilities"], abs=1e-5)

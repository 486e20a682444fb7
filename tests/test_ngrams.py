"""Laws of the linear model of a classifier: how a text is cut changes nothing, no score comes from a model that has
learned from the text it scores, and a blend is what its formula says."""

import json
import subprocess
import sys
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sayings import TINY, csv_of, sayings

import textgen
from textgen import storage
from textgen.data.recipes import TRAIN, VALIDATION
from textgen.data.store import no_progress
from textgen.errors import TextgenError
from textgen.export import export
from textgen.options import as_flags, spelled_as
from textgen.storage import filesystem
from textgen.tasks import options_for
from textgen.tasks.classification import ngrams
from textgen.tasks.classification.data import ClassificationData
from textgen.tasks.classification.logistic import Sparse, fit_factors, minimum
from textgen.tasks.classification.ngrams import (
    ALWAYS,
    CHOICES,
    DEFAULT_WEIGHTS,
    NGRAMS,
    WEIGHTS,
    Features,
    Ngrams,
    NgramTexts,
    best_weights,
    blended,
    log_count_ratios,
    losses_of,
)
from textgen.tasks.classification.objective import Scores
from textgen.training.start import resume, start

LEARNED = {**TINY, "ngrams": True}


def keys_of(text, known=None, cuts=()):
    """The features of a text cut at some bytes."""
    content, features = text.encode(), Features(known)
    places = [0, *sorted(min(cut, len(content)) for cut in cuts), len(content)]
    pieces = [content[begin:end] for begin, end in pairwise(places)]
    assert list(features.through(pieces)) == pieces
    return features.keys()


def fitted(rows, **options):
    labels = sorted({label for _, label in rows})
    targets = np.eye(len(labels))[[labels.index(label) for _, label in rows]]
    return Ngrams.fit([keys_of(text) for text, _ in rows], targets, np.ones(len(rows)), **options)


# --- features ---

WRITTEN = st.text(
    st.sampled_from("abcABC .,!?\t\nßİé電影ไทยかな😀_0123") | st.characters(exclude_categories=["Cs"]), max_size=120
)


@given(WRITTEN, st.lists(st.integers(0, 300), max_size=9))
def test_features_do_not_depend_on_how_a_text_is_cut(text, cuts):
    assert keys_of(text).tolist() == keys_of(text, cuts=cuts).tolist()


@given(st.lists(st.integers(0, 30_000), max_size=4))
def test_neither_do_those_of_a_long_text(cuts):
    text = "x" * 90 + " ".join(f"word{k % 977} 電影" for k in range(2000))
    assert keys_of(text).tolist() == keys_of(text, cuts=cuts).tolist()


def test_case_does_not_matter_and_order_does():
    assert keys_of("Not GOOD").tolist() == keys_of("not good").tolist()
    assert keys_of("not good").tolist() != keys_of("good not").tolist()
    assert len(keys_of("good good good")) == len(keys_of("good good")), "a feature counts once"


def test_words_that_begin_alike_share_features():
    shared = {*keys_of("disappointing").tolist()} & {*keys_of("disappointed").tolist()} - {ALWAYS}
    assert len(shared) == 4 and not {*keys_of("fine").tolist()} & {*keys_of("bad").tolist()} - {ALWAYS}


def test_known_features_bound_the_memory_of_a_text():
    known = np.unique(np.concatenate([keys_of("good"), keys_of("bad")]))
    features = Features(known)
    most = 0
    for number in range(1500):
        list(features.through([f" w{number} v{number} good".encode()]))
        most = max(most, len(features._kept) + len(features._found) + len(features._words))
    assert most < 2 * ngrams.BLOCK + len(known)
    assert {*features.keys().tolist()} == {*keys_of("good").tolist()}


# --- logistic regression ---


def test_the_minimum_of_a_quadratic_is_found():
    matrix = np.random.default_rng(0).normal(size=(6, 6))
    matrix, target = matrix @ matrix.T + np.eye(6), np.arange(6.0)
    found = minimum(lambda x: (0.5 * x @ matrix @ x - target @ x, matrix @ x - target), np.zeros(6), 100, 1e-9)
    assert found == pytest.approx(np.linalg.solve(matrix, target), abs=1e-6)


@pytest.mark.parametrize("exclusive", [True, False])
def test_fitted_factors_cannot_be_improved(exclusive):
    random = np.random.default_rng(1)
    present = random.random((30, 7)) < 0.4
    present[:, 0] = True
    examples = Sparse(np.nonzero(present)[1].astype(np.int32), np.cumsum(present.sum(axis=1)), 7)
    targets = np.eye(3)[random.integers(0, 3, 30)]
    ratios, counts = random.normal(size=(7, 3)), random.uniform(0.5, 2, 30)

    def loss(factors):
        scores = present @ (ratios * factors)
        if exclusive:
            losses = np.log(np.exp(scores).sum(axis=1)) - (targets * scores).sum(axis=1)
        else:
            losses = (np.logaddexp(0, scores) - targets * scores).sum(axis=1)
        return losses @ counts + 0.5 * (factors**2).sum()

    found = fit_factors(examples, targets, ratios, counts, exclusive, steps=200)
    for _ in range(40):
        assert loss(found + 0.05 * random.normal(size=found.shape)) > loss(found)


def test_ratios_are_those_counted_by_hand():
    """'x' is in both texts of label 0 and in none of label 1; every count is one more."""
    examples = Sparse(np.array([0, 1, 0, 1], np.int32), np.array([1, 3, 4]), 2)
    found = log_count_ratios(examples, np.eye(2)[[0, 0, 1]])
    inside, outside = np.array([3, 2]) / 5, np.array([1, 2]) / 3
    assert found == pytest.approx(np.stack([np.log(inside / outside), np.log(outside / inside)], axis=1))


def test_scores_are_the_sums_of_the_weights_of_known_features():
    model = fitted(sayings(60))
    text = "a fine day"
    rows = [model.weights[list(model.known).index(key)] for key in keys_of(text).tolist() if key in model.known]
    assert len(rows) >= 2
    expected = np.sum(rows, axis=0)
    assert model.scores([keys_of("bad"), keys_of(text, model.known)])[1] == pytest.approx(expected, abs=1e-5)
    assert model.scores([keys_of("unheard")])[0] == pytest.approx(model.weights[0], abs=1e-6)


def test_the_same_texts_give_the_same_bytes():
    assert fitted(sayings(60)).to_bytes() == fitted(sayings(60)).to_bytes()


def test_of_too_many_texts_every_nth_is_used(monkeypatch):
    rows = sayings(60)
    size = sum(len(keys_of(text)) for text, _ in rows) * 2
    monkeypatch.setattr(ngrams, "MOST_VALUES", -(-size // 3))
    few = fitted(rows)
    monkeypatch.undo()
    assert few.to_bytes() == fitted(rows[::3]).to_bytes()


def test_the_most_frequent_features_are_kept(monkeypatch):
    whole = fitted(sayings(60))
    monkeypatch.setattr(ngrams, "MOST_FEATURES", 9)
    few = fitted(sayings(60))
    assert len(few.known) == 9 and {*few.known.tolist()} < {*whole.known.tolist()}
    assert ALWAYS in few.known


# --- no text scores itself ---


def collected(parts):
    texts = NgramTexts()
    for part, rows in parts.items():
        for text, _ in rows:
            list(texts.through(part, [text.encode()]))
    true = {part: np.array([int(label == "pos") for _, label in rows], np.int64) for part, rows in parts.items()}
    return texts, true


def test_a_training_text_is_scored_by_a_model_that_has_not_seen_it():
    rows = [(f"only{k} just{k}", ("neg", "pos")[k % 2]) for k in range(20)]
    texts, true = collected({TRAIN: rows, VALIDATION: []})
    content, scores = texts.fit(true, np.ones(2))
    assert np.abs(scores[TRAIN]).max() < 0.05, "no other text has its words"
    own = Ngrams.from_bytes(content, "x", 2).scores([keys_of(text) for text, _ in rows])
    assert (own.argmax(axis=1) == true[TRAIN]).all() and np.abs(own).max() > 0.1


def test_held_out_texts_are_never_learned_from():
    rows = sayings(80)
    texts, true = collected({TRAIN: rows[:60], VALIDATION: rows[60:]})
    content, scores = texts.fit(true, np.ones(2))
    fewer = NgramTexts()
    fewer._texts = {TRAIN: texts._texts[TRAIN], VALIDATION: []}
    alone, its = fewer.fit({TRAIN: true[TRAIN], VALIDATION: true[VALIDATION][:0]}, np.ones(2))
    assert alone == content and (its[TRAIN] == scores[TRAIN]).all()


def test_a_validation_file_is_not_learned_from(tmp_path):
    rows = sayings(60)
    train, dev, other = (csv_of(rows[at], tmp_path / name) for at, name in
                         ((slice(0, 40), "a.csv"), (slice(40, 50), "b.csv"), (slice(50, 60), "c.csv")))  # fmt: skip
    contents = []
    for number, file in enumerate((dev, other)):
        options = options_for({**LEARNED, "validation_file": str(file)})
        data = ClassificationData.prepare([str(train)], options, tmp_path / f"cache{number}", no_progress)
        contents.append(data.files()[NGRAMS])
    assert contents[0] == contents[1]


def test_scores_of_texts_that_repeat_each_other_are_left_out():
    true = np.arange(40) % 2
    sure, unsure = (size * np.where(np.eye(2)[true] > 0, 1, -1).astype(np.float32) for size in (2.0, 0.1))
    assert Scores.of((sure, true), (unsure, true)).train is None
    assert Scores.of((unsure, true), (unsure, true)).train is unsure
    assert Scores.of((None, true), (None, true)) == Scores()


# --- blends ---


@given(st.integers(0, 999))
def test_the_weights_are_those_of_the_lowest_loss_or_the_default_ones(seed):
    random = np.random.default_rng(seed)
    log_probs, scores = random.normal(size=(2, 12, 3))
    true = random.integers(0, 3, 12)
    losses = {weights: losses_of(blended(log_probs, scores, weights), true) for weights in CHOICES}
    found = best_weights(log_probs, scores, true)
    if found == DEFAULT_WEIGHTS:
        assert all((losses[found] - each).mean() <= (losses[found] - each).std() / 12**0.5 + 1e-9 or each.mean() >
                   min(other.mean() for other in losses.values()) for each in losses.values())  # fmt: skip
    else:
        assert losses[found].mean() == min(each.mean() for each in losses.values())


def test_a_model_that_is_much_better_outweighs_the_other():
    true = np.arange(60) % 2
    right, chance = 4 * np.eye(2)[true], np.zeros((60, 2))
    chance[:, 0] = np.where(np.arange(60) % 3, 3, -3)
    recurrent, linear = best_weights(right, chance, true)
    assert recurrent == 1 and linear == 0
    recurrent, linear = best_weights(chance, right, true)
    assert recurrent == 0 and linear == 1


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("ngrams")
    return textgen.train(csv_of(sayings(120), root / "a.csv"), output_dir=str(root / "run"), **LEARNED)


def test_a_prediction_is_the_blend_of_both_models(folder):
    model = textgen.load(folder)
    text = "a fine w1 w2"
    ids = np.concatenate([[model.tokenizer.boundary], model.tokenizer.encode(text)]).astype(np.int32)
    outputs, _ = model.reader.outputs(ids[None], model.reader.initial_state(1))
    recurrent, linear = (json.loads((folder / WEIGHTS).read_text())[name] for name in ("recurrent", "linear"))
    logits = outputs[-1, 0] - np.log(np.exp(outputs[-1, 0]).sum())
    scores = (recurrent * logits + linear * model.blend.ngrams.scores([keys_of(text)])[0]) / model.temperature
    expected = np.exp(scores) / np.exp(scores).sum()
    assert list(model.classify([text])[0].probabilities.values()) == pytest.approx(expected, abs=1e-5)


def test_neighbours_length_and_backend_change_no_answer(folder):
    texts = [text for text, _ in sayings(30, seed=5)] + [" ".join(text for text, _ in sayings(300, seed=6))]
    model, by_torch = textgen.load(folder), textgen.load(folder, "torch")
    together, alone = model.classify(texts), [model.classify([text])[0] for text in texts]
    for one, other, third in zip(together, alone, by_torch.classify(texts), strict=True):
        assert one.probabilities == pytest.approx(other.probabilities, abs=1e-5)
        assert one.probabilities == pytest.approx(third.probabilities, abs=1e-5)


def test_a_run_goes_on_with_the_same_bits(tmp_path):
    table = csv_of(sayings(60), tmp_path / "a.csv")
    options = {**LEARNED, "dropout": 0.3, "label_smoothing": 0.1, "ensemble": 3, "max_steps": 9, "eval_steps": 3}
    whole = start([str(table)], options_for({**options, "output_dir": str(tmp_path / "whole")}), 0.0)
    list(whole.events())
    session = start([str(table)], options_for({**options, "output_dir": str(tmp_path / "cut")}), 0.0)
    for _ in range(9):
        session.trainer.stop = True
        if list(session.events())[-1].reason == "done":
            break
        session = resume(tmp_path / "cut", {}, no_progress)
    for name in ("model.safetensors", NGRAMS, WEIGHTS):
        assert (tmp_path / "whole" / name).read_bytes() == (tmp_path / "cut" / name).read_bytes(), name


def test_prediction_needs_no_torch(folder):
    script = (
        "import sys, textgen; model = textgen.load(sys.argv[1]); model.classify(['a fine day'])\n"
        "assert model.blend is not None and 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", script, str(folder)], check=True)


def damaged(folder, place, name, content):
    """A copy of a folder with other content in one sealed file."""
    with filesystem.new_folder(place) as new:
        for each in storage.read_manifest(folder)["files"]:
            new.write(each, content if each == name else (folder / each).read_bytes())
    return place


@pytest.mark.parametrize(
    ("name", "content"),
    [
        (NGRAMS, b"nothing"),
        (NGRAMS, Ngrams(np.array([1, 0], np.uint32), np.zeros((2, 2), np.float32)).to_bytes()),
        (NGRAMS, Ngrams(np.array([0, 1], np.uint32), np.zeros((2, 3), np.float32)).to_bytes()),
        (NGRAMS, Ngrams(np.array([0, 1], np.uint32), np.full((2, 2), np.nan, np.float32)).to_bytes()),
        (WEIGHTS, b'{"recurrent": 2, "linear": 1}'),
        (WEIGHTS, b'{"linear": 1}'),
    ],
)
def test_a_damaged_file_is_named(folder, tmp_path, name, content):
    with pytest.raises(storage.DamagedError, match=name):
        textgen.load(damaged(folder, tmp_path / "copy", name, content))


def test_a_blend_cannot_be_exported_as_onnx(folder, tmp_path):
    with pytest.raises(TextgenError, match="linear model of words") as caught:
        export(folder, tmp_path / "model.onnx")
    assert "ngrams=False" in caught.value.hint
    with spelled_as(as_flags), pytest.raises(TextgenError) as caught:
        export(folder, tmp_path / "model.onnx")
    assert "--no-ngrams" in caught.value.hint and not list(tmp_path.iterdir())

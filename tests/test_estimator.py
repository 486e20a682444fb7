"""Laws of the estimator: scikit-learn's tools take it as one of theirs, it gives what the trained model gives, and
neither needs the other to be imported."""

import inspect
import pickle
import subprocess
import sys
import warnings

import numpy as np
import pytest
from faults import Quick
from sayings import TINY, sayings

import textgen
from textgen.errors import TextgenError, UsageError
from textgen.estimator import PARAMETERS, TextClassifier
from textgen.storage import filesystem
from textgen.tasks.classification.options import ClassificationOptions

OPTIONS = {name: value for name, value in TINY.items() if name != "task"} | {"max_steps": 40}
TEXTS, LABELS = map(list, zip(*sayings(60), strict=True))


@pytest.fixture(autouse=True)
def quick_disk(monkeypatch):
    monkeypatch.setattr(filesystem, "system", Quick())


@pytest.fixture(scope="module")
def fitted():
    return TextClassifier(**OPTIONS).fit(TEXTS, LABELS)


def test_it_predicts_what_its_model_predicts(fitted):
    texts = [text for text, _ in sayings(20, seed=1)]
    answers = fitted.model.classify(texts)
    assert fitted.classes_.tolist() == ["neg", "pos"]
    assert fitted.predict(texts).tolist() == [answer.label for answer in answers]
    assert fitted.predict_proba(texts) == pytest.approx(np.array([list(a.probabilities.values()) for a in answers]))
    labels = [label for _, label in sayings(20, seed=1)]
    assert fitted.score(texts, labels) == np.mean([a.label == b for a, b in zip(answers, labels, strict=True)]) > 0.8
    assert fitted.predict([]).shape == (0,) and fitted.predict_proba([]).shape == (0, 2)


@pytest.mark.parametrize("values", [
    [0, 1], [10, 9], [True, False], [1.0, 2.5], ["1.0", "1"], [" a", "a"], ["", "b"], ["x" * 300, "y"],
])  # fmt: skip
def test_labels_come_back_as_they_were_given(values):
    labels = [values[label == "pos"] for label in LABELS]
    model = TextClassifier(**OPTIONS).fit(np.array(TEXTS, dtype=object), labels)
    found = model.predict(TEXTS)
    assert found.dtype == np.unique(labels).dtype and set(found.tolist()) <= {*np.unique(labels).tolist()}
    assert (found == np.array(labels)).mean() > 0.8
    assert model.classes_[model.predict_proba(TEXTS).argmax(axis=1)].tolist() == found.tolist()


def test_several_labels_are_a_matrix():
    matrix = np.array([[label == "pos", "w1" in text] for text, label in zip(TEXTS, LABELS, strict=True)], int)
    model = TextClassifier(**OPTIONS).fit(TEXTS, matrix)
    assert model.predict(TEXTS).shape == model.predict_proba(TEXTS).shape == matrix.shape
    assert (model.predict(TEXTS)[:, 0] == matrix[:, 0]).mean() > 0.8
    assert (model.predict(TEXTS) == (model.predict_proba(TEXTS) >= 0.5)).all()


def test_it_comes_back_from_a_pickle_and_from_its_folder(fitted, tmp_path):
    again = pickle.loads(pickle.dumps(fitted))
    assert (again.predict_proba(TEXTS) == fitted.predict_proba(TEXTS)).all()
    kept = TextClassifier(output_dir=str(tmp_path / "run"), **OPTIONS).fit(TEXTS, LABELS)
    loaded = textgen.load(tmp_path / "run").classify(TEXTS)
    assert kept.predict(TEXTS).tolist() == [answer.label for answer in loaded]
    assert (kept.predict_proba(TEXTS) == fitted.predict_proba(TEXTS)).all(), "the folder changes no bit"


def test_a_seed_decides_the_model(fitted):
    def probabilities(state):
        return TextClassifier(**OPTIONS, random_state=state).fit(TEXTS, LABELS).predict_proba(TEXTS).tolist()

    assert probabilities(7) == probabilities(np.int64(7)) != fitted.predict_proba(TEXTS).tolist()
    assert probabilities(np.random.RandomState(3)) == probabilities(np.random.RandomState(3))


def test_its_parameters_are_the_options_of_training():
    names = set(inspect.signature(TextClassifier).parameters)
    assert names == {*PARAMETERS, "random_state"}
    known = TextClassifier().get_params()
    made = ClassificationOptions()
    assert {name: value for name, value in known.items() if name != "random_state"} == {
        name: getattr(made, name) for name in PARAMETERS
    }
    assert TextClassifier().set_params(hidden_size=9).hidden_size == 9


@pytest.mark.parametrize(("options", "said"), [
    ({"hidden": 3}, "there is no parameter 'hidden'"),
    ({"task": "lm"}, "there is no parameter 'task'"),
    ({"seed": 3}, "there is no parameter 'seed'"),
])  # fmt: skip
def test_a_parameter_that_it_does_not_have_is_named(options, said):
    with pytest.raises(UsageError, match=said):
        TextClassifier(**options)
    with pytest.raises(ValueError, match=said):
        TextClassifier().set_params(**options)


@pytest.mark.parametrize(("texts", "labels", "said"), [
    ("a text", ["a"], "X must be a list of texts"),
    (["a", 3], ["a", "b"], r"X\[1\] is 3"),
    (np.zeros((2, 2)), ["a", "b"], "X must be a list of texts"),
    (["a", "b"], ["a"], "y must hold a label for each of the 2 texts"),
    (["a", "b", "c", "d"], ["a", "a", "a", "a"], "every text has the label 'a'; at least two labels"),
    (["a", " ", "c", "d"], ["a", "a", "b", "b"], "row 2 of .* has no text"),
])  # fmt: skip
def test_wrong_input_is_refused_in_a_sentence(texts, labels, said):
    with pytest.raises(TextgenError, match=said):
        TextClassifier(**OPTIONS).fit(texts, labels)
    with pytest.raises(UsageError, match="random_state must be"):
        TextClassifier(random_state="one", **OPTIONS).fit(TEXTS, LABELS)


def test_nothing_is_printed(capfd):
    TextClassifier(**{**OPTIONS, "max_steps": 2}).fit(TEXTS, LABELS)
    assert capfd.readouterr() == ("", "")


# --- scikit-learn's tools ---


def test_scikit_learn_takes_it_as_one_of_its_own():
    base = pytest.importorskip("sklearn.base")
    from sklearn.exceptions import NotFittedError
    from sklearn.model_selection import GridSearchCV, cross_val_score
    from sklearn.pipeline import Pipeline
    from sklearn.preprocessing import FunctionTransformer

    model = TextClassifier(**{**OPTIONS, "max_steps": 60})
    copy = base.clone(model)
    assert base.is_classifier(copy) and copy.get_params() == model.get_params()
    with pytest.raises(NotFittedError, match="not fitted yet"):
        copy.predict(TEXTS)
    assert "hidden_size=12" in repr(copy) and "weight_decay" not in repr(copy)
    scores = cross_val_score(model, TEXTS, LABELS, cv=3)
    assert len(scores) == 3 and scores.mean() > 0.7
    lower = FunctionTransformer(lambda texts: [text.lower() for text in texts])
    pipeline = Pipeline([("lower", lower), ("model", model)]).fit([text.upper() for text in TEXTS], LABELS)
    assert pipeline.score(TEXTS, LABELS) > 0.8
    search = GridSearchCV(pipeline, {"model__max_steps": [1, 60]}, cv=2).fit(TEXTS, LABELS)
    assert search.best_params_ == {"model__max_steps": 60} and search.predict(TEXTS[:3]).shape == (3,)


def test_it_is_scored_by_probabilities_too(fitted):
    metrics = pytest.importorskip("sklearn.metrics")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert metrics.get_scorer("neg_log_loss")(fitted, TEXTS, LABELS) > -0.7
        assert metrics.get_scorer("roc_auc")(fitted, TEXTS, LABELS) > 0.8


@pytest.mark.parametrize("program", [
    "import textgen, sys; assert 'sklearn' not in sys.modules",
    "import sys; sys.modules['sklearn'] = None\n"
    "import textgen; model = textgen.TextClassifier(epochs=2)\n"
    "assert model.get_params()['epochs'] == 2 and model.set_params(epochs=3).epochs == 3\n"
    "try: model.predict(['a'])\nexcept textgen.TextgenError as error: assert 'not fitted yet' in str(error)\n"
    "else: raise AssertionError",
    "import textgen, sys; textgen.TextClassifier(); assert 'torch' not in sys.modules",
])  # fmt: skip
def test_neither_needs_the_other(program):
    subprocess.run([sys.executable, "-c", program], check=True)

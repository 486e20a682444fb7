"""A classifier of texts with the interface of scikit-learn's estimators, for `cross_val_score`, `Pipeline` and
`GridSearchCV`.

scikit-learn is not needed: without it, the class has the same methods. Importing `textgen` imports neither.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable
from dataclasses import fields
from inspect import Parameter, Signature
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import numpy.typing as npt

from textgen import storage
from textgen.errors import TextgenError, UsageError, did_you_mean
from textgen.loading import load
from textgen.options import default, displayed, named
from textgen.tasks.classification import ClassificationTask
from textgen.tasks.classification.options import ClassificationOptions
from textgen.tasks.classification.reading import label_of

try:
    from sklearn.base import BaseEstimator, ClassifierMixin
except ImportError:
    BaseEstimator, ClassifierMixin = object, type("ClassifierMixin", (), {})

if TYPE_CHECKING:
    from textgen.tasks.classification.model import Classifier, Prediction

FIXED = (
    *("task", "seed", "text_column", "label_column", "label_separator", "group_column"),
    *("encoding", "document_separator", "delimiter"),
)
"""Options of training that the estimator sets, or that say how files are read."""

PARAMETERS = {each.name: default(each) for each in fields(ClassificationOptions) if each.name not in FIXED}
"""The options of training that are parameters of the estimator, and their defaults."""


class TextClassifier(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    """Classify texts: `fit` trains a model as `textgen.train` does, in a temporary folder or in `output_dir`.

    Parameters are the options of `textgen.train`, such as `cell`, `hidden_size`, `epochs` or `minutes`; without a
    length, a fit takes up to five minutes, less if more would not help. `random_state` is the seed: a whole number, a
    random generator of numpy to draw one from, or None for the default seed.

    `X` is a list, array or column of texts; `y` holds a label for each, of any type that numpy sorts, or is a matrix
    (N, C) of 0 and 1 if a text may have several labels. A fitted estimator can be pickled: it holds its model's files.

    Example:
        >>> from sklearn.model_selection import cross_val_score                    # doctest: +SKIP
        >>> cross_val_score(textgen.TextClassifier(epochs=4), texts, labels)       # doctest: +SKIP
    """

    classes_: npt.NDArray[Any]
    files_: dict[str, bytes]
    """The files of the model folder, by name."""

    def __init__(self, *, random_state: Any = None, **options: Any) -> None:
        self.random_state = random_state
        for name in options:
            if name not in PARAMETERS:
                raise UsageError(f"there is no parameter {name!r}.{did_you_mean(name, PARAMETERS)}")
        for name, value in {**PARAMETERS, **options}.items():
            setattr(self, name, value)

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """Every parameter by name."""
        return {name: getattr(self, name) for name in ("random_state", *PARAMETERS)}

    def set_params(self, **parameters: Any) -> Self:
        """Change parameters. Raises ValueError for an unknown name, as scikit-learn does."""
        for name, value in parameters.items():
            if name != "random_state" and name not in PARAMETERS:
                raise ValueError(f"there is no parameter {name!r}.{did_you_mean(name, PARAMETERS)}")
            setattr(self, name, value)
        return self

    def fit(self, X: Iterable[str], y: Any) -> Self:
        """Train on texts and their labels. Raises TextgenError as `textgen.train` does."""
        import pyarrow as pa

        from textgen.training.start import train

        texts, labels = _texts(X), np.asarray(y)
        if labels.ndim not in (1, 2) or len(labels) != len(texts):
            raise UsageError(
                f"{named('y')} must hold a label for each of the {len(texts):,} texts, but its shape is {labels.shape}."
            )
        if labels.ndim == 2:
            self.classes_ = np.arange(labels.shape[1])
            names = list(map(str, self.classes_))
            cells: list[Any] = [[names[each] for each in np.flatnonzero(row)] for row in labels]
        else:
            self.classes_, numbers = np.unique(labels, return_inverse=True)
            names = _names(self.classes_)
            cells = [names[number] for number in numbers]
        options = {name: getattr(self, name) for name in PARAMETERS}
        table = pa.table({"text": pa.array(texts, pa.string()), "label": cells})
        with tempfile.TemporaryDirectory(prefix="textgen-") as scratch:
            folder = options.pop("output_dir") or str(Path(scratch) / "model")
            seed = _seed(self.random_state)
            made = train(
                table,
                task=ClassificationTask.name,
                output_dir=folder,
                **options,
                **({} if seed is None else {"seed": seed}),
            )
            manifest = storage.read_manifest(made)
            self.files_ = {name: (made / name).read_bytes() for name in (*manifest["files"], storage.MANIFEST)}
            self._model = load(made)
        self._names = names
        self._several = labels.ndim == 2
        return self

    def predict(self, X: Iterable[str]) -> npt.NDArray[Any]:
        """The label of each text, (N,), or for several labels per text which ones it has, (N, C) of 0 and 1."""
        found = self._predictions(X)
        if self._several:
            rows = [[int(name in (each.labels or ())) for name in self._names] for each in found]
            return np.array(rows, np.int64).reshape(-1, len(self._names))
        return self.classes_[[self._names.index(str(each.label)) for each in found]]

    def predict_proba(self, X: Iterable[str]) -> npt.NDArray[np.float64]:
        """The probability of each label, (N, C), in the order of `classes_`."""
        rows = [[each.probabilities.get(name, 0.0) for name in self._names] for each in self._predictions(X)]
        return np.array(rows, np.float64).reshape(-1, len(self._names))

    def score(self, X: Iterable[str], y: Any, sample_weight: Any = None) -> float:
        """The accuracy; for several labels per text, the share of texts whose labels are all right."""
        right = self.predict(X) == np.asarray(y)
        return float(np.average(right.all(axis=1) if right.ndim == 2 else right, weights=sample_weight))

    def _predictions(self, texts: Iterable[str]) -> list[Prediction]:
        if not hasattr(self, "files_"):
            raise _unfitted()
        return self.model.classify(_texts(texts))

    @property
    def model(self) -> Classifier:
        """The trained model, as `textgen.load` returns it."""
        if not hasattr(self, "files_"):
            raise _unfitted()
        if self._model is None:
            with tempfile.TemporaryDirectory(prefix="textgen-") as folder:
                for name, content in self.files_.items():
                    (Path(folder) / name).write_bytes(content)
                self._model = load(folder)
        found: Classifier = self._model
        return found

    def __getstate__(self) -> dict[str, Any]:
        """Everything but the open model, which is opened again from its files."""
        return {**self.__dict__, "_model": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)

    def __sklearn_is_fitted__(self) -> bool:
        return hasattr(self, "files_")

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.string, tags.input_tags.two_d_array = True, False
        tags.classifier_tags.multi_label = True
        return tags


_KEYWORD = Parameter.KEYWORD_ONLY
_SIGNATURE = Signature(
    [
        Parameter("self", Parameter.POSITIONAL_OR_KEYWORD),
        Parameter("random_state", _KEYWORD, default=None),
        *(Parameter(name, _KEYWORD, default=value) for name, value in PARAMETERS.items()),
    ]
)
setattr(TextClassifier.__init__, "__signature__", _SIGNATURE)  # noqa: B010 - a function has no such attribute


def _unfitted() -> Exception:
    message = "this TextClassifier is not fitted yet; call fit first."
    try:
        from sklearn.exceptions import NotFittedError
    except ImportError:
        return TextgenError(message)
    error: Exception = NotFittedError(message)
    return error


def _texts(given: Any) -> list[str]:
    """The texts of X. Raises UsageError for anything but a sequence of texts."""
    if isinstance(given, (str, bytes)) or not isinstance(given, Iterable) or getattr(given, "ndim", 1) != 1:
        raise UsageError(f"{named('X')} must be a list of texts, not {displayed(given)}.")
    found = list(given)
    for number, text in enumerate(found):
        if not isinstance(text, str):
            raise UsageError(f"{named('X')} must be a list of texts, but X[{number}] is {displayed(text)}.")
    return [str.__str__(text) for text in found]


def _names(classes: npt.NDArray[Any]) -> list[str]:
    """The names of labels in the model: as they are written if that keeps them apart, otherwise numbers."""
    names = [str(each) for each in classes.tolist()]
    kept = len(set(names)) == len(names) and all(map(_is_written, names))
    return names if kept else [str(number) for number in range(len(names))]


def _is_written(name: str) -> bool:
    """Whether a table can hold this label as it is."""
    try:
        return label_of(name, "label", "y") == name
    except TextgenError:
        return False


def _seed(random_state: Any) -> int | None:
    """The seed of a training run, drawn from a generator if one is given."""
    if random_state is None or isinstance(random_state, (int, np.integer)):
        return None if random_state is None else int(random_state)
    draw = getattr(random_state, "integers", None) or getattr(random_state, "randint", None)
    if draw is None:
        raise UsageError(
            f"{named('random_state')} must be a whole number or a generator, not {displayed(random_state)}."
        )
    return int(draw(2**31 - 1))

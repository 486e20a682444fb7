"""A linear model of the words of a text, with which a classifier averages its recurrent model.

Its features are words, pairs of adjacent words, and the beginnings of longer words; upper and lower case are the same,
and a feature counts once in a text. The score of a label is the sum of the weights of the features. Each weight is the
product of a naive Bayes log-count ratio and a factor that logistic regression learns (NBSVM: Wang and Manning 2012).

Features are known by 32-bit checksums, which are the same in every process and on every machine. A text is read in
pieces, and memory does not grow with its length: only features that occur in the model are kept.
"""

from __future__ import annotations

import codecs
import re
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import safetensors
import safetensors.numpy

from textgen import storage
from textgen.data.recipes import TRAIN, VALIDATION
from textgen.generation.sampling import log_softmax
from textgen.storage import filesystem
from textgen.tasks.classification.logistic import Sparse, fit_factors

Floats = npt.NDArray[np.float64]
Keys = npt.NDArray[np.uint32]

NGRAMS = "ngrams.safetensors"
"""The file of a model folder that holds the linear model."""

_UNSPACED = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
WORDS = re.compile(rf"[{_UNSPACED}]|[^\W{_UNSPACED}]{{1,40}}|[^\w\s]")
"""Words, the longest in parts of 40 characters; single characters in scripts without spaces between words; single
punctuation marks."""

BEGINNINGS = (3, 4, 5, 6)
"""Lengths of the beginnings of longer words, in characters: 'disappointing' and 'disappointed' begin alike."""

SMOOTHING, STRENGTH = 1.0, 0.3
"""What is added to the counts of every feature, and the weight of the loss against that of the squared factors (fitted
on development folds of three data sets)."""

MOST_FEATURES = 1 << 21
"""The most features of a model: the most frequent ones."""

LARGEST_NGRAMS = 1 << 30
"""The largest `ngrams.safetensors` that is read, in bytes."""

MOST_VALUES = 1 << 25
"""The most features of all texts, times the number of labels, that are learned from. Of more texts, every second, third
or nth one is used."""

FOLDS = 5
"""Parts that the training texts are divided into, to score each with a model that has not seen it."""

BLOCK = 1 << 12
"""Features of a text after which those that the model does not know are dropped."""

ALWAYS = 0
"""A feature that every text has: its weight is the bias."""


@lru_cache(maxsize=1 << 17)
def _word_keys(word: str) -> tuple[int, ...]:
    """The checksums of a word and of its beginnings."""
    found = [zlib.crc32(word.encode("utf-8", "replace"))]
    found += [zlib.crc32(b"^" + word[:n].encode("utf-8", "replace")) for n in BEGINNINGS if len(word) > n]
    return tuple(found)


def _pair_keys(words: Sequence[int]) -> Keys:
    """The checksums of all pairs of adjacent words, given those of the words."""
    numbers = np.array(words, np.uint64)
    mixed = numbers[:-1] * np.uint64(0x9E3779B1) + numbers[1:] * np.uint64(0x85EBCA6B)
    return (mixed >> np.uint64(16)).astype(np.uint32)


class Features:
    """The features of one text, collected while it is read, however it is cut into pieces; with `known` (sorted), only
    those."""

    def __init__(self, known: Keys | None = None) -> None:
        self._known = known
        self._decode = codecs.getincrementaldecoder("utf-8")("replace").decode
        self._tail = ""
        self._found: list[int] = [ALWAYS]
        self._words: list[int] = []
        self._kept: Keys = np.zeros(0, np.uint32)

    def through(self, pieces: Iterable[bytes]) -> Iterator[bytes]:
        """The pieces of a text unchanged, each added on its way."""
        for piece in pieces:
            self._add(self._decode(piece), last=False)
            yield piece

    def keys(self) -> Keys:
        """The features of the text, sorted, each once. The text has ended."""
        self._add(self._decode(b"", True), last=True)
        self._compact()
        return self._kept

    def _add(self, text: str, last: bool) -> None:
        """Add text. A word that may go on is kept back."""
        text = self._tail + text.casefold()
        words = WORDS.findall(text)
        self._tail = words.pop() if words and not last and text.endswith(words[-1]) else ""
        for word in words:
            keys = _word_keys(word)
            self._found += keys
            self._words.append(keys[0])
        if len(self._found) > BLOCK:
            self._compact()

    def _compact(self) -> None:
        """Turn the words so far into features."""
        keys = np.unique(np.concatenate([self._kept, np.array(self._found, np.uint32), _pair_keys(self._words)]))
        self._kept = keys if self._known is None else keys[places(keys, self._known) >= 0]
        self._found, self._words = [], self._words[-1:]


def places(keys: Keys, known: Keys) -> npt.NDArray[np.int64]:
    """The place of each key (S,) among the `known` ones, which are sorted; -1 for others."""
    found = np.minimum(np.searchsorted(known, keys), len(known) - 1)
    return np.where(known[found] == keys, found, -1)


@dataclass(frozen=True)
class Ngrams:
    """The features of the model (F,), sorted, and the weights of each, (F, C)."""

    known: Keys
    weights: npt.NDArray[np.float32]

    @classmethod
    def fit(cls, texts: Sequence[Keys], targets: Floats, counts: Floats, exclusive: bool = True) -> Ngrams:
        """Learn from the features of N texts and the probabilities of their labels, (N, C), which exclude each other or
        not; `counts` (N,) are the weights of the texts. The same data gives the same model."""
        size = sum(map(len, texts)) * targets.shape[1]
        nth = -(-size // MOST_VALUES) or 1
        texts, targets, counts = texts[::nth], targets[::nth], counts[::nth]
        keys = np.concatenate(texts)
        known, times = np.unique(keys, return_counts=True)
        if len(known) > MOST_FEATURES:
            known = np.sort(known[np.argsort(-times, kind="stable")[:MOST_FEATURES]])
        found = places(keys, known)
        text = np.repeat(np.arange(len(texts)), [len(each) for each in texts])[found >= 0]
        ends = np.cumsum(np.bincount(text, minlength=len(texts)))
        examples = Sparse(found[found >= 0].astype(np.int32), ends, len(known))
        ratios = log_count_ratios(examples, targets)
        ratios[places(np.array([ALWAYS], np.uint32), known)] = 1.0
        weights = fit_factors(examples, targets, ratios, counts * STRENGTH, exclusive) * ratios
        return cls(known, weights.astype(np.float32))

    def reading(self) -> Features:
        """Collects the features of a text that the model knows."""
        return Features(self.known)

    def scores(self, texts: Sequence[Keys]) -> Floats:
        """The score of each label, (N, C), of texts given by their features."""
        found = places(np.concatenate(texts), self.known)
        rows = np.where(found[:, None] >= 0, self.weights[found], 0)
        ends = np.cumsum([len(each) for each in texts])
        sums: Floats = np.add.reduceat(rows, np.concatenate([[0], ends[:-1]]), axis=0, dtype=np.float64)
        return sums

    def to_bytes(self) -> bytes:
        """The content of `ngrams.safetensors`."""
        return safetensors.numpy.save({"features": self.known, "weights": self.weights})

    @classmethod
    def from_bytes(cls, content: bytes, name: str, labels: int) -> Ngrams:
        """The inverse of `to_bytes`. Raises DamagedError with `name` for content that does not fit."""
        try:
            found = safetensors.numpy.load(content)
            known, weights = found["features"], found["weights"]
        except (safetensors.SafetensorError, KeyError, ValueError) as error:
            raise storage.DamagedError(f"{name} is damaged: {error}.") from error
        fits = (
            known.dtype == np.uint32 and known.ndim == 1 and len(known) and (np.diff(known.astype(np.int64)) > 0).all()
        )
        if not fits or known[0] != ALWAYS or weights.dtype != np.float32 or weights.shape != (len(known), labels):
            raise storage.DamagedError(f"{name} is damaged: it is not a linear model of {labels} labels.")
        if not np.isfinite(weights).all():
            raise storage.DamagedError(f"{name} is damaged: it holds NaN or infinity.")
        return cls(known, weights)


WEIGHTS = "blend.json"
"""The file of a model folder that holds the weights of the recurrent model and of the linear one."""

CHOICES = tuple((a / 4, b / 4) for a in range(5) for b in range(5) if a or b)
DEFAULT_WEIGHTS = (0.5, 1.0)
"""The weights that the held-out part chooses from, and those without a held-out part: what is learned on top of a
linear model is often too much."""


def blended(
    log_probs: npt.NDArray[Any], scores: npt.NDArray[Any], weights: Sequence[float], several: bool = False
) -> Floats:
    """The log-probabilities of labels (N, C) from those of the recurrent model and the scores of the linear one, by the
    weight of each; log-odds from log-odds, if a text may have several labels."""
    recurrent, linear = weights
    sums: Floats = (recurrent * log_probs + linear * scores).astype(np.float64)
    return sums if several else log_softmax(sums).astype(np.float64)


def losses_of(scores: npt.NDArray[Any], true: npt.NDArray[np.integer[Any]]) -> Floats:
    """The loss on each of N texts in nats, (N,), given the scores of their labels (N, C), and the indices of their
    labels (N,) or which labels each has (N, C)."""
    if true.ndim == 2:
        several: Floats = (np.logaddexp(0.0, scores) - true * scores).sum(axis=1)
        return several
    losses: Floats = -log_softmax(scores)[np.arange(len(true)), true].astype(np.float64)
    return losses


def best_weights(
    log_probs: npt.NDArray[Any], scores: npt.NDArray[Any], true: npt.NDArray[np.integer[Any]]
) -> tuple[float, float]:
    """The weights with which the loss on N texts is lowest, given their labels as for `losses_of`; the default ones,
    unless they are worse by more than a standard error (Breiman et al. 1984)."""
    several = true.ndim == 2
    losses = {each: losses_of(blended(log_probs, scores, each, several), true) for each in CHOICES}
    best = min(CHOICES, key=lambda each: losses[each].mean())
    worse = losses[DEFAULT_WEIGHTS] - losses[best]
    return best if worse.mean() > worse.std() / len(true) ** 0.5 else DEFAULT_WEIGHTS


def weights_file(weights: Sequence[float]) -> dict[str, bytes]:
    """The file of a model folder that holds the weights, by name."""
    recurrent, linear = weights
    return {WEIGHTS: filesystem.to_json({"recurrent": recurrent, "linear": linear})}


@dataclass(frozen=True)
class Blend:
    """A linear model, and the weights of the recurrent model and of this one."""

    ngrams: Ngrams
    weights: tuple[float, float] = DEFAULT_WEIGHTS

    def of(self, texts: Sequence[Keys], log_probs: npt.NDArray[Any], several: bool = False) -> Floats:
        """The log-probabilities or log-odds (N, C) of texts given by their features, and by those of the recurrent
        model."""
        return blended(log_probs, self.ngrams.scores(texts), self.weights, several)

    @classmethod
    def stored(cls, folder: Path, labels: int) -> Blend | None:
        """The linear model of a folder, if it holds one. Raises DamagedError for a file that does not fit."""
        manifest = storage.read_manifest(folder)
        if NGRAMS not in manifest["files"]:
            return None
        content = storage.verified(folder, NGRAMS, manifest, LARGEST_NGRAMS)
        ngrams, path = Ngrams.from_bytes(content, str(folder / NGRAMS), labels), str(folder / WEIGHTS)
        if WEIGHTS not in manifest["files"]:
            return cls(ngrams)
        stored = storage.parse_json(storage.verified(folder, WEIGHTS, manifest, storage.JSON_LIMIT), path)
        return cls(ngrams, (_weight(stored, "recurrent", path), _weight(stored, "linear", path)))


def _weight(stored: Mapping[str, Any], name: str, path: str) -> float:
    value: Any = stored.get(name)
    if type(value) not in (int, float) or not 0 <= value <= 1:
        raise storage.DamagedError(f"{path} is damaged: {name!r} must be a number from 0 to 1, not {value!r}.")
    return float(value)


class NgramTexts:
    """The features of the texts of both parts, collected while they are encoded."""

    def __init__(self) -> None:
        self._texts: dict[str, list[Keys]] = {TRAIN: [], VALIDATION: []}

    def through(self, part: str, pieces: Iterable[bytes]) -> Iterator[bytes]:
        """The pieces of the next text of a part unchanged; all of them must be read."""
        features = Features()
        yield from features.through(pieces)
        self._texts[part].append(features.keys())

    def fit(
        self, true: Mapping[str, npt.NDArray[np.int64]], weights: Floats
    ) -> tuple[bytes, dict[str, npt.NDArray[np.float32]]]:
        """The content of `ngrams.safetensors`, and the scores (N, C) of the texts of each part. `true` are the indices
        of the labels of each part (N,), or which labels each text has (N, C), and `weights` those of the labels (C,).

        All scores come from models that were learned without the texts that they score, and only from training texts:
        only these are like the scores of new texts.
        """
        train, held_out, exclusive = self._texts[TRAIN], self._texts[VALIDATION], true[TRAIN].ndim == 1
        targets: dict[str, Floats] = {
            part: np.eye(len(weights))[each] if exclusive else each.astype(np.float64) for part, each in true.items()
        }
        counts = {part: each @ weights if exclusive else np.ones(len(each)) for part, each in targets.items()}
        model, labels = Ngrams.fit(train, targets[TRAIN], counts[TRAIN], exclusive), targets[TRAIN].argmax(axis=1)
        fold = np.zeros(len(train), np.int64)
        for label in np.unique(labels):
            of_label = np.flatnonzero(labels == label)
            fold[np.random.default_rng([int(label), 4]).permutation(of_label)] = np.arange(len(of_label)) % FOLDS
        scores: Floats = np.zeros_like(targets[TRAIN])
        for number in np.unique(fold) if len(train) >= FOLDS else ():
            inside, outside = np.flatnonzero(fold != number), np.flatnonzero(fold == number)
            other = Ngrams.fit([train[k] for k in inside], targets[TRAIN][inside], counts[TRAIN][inside], exclusive)
            scores[outside] = other.scores([train[k] for k in outside])
        later = model.scores(held_out) if held_out else scores[:0]
        return model.to_bytes(), {TRAIN: scores.astype(np.float32), VALIDATION: later.astype(np.float32)}


def class_weights(kind: str, labels: npt.NDArray[np.int64], classes: int) -> npt.NDArray[np.float32]:
    """The weight of a text of each label, (C,): uniform, or inverse to the label's frequency with a mean of 1 over
    texts. For texts with several labels, (N, C), that of having a label: 1, or how often it is missing for each time
    that a text has it."""
    if kind == "none":
        return np.ones(classes, np.float32)
    if labels.ndim == 2:
        has = labels.sum(axis=0)
        weights: npt.NDArray[np.float32] = ((len(labels) - has) / np.maximum(has, 1)).astype(np.float32)
        return weights
    counts = np.bincount(labels, minlength=classes)
    return (len(labels) / (np.count_nonzero(counts) * np.maximum(counts, 1))).astype(np.float32)


def log_count_ratios(examples: Sparse, targets: Floats) -> Floats:
    """How much more often each feature occurs in texts of each label than in others, (F, C), in nats."""
    inside = examples.transposed_times(targets)
    outside = examples.transposed_times(1 - targets)
    shares = [(each + SMOOTHING) / (each + SMOOTHING).sum(axis=0) for each in (inside, outside)]
    ratios: Floats = np.log(shares[0] / shares[1])
    return ratios

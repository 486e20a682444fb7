"""Laws of a score: every symbol counts once, with what stands before it; every byte counts whatever the tokenizer."""

import dataclasses
import json
import math
import sys
from unittest import mock

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import textgen
from textgen.data.tokenizers import ByteTokenizer, CharTokenizer
from textgen.errors import TextgenError
from textgen.evaluation import Score, score_ids
from textgen.generation.language_model import LanguageModel
from textgen.generation.sampling import log_softmax
from textgen.model import ModelConfig
from textgen.model.weights import TorchStepper, make_model

law = settings(deadline=None)


class Counter:
    """Symbol t costs `costs[t]`; without end if it is predicted from fewer symbols than `warm` and the last.

    It reads symbols that are their own places, so that it knows what stands before each.
    """

    def __init__(self, costs, warm):
        self.costs, self.warm, self.read = costs, warm, 0

    def initial_state(self, batch_size):
        return np.zeros(batch_size, dtype=int), np.full(batch_size, -1)

    def score(self, ids, targets, state):
        read, last = state
        self.read += ids.size
        assert np.array_equal(targets, ids + 1) and ids.dtype == np.int32
        seen = read[:, None] + 1 + np.arange(ids.shape[1])
        follows = np.diff(ids, axis=1, prepend=np.where(last < 0, ids[:, 0] - 1, last)[:, None]) == 1
        too_few = ~follows | (seen < np.minimum(targets, self.warm + 1))
        return np.where(too_few, -np.inf, -self.costs[targets]), (seen[:, -1], ids[:, -1])


SIZES = {"length": st.integers(0, 50), "lanes": st.integers(1, 20), "warm": st.integers(0, 20)}


def bits(number):
    return {place for place in range(60) if int(number) >> place & 1}


@pytest.mark.parametrize("chunk", [1, 3, 256])
@law
@given(**SIZES)
def test_every_symbol_counts_once_with_what_stands_before_it(chunk, length, lanes, warm):
    ids = np.arange(length + 1, dtype=np.int32)
    with mock.patch.object(sys.modules["textgen.evaluation"], "CHUNK", chunk):
        nats, counted = score_ids(Counter(2.0 ** np.arange(length + 1), warm), ids, lanes, warm)
    assert bits(nats) == set(range(1, length + 1)) and counted == length


@law
@given(length=st.integers(1, 4000), lanes=st.integers(1, 40), warm=st.integers(0, 300), seed=st.integers(0, 99))
def test_every_symbol_of_a_long_text_counts_once(length, lanes, warm, seed):
    costs = np.random.default_rng(seed).integers(0, 1 << 30, size=length + 1).astype(float)
    counter, ids = Counter(costs, warm), np.arange(length + 1, dtype=np.int32)
    assert score_ids(counter, ids, lanes, warm) == (costs[1:].sum(), length)
    assert counter.read <= 2 * length + lanes  # warming up never costs more than the text itself


@law
@given(**SIZES, most=st.integers(1, 60))
def test_a_quick_look_counts_about_as_many_as_it_was_asked_for_none_twice(length, lanes, warm, most):
    ids = np.arange(length + 1, dtype=np.int32)
    nats, counted = score_ids(Counter(2.0 ** np.arange(length + 1), warm), ids, lanes, warm, most)
    assert len(bits(nats)) == counted <= min(length, most + lanes)
    assert bits(nats) <= set(range(1, length + 1))
    if length:
        assert 1 in bits(nats)
    if most >= length:
        assert counted == length
    if lanes == 1:
        assert bits(nats) == set(range(1, min(most, length) + 1))


# --- texts ---


class Uniform:
    """Every symbol is as likely as any other."""

    def __init__(self, vocab_size):
        self.nats = math.log(vocab_size)

    def initial_state(self, batch_size):
        return None

    def score(self, ids, targets, state):
        return np.full(ids.shape, -self.nats), None


def uniform(tokenizer):
    return LanguageModel(ModelConfig(tokenizer.vocab_size), tokenizer, Uniform(tokenizer.vocab_size))


@law
@given(text=st.text("aab\n é漢😀", min_size=1, max_size=30))
def test_an_unknown_character_costs_its_escape_and_eight_bits_a_byte(text):
    model = uniform(CharTokenizer("ab"))
    score = textgen.evaluate(model, text)
    unknown = sum(len(c.encode()) for c in text if c not in "ab")
    assert score.nats == pytest.approx(len(text) * math.log(4) + unknown * 8 * math.log(2), rel=1e-12)
    assert (score.tokens, score.characters, score.bytes) == (len(text), len(text), len(text.encode()))
    assert score == textgen.evaluate(model, text.encode())


def test_bytes_that_are_no_text_count_too():
    score = textgen.evaluate(uniform(CharTokenizer("ab")), b"a\xff")
    assert score.nats == pytest.approx(2 * math.log(4) + 8 * math.log(2)) and score.bytes == 2


@law
@given(text=st.text(min_size=1, max_size=20))
def test_bits_per_byte_do_not_hang_on_what_a_symbol_is(text):
    score = textgen.evaluate(uniform(ByteTokenizer()), text)
    assert score.tokens == score.bytes == len(text.encode()) and score.characters == len(text)
    assert score.bits_per_byte == pytest.approx(math.log2(257)) and score.perplexity == pytest.approx(257)
    assert score.bits_per_byte * score.bytes == pytest.approx(score.nats_per_character * len(text) / math.log(2))


def test_all_figures_are_json_whatever_the_score():
    for score in (Score(1e6, 3, 2, 5), Score(0.0, 0, 0, 0), Score(1e300, 1, 1, 1), Score(9.0, 3, 2, 5, unknown=1)):
        figures = json.loads(json.dumps(score.to_json(), allow_nan=False))
        assert list(figures)[:4] == ["nats_per_token", "nats_per_character", "bits_per_byte", "perplexity"]
        assert {"nats", "tokens", "characters", "bytes"} <= set(figures)


@pytest.mark.parametrize("text", ["", b""])
def test_an_empty_text_is_refused(text):
    with pytest.raises(TextgenError, match=r"^there is no text to evaluate \(0 bytes\)\.$"):
        textgen.evaluate(uniform(ByteTokenizer()), text)


def test_half_a_character_is_refused():
    with pytest.raises(TextgenError, match=r"^the text holds the lone surrogate U\+D83D at position 2\.$"):
        textgen.evaluate(uniform(ByteTokenizer()), "ab\ud83d")


# --- with torch ---

TEXT = "the cat sat on the mat, and the dog sat on the cat.\nwas it a big cat? it was not; the dog was big.\n"


@pytest.fixture(scope="module")
def language_model():
    torch.manual_seed(4)
    tokenizer = CharTokenizer("".join(sorted(set(TEXT))))
    config = ModelConfig(tokenizer.vocab_size, cell="gru", embedding_size=6, hidden_size=10, num_layers=2)
    return LanguageModel(config, tokenizer, TorchStepper(make_model(config).eval()))


def one_by_one(model, text):
    """The sum of -log p over a text, by single steps, after the symbol that a text begins with."""
    ids = model.tokenizer.model_ids(model.tokenizer.encode(text))
    nats, state = 0.0, model.stepper.initial_state(1)
    first = model.begin[-1] if model.begin else model.tokenizer.boundary
    for id, target in zip([first, *ids], ids, strict=False):
        logits, state = model.stepper.step(np.array([id], dtype=np.int32), state)
        nats -= float(log_softmax(logits[0])[target])
    return nats


@pytest.mark.parametrize("text", [TEXT * 7, "t", "é", "the übercat 漢 sat"])
@pytest.mark.parametrize("begin", [(), (0,), (7, 5)])
def test_one_lane_is_the_sum_over_single_steps(language_model, text, begin):
    language_model = dataclasses.replace(language_model, begin=begin)
    score = textgen.evaluate(language_model, text, lanes=1)
    unknown = sum(len(c.encode()) for c in text if c not in TEXT)
    assert score.nats == pytest.approx(one_by_one(language_model, text) + unknown * 8 * math.log(2), rel=1e-6)
    assert score.tokens == len(text)


def test_many_lanes_are_one_lane_nearly(language_model):
    text = TEXT * 50
    one, many = textgen.evaluate(language_model, text, lanes=1), textgen.evaluate(language_model, text)
    assert (many.tokens, many.characters, many.bytes) == (one.tokens, one.characters, one.bytes)
    assert many.nats == pytest.approx(one.nats, rel=1e-5)


def test_a_score_changes_no_weights_and_is_the_same_twice(language_model):
    assert textgen.evaluate(language_model, TEXT) == textgen.evaluate(language_model, TEXT)

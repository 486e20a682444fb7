"""Laws of the plan: more time never plans less, and what is given is kept."""

import time
from dataclasses import fields, replace
from itertools import pairwise

import numpy as np
import pytest
import torch

from textgen import plugins
from textgen.data.store import MANY_DOCUMENTS, Lanes
from textgen.model.weights import make_model
from textgen.tasks import TrainOptions, model_config, options_for
from textgen.tasks.language.data import MOST_EPOCHS, LanguageData
from textgen.tasks.regularization import FREE_EPOCHS, Regularization, of_text
from textgen.training.planner import plan

SPEED = 3e10
"""Parameters times tokens that the machine of these tests reads in a second."""


class Text(LanguageData):
    """What the planner asks of a corpus of so many characters, tokenized by bpe."""

    characters_per_token, vocab_size = 3.0, 1000

    def __init__(self, characters):
        self.__dict__.update(training_tokens=characters // 3, held_out_tokens=1000)

    def with_defaults(self, options):
        return replace(options, batch_size=options.batch_size or 16, seq_length=options.seq_length or 64)

    def config(self, options, hidden_size):
        return model_config(options, "bpe", 1000, hidden_size)


class Machine:
    """A machine whose speed depends on nothing but the number of parameters."""

    def parameters(self, config):
        with torch.device("meta"):
            return sum(p.numel() for p in make_model(config).parameters())

    def can_compile(self, config):
        return False

    def can_round(self):
        return False

    def step_seconds(self, config, options, seconds, compiled=False, dtype="float32"):
        return self.parameters(config) * 1024 / SPEED


def planned_for(characters, minutes, **options):
    options = TrainOptions(minutes=minutes, **options)
    return plan(options, Text(characters), Machine(), time.monotonic() + 60 * minutes)


def epochs_of(options, characters):
    return options.max_steps * 1024 / (characters // 3)


SIZES = [20_000, 150_000, 400_000, 1_000_000, 30_000_000]
MINUTES = [0.2, 0.5, 1, 2, 5, 15, 60]


@pytest.mark.parametrize("characters", SIZES)
def test_more_time_never_plans_a_smaller_model_or_less_regularization(characters):
    plans = [planned_for(characters, minutes) for minutes in MINUTES]
    for (before, _, _), (after, _, _) in pairwise(plans):
        assert after.hidden_size >= before.hidden_size
        assert after.dropout >= before.dropout - 0.06  # a larger model reads less often for a while
        if after.hidden_size == before.hidden_size:
            assert after.max_steps >= before.max_steps and after.dropout >= before.dropout


@pytest.mark.parametrize("characters", SIZES)
@pytest.mark.parametrize("minutes", MINUTES)
def test_a_plan_takes_its_time_or_says_that_more_would_not_help(characters, minutes):
    options, _, estimate = planned_for(characters, minutes)
    assert epochs_of(options, characters) <= MOST_EPOCHS * 1.01 + 10 * 1024 / (characters // 3)
    assert estimate.train_seconds <= 60 * minutes
    assert estimate.ends_early == (epochs_of(options, characters) >= MOST_EPOCHS)
    assert estimate.ends_early or estimate.train_seconds >= 60 * minutes - 8


def test_a_small_text_gets_the_same_plan_however_much_time_there_is():
    one, _, _ = planned_for(40_000, 60)
    other, _, _ = planned_for(40_000, 600)
    assert one == replace(other, minutes=60)


@pytest.mark.parametrize("name", [f.name for f in fields(Regularization)])
def test_what_is_given_is_kept(name):
    assert getattr(planned_for(100_000, 5)[0], name) is not None
    for value in (0.0, 0.123):
        assert getattr(planned_for(100_000, 5, **{name: value})[0], name) == value


def test_regularization_grows_with_the_weights_per_character():
    plans = [of_text(384, 30, weights) for weights in (0.0, 0.5, 2, 5, 50)]
    for name in (f.name for f in fields(Regularization)):
        rates = [getattr(each, name) for each in plans]
        assert rates == sorted(rates) and rates[0] == getattr(Regularization(), name) and rates[-1] == rates[-2]
    assert plans[1].dropout < 0.5 * plans[-1].dropout


def test_only_a_long_text_of_an_alphabet_gets_narrow_embeddings(tmp_path):
    (tmp_path / "short.txt").write_text("the fox ran home. " * 100)
    (tmp_path / "long.txt").write_text("the fox ran home. " * 40_000)
    for name, tokenizer, wanted in (("short", "char", 256), ("long", "char", 64), ("long", "bpe", 512)):
        options = options_for({"tokenizer": tokenizer, "vocab_size": 270 if tokenizer == "bpe" else None})
        data = LanguageData.prepare([str(tmp_path / f"{name}.txt")], options, tmp_path, lambda *_: None)
        assert data.config(options, 512).embedding_size == wanted
        assert data.config(replace(options, embedding_size=17), 512).embedding_size == 17


def test_regularization_grows_with_epochs_and_width_within_the_limits():
    for name in (f.name for f in fields(Regularization)):
        for hidden in (64, 384, 2048):
            rates = [getattr(of_text(hidden, epochs), name) for epochs in (0.01, FREE_EPOCHS, 3, 10, 30, 100, 1e6)]
            assert rates == sorted(rates) and rates[0] >= 0 and rates[-1] <= 0.9
            assert rates[0] == rates[1] == getattr(Regularization(), name)
        assert getattr(of_text(64, 30), name) <= getattr(of_text(384, 30), name) <= getattr(of_text(2048, 30), name)
    assert of_text(384, 30).dropout > 0.3


@pytest.mark.parametrize("name", sorted(plugins.names("cells")))
def test_recurrent_weights_are_dropped_only_where_a_cell_has_them(name):
    options, _, _ = planned_for(100_000, 5, cell=name, hidden_size=64)
    assert bool(options.weight_drop) == (getattr(plugins.cell(name), "recurrent", None) is not None)


@pytest.mark.parametrize("number", [MANY_DOCUMENTS - 1, MANY_DOCUMENTS, 100])
def test_every_epoch_reads_every_document_once_and_many_of_them_in_another_order(number):
    random = np.random.default_rng(5)
    parts = [np.array([0, *[k] * random.integers(1, 9)]) for k in range(1, number + 1)]
    tokens = np.concatenate(parts).astype(np.uint16)
    lanes = Lanes(tokens, 1, 1, seed=3, boundary=0, line_end=-1)
    orders = []
    for epoch in range(3):
        order = lanes._order(epoch)
        begins = np.flatnonzero(order == 0)
        found = [tuple(part) for part in np.split(order, begins[1:])]
        assert sorted(found) == sorted(tuple(part) for part in parts)
        orders.append(tuple(found))
    assert len(set(orders)) == (1 if number < MANY_DOCUMENTS else 3)
    again = Lanes(tokens, 1, 1, seed=3, boundary=0, line_end=-1)
    assert np.array_equal(again._order(2), lanes._order(2))
    assert not number >= MANY_DOCUMENTS or not np.array_equal(
        Lanes(tokens, 1, 1, 4, None, 0, -1)._order(2), lanes._order(2)
    )

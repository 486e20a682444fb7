"""Laws of the order of training: windows are a pure function of seed, epoch and step, and follow one another."""

import math
import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from textgen.data.store import ESCAPE_RATE, SHORTEST, START_RATE, Lanes, missing_escape
from textgen.errors import TextgenError

SIZES = st.tuples(st.integers(1, 7), st.integers(1, 9), st.integers(0, 40))


def lanes_of(size, seed=0, escape=None):
    batch, length, more = size
    return Lanes(np.arange(batch * length + 1 + more, dtype=np.uint16), batch, length, seed, escape)


def epoch_of(lanes, epoch):
    """Inputs and targets (T, B) of an epoch, its windows joined."""
    steps = range(epoch * lanes.steps_per_epoch, (epoch + 1) * lanes.steps_per_epoch)
    inputs, targets = zip(*map(lanes.window, steps), strict=True)
    return np.concatenate(inputs), np.concatenate(targets)


@settings(deadline=None)
@given(size=SIZES, seed=st.integers(0, 2**63 - 1), epoch=st.integers(0, 3))
def test_an_epoch_reads_the_ring_in_lanes_each_token_at_most_once(size, seed, epoch):
    lanes = lanes_of(size, seed)
    inputs, targets = epoch_of(lanes, epoch)
    tokens = len(lanes.tokens)
    assert inputs.shape == targets.shape == (lanes.steps_per_epoch * size[1], size[0])
    assert np.array_equal(targets, (inputs + 1) % tokens), "the target is the next token of the ring"
    assert np.array_equal(inputs[1:], targets[:-1]), "each window goes on where the last one ended"
    assert len(set(inputs.ravel().tolist())) == inputs.size, "no token is read twice"
    assert tokens - inputs.size < size[0] * size[1] + size[0], "less than one window of every lane is left out"
    assert epoch or inputs[0, 0] == 0


@settings(deadline=None)
@given(size=SIZES, seed=st.integers(0, 2**63 - 1), steps=st.lists(st.integers(0, 200), min_size=2, max_size=6))
def test_a_window_depends_on_seed_and_step_alone(size, seed, steps):
    lanes, escape = lanes_of(size, seed), 0
    for step in (*steps, *reversed(steps)):
        assert all(map(np.array_equal, lanes.window(step), lanes_of(size, seed).window(step)))
        assert np.array_equal(lanes.fresh(step), lanes_of(size, seed).fresh(step))
        assert lanes.fresh(step).all() or step % lanes.steps_per_epoch
    escaped = lanes_of(size, seed, escape)
    assert all(map(np.array_equal, escaped.window(steps[0]), lanes_of(size, seed, escape).window(steps[0])))


def test_a_lane_begins_afresh_once_in_a_hundred_windows():
    lanes = Lanes(np.arange(100_000, dtype=np.uint16), 20, 4, seed=7)
    fresh = np.array([lanes.fresh(step) for step in range(1, lanes.steps_per_epoch)])
    assert fresh.shape == (1249, 20) and 0.008 < fresh.mean() < 0.012 and fresh.any(axis=0).all()


BOUNDARY, LINE_END = 1, 2


def starting_lanes(tokens, seed=3, length=5):
    return Lanes(np.array(tokens, dtype=np.uint16), 4, length, seed, boundary=BOUNDARY, line_end=LINE_END)


def beginnings(lanes, steps=2000):
    """The inputs (T,) of every window that begins a text."""
    found = [(step, lane) for step in range(steps) for lane in np.flatnonzero(lanes.starting(step)).tolist()]
    assert 0.8 * START_RATE < len(found) / (4 * steps) < 1.2 * START_RATE
    return [lanes.window(step)[0][:, lane].tolist() for step, lane in found]


@pytest.mark.parametrize(
    ("document", "first"),
    [
        ([BOUNDARY, 10, 11, LINE_END, 12, 13, LINE_END, LINE_END, 14], {10}),
        ([LINE_END, 10, 11, LINE_END, LINE_END, 12, 13], {12}),
        ([10, 11, LINE_END, LINE_END, LINE_END, 12, 13], {12}),
        ([10, 11, LINE_END, 12, LINE_END, 13, 14], {10, 12, 13}),
        ([10, 11, 12, 13], {10, 11, 12, 13}),
    ],
    ids=["documents", "paragraphs", "wide gaps", "lines", "no line"],
)
def test_some_windows_begin_a_text_after_a_boundary(document, first):
    lanes = starting_lanes(document * 50)
    windows = beginnings(lanes)
    assert {window[0] for window in windows} == {BOUNDARY} and {window[1] for window in windows} <= first
    rest = [place for place in range(len(document)) if document[place] == windows[0][1]]
    repeated = document * 3
    assert windows[0][1:] in [repeated[place : place + 4] for place in rest]


def test_a_lane_that_begins_a_text_goes_back_to_its_place_with_a_fresh_state():
    tokens = [BOUNDARY, *range(3, 400)]
    lanes, plain = starting_lanes(tokens), Lanes(np.array(tokens), 4, 5, 3)
    for step in range(1, 500):
        starting = lanes.starting(step)
        for one, other in zip(lanes.window(step), plain.window(step), strict=True):
            assert np.array_equal(one[:, ~starting], other[:, ~starting])
        assert (lanes.fresh(step) >= (starting | lanes.starting(step - 1) | plain.fresh(step))).all()
        assert np.array_equal(lanes.window(step)[1][:-1], lanes.window(step)[0][1:])
        assert all(map(np.array_equal, lanes.window(step), starting_lanes(tokens).window(step)))


def test_windows_are_the_same_in_every_process():
    inputs, targets = Lanes(np.arange(1000, dtype=np.uint16), 2, 3, seed=7).window(500)
    assert inputs.tolist() == [[50, 550], [51, 551], [52, 552]] and targets.tolist() == [
        [51, 551],
        [52, 552],
        [53, 553],
    ]


def test_epochs_and_seeds_begin_at_other_places():
    lanes = Lanes(np.arange(10_001), 2, 10, seed=1)
    firsts = [epoch_of(lanes, epoch)[0][0, 0] for epoch in range(9)]
    assert firsts[0] == 0 and len(set(firsts)) == 9
    assert Lanes(np.arange(10_001), 2, 10, seed=2).window(500)[0][0, 0] != lanes.window(500)[0][0, 0]


def test_escapes_replace_a_thousandth_in_inputs_and_targets_alike():
    lanes = Lanes(np.arange(40_000) % 30 + 2, 20, 500, seed=1, escape=5)
    plain = Lanes(lanes.tokens, 20, 500, seed=1)
    changed = 0
    for step in range(20):
        (inputs, targets), (expected, _) = lanes.window(step), plain.window(step)
        assert np.array_equal(inputs[1:], targets[:-1])
        assert set(inputs[inputs != expected]) <= {5} and not (inputs != expected)[expected < 5].any()
        changed += (inputs != expected).sum()
    assert math.isclose(changed / (20 * 20 * 500), ESCAPE_RATE * 26 / 30, rel_tol=0.3)


@settings(deadline=None)
@given(tokens=st.integers(0, 200), batch=st.integers(1, 300), length=st.integers(1, 300))
def test_a_corpus_too_short_is_refused_with_sizes_that_fit(tokens, batch, length):
    ids = np.zeros(tokens, dtype=np.uint16)
    if tokens > batch * length:
        assert Lanes(ids, batch, length, 0).steps_per_epoch >= 1
        return
    with pytest.raises(TextgenError, match=f"{tokens:,} tokens.*{batch} x {length}") as caught:
        Lanes(ids, batch, length, 0)
    found = re.fullmatch(r"batch_size=(\d+) seq_length=(\d+) fits\.", caught.value.hint)
    shortest = min(SHORTEST, length)
    if tokens <= shortest:
        assert not found and "longer text" in caught.value.hint
    else:
        smaller = [int(number) for number in found.groups()]
        assert smaller[0] <= batch and shortest <= smaller[1] <= length and Lanes(ids, *smaller, 0).window(0)


@pytest.mark.parametrize(("escapes", "missing"), [(0, 5), (9, 5), (10, None), (500, None)])
def test_a_text_that_holds_enough_escapes_gets_no_more(escapes, missing):
    tokens = np.full(10_000, 7)
    tokens[:: 10_000 // max(1, escapes)][:escapes] = 5
    tokens[0] = 5 if escapes else 7
    frequencies = np.bincount(tokens)
    assert missing_escape(frequencies, 5) == missing and missing_escape(frequencies, None) is None

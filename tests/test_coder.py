"""Laws of the range coder: what goes in comes out, and takes no more room than theory asks for."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from textgen.errors import TextgenError
from textgen.evaluation.compression import TOTAL, RangeDecoder, RangeEncoder, cumulative

law = settings(deadline=None, max_examples=300)
SIZES = st.lists(st.integers(1, 9) | st.integers(1, TOTAL // 40), min_size=1, max_size=20)
MESSAGES = st.lists(st.tuples(SIZES, st.integers(0, 10**6)), max_size=120)


def encoded(message):
    """The bytes of (frequencies, symbol) pairs, and the bits that theory gives them."""
    encoder, bits = RangeEncoder(), 0.0
    for sizes, symbol in message:
        encoder.encode(sum(sizes[:symbol]), sizes[symbol], sum(sizes))
        bits -= np.log2(sizes[symbol] / sum(sizes))
    return encoder.finish(), bits


def decoded(data, tables):
    decoder, found = RangeDecoder(data), []
    for sizes in tables:
        target, symbol, start = decoder.target(sum(sizes)), 0, 0
        while target >= start + sizes[symbol]:
            start, symbol = start + sizes[symbol], symbol + 1
        decoder.take(start, sizes[symbol])
        found.append(symbol)
    return found


@law
@given(message=MESSAGES)
def test_symbols_come_back_and_take_no_more_room_than_theory_asks(message):
    message = [(sizes, symbol % len(sizes)) for sizes, symbol in message]
    data, bits = encoded(message)
    assert decoded(data, [sizes for sizes, _ in message]) == [symbol for _, symbol in message]
    assert len(data) <= bits / 8 + 1 + len(message) * 2**-16


@law
@given(
    widths=st.lists(st.integers(2, 9), min_size=1, max_size=40),
    above=st.integers(1, 3),
    rest=st.lists(st.integers(0, 2), max_size=9),
)
def test_a_carry_runs_back_through_any_number_of_full_bytes(widths, above, rest):
    """The interval closes in on the middle of the whole, so that bytes 7F FF FF ... wait, and then goes above it."""
    total, encoder, spans = 1 << 16, RangeEncoder(), []
    middle = encoder._range // 2  # seen from the interval's low end
    for width in widths:
        unit = encoder._range // total
        start = min(max(0, middle // unit - 1), total - width)
        before = encoder._range
        encoder.encode(start, width, total)
        spans.append((start, width))
        middle -= unit * start
        middle *= encoder._range // (before // total * width)
    start = min(middle // (encoder._range // total) + above, total - 1)
    for span in [(start, 1), *((20_000 * symbol, 20_000) for symbol in rest)]:
        encoder.encode(*span, total)
        spans.append(span)
    data = encoder.finish()
    assert data[0] in (0x7F, 0x80)
    decoder = RangeDecoder(data)
    for start, width in spans:
        assert start <= decoder.target(total) < start + width
        decoder.take(start, width)


@law
@given(data=st.binary(max_size=60))
def test_any_bytes_decode_to_something(data):
    assert len(decoded(data, [[3, 5, 1], [TOTAL - 1, 1]] * 40)) == 80


def test_equally_likely_symbols_take_their_bits():
    rng = np.random.default_rng(0)
    values = rng.integers(0, 256, 1000).tolist()
    encoder = RangeEncoder()
    for value in values:
        encoder.encode(value, 1, 256)
    data = encoder.finish()
    decoder = RangeDecoder(data)
    assert [decoder.uniform(256) for _ in values] == values and len(data) <= 1001


@law
@given(
    rows=st.integers(1, 5),
    size=st.integers(1, 600) | st.just(10_000),
    scale=st.sampled_from([0.0, 1.0, 30.0, 1e4]),
    seed=st.integers(0, 99),
)
def test_frequencies_follow_the_probabilities(rows, size, scale, seed):
    logits = (np.random.default_rng(seed).normal(size=(rows, size)) * scale).astype(np.float32)
    ends = cumulative(logits)
    widths = np.diff(ends.astype(np.int64), axis=1)
    assert (ends[:, 0] == 0).all() and (widths >= 1).all() and (ends[:, -1] <= TOTAL).all()
    exact = np.exp(logits.astype(np.float64) - logits.max(axis=1, keepdims=True))
    exact /= exact.sum(axis=1, keepdims=True)
    assert np.abs(widths / ends[:, -1:].astype(np.float64) - exact).max() <= (size + 1) / TOTAL
    assert np.array_equal(cumulative(logits), ends)
    assert (exact * np.log2(np.maximum(exact, 1e-300) * ends[:, -1:] / widths)).sum(axis=1).max() < 1e-4  # bits lost


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_predictions_that_are_no_numbers_are_refused(bad):
    with pytest.raises(TextgenError, match="not finite"):
        cumulative(np.array([[0.0, bad]], np.float32))

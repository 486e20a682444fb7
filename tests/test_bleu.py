"""BLEU against cases computed by hand, and its laws."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from textgen.tasks.completion.evaluate import bleu, exact_matches, tokens_of

WORDS = st.lists(st.sampled_from("abcd"), min_size=4, max_size=12).map(" ".join)
CORPUS = st.lists(st.tuples(WORDS, WORDS), min_size=1, max_size=6)


@pytest.mark.parametrize(
    ("generated", "expected", "value"),
    [
        # 5 of 6, 4 of 5, 3 of 4 and 2 of 3 n-grams agree, and the sizes are the same
        (["a b c d e f"], ["a b c d e g"], 100 * (5 / 6 * 4 / 5 * 3 / 4 * 2 / 3) ** (1 / 4)),
        # all n-grams agree, but there are 5 tokens instead of 7: exp(1 - 7/5)
        (["a b c d e"], ["a b c d e f g"], 100 * math.exp(-2 / 5)),
        # longer than the reference is not rewarded: 5 of 7, 4 of 6, 3 of 5 and 2 of 4 n-grams agree
        (["a b c d e f g"], ["a b c d e"], 100 * (5 / 7 * 4 / 6 * 3 / 5 * 2 / 4) ** (1 / 4)),
        # a token counts as often as the reference has it: 4 of 6, 3 of 5, 2 of 4, 1 of 3
        (["a a a a a a"], ["a a a a"], 100 * (4 / 6 * 3 / 5 * 2 / 4 * 1 / 3) ** (1 / 4)),
        # counts add up over the corpus, and are not averaged: 4 + 4 of 8, 6 of 6, 4 of 4, 2 of 2 n-grams
        (["a b c d", "e f g h"], ["a b c d", "e f g h"], 100.0),
        # one text of two is wrong: 4 of 8, 3 of 6, 2 of 4, 1 of 2
        (["a b c d", "x x x x"], ["a b c d", "e f g h"], 50.0),
    ],
)
def test_cases_computed_by_hand(generated, expected, value):
    assert bleu(generated, expected) == pytest.approx(value)


@given(st.lists(WORDS, min_size=1, max_size=6))
def test_the_same_is_a_hundred_and_nothing_in_common_is_zero(texts):
    assert bleu(texts, texts) == pytest.approx(100)
    assert bleu(texts, [text.upper() for text in texts]) == 0
    assert bleu([""] * len(texts), texts) == 0


@given(CORPUS, st.randoms())
def test_the_order_of_the_corpus_does_not_matter(corpus, random):
    shuffled = random.sample(corpus, len(corpus))
    assert bleu(*zip(*corpus, strict=True)) == pytest.approx(bleu(*zip(*shuffled, strict=True)))


@given(CORPUS)
def test_bleu_is_between_zero_and_a_hundred(corpus):
    assert 0 <= bleu(*zip(*corpus, strict=True)) <= 100 + 1e-9


@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        ("sorted(d.items(), key=lambda x: x[1])",
         ["sorted", "(", "d", ".", "items", "(", ")", ",", "key", "=", "lambda", "x", ":", "x", "[", "1", "]", ")"]),
        ("getItem", ["get", "Item"]),
        ("HTTPServer x_1 _private", ["HTTPServer", "x_1", "_private"]),
        ("'a' == \"a\"", ["`", "a", "`", "=", "=", "`", "a", "`"]),
        (" a\n\tb ", ["a", "b"]),
        ("naïve", ["na", "ï", "ve"]),
    ],
)  # fmt: skip
def test_tokens_are_those_of_code(text, tokens):
    assert tokens_of(text) == tokens


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="2 texts for 1 references"):
        bleu(["a", "b"], ["a"])
    with pytest.raises(ValueError, match="0 texts"):
        bleu([], [])


def test_exact_matches_ignore_white_space_at_both_ends():
    assert exact_matches(["a b\n", "a  b", "c"], ["a b", "a b", "C"]) == 1

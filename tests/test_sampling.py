"""Laws of sampling: each filter keeps what its paper says, draws follow the exact distribution, seeds decide all."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

import textgen
from textgen.errors import UsageError
from textgen.generation import SampleOptions, check_sampling, sampling
from textgen.generation.sampling import Sampler, draw, log_softmax, min_p, repetition_penalty, top_k, top_p, without
from textgen.options import as_flags, spelled_as

DRAWS = 20_000
law = settings(deadline=None)

FILTERS = {
    "without": (lambda logits, _: without(logits, [])),
    "top_k": lambda logits, knob: top_k(logits, round(8 * knob)),
    "top_p": lambda logits, knob: top_p(logits, max(knob, 1e-9)),
    "min_p": min_p,
    "penalty": lambda logits, knob: repetition_penalty(logits, [0, logits.shape[-1] - 1, 0], 0.5 + knob),
    "all": lambda logits, knob: min_p(top_p(top_k(logits, round(8 * knob)), max(knob, 1e-9)), knob),
}
KNOBS = st.sampled_from([0.0, 1e-9, 0.25, 0.5, 1 - 2**-53, 1.0]) | st.floats(0, 1)
VALUES = st.floats(-9, 9, width=32) | st.sampled_from([0.0, 1.0, 1.0, -1e38, 1e38, -1e30, 1e30, -np.inf])


@st.composite
def tables(draw, values=VALUES):
    """Logits (B, V) in float32 of which each row has at least one finite value; ties are common."""
    table = draw(arrays(np.float32, st.tuples(st.integers(1, 3), st.integers(1, 6)), elements=values))
    table[np.isneginf(table).all(axis=-1), 0] = 0
    return table


@pytest.fixture(params=FILTERS, scope="module")
def keep(request):
    return FILTERS[request.param]


def kept(logits):
    return np.isfinite(logits)


def logs(*probabilities):
    with np.errstate(divide="ignore"):
        return np.log(np.array(probabilities))


# --- filters ---


@law
@given(table=tables(), knob=KNOBS)
def test_a_filter_leaves_out_and_never_everything(keep, table, knob):
    before = table.copy()
    left = keep(table, knob)
    assert np.array_equal(table, before)
    assert left.shape == table.shape and left.dtype == table.dtype
    assert not (kept(left) & ~kept(table)).any()
    assert kept(left).any(axis=-1).all()


@pytest.mark.parametrize("name", ["top_k", "top_p", "min_p", "all"])
@law
@given(table=tables(), knob=KNOBS)
def test_what_is_kept_keeps_its_logit_and_is_likelier_than_what_is_not(name, table, knob):
    left = FILTERS[name](table, knob)
    chosen = kept(left)
    assert np.array_equal(left[chosen], table[chosen])
    assert np.take_along_axis(chosen, table.argmax(axis=-1)[:, None], axis=-1).all()
    for row, mask in zip(table, chosen, strict=True):
        assert row[mask].min() >= row[~mask].max(initial=-np.inf)


@law
@given(table=tables(), knob=KNOBS)
def test_a_table_is_filtered_row_by_row(keep, table, knob):
    assert np.array_equal(keep(table, knob), [keep(row, knob) for row in table])


@pytest.mark.parametrize("name", ["top_k", "top_p", "min_p", "all"])
@law
@given(table=tables(), knob=KNOBS)
def test_precision_does_not_change_what_is_kept(name, table, knob):
    keep = FILTERS[name]
    assert np.array_equal(kept(keep(table, knob)), kept(keep(table.astype(np.float64), knob)))


def test_precision_does_not_change_what_top_p_keeps_where_p_is_just_reached():
    for size, row in enumerate(np.random.default_rng(1).normal(size=(49, 50)).astype(np.float32), 1):
        weights = np.sort(np.exp(row.astype(np.float64)))[::-1]
        p = weights[:size].sum() / weights.sum()
        assert np.array_equal(kept(top_p(row, p)), kept(top_p(row.astype(np.float64), p)))


@law
@given(table=tables(), k=st.integers(0, 8))
def test_top_k_keeps_the_k_likeliest_and_their_ties(table, k):
    for row, left in zip(table, top_k(table, k), strict=True):
        expected = [sum(other > value for other in row) < k or k == 0 for value in row]
        assert np.array_equal(kept(left), kept(row) & expected)


@pytest.mark.parametrize("p", [1e-300, 0.1, 0.5, 0.500001, 0.75, 0.76, 0.875, 0.9, 1 - 2**-53, 1])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_top_p_keeps_the_fewest_that_reach_p(p, dtype):
    logits = logs(0.125, 0.5, 0, 0.25, 0.125).astype(dtype)
    needed = 1 + sum(reached < p for reached in (0.5, 0.75, 0.875))
    assert set(np.flatnonzero(kept(top_p(logits, p)))) == set([1, 3, 0, 4][:needed])


@pytest.mark.parametrize("size", [2, 3, 5, 8, 10, 64, 1000])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_top_p_of_equals_is_their_share(size, dtype):
    for wanted in {1, 2, size // 2, size - 1}:
        left = top_p(np.full(size, 0.3, dtype), wanted / size)
        assert np.array_equal(kept(left), np.arange(size) < wanted)


@law
@given(table=tables(st.floats(-9, 9, width=32)), p=st.floats(0.01, 0.999))
def test_top_p_by_definition(table, p):
    for row, left in zip(table, top_p(table, p), strict=True):
        probabilities = np.exp(log_softmax(row))[kept(left)]
        assert probabilities.sum() >= p - 1e-9
        assert probabilities.sum() - probabilities.min() < p + 1e-9


@law
@given(table=tables(st.floats(-9, 9, width=32)), share=st.floats(0.001, 1))
def test_min_p_by_definition(table, share):
    for row, left in zip(table, min_p(table, share), strict=True):
        ratio = np.exp(row.astype(np.float64) - row.max())
        sure = abs(ratio - share) > 1e-9
        assert np.array_equal(kept(left)[sure], (ratio >= share)[sure])


def test_filters_that_are_off_change_nothing():
    logits = np.array([0, -1, -2000, -np.inf])
    for off in (top_k(logits, 0), top_k(logits, 4), top_p(logits, 1), min_p(logits, 0), without(logits, [])):
        assert np.array_equal(off, logits)
    assert np.array_equal(repetition_penalty(logits, [0, 1], 1), logits)
    assert np.array_equal(repetition_penalty(logits, [], 2), logits)


def test_the_penalty_makes_recent_symbols_less_likely_once_each():
    logits = np.array([2.0, -2.0, 3.0, 0.0, -np.inf])
    assert repetition_penalty(logits, [0, 1, 1, 3, 4, 0], 2).tolist() == [1, -4, 3, 0, -np.inf]
    assert repetition_penalty(np.stack([logits, -logits[[0, 1, 2, 3, 3]]]), [0], 4)[:, 0].tolist() == [0.5, -8]


@law
@given(table=tables(), ids=st.sets(st.integers(0, 5)))
def test_without_leaves_out_exactly_these(table, ids):
    ids = sorted(i for i in ids if i < table.shape[-1])
    expected, before = table.copy(), table.copy()
    expected[:, ids] = -np.inf
    assert np.array_equal(without(table, ids), expected) and np.array_equal(table, before)


@law
@given(table=tables())
def test_log_softmax_adds_up_and_ignores_a_shift(table):
    result = log_softmax(table)
    assert result.dtype == np.float64
    np.testing.assert_allclose(np.exp(result).sum(axis=-1), 1, rtol=1e-12)
    np.testing.assert_allclose(log_softmax(np.ldexp(table, -100) + 2), log_softmax(np.ldexp(table, -100)), atol=1e-6)


# --- draws ---


def assert_follows(counts, probabilities):
    """Pearson's chi-square, against about five deviations of its distribution."""
    counts, probabilities = np.asarray(counts), np.asarray(probabilities)
    possible = probabilities > 0
    assert not counts[~possible].any()
    expected = counts.sum() * probabilities[possible] / probabilities.sum()
    statistic = ((counts[possible] - expected) ** 2 / expected).sum()
    freedom = possible.sum() - 1
    assert statistic < freedom + 5 * np.sqrt(2 * freedom) + 3, f"{statistic:.1f} with {freedom} degrees of freedom"


def softmax(logits, temperature=1.0):
    return np.exp(log_softmax(logits / temperature))


EIGHT = logs(0.3, 0.2, 0.15, 0.12, 0.1, 0.08, 0.03, 0.02) + 7


@pytest.mark.parametrize("temperature", [0.25, 0.8, 3])
def test_draws_follow_the_distribution(temperature):
    rng = np.random.default_rng(5)
    logits = np.append(EIGHT, -np.inf).astype(np.float32)
    counts = np.bincount([draw(logits, temperature, rng) for _ in range(DRAWS)], minlength=9)
    assert_follows(counts, softmax(logits, temperature))


def test_first_draws_of_consecutive_seeds_follow_the_distribution():
    options = SampleOptions(temperature=1.0)
    counts = np.bincount([Sampler(options, 2**40 + k).choose(EIGHT).id for k in range(DRAWS // 2)], minlength=8)
    assert_follows(counts, softmax(EIGHT))


COMPOSED = {
    # Of the first three, 0.3 and 0.2 are the fewest that reach 0.7; of all eight it takes four.
    "top-k before top-p": ({"top_k": 3, "top_p": 0.7}, [], [0.3, 0.2, 0, 0, 0, 0, 0, 0]),
    # The other way round three would be left, and after temperature five.
    "top-p before min-p, both before temperature": (
        {"top_p": 0.7, "min_p": 0.35, "temperature": 4.0}, [],
        [0.3**0.25, 0.2**0.25, 0.15**0.25, 0.12**0.25, 0, 0, 0, 0],
    ),
    "unsampled before all": ({"top_k": 2}, [0, 7], [0, 0.2, 0.15, 0, 0, 0, 0, 0]),
}  # fmt: skip


@pytest.mark.parametrize("case", COMPOSED)
def test_composed_draws_follow_the_exact_distribution(case):
    given, unsampled, weights = COMPOSED[case]
    sampler = Sampler(SampleOptions(**{"temperature": 1.0, **given}), 11, unsampled)
    counts = np.bincount([sampler.choose(EIGHT).id for _ in range(DRAWS)], minlength=8)
    assert_follows(counts, np.array(weights))


def test_penalties_come_before_the_filters():
    logits = np.array([4.0, 3.0, 2.5, -1.0])
    for options, expected in [
        ({"top_k": 1}, [1]),  # 4 / 2 falls behind 3
        ({"top_p": 0.5}, [1]),
        ({"min_p": 0.6}, [1, 2]),
    ]:
        sampler = Sampler(SampleOptions(repetition_penalty=2.0, **options), 0)
        sampler.see([0, 3])
        assert np.flatnonzero(kept(sampler.filtered(logits))).tolist() == expected
    sampler = Sampler(SampleOptions(repetition_penalty=2.0), 0)
    sampler.see([0, 3])
    assert sampler.filtered(logits).tolist() == [2, 3, 2.5, -2]


def test_the_penalty_sees_the_prompt_and_what_is_drawn_and_forgets():
    logits = np.array([4.0, 3.0, 2.5, 2.2])
    greedy = {"temperature": 0.0, "repetition_penalty": 2.0}
    whole = Sampler(SampleOptions(**greedy), 0)
    assert [whole.choose(logits).id for _ in range(5)] == [0, 1, 2, 3, 0]
    short = Sampler(SampleOptions(**greedy, repeat_last_n=2), 0)
    short.see([2, 3, 0])
    assert [short.choose(logits).id for _ in range(4)] == [1, 2, 0, 1]
    none = Sampler(SampleOptions(**greedy, repeat_last_n=0), 0)
    assert [none.choose(logits).id for _ in range(2)] == [0, 0]


@law
@given(table=tables(), seed=st.integers(0, 2**63 - 1), greedy=st.booleans())
def test_temperature_zero_is_the_likeliest_for_any_seed(table, seed, greedy):
    options = SampleOptions(greedy=True) if greedy else SampleOptions(temperature=0)
    for row in table:
        assert Sampler(options, seed).choose(row).id == row.argmax()


@law
@given(table=tables(), temperature=st.sampled_from([1e-320, 1e-300, 1e-46, 1e-7, 1, 100]), seed=st.integers(0, 99))
def test_any_temperature_draws_what_is_possible(table, temperature, seed):
    for row in table:
        chosen = Sampler(SampleOptions(temperature=temperature), seed).choose(row).id
        assert np.isfinite(row[chosen])
        if temperature < 1e-40 and (row.max() - row > 1e-30).sum() == len(row) - 1:
            assert chosen == row.argmax()


@law
@given(table=tables(), data=st.data(), greedy=st.booleans())
def test_an_unsampled_symbol_is_never_drawn(table, data, greedy):
    row = np.append(table[0], np.float32(-5))
    unsampled = data.draw(st.sets(st.integers(0, len(row) - 2)))
    options = SampleOptions(greedy=greedy, repetition_penalty=data.draw(st.sampled_from([0.5, 1.0, 2.0])), top_p=0.9)
    sampler = Sampler(options, 3, sorted(unsampled))
    assert not unsampled & {sampler.choose(row).id for _ in range(10)}


def test_a_seed_decides_every_draw_and_another_decides_otherwise():
    def drawn(seed, **options):
        sampler = Sampler(SampleOptions(**options), seed)
        return [sampler.choose(EIGHT).id for _ in range(60)]

    assert drawn(7) == drawn(7) == drawn(7, logprobs=3)
    assert len({tuple(drawn(seed)) for seed in [*range(20), 2**62, 2**63 - 1]}) == 22


@law
@given(table=tables(), wanted=st.integers(0, 9), seed=st.integers(0, 99))
def test_logprobs_are_the_models_own(table, wanted, seed):
    row = table[0]
    options = SampleOptions(logprobs=wanted, top_k=2, temperature=3.0, repetition_penalty=2.0)
    sampler = Sampler(options, seed, unsampled=[int(row.argmin())] if len(row) > 1 else [])
    sampler.see([0])
    choice = sampler.choose(row)
    own = log_softmax(row)
    assert choice.logprob == own[choice.id]
    assert list(choice.top) == sorted(enumerate(own.tolist()), key=lambda pair: -pair[1])[:wanted]
    if wanted >= len(row):
        assert sum(np.exp(logprob) for _, logprob in choice.top) == pytest.approx(1)


def test_without_logprobs_none_are_computed(monkeypatch):
    monkeypatch.setattr(sampling, "log_softmax", None)
    assert Sampler(SampleOptions(), 0).choose(EIGHT).top == ()


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"greedy": True, "temperature": 0.5}, "--greedy and --temperature 0.5 exclude each other."),
        ({"stop": ["a", ""]}, "--stop is empty; it must be the text to stop at."),
        ({"stop": [3]}, "--stop must be a list of texts, but holds 3."),
        ({"stop": ["a", "b\ud800"]}, "--stop must be UTF-8 text, not 'b\\ud800' (character 1)."),
        ({"stop": "ab"}, "--stop must be a list, not 'ab'."),
        ({"top_p": 0.0}, "--top-p must be a number above 0 and at most 1, not 0.0."),
    ],
)
def test_bad_options_are_refused_in_a_sentence(options, sentence):
    for refuse in (check_sampling, lambda made: Sampler(made, 0)):
        with spelled_as(as_flags), pytest.raises(UsageError) as caught:
            refuse(SampleOptions(**options))
        assert str(caught.value) == sentence


@pytest.mark.parametrize("scale", [0, 0.1, 1, 10])
@pytest.mark.parametrize("size", [2, 65, 700])
def test_many_symbols_are_drawn_from_as_few_are(size, scale, monkeypatch):
    """Looking only at those that matter gives the same symbols, ties and symbols that are left out included."""
    noise = np.random.default_rng(size)
    for number in range(60):
        logits = noise.normal(scale=scale, size=size) if number % 3 else noise.integers(0, 3, size) * float(scale)
        logits[noise.integers(0, size, number % 7)] = -np.inf
        logits[0] = 0.5
        share, temperature = noise.choice([1e-6, 0.3, 0.5, 0.9, 1 - 1e-12]), noise.choice([1e-3, 0.8, 3])
        found = []
        for few in (0, 1 << 30):
            monkeypatch.setattr(sampling, "FEW_TOKENS", few)
            kept = sampling.top_p(logits, share)
            found.append((kept.tolist(), sampling.draw(kept, temperature, np.random.default_rng(number))))
        assert found[0] == found[1]


# --- a new option: its declaration and its function, in two source files ---

DECLARATION = """    skip_best: int = option(0, "Exclude the k most probable tokens; 0 is off.", low=0, high=100)
    repetition_penalty: float = option("""
FUNCTION = '''def skip_best(logits: Logits, k: int) -> Logits:
    """Leave out the k likeliest tokens."""
    return without(logits, np.argsort(-logits)[:k])


def draw('''
NEW_OPTION = {
    "__init__.py": {
        "    repetition_penalty: float = option(": DECLARATION,
        '"min_p"),': '"min_p", "skip_best"),',
    },
    "sampling.py": {
        "def draw(": FUNCTION,
        "return min_p(top_p(top_k(kept, o.top_k), o.top_p), o.min_p)":
            "return skip_best(min_p(top_p(top_k(kept, o.top_k), o.top_p), o.min_p), o.skip_best)",
    },
}  # fmt: skip
USING_IT = """
import numpy as np
from click.testing import CliRunner

import textgen
from textgen.cli.sample import command
from textgen.errors import UsageError
from textgen.model import ModelConfig
from textgen.generation.language_model import LanguageModel
from textgen.data.tokenizers import CharTokenizer
from textgen.generation.session import Session
from textgen.generation.streams import Streams


class Ascending:
    def initial_state(self, batch_size):
        return 0

    def step(self, ids, state):
        return np.tile(np.arange(size, dtype=np.float32), (len(ids), 1)), state


tokenizer = CharTokenizer("abcd")
size = tokenizer.vocab_size
model, parts = LanguageModel(ModelConfig(size), tokenizer, Ascending()), dict(temperature=0, max_new_tokens=3)
third = dict(parts, skip_best=2)
assert textgen.generate(model, "a", **parts) == "ddd" and textgen.generate(model, "a", **third) == "bbb"
assert "".join(textgen.stream(model, "a", **third)) == "bbb"
assert Session.begin(model, "a").write(**third)[0] == "bbb"
streams = Streams(model)
streams.add("a", **third)
assert "".join(piece.text for _ in range(3) for piece in streams.step()) == "bbb"
stored = LanguageModel(ModelConfig(size), tokenizer, Ascending(), defaults={"skip_best": 1})
assert textgen.generate(stored, "a", **parts) == "ccc"
for wrong in (dict(skip_best=-1), dict(skip_best=1, num_beams=2)):
    try:
        textgen.generate(model, "a", **wrong)
    except UsageError as error:
        assert "skip_best" in str(error)
    else:
        raise AssertionError(wrong)
assert "--skip-best" in CliRunner().invoke(command, ["--help-all"]).output
"""


def test_a_new_sampling_option_touches_its_declaration_and_its_function(tmp_path):
    copy = tmp_path / "textgen"
    shutil.copytree(Path(textgen.__file__).parent, copy, ignore=shutil.ignore_patterns("__pycache__"))
    for name, changes in NEW_OPTION.items():
        source = (copy / "generation" / name).read_text()
        for old, new in changes.items():
            assert source.count(old) == 1
            source = source.replace(old, new)
        (copy / "generation" / name).write_text(source)
    environment = {**os.environ, "PYTHONPATH": str(tmp_path), "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(
        [sys.executable, "-c", USING_IT], env=environment, cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr

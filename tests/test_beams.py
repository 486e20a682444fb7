"""Laws of beam search: with enough beams it is exact, with one it is greedy, and every text is scored as it is."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from zoo import sharpen

import textgen
from textgen.data.tokenizers import ByteTokenizer, CharTokenizer
from textgen.errors import UsageError
from textgen.generation import SampleOptions, check_sampling
from textgen.generation.beam import search
from textgen.generation.generate import complete, sampling_options
from textgen.generation.language_model import LanguageModel
from textgen.generation.sampling import log_softmax
from textgen.model import ModelConfig
from textgen.model.weights import TorchStepper, make_model

law = settings(deadline=None, max_examples=60)


class Hashed:
    """Logits hang on all that a row has read, through a hash."""

    def __init__(self, vocab_size, seed=0):
        self.table = np.random.default_rng(seed).normal(scale=2, size=(997, vocab_size)).astype(np.float32)
        self.steps = 0

    def initial_state(self, batch_size):
        return np.ones(batch_size, dtype=np.int64)

    def step(self, ids, state):
        assert ids.dtype == np.int32 and ids.shape == state.shape
        self.steps += 1
        state = (state * 31 + ids + 7) % 997
        return self.table[state], state

    def forward(self, ids, state):
        for column in ids.T:
            logits, state = self.step(column, state)
        return logits, state

    def select(self, state, indices):
        return state[indices]


def score_of(stepper, prompt, ids, bias):
    """The mean log-probability of ids after a prompt, a symbol at a time."""
    logits, state = stepper.forward(np.array([prompt], dtype=np.int32), stepper.initial_state(1))
    total = 0.0
    for id in ids:
        total += log_softmax(logits[0].astype(np.float64) + bias)[id]
        logits, state = stepper.step(np.array([id], dtype=np.int32), state)
    return total / len(ids)


def texts(symbols, boundary, length):
    """All texts that end at the boundary, or are as long as they may be."""
    for size in range(1, length + 1):
        for ids in itertools.product(symbols, repeat=size):
            if boundary not in ids[:-1] and (size == length or ids[-1] == boundary):
                yield ids


def found(stepper, prompt, boundary=0, unsampled=(), **options):
    return search(stepper, np.array(prompt, dtype=np.int32), SampleOptions(**options), boundary, unsampled)


PROMPTS = st.lists(st.integers(0, 3), min_size=1, max_size=4)


@law
@given(
    seed=st.integers(0, 999),
    prompt=PROMPTS,
    length=st.integers(1, 4),
    boundary=st.sampled_from([0, None]),
    unsampled=st.sampled_from([(), (2,), (1, 3)]),
    bias=st.sampled_from([{}, {1: 1.5, 0: -1.0}]),
)
def test_with_as_many_beams_as_texts_the_best_is_found(seed, prompt, length, boundary, unsampled, bias):
    stepper = Hashed(4, seed)
    beam = found(stepper, prompt, boundary, unsampled, num_beams=4**length, max_new_tokens=length, logit_bias=bias)
    biases = np.array([bias.get(id, 0.0) for id in range(4)])
    symbols = [id for id in range(4) if id not in unsampled]
    scores = {ids: score_of(stepper, prompt, ids, biases) for ids in texts(symbols, boundary, length)}
    ids = tuple(choice.id for choice in beam.choices())
    assert scores[ids] == pytest.approx(max(scores.values()), abs=1e-9)
    assert beam.score == pytest.approx(scores[ids], abs=1e-9)


@law
@given(seed=st.integers(0, 999), prompt=PROMPTS, length=st.integers(1, 9), beams=st.integers(2, 9))
def test_the_score_of_what_is_found_is_its_own(seed, prompt, length, beams):
    """Whatever state a beam goes on from is the state of that beam."""
    stepper = Hashed(4, seed)
    beam = found(stepper, prompt, num_beams=beams, max_new_tokens=length, logprobs=2)
    ids = [choice.id for choice in beam.choices()]
    assert beam.length == len(ids) <= length and 0 not in ids[:-1]
    assert beam.score == pytest.approx(score_of(stepper, prompt, ids, 0.0), abs=1e-9)
    assert sum(choice.logprob for choice in beam.choices()) == pytest.approx(beam.total, abs=1e-9)
    assert all(len(choice.top) == 2 for choice in beam.choices())


def mock(seed=0, tokenizer=None):
    tokenizer = tokenizer or CharTokenizer("abcdefgh")
    stepper = Hashed(tokenizer.vocab_size, seed)
    return LanguageModel(ModelConfig(tokenizer.vocab_size), tokenizer, stepper, unsampled=tokenizer.unsampled)


@law
@given(
    seed=st.integers(0, 999),
    prompt=st.text("abcx", max_size=4),
    length=st.integers(0, 20),
    ignore_eos=st.booleans(),
    stop=st.sampled_from([[], ["a"], ["bc", "d"]]),
    bias=st.sampled_from([{}, {"a": -3}]),
    logprobs=st.sampled_from([None, 2]),
)
def test_one_beam_is_greedy(seed, prompt, length, **options):
    model = mock(seed)
    options.update(max_new_tokens=length, logit_bias=options.pop("bias"), seed=1)
    one, greedy = (
        complete(model, [prompt], sampling_options(model, {**options, **way}))
        for way in ({"num_beams": 1}, {"greedy": True})
    )
    assert one == greedy


def test_one_beam_is_greedy_bit_for_bit_with_torch():
    tokenizer = CharTokenizer("abcdefgh")
    config = ModelConfig(tokenizer.vocab_size, embedding_size=5, hidden_size=12, num_layers=2)
    model = LanguageModel(config, tokenizer, TorchStepper(sharpen(make_model(config))), unsampled=tokenizer.unsampled)
    options = {"max_new_tokens": 30, "logprobs": 3, "seed": 1}
    one, greedy = (
        complete(model, ["abc"], SampleOptions(**options, **way)) for way in ({"num_beams": 1}, {"greedy": True})
    )
    assert one == greedy
    (many,) = complete(model, ["abc"], SampleOptions(**options, num_beams=16))
    mean = [np.mean([choice.logprob for choice in c.choices]) for c in (many, greedy[0])]
    assert len(many.choices) == len(greedy[0].choices) == 30 and mean[0] > mean[1]


def test_rows_of_a_torch_state_are_those_rows_and_change_nothing():
    stepper = TorchStepper(make_model(ModelConfig(7, embedding_size=3, hidden_size=4, num_layers=2)))
    ids = np.array([[1, 2], [3, 4], [5, 6]], dtype=np.int32)
    _, state = stepper.forward(ids, stepper.initial_state(3))
    before = [part.clone() for part in state]
    chosen = stepper.select(state, np.array([2, 0, 2, 1]))
    assert all((a == b).all() for a, b in zip(state, before, strict=True))
    next_ids = np.array([1, 1, 1, 1], dtype=np.int32)
    after, _ = stepper.step(next_ids, chosen)
    alone = [stepper.step(next_ids[:1], stepper.select(state, np.array([k])))[0][0] for k in (2, 0, 2, 1)]
    np.testing.assert_allclose(after, alone, atol=1e-6)
    assert not np.allclose(after[0], after[1], atol=1e-4)


def test_the_search_ends_when_nothing_goes_on():
    model = mock()
    model.stepper.table[:] = -50
    model.stepper.table[:, model.tokenizer.boundary] = 50
    assert found(model.stepper, [3], num_beams=1, max_new_tokens=90).length == 1 and model.stepper.steps == 1
    (completion,) = complete(model, ["ab"], SampleOptions(num_beams=3, max_new_tokens=9))
    assert (completion.text, completion.finish_reason, completion.tokens) == ("", "stop", 0)


def test_a_character_of_several_symbols_is_whole():
    model = mock(tokenizer=ByteTokenizer())

    def step(ids, state):
        return 20 * np.eye(257, dtype=np.float32)[[0xA9 if id == 0xC3 else 0xC3 for id in ids]], state

    model.stepper.step = step
    assert textgen.generate(model, num_beams=2, max_new_tokens=6) == "ééé"


# --- what excludes what ---


@pytest.mark.parametrize("option", ["temperature", "greedy"])
def test_a_search_replaces_the_ways_to_draw_among_the_defaults_and_they_it(option):
    defaults = {"temperature": {"temperature": 0.7, "min_p": 0.1}, "greedy": {"greedy": True}}[option]
    model = LanguageModel(**{**vars(mock()), "defaults": {**defaults, "max_new_tokens": 5}})
    assert sampling_options(model, {"num_beams": 3}) == SampleOptions(num_beams=3, max_new_tokens=5)
    model = LanguageModel(**{**vars(mock()), "defaults": {"num_beams": 3}})
    assert sampling_options(model, {"top_k": 3}) == SampleOptions(top_k=3)
    assert sampling_options(model, {"seed": 3}) == SampleOptions(num_beams=3, seed=3)


DRAWS = {"temperature": 0.5, "greedy": True, "top_k": 3, "top_p": 0.5, "min_p": 0.5, "repetition_penalty": 2.0,
         "presence_penalty": 1.0, "frequency_penalty": 1.0, "max_copy": 9}  # fmt: skip


@pytest.mark.parametrize("name", DRAWS)
def test_a_search_and_a_way_to_draw_exclude_each_other(name):
    sentence = rf"^num_beams=4 draws nothing and excludes {name}\.$"
    with pytest.raises(UsageError, match=sentence):
        check_sampling(SampleOptions(num_beams=4, **{name: DRAWS[name]}))
    with pytest.raises(UsageError, match=sentence):
        sampling_options(mock(), {"num_beams": 4, name: getattr(SampleOptions(), name)})


def test_a_search_needs_an_end_and_cannot_stream():
    with pytest.raises(UsageError, match=r"^num_beams=4 needs an end, and max_new_tokens=-1 has none\.$"):
        check_sampling(SampleOptions(num_beams=4, max_new_tokens=-1))
    with pytest.raises(UsageError, match=r"^num_beams=4 cannot stream; textgen\.generate gives the whole text\.$"):
        textgen.stream(mock(), num_beams=4)

"""Laws of penalties by count, biases and cycles of temperatures, and of a score symbol by symbol."""

import dataclasses
import json
import math
from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from terminal import run

import textgen
from textgen.data.tokenizers import ByteTokenizer, CharTokenizer, train_tokenizer
from textgen.errors import TextgenError, UsageError
from textgen.evaluation import token_scores, token_text
from textgen.generation import SampleOptions, check_sampling
from textgen.generation.generate import complete, sampling_options
from textgen.generation.language_model import LanguageModel
from textgen.generation.sampling import Sampler, add_bias, bias_of_ids, count_penalty, draw
from textgen.model import ModelConfig
from textgen.model.weights import TorchStepper, make_model

law = settings(deadline=None)
LOGITS = st.lists(st.floats(-9, 9, width=32) | st.just(-np.inf), min_size=4, max_size=4)
USED = st.lists(st.integers(0, 3), max_size=12)
PENALTY = st.sampled_from([-2.0, -0.5, 0.0, 0.25, 2.0])
EIGHT = np.log([0.3, 0.2, 0.15, 0.12, 0.1, 0.08, 0.03, 0.02])


# --- penalties by count ---


@law
@given(logits=LOGITS, used=USED, presence=PENALTY, frequency=PENALTY)
def test_penalties_by_count_are_their_formula(logits, used, presence, frequency):
    logits = np.array(logits)
    before, uses = logits.copy(), Counter(used)
    expected = [x - presence * (uses[i] > 0) - frequency * uses[i] for i, x in enumerate(logits)]
    assert np.allclose(count_penalty(logits, used, presence, frequency), expected, atol=1e-12)
    assert np.array_equal(logits, before)
    assert np.array_equal(count_penalty(np.stack([logits, logits]), used, presence, frequency)[1],
                          count_penalty(logits, used, presence, frequency))  # fmt: skip


@law
@given(used=USED, last=st.integers(0, 6), presence=PENALTY, frequency=PENALTY)
def test_they_look_back_over_prompt_and_text_as_far_as_they_may(used, last, presence, frequency):
    options = {"presence_penalty": presence, "frequency_penalty": frequency, "repeat_last_n": last}
    sampler = Sampler(SampleOptions(temperature=0, **options), 0)
    sampler.see(used)
    for _ in range(6):
        window = used[len(used) - last :] if last else []
        window = window if last <= len(used) else used
        expected = count_penalty(EIGHT, window, presence, frequency)
        assert np.allclose(sampler.filtered(EIGHT), expected, atol=1e-12)
        used = [*used, sampler.choose(EIGHT).id]
        assert used[-1] == expected.argmax()


def test_penalties_come_in_order_and_before_biases_and_filters():
    options = SampleOptions(repetition_penalty=2.0, presence_penalty=1.0, frequency_penalty=0.5, logit_bias={0: 0.25})
    sampler = Sampler(options, 0)
    sampler.see([0, 0, 1])
    logits = np.array([4.0, -1.0, 3.0])
    assert sampler.filtered(logits).tolist() == [4 / 2 - 1 - 2 * 0.5 + 0.25, -1 * 2 - 1 - 0.5, 3]
    top = Sampler(dataclasses.replace(options, top_k=1), 0)
    top.see([0, 0, 1])
    assert np.flatnonzero(np.isfinite(top.filtered(logits))).tolist() == [2]


# --- biases ---


@law
@given(logits=LOGITS, biases=st.dictionaries(st.integers(0, 3), st.floats(-100, 100)))
def test_a_bias_is_added_and_what_is_left_out_stays_out(logits, biases):
    logits = np.array(logits)
    expected = [x + biases.get(i, 0.0) for i, x in enumerate(logits)]
    assert np.array_equal(add_bias(logits, biases), expected)
    assert np.array_equal(np.isneginf(add_bias(logits, biases)), np.isneginf(logits))
    sampler = Sampler(SampleOptions(logit_bias=biases), 0, unsampled=[1])
    sure = np.where(np.arange(4) == 1, -np.inf, expected)
    assert np.array_equal(sampler.filtered(np.where(np.isinf(logits), 0, logits))[1], sure[1])


def test_a_bias_shifts_the_odds_by_its_exponential():
    def odds(bias):
        sampler = Sampler(SampleOptions(temperature=1.0, logit_bias=bias), 3)
        counts = np.bincount([sampler.choose(EIGHT).id for _ in range(20_000)], minlength=8)
        return counts[2] / (counts.sum() - counts[2])

    assert odds({2: 1.0}) / odds({}) == pytest.approx(math.e, rel=0.06)


CHARS = CharTokenizer("\n#1=abe")


@pytest.mark.parametrize(
    ("key", "ids"),
    [("e", [8]), (8, [8]), ("#8", [8]), ("#", [3]), ("=", [5]), ("\n", [2]), ("\\n", [2]), ("#0", [0]), ("#008", [8])],
)
def test_a_symbol_is_named_by_its_text_or_its_id(key, ids):
    assert bias_of_ids({key: -5}, CHARS) == dict.fromkeys(ids, -5)


def test_a_text_names_every_symbol_that_has_it_and_biases_of_one_id_add_up():
    subword = train_tokenizer("bpe", [[b"the cat and the hat and the bat " * 40]], 280)
    same = [i for i, symbol in enumerate(subword.token_bytes) if symbol == b"t"]
    assert bias_of_ids({"t": 1}, subword) == dict.fromkeys(same, 1) and same
    assert bias_of_ids({"e": 1.5, "#8": 1, 8: 1}, CHARS) == {8: 3.5}
    assert bias_of_ids(bias_of_ids({"e": 1.5}, CHARS), CHARS) == {8: 1.5}


@pytest.mark.parametrize(
    ("key", "sentence"),
    [
        ("E", "logit_bias: no token of this model is 'E'. Did you mean 'e'?"),
        ("ab", "logit_bias: no token of this model is 'ab'."),
        ("", "logit_bias: no token of this model is ''."),
        ("#9", "logit_bias: id 9 is not between 0 and 8."),
        (-1, "logit_bias: id -1 is not between 0 and 8."),
    ],
)
def test_an_unknown_symbol_is_named_in_a_sentence(key, sentence):
    with pytest.raises(UsageError) as caught:
        bias_of_ids({key: 1}, CHARS)
    assert str(caught.value) == sentence


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"logit_bias": {"e": 101}}, "logit_bias 'e' must be a number from -100 to 100, not 101."),
        ({"logit_bias": {3: math.nan}}, "logit_bias 3 must be a number from -100 to 100, not nan."),
        ({"logit_bias": {3: "1"}}, "logit_bias 3 must be a number from -100 to 100, not '1'."),
        ({"logit_bias": {2.5: 1}}, "logit_bias must name a token by its text or its id, not by 2.5."),
        ({"logit_bias": {True: 1}}, "logit_bias must name a token by its text or its id, not by True."),
        ({"presence_penalty": 2.5}, "presence_penalty must be a number from -2 to 2, not 2.5."),
        ({"temperature": [0.5, 101]}, "temperature must be a number from 0 to 100, not 101."),
        ({"temperature": [0.5, "1"]}, "temperature must be a number from 0 to 100, not '1'."),
        ({"temperature": []}, "temperature must be a number from 0 to 100, not []."),
        ({"greedy": True, "temperature": [1.0, 0.5]}, "greedy and temperature=1,0.5 exclude each other."),
    ],
)
def test_bad_knobs_are_refused_in_a_sentence(options, sentence):
    with pytest.raises(UsageError) as caught:
        check_sampling(SampleOptions(**options))
    assert str(caught.value) == sentence


def test_a_sampler_by_itself_wants_ids():
    with pytest.raises(UsageError, match=r"^logit_bias 'e' must be an id here; "):
        Sampler(SampleOptions(logit_bias={"e": 1}), 0)


# --- temperatures in turn ---


@law
@given(cycle=st.lists(st.sampled_from([0, 0.3, 1, 2.5]), min_size=2, max_size=4), seed=st.integers(0, 99))
def test_symbols_take_the_temperatures_in_turn(cycle, seed):
    sampler = Sampler(SampleOptions(temperature=cycle), seed)
    rng = np.random.Generator(np.random.Philox(seed))
    drawn = [sampler.choose(EIGHT).id for _ in range(9)]
    assert drawn == [draw(EIGHT, cycle[k % len(cycle)], rng) for k in range(9)]


@law
@given(temperature=st.sampled_from([0.0, 0.7, 2.0]), times=st.integers(2, 5), seed=st.integers(0, 99))
def test_a_cycle_of_one_temperature_is_that_temperature(temperature, times, seed):
    one, many = (Sampler(SampleOptions(temperature=t), seed) for t in (temperature, [temperature] * times))
    assert [one.choose(EIGHT) for _ in range(12)] == [many.choose(EIGHT) for _ in range(12)]


def test_a_prompt_takes_no_turn():
    first, second = (Sampler(SampleOptions(temperature=[0, 3.0]), 1) for _ in range(2))
    second.see([1, 2, 3])
    assert [first.choose(EIGHT).id for _ in range(9)] == [second.choose(EIGHT).id for _ in range(9)]


# --- a score symbol by symbol ---

TEXT = "the cat sat on the mat, and the dog sat on the cat.\nwas it a big cat? it was not; the dog was big.\n"


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(4)
    tokenizer = CharTokenizer("".join(sorted(set(TEXT))))
    config = ModelConfig(tokenizer.vocab_size, cell="gru", embedding_size=6, hidden_size=10, num_layers=2)
    return LanguageModel(config, tokenizer, TorchStepper(make_model(config).eval()), unsampled=tokenizer.unsampled)


@pytest.mark.parametrize("text", ["t", "é", "the übercat 漢 sat", TEXT * 4])
@pytest.mark.parametrize("begin", [(), (0,), (7, 5)])
def test_the_symbols_of_a_text_add_up_to_its_score(model, text, begin):
    model = dataclasses.replace(model, begin=begin)
    scores = token_scores(model, text)
    whole = textgen.evaluate(model, text, lanes=1)
    assert len(scores) == whole.tokens and "".join(score.token for score in scores) == text
    assert -math.fsum(score.logprob for score in scores) == pytest.approx(whole.nats, rel=1e-9)


def test_a_symbol_has_the_score_of_its_place(model):
    text = "the cat é sat " * 30
    scores = token_scores(model, text)
    for end in (1, 9, 10, 300):
        before = textgen.evaluate(model, text[: end - 1], lanes=1).nats if end > 1 else 0.0
        after = textgen.evaluate(model, text[:end], lanes=1).nats
        assert scores[end - 1].logprob == pytest.approx(before - after, abs=1e-4)


@pytest.mark.parametrize(("ids", "shown"), [([256], "<256>"), ([0xC3, 0xA9], "é"), ([0xC3], "<0xC3>"), ([97], "a")])
def test_a_symbol_without_text_of_its_own_is_shown_as_what_it_is(ids, shown):
    assert token_text(ByteTokenizer(), ids) == shown


def test_nothing_and_half_a_character_are_refused(model):
    with pytest.raises(TextgenError, match=r"^there is no text to evaluate \(0 bytes\)\.$"):
        token_scores(model, "")
    with pytest.raises(TextgenError, match="lone surrogate"):
        token_scores(model, "a\ud83d")


# --- the command ---


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("knobs")
    (folder / "story.txt").write_text(TEXT * 30)
    out = textgen.train(folder / "story.txt", output_dir=str(folder / "run"), cell="rnn", tokenizer="char",
                        hidden_size=16, embedding_size=8, max_steps=12, batch_size=4, seq_length=16)  # fmt: skip
    return str(out)


def refusal(result):
    assert result.code == 2 and not result.out, result
    return result.err.splitlines()[0].removeprefix("Error: ")


def test_the_command_searches_biases_and_takes_turns(trained):
    model = textgen.load(trained)
    assert run("sample", "-m", trained, "-p", "the", "--num-beams", 4, "-n", 20).text == (
        textgen.generate(model, "the", num_beams=4, max_new_tokens=20) + "\n"
    )
    biased = run("sample", "-m", trained, "-s", 1, "-n", 60, "--logit-bias", "e=-100", "--logit-bias", "\\n=-100")
    assert biased.code == 0 and not {"e", "\n"} & set(biased.text[:-1])
    given = {"temperature": [0.5, 1.5], "presence_penalty": 1.0, "frequency_penalty": -0.5}
    cycled = run("sample", "-m", trained, "-s", 1, "-n", 60, "--temperature", "0.5,1.5", "--presence-penalty", 1,
                 "--frequency-penalty", -0.5)  # fmt: skip
    assert cycled.text == textgen.generate(model, seed=1, max_new_tokens=60, **given) + "\n"
    assert complete(model, [""], sampling_options(model, {**given, "seed": 1, "max_new_tokens": 60}))[0].tokens == 60


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ("--num-beams 4 --stream", "--num-beams 4 cannot stream; add --no-stream."),
        ("--num-beams 4 --num-samples 3", "--num-beams 4 finds one text; --num-samples 3 would repeat it."),
        ("--num-beams 4 --temperature 0.5", "--num-beams 4 draws nothing and excludes --temperature."),
        ("--num-beams 4 --temperature 0.8", "--num-beams 4 draws nothing and excludes --temperature."),
        ("--logit-bias e", "--logit-bias must be NAME=NUMBER, such as 'e=-5', not 'e'."),
        ("--logit-bias =5", "--logit-bias must be NAME=NUMBER, such as 'e=-5', not '=5'."),
        ("--logit-bias e=inf", "--logit-bias must be NAME=NUMBER, such as 'e=-5', not 'e=inf'."),
        ("--logit-bias e=1 --logit-bias e=2", "--logit-bias 'e' is given twice."),
        ("--logit-bias Q=1", "--logit-bias: no token of this model is 'Q'."),
        ("--temperature 0.5,", "--temperature must be a number from 0 to 100, not ''."),
        ("--temperature 0.5,x", "--temperature must be a number from 0 to 100, not 'x'."),
        ("--temperature 1,500", "--temperature must be a number from 0 to 100, not 500.0."),
    ],
)
def test_the_command_refuses_in_a_sentence(trained, arguments, sentence):
    assert refusal(run("sample", "-m", trained, *arguments.split())) == sentence


def test_the_command_shows_each_symbol(trained, tmp_path):
    path = tmp_path / "text.txt"
    path.write_text("the é cat\n")
    *symbols, whole = map(json.loads, run("evaluate", path, "-m", trained, "--per-token", "--json").text.splitlines())
    assert "".join(token["token"] for token in symbols) == "the é cat\n" and whole["tokens"] == len(symbols)
    assert -math.fsum(symbol["logprob"] for symbol in symbols) == whole["nats"]
    plain = json.loads(run("evaluate", path, "-m", trained, "--json").text)
    assert plain == {**whole, **{name: pytest.approx(plain[name], rel=1e-6) for name in plain if plain[name]}}
    head, *lines, total, sentence = run("evaluate", path, "-m", trained, "--per-token").text.splitlines()
    assert head.split() == ["log", "p", "id", "token"] and len(lines) == len(symbols)
    assert lines[-1].split() == [f"{symbols[-1]['logprob']:.4f}", str(symbols[-1]["id"]), repr("\n")]
    assert total == f"{-whole['nats']:.4f}  in all" and f"{whole['nats_per_token']:.4f} nats per token" in sentence
    assert refusal(run("evaluate", path, "-m", trained, "--per-token", "--lanes", 4)) == (
        "--per-token reads in one piece and excludes --lanes 4."
    )
    held_out = run("evaluate", "-m", trained, "--per-token", "--json").text.splitlines()
    assert json.loads(held_out[-1])["tokens"] == len(held_out) - 1

"""Laws of constrained generation: what may come next is found by enumeration, for every kind of tokenizer."""

import json
import math
import re
from collections import Counter

import numpy as np
import pytest
from test_session import made

import textgen
from textgen.data.tokenizers import ByteTokenizer, CharTokenizer, WordTokenizer, train_tokenizer
from textgen.errors import TextgenError, UsageError
from textgen.generation import constraints
from textgen.generation.constraints import MOST_CHARACTERS, Constraint
from textgen.generation.generate import complete, sampling_options
from textgen.generation.sampling import log_softmax
from textgen.generation.session import Session
from textgen.generation.streams import Streams

pytest.importorskip("llguidance")
TEXT = 'the cat sat on the mat and the cat ran to the man {"a": 1, "b": [true, 2]}\nñ é\n' * 20
MODELS = {
    "char": made(CharTokenizer("".join(sorted(set(TEXT))))),
    "byte": made(ByteTokenizer()),
    "bpe": made(train_tokenizer("bpe", [[TEXT.encode()]], 320), seed=3),
    "unigram": made(train_tokenizer("unigram", [[TEXT.encode()]], 320), seed=3),
    "word": made(WordTokenizer(["the", "cat", "sat", "ran", "man", "on", "mat", "ñ"])),
}
TEXTS = ["the cat", "the cat sat", "the mat", "cat ran\nñ", "the man", "ñ"]
REGEX = "|".join(map(re.escape, TEXTS))


@pytest.fixture(params=MODELS)
def model(request):
    return MODELS[request.param]


def tokens_that_go_on(model, before):
    """By enumeration: the tokens after which a text of the language can still come, given the tokens before."""
    decode, boundary = model.tokenizer.decode_bytes, model.tokenizer.boundary
    able = set()
    for id in range(model.tokenizer.vocab_size):
        if id != boundary and id not in model.unsampled and decode([*before, id]) != decode(before):
            begun = decode([*before, id])
            able |= {id} if any(text.encode().startswith(begun) for text in TEXTS) else set()
    ended = decode(before).decode("utf-8", "replace") in TEXTS
    return able | ({boundary} if ended else set())


def walks(model):
    """Every sequence of tokens that spells the beginning of a text of the language, with what may follow it."""
    waiting = [()]
    while waiting:
        before = waiting.pop()
        able = tokens_that_go_on(model, before)
        yield before, able
        waiting += [(*before, id) for id in sorted(able - {model.tokenizer.boundary}) if len(before) < 3]


def test_the_tokens_that_fit_are_those_of_an_enumeration(model):
    number = 0
    for before, able in walks(model):
        constraint = Constraint(model.vocabulary, "regex", REGEX)
        for id in before:
            constraint.take(id)
        if not constraint.complete:
            assert set(np.flatnonzero(constraint.allowed()).tolist()) == able, before
        number += 1
    assert number > 5


def test_texts_have_the_probabilities_of_the_model_masked_at_each_token():
    """Every path of tokens to every text; their probabilities add up to one, and draws agree with them."""
    model = MODELS["char"]
    wanted = Counter()

    def follow(ids, state, before, logprob):
        able = sorted(tokens_that_go_on(model, before))
        text = model.tokenizer.decode(before)
        if text in TEXTS and not set(able) - {model.tokenizer.boundary}:
            wanted[text] += math.exp(logprob)
            return
        logits, after = model.stepper.step(np.array(ids, dtype=np.int32), state)
        masked = np.full(logits.shape[1], -np.inf)
        masked[able] = logits[0][able]
        for id, share in zip(able, log_softmax(masked)[able], strict=True):
            if id == model.tokenizer.boundary:
                wanted[text] += math.exp(logprob + share)
            else:
                follow([id], after, (*before, id), logprob + share)

    follow(model.encode_prompt("the ")[-1:], model.stepper.forward(
        model.encode_prompt("the ")[None, :-1], model.stepper.initial_state(1))[1], (), 0.0)  # fmt: skip
    assert sum(wanted.values()) == pytest.approx(1.0)
    draws = 800
    drawn = Counter(
        textgen.generate(model, "the ", regex=REGEX, seed=seed, temperature=1, max_new_tokens=40)
        for seed in range(draws)
    )
    assert set(drawn) <= set(TEXTS)
    for text, share in wanted.items():
        assert abs(drawn[text] - draws * share) <= 5 * math.sqrt(draws * share * (1 - share)) + 3, text


@pytest.mark.parametrize(
    "options",
    [{"temperature": 1}, {"temperature": 0}, {"repetition_penalty": 2.0, "top_p": 0.9}, {"min_p": 0.5}],
    ids=str,
)
def test_every_text_is_of_the_language(model, options):
    for seed in range(12):
        given = sampling_options(model, {"regex": REGEX, "seed": seed, "max_new_tokens": 60, **options})
        (completion,) = complete(model, ["the "], given)
        assert completion.text in TEXTS, completion
        assert completion.finish_reason == "stop"


def test_a_text_that_is_cut_off_begins_one_of_the_language(model):
    (cut,) = complete(model, [""], sampling_options(model, {"regex": REGEX, "seed": 1, "max_new_tokens": 1}))
    assert any(text.startswith(cut.text) for text in TEXTS)


def test_json_follows_its_schema():
    schema = {
        "type": "object",
        "properties": {"a": {"type": "integer"}, "b": {"enum": ["cat", "mat"]}},
        "required": ["a", "b"],
        "additionalProperties": False,
    }
    for kind in ("char", "byte", "bpe", "unigram"):
        for seed in range(3):
            for given in (schema, json.dumps(schema)):
                options = {"json_schema": given, "seed": seed, "max_new_tokens": 400, "temperature": 0.5}
                (done,) = complete(MODELS[kind], [""], sampling_options(MODELS[kind], options))
                if done.finish_reason == "stop":
                    found = json.loads(done.text)
                    assert type(found["a"]) is int and found["b"] in ("cat", "mat") and len(found) == 2


def test_a_grammar_is_followed(model):
    grammar = 'start: "the " animal (" sat" | " ran")?\nanimal: "cat" | "man"'
    for seed in range(6):
        text = textgen.generate(model, "", grammar=grammar, seed=seed, max_new_tokens=40)
        assert re.fullmatch("the (cat|man)( sat| ran)?", text)


def test_streams_and_sessions_are_constrained_alike(model):
    options = {"regex": REGEX, "seed": 4, "max_new_tokens": 40}
    text = textgen.generate(model, "the ", **options)
    streams = Streams(model)
    streams.add("the ", **options)
    pieces = []
    while len(streams):
        pieces += streams.step()
    assert "".join(piece.text for piece in pieces) == text
    for heal in (True, False):
        session = Session.begin(model, "the ", 4, heal=heal)
        assert session.write(regex=REGEX, max_new_tokens=40)[0] == text
        streams.add("", session, regex=REGEX, max_new_tokens=40)
        pieces = []
        while len(streams):
            pieces += streams.step()
        assert "".join(piece.text for piece in pieces) == text


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"regex": "a("}, r"^regex is not a regular expression that can be used: unclosed group\.$"),
        ({"grammar": "start: x"}, r'^grammar is not a grammar that can be used: unknown name: "x"\.$'),
        ({"json_schema": "{"}, r"^json_schema is not a JSON schema that can be used: "),
        ({"json_schema": '{"type": "wrong"}'}, r"Invalid type: wrong\.$"),
        ({"json_schema": '{"$ref": "http://example.com/x"}'}, r"is not a JSON schema that can be used: "),
        ({"json_schema": '{"$ref": "file:///etc/passwd"}'}, r"is not a JSON schema that can be used: "),
        ({"regex": "a" * (MOST_CHARACTERS + 1)}, r"100,001 characters; 100,000 are allowed\.$"),
        ({"regex": "a", "grammar": 'start: "a"'}, r"^regex and grammar exclude each other\.$"),
        ({"regex": "a", "num_beams": 2}, r"^regex and num_beams exclude each other\.$"),
    ],
)
def test_what_cannot_be_used_is_one_sentence(options, message):
    with pytest.raises(UsageError, match=message) as caught:
        textgen.generate(MODELS["char"], "", **options)
    assert "\n" not in str(caught.value)


def test_a_constraint_that_no_token_meets_is_said():
    with pytest.raises(TextgenError, match=r"^regex leaves no token that this model writes\.$"):
        textgen.generate(MODELS["word"], "", regex="[0-9]+")


def test_a_constraint_that_takes_too_much_work_is_said(monkeypatch):
    monkeypatch.setattr(constraints, "FUEL", {**constraints.FUEL, "max_lexer_states": 3})
    with pytest.raises(TextgenError, match=r"^regex (takes too much work|is not a regular expression)[^\n]*\.$"):
        textgen.generate(MODELS["char"], "", regex="(a.{40}|b){1,40}", seed=1, max_new_tokens=300)


def test_without_llguidance_a_sentence_says_how_to_install_it(monkeypatch):
    monkeypatch.setattr("textgen.errors.find_spec", lambda name: None)
    with pytest.raises(
        TextgenError, match=r"^a constraint on texts needs llguidance, which is not installed\.$"
    ) as caught:
        textgen.generate(made(CharTokenizer("ab")), "", regex="a")
    assert "textgen-lm[constrained]" in caught.value.hint

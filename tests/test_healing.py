"""Laws of token healing: what is read and written begins with what was typed, and is drawn from the model's own
probabilities of the tokens that agree with it."""

from unittest import mock

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_session import BYTES, CHARS, WORDS, in_parts, made

import textgen
from textgen import storage
from textgen.data.tokenizers import train_tokenizer
from textgen.generation.generate import Completion, CompletionBuilder, beginning, complete, sampling_options
from textgen.generation.sampling import log_softmax
from textgen.generation.session import Session
from textgen.generation.streams import Streams

law = settings(deadline=None, max_examples=40)
TEXT = "the kitchen and the kitten kissed the kite in the chicken house\nah, the año was señor née naïve\n" * 20
MODELS = {kind: made(train_tokenizer(kind, [[TEXT.encode()]], 330), seed=3) for kind in ("bpe", "unigram")}
PROMPTS = [
    "the kitch",
    "the ki",
    "the",
    "k",
    " ",
    "the kitchen ",
    "a\n",
    "\n",
    "señ",
    "é",
    "zzz",
    "naï",
    "kit ch",
    "\u2581",
]
KNOBS = [
    {"temperature": 1.5},
    {"temperature": 0},
    {"temperature": 1, "stop": ["it", "e "]},
    {"lines": True, "temperature": 1},
    {"num_beams": 3},
]


@pytest.fixture(params=MODELS)
def model(request):
    return MODELS[request.param]


def written(model, prompt, **options):
    """The completion of a prompt, all bytes that were read or drawn, and the tokens that were drawn."""
    drawn, take = [], CompletionBuilder.take

    def spied(self, choice):
        drawn.append(choice.id)
        return take(self, choice)

    chosen = sampling_options(model, {"max_new_tokens": 6, "seed": 1, "logprobs": 0, **options})
    with mock.patch.object(CompletionBuilder, "take", spied):
        (completion,) = complete(model, [prompt], chosen)
    ids, _ = beginning(model, prompt, chosen.heal)
    return completion, model.tokenizer.decode_bytes([*ids.tolist(), *drawn]), drawn


@pytest.mark.parametrize("knobs", KNOBS, ids=str)
@pytest.mark.parametrize("prompt", PROMPTS)
def test_what_is_read_and_drawn_begins_with_what_was_typed(model, prompt, knobs):
    for seed in range(4):
        options = knobs if "num_beams" in knobs else {**knobs, "seed": seed}
        completion, whole, _ = written(model, prompt, **options)
        assert whole.startswith(prompt.encode()), whole
        text = whole[len(prompt.encode()) :].decode("utf-8", "ignore")
        assert text.startswith(completion.text), "what was typed is not written again"


@law
@given(st.text("thekicn é\n", max_size=12), st.integers(0, 99))
def test_any_prompt_is_healed(prompt, seed):
    for model in MODELS.values():
        _, whole, _ = written(model, prompt, seed=seed)
        assert whole.startswith(prompt.encode())


@pytest.mark.parametrize("prompt", ["the kitchen", "the kitchen ", "the\n", "the"])
def test_a_word_that_is_a_token_needs_no_healing(prompt):
    model = made(train_tokenizer("word", [[TEXT.encode()]], 260), seed=3)
    options = {"max_new_tokens": 8, "temperature": 0}
    assert textgen.generate(model, prompt, **options) == textgen.generate(model, prompt, heal=False, **options)


def test_a_token_that_ends_the_word_is_drawn(model):
    """All tokens that agree have the probabilities that the model gives them, compared with each other alone."""
    prompt = "the kitten kissed the kitch"
    ids, opened = beginning(model, prompt, heal=True)
    logits, _ = model.stepper.step(ids[-1:], model.stepper.forward(ids[None, :-1], model.stepper.initial_state(1))[1])
    left = opened.given_back
    assert prompt.encode().endswith(left) and left
    tokens = model.tokenizer.token_bytes
    agrees = [i for i, t in enumerate(tokens) if t and (t.startswith(left) or left.startswith(t))]
    wanted = np.full(logits.shape[1], -np.inf)
    wanted[agrees] = log_softmax(logits[0].astype(np.float64)[agrees])
    assert len(agrees) > 1
    counts = np.zeros(len(wanted))
    draws = 1500
    for seed in range(draws):
        _, _, drawn = written(model, prompt, seed=seed, max_new_tokens=1, temperature=1.0, min_p=0.0)
        counts[drawn[0]] += 1
    assert counts[np.exp(wanted) == 0].sum() == 0
    spread = np.sqrt(draws * np.exp(wanted) * (1 - np.exp(wanted)))
    assert (np.abs(counts - draws * np.exp(wanted)) <= 5 * spread + 3).all()


@pytest.mark.parametrize("knobs", KNOBS[:4], ids=str)
@pytest.mark.parametrize("prompt", PROMPTS)
def test_sessions_and_streams_heal_alike(model, prompt, knobs, tmp_path):
    options = {**knobs, "seed": 5, "max_new_tokens": 7}
    text = textgen.generate(model, prompt, **options)
    streams = Streams(model)
    streams.add(prompt, **options)
    pieces = []
    while len(streams):
        pieces += streams.step()
    assert "".join(piece.text for piece in pieces) == text
    session = Session.begin(model, prompt, 5, heal=True)
    parts, _ = in_parts(session, [1, 1, 5], tmp_path / "s", **knobs)
    assert parts == text


def test_a_prompt_in_two_parts_is_healed_like_one(model, tmp_path):
    """What the first part gave back is read again together with the second."""
    for first, second in (("the kit", "ch"), ("the ki", "tchen"), ("th", "e"), ("a", "h, "), ("se", "ñor")):
        whole = Session.begin(model, first + second, 1, heal=True)
        begun = Session.begin(model, first, 1, heal=True)
        begun.save(tmp_path / "s")
        parts = Session.load(model, tmp_path / "s").read(second, heal=True)
        assert parts.open.tail + parts.open.given_back.decode() == first + second
        assert whole.open.tail + whole.open.given_back.decode() == first + second
        options = {"max_new_tokens": 4, "seed": 2}
        assert parts.write(**options)[0] is not None


def test_nothing_is_given_back_without_healing_or_where_it_changes_nothing(model):
    assert beginning(model, "the kitch")[1].given_back == b""
    assert textgen.generate(model, "the kitch", seed=1, heal=False) != textgen.generate(model, "the kitch", seed=1)
    for other in (CHARS, BYTES, WORDS):
        assert beginning(other, "ab", heal=True)[1].given_back == b""
    ids = model.tokenizer.encode("the kitch")
    assert beginning(model, ids, heal=True)[1].given_back == b"", "ids are read as they are"


def test_a_state_with_what_it_gave_back_is_checked(model, tmp_path):
    session = Session.begin(model, "the kitch", 1, heal=True)
    session.save(tmp_path / "s")
    assert Session.load(model, tmp_path / "s").open == session.open
    old = Session.begin(model, "the kitch", 1, heal=False)
    old.save(tmp_path / "old")
    assert Session.load(model, tmp_path / "old").open == old.open
    content = (tmp_path / "s").read_bytes()
    returned = session.open.given_back.hex().encode()
    for wrong in (b"ff" * (len(returned) // 2), b"zz" + returned[2:]):
        (tmp_path / "s").write_bytes(content.replace(b'given_back\\": \\"' + returned, b'given_back\\": \\"' + wrong))
        assert (tmp_path / "s").read_bytes() != content
        with pytest.raises(storage.DamagedError, match="is damaged"):
            Session.load(model, tmp_path / "s")


def test_a_text_that_is_cut_inside_what_was_given_back_goes_on(model, tmp_path):
    """One token may spell only a part of it; the rest is drawn after the cut."""
    for seed in range(30):
        session = Session.begin(model, "the kitch", seed, heal=True)
        options = sampling_options(model, {"max_new_tokens": 1, "temperature": 3.0, "min_p": 0.0})
        (_, after), *_ = session.pieces(options, Completion("", seed))
        after.save(tmp_path / "s")
        text, end = Session.load(model, tmp_path / "s").write(max_new_tokens=5, temperature=3.0, min_p=0.0)
        whole = end.open.tail + end.open.given_back.decode()
        assert whole.startswith("the kitch") and whole.endswith(text)

"""Laws of `Streams`: chunks, sessions that continue and are left behind, scores of prompts, few texts exactly."""

import random

import numpy as np
import pytest
from test_runtime import made, saved

import textgen
from textgen.errors import UsageError
from textgen.evaluation import token_scores
from textgen.generation.language_model import load
from textgen.generation.session import Session
from textgen.generation.streams import Streams

PROMPTS = ["", "abc", "hgfedcba" * 9, "a", "b" * 30, "cde"]


@pytest.fixture(scope="module", params=["numpy", "torch"])
def model(request, tmp_path_factory):
    return load(saved(tmp_path_factory.mktemp("models") / "lstm", *made()), request.param)


def texts_of(streams):
    """The text of each key, and the piece with which each ended."""
    texts, ends = {}, {}
    while len(streams):
        for piece in streams.step():
            texts[piece.key] = texts.get(piece.key, "") + piece.text
            if piece.finish_reason:
                ends[piece.key] = piece
    return texts, ends


def alone(model, prompt, **options):
    return textgen.generate(model, prompt, **options)


@pytest.mark.parametrize("chunk", [None, 1, 7, 1000])
@pytest.mark.parametrize("rows", [{}, {"exact": True}, {"exact_rows": 3}])
def test_texts_are_those_that_each_prompt_gives_alone(model, chunk, rows):
    streams, wanted = Streams(model, chunk=chunk, **rows), {}
    texts = {}
    for seed, prompt in enumerate(PROMPTS):
        options = {"seed": seed, "max_new_tokens": 5 + 9 * (seed % 3)}
        wanted[streams.add(prompt, **options)] = alone(model, prompt, **options)
        for piece in streams.step():
            texts[piece.key] = texts.get(piece.key, "") + piece.text
    for key, text in texts_of(streams)[0].items():
        texts[key] = texts.get(key, "") + text
    assert texts == wanted


@pytest.mark.parametrize("rows", [{}, {"exact": True}, {"exact_rows": 3}])
def test_pausing_changes_no_text(model, rows):
    streams, wanted, texts, draw = Streams(model, chunk=7, **rows), {}, {}, random.Random(1)
    for seed, prompt in enumerate(PROMPTS):
        options = {"seed": seed, "max_new_tokens": 10 + 9 * (seed % 3)}
        wanted[streams.add(prompt, **options)] = alone(model, prompt, **options)
    open_, ended = set(wanted), set()
    while len(streams):
        for key in open_ - ended:
            (streams.pause if draw.random() < 0.4 else streams.resume)(key)
        paused = streams.paused
        for piece in streams.step():
            assert piece.key not in paused
            texts[piece.key] = texts.get(piece.key, "") + piece.text
            ended |= {piece.key} if piece.finish_reason else set()
    assert texts == wanted and not streams.paused
    with pytest.raises(KeyError):
        streams.pause(0)


def test_a_long_prompt_does_not_keep_the_others_waiting(model):
    streams = Streams(model, chunk=8)
    long = streams.add("ab" * 200, seed=1, max_new_tokens=4)
    other = streams.add("c", seed=2, max_new_tokens=300, ignore_eos=True)
    for _ in range(3):
        assert [piece.key for piece in streams.step()] == [other]
    late = streams.add("hgfed", seed=3, max_new_tokens=300, ignore_eos=True)
    reached = [any(piece.key == late for piece in streams.step()) for _ in range(5)]
    assert any(reached), "a short prompt waits for a long one"
    while long not in {piece.key for piece in streams.step()}:
        pass
    streams.remove(other)
    streams.remove(late)
    assert long in texts_of(streams)[0]


def test_a_prompt_that_is_removed_while_it_is_read_leaves_no_trace(model):
    streams = Streams(model, chunk=4)
    gone, stays = streams.add("ab" * 50, seed=1), streams.add("abc" * 5, seed=2, max_new_tokens=9)
    streams.step()
    streams.remove(gone)
    assert texts_of(streams)[0] == {stays: alone(model, "abc" * 5, seed=2, max_new_tokens=9)}


@pytest.mark.parametrize("others", [0, 5])
def test_a_session_that_is_left_behind_continues_the_text(model, others):
    whole = alone(model, "abc", seed=5, max_new_tokens=40)
    streams = Streams(model, exact_rows=2)
    for k in range(others):
        streams.add("h" * k, seed=k, max_new_tokens=11 + k)
    key = streams.add("abc", seed=5, max_new_tokens=15, keep=True)
    texts, ends = texts_of(streams)
    session = Session._from_bytes(model, ends[key].session.to_bytes(), "state")
    again = streams.add(session=session, max_new_tokens=25)
    assert texts[key] + texts_of(streams)[0][again] == whole
    text, _ = Session.begin(model, "abc", 5).write(max_new_tokens=15)
    assert texts[key] == text


@pytest.mark.parametrize("chunk", [None, 3])
def test_a_session_is_read_on_as_it_is_alone(model, chunk):
    session = Session.begin(model, "abc", 5).write(max_new_tokens=6)[1]
    streams = Streams(model, chunk=chunk)
    keys = {streams.add("hgf" * 4, session, max_new_tokens=12, seed=seed): seed for seed in (None, 5, 6, 6)}
    texts = texts_of(streams)[0]
    for key, seed in keys.items():
        start = session if seed is None else session.fork(seed)
        assert texts[key] == start.read("hgf" * 4).write(max_new_tokens=12)[0]
    assert len(set(texts.values())) > 1


def test_reading_alone_leaves_a_session(model):
    streams = Streams(model, chunk=5)
    key = streams.add("abcdefgh" * 3, seed=4, max_new_tokens=0, keep=True)
    texts, ends = texts_of(streams)
    assert texts[key] == "" and ends[key].finish_reason == "length"
    wanted = Session.begin(model, "abcdefgh" * 3, 4)
    assert ends[key].session.write(max_new_tokens=9)[0] == wanted.write(max_new_tokens=9)[0]
    np.testing.assert_allclose(
        model.stepper.arrays(ends[key].session.state)[0], model.stepper.arrays(wanted.state)[0], atol=1e-6
    )


def test_what_may_still_change_is_left_to_whoever_continues(model):
    whole = alone(model, "abc", seed=5, max_new_tokens=30)
    stop = whole[9:12]
    streams = Streams(model)
    key = streams.add("abc", seed=5, max_new_tokens=10, stop=[stop], keep=True)
    texts, ends = texts_of(streams)
    assert whole.startswith(texts[key]) and len(texts[key]) < 10
    again = streams.add(session=ends[key].session, max_new_tokens=20, stop=[stop])
    assert texts[key] + texts_of(streams)[0][again] == alone(model, "abc", seed=5, max_new_tokens=30, stop=[stop])
    loose = streams.add(session=ends[key].session, max_new_tokens=0)
    assert texts[key] + texts_of(streams)[0][loose] == whole[:10]


@pytest.mark.parametrize("chunk", [None, 7])
def test_the_scores_of_a_prompt_are_those_of_evaluation(model, chunk):
    prompt, streams = "abcdefgh" * 20, Streams(model, chunk=chunk)
    key = streams.add(prompt, seed=1, max_new_tokens=1, scored=3)
    completion = streams.completion(key)
    texts_of(streams)
    assert completion.prompt_tokens == len(completion.prompt_choices) + 1 == len(model.encode_prompt(prompt))
    wanted = [score.logprob for score in token_scores(model, prompt)]
    np.testing.assert_allclose(
        [choice.logprob for choice in completion.prompt_choices], wanted[-len(prompt) :], atol=1e-4
    )
    assert all(len(choice.top) == 3 for choice in completion.prompt_choices)


def test_what_is_wrong_is_refused_before_anything_is_read(model):
    streams = Streams(model, chunk=4)
    for wrong in ({"chunk": 0}, {"exact_rows": -1}, {"chunk": True}):
        with pytest.raises(UsageError, match=next(iter(wrong))):
            Streams(model, **wrong)
    with pytest.raises(UsageError, match="temperature"):
        streams.add("abc", temperature=-1)
    assert not len(streams)

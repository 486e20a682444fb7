"""Laws of a session: cut anywhere, saved and loaded, a text is the text of one run; a fork knows nothing of another."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from zoo import CELLS, sharpen

import textgen
from textgen import storage
from textgen.data.tokenizers import ByteTokenizer, CharTokenizer, WordTokenizer
from textgen.errors import TextgenError, UsageError
from textgen.generation.generate import Completion, sampling_options
from textgen.generation.language_model import LanguageModel
from textgen.generation.session import Session
from textgen.model import ModelConfig
from textgen.model.stack import build_model
from textgen.model.weights import TorchStepper

law = settings(deadline=None, max_examples=60)
PENALTIES = {"repetition_penalty": 1.3, "presence_penalty": 0.5, "frequency_penalty": 0.2, "repeat_last_n": 9}
KNOBS = [
    {"temperature": 1.5},
    {**PENALTIES, "temperature": [0.5, 1.0, 2.0]},
    {**PENALTIES, "stop": ["abc", "ca", "bbbb"]},
    {"temperature": 0, "ignore_eos": True},
]


def made(tokenizer, cell="gru", seed=0, digest="one"):
    """A language model whose texts differ."""
    torch.manual_seed(seed)
    config = ModelConfig(tokenizer.vocab_size, embedding_size=6, hidden_size=8, num_layers=2)
    model = sharpen(build_model(config, CELLS[cell]).eval())
    return LanguageModel(config, tokenizer, TorchStepper(model), unsampled=tokenizer.unsampled, digest=digest)


CHARS = made(CharTokenizer("abcd"))
BYTES = made(ByteTokenizer())
WORDS = made(WordTokenizer(["ab", "cd", "e"]))


def in_parts(session, lengths, path, **options):
    """The text of several writings, each of a session saved and loaded in between; and what was open at the cuts."""
    text, cuts = "", []
    for last, length in enumerate(lengths, 1 - len(lengths)):
        given = sampling_options(session.model, {**options, "max_new_tokens": length})
        completion = Completion("", session.seed)
        for piece, session in session.pieces(given, completion, keep_open=last < 0):  # noqa: B007, B020
            text += piece
        if completion.finish_reason == "stop":
            break
        session.save(path)
        session = Session.load(session.model, path)
        cuts.append(session.open)
    return text, cuts


@pytest.mark.parametrize("knobs", range(len(KNOBS)))
@pytest.mark.parametrize("cell", CELLS)
def test_a_text_saved_and_loaded_is_the_text_of_one_run(cell, knobs, tmp_path):
    model = made(CharTokenizer("abcd"), cell)
    options = KNOBS[knobs]
    for seed in range(3):
        whole = textgen.generate(model, "abca", seed=seed, max_new_tokens=60, **options)
        session = Session.begin(model, "abca", seed)
        assert in_parts(session, [23, 1, 36], tmp_path / "s", **options)[0] == whole


@law
@given(
    lengths=st.lists(st.integers(0, 7), min_size=1, max_size=6),
    seed=st.integers(0, 999),
    stop=st.lists(st.text("abcd", min_size=1, max_size=4), max_size=2),
    prompt=st.text("abcd", max_size=5),
    knobs=st.sampled_from(KNOBS),
)
def test_cuts_do_not_show(lengths, seed, stop, prompt, knobs, tmp_path_factory):
    options = {**knobs, "stop": stop}
    path = tmp_path_factory.getbasetemp() / "cuts"
    whole = textgen.generate(CHARS, prompt, seed=seed, max_new_tokens=sum(lengths), **options)
    assert in_parts(Session.begin(CHARS, prompt, seed), lengths, path, **options)[0] == whole


def test_a_character_and_a_stop_string_may_lie_across_a_cut(tmp_path):
    biases = dict.fromkeys((*range(195, 201), *range(128, 144)), 12)
    options = {"ignore_eos": True, "temperature": 1.5, "logit_bias": biases, "stop": ["\u00c0\u00c1\u00c2"]}
    opened = []
    for seed in range(12):
        whole = textgen.generate(BYTES, "é", seed=seed, max_new_tokens=30, **options)
        text, cuts = in_parts(Session.begin(BYTES, "é", seed), [7, 8, 15], tmp_path / "s", **options)
        assert text == whole
        opened += cuts
    assert any(cut.bytes for cut in opened)
    held = []
    for seed in range(20):
        options = {"stop": ["abcd", "da", "cc"], "ignore_eos": True}
        whole = textgen.generate(CHARS, "", seed=seed, max_new_tokens=12, **options)
        text, cuts = in_parts(Session.begin(CHARS, "", seed), [1] * 12, tmp_path / "s", **options)
        assert text == whole
        held += [cut.text for cut in cuts]
    assert any(held)


def test_words_go_on_with_their_space(tmp_path):
    for seed in range(8):
        whole = textgen.generate(WORDS, "ab", seed=seed, max_new_tokens=12, temperature=1.5)
        assert in_parts(Session.begin(WORDS, "ab", seed), [5, 7], tmp_path / "s", temperature=1.5)[0] == whole


def test_a_session_is_a_value_and_forks_are_independent():
    session = Session.begin(CHARS, "abc", seed=1)
    before = session.to_bytes()
    first, after = session.write(max_new_tokens=40, ignore_eos=True)
    assert session.write(max_new_tokens=40, ignore_eos=True)[0] == first
    assert session.to_bytes() == before != after.to_bytes()
    forks = [after.fork(seed).write(max_new_tokens=40, ignore_eos=True)[0] for seed in (1, 2, 3)]
    assert len({first, *forks}) == 4
    assert after.fork(2).write(max_new_tokens=40, ignore_eos=True)[0] == forks[1]
    assert after.write(max_new_tokens=40, ignore_eos=True, seed=3)[0] == forks[2]
    assert session.fork().seed != session.fork().seed


@law
@given(prompt=st.text("abcd", min_size=1, max_size=6), more=st.text("abcd", max_size=6), seed=st.integers(0, 99))
def test_reading_on_is_reading_all_at_once(prompt, more, seed):
    whole = Session.begin(CHARS, prompt + more, seed)
    parts = Session.begin(CHARS, prompt, seed).read(more)
    assert (parts.pending, parts.recent, parts.open) == (whole.pending, whole.recent, whole.open)
    for one, other in zip(parts.state, whole.state, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-5)


def test_what_is_held_back_stands_before_what_is_read_next():
    session = Session.begin(BYTES, "a", seed=1)
    session = replace(session, open=replace(session.open, bytes="é".encode()[:1], text="sto"))
    assert session.rest == "sto" and session.read("x").rest == "" and session.read("") == session
    assert session.read("x").open.tail == "ax"  # half a character is no text
    raw = replace(session, model=replace(BYTES, raw_bytes=True))
    assert raw.rest == "sto\ufffd" and raw.read("x").open.tail == "a\ufffdx"


def test_the_size_of_a_file_does_not_grow_with_the_text():
    sizes = [len(Session.begin(CHARS, "abcd" * n, seed=1).to_bytes()) for n in (300, 900)]
    assert sizes[0] == sizes[1] < 12_000


def test_a_stop_string_that_is_new_ends_what_was_held_back(tmp_path):
    session = Session.begin(CHARS, "a", seed=1)
    held = replace(session, open=replace(session.open, text="ab"))
    text, after = held.write(stop=["b"], max_new_tokens=5)
    assert text == "a" and after.rest == ""


@pytest.fixture(scope="module")
def content():
    return Session.begin(CHARS, "abcd", seed=1).write(max_new_tokens=9, ignore_eos=True)[1].to_bytes()


def test_every_changed_bit_and_every_cut_is_refused(content, tmp_path):
    path = tmp_path / "s"
    path.write_bytes(content)
    Session.load(CHARS, path)
    rng = np.random.default_rng(0)
    places = [*range(0, len(content) * 8, 97), *rng.integers(0, len(content) * 8, 200).tolist()]
    for place in places:
        changed = bytearray(content)
        changed[place // 8] ^= 1 << place % 8
        refused(path, bytes(changed))
    for size in (0, 3, 8, 100, len(content) // 2, len(content) - 1):
        refused(path, content[:size])
    refused(path, content + b"\0")


def refused(path, content):
    path.write_bytes(content)
    with pytest.raises(TextgenError) as caught:
        Session.load(CHARS, path)
    assert str(caught.value).startswith(str(path)) and str(caught.value).endswith((".", "?"))
    assert "\n" not in str(caught.value)
    return str(caught.value)


def forged(content, **changes):
    """A state file with other claims, and a digest that fits them."""
    import hashlib

    from safetensors.numpy import load, save

    tensors = load(content)
    size = int.from_bytes(content[:8], "little")
    about = json.loads(json.loads(content[8 : 8 + size])["__metadata__"]["about"])
    tensors.update(changes.pop("tensors", {}))
    del about["sha256"]
    about.update(changes)
    digest = hashlib.sha256(json.dumps(about).encode() + save(tensors)).hexdigest()
    return save(tensors, {"about": json.dumps({**about, "sha256": digest})})


@pytest.mark.parametrize(
    "changes",
    [
        {"pending": 6}, {"pending": -1}, {"pending": True}, {"pending": 2.0}, {"remember": 0}, {"remember": 2**40},
        {"seed": -1}, {"bytes": "zz"}, {"bytes": "41"}, {"bytes": "80"}, {"text": 1}, {"text": None}, {"noise": []},
        {"noise": {}}, {"noise": {"drawn": 0}}, {"version": "1"},
        {"tensors": {"recent": np.array([7], dtype=np.int32)}}, {"tensors": {"recent": np.zeros(1, dtype=np.int64)}},
        {"tensors": {"tail": np.array([255], dtype=np.uint8)}}, {"tensors": {"state.9": np.zeros(1, dtype=np.uint8)}},
        {"tensors": {"state.0": np.zeros((1, 9), dtype=np.float32)}},
        {"tensors": {"state.0": np.full((1, 8), np.nan, dtype=np.float32)}},
        {"tensors": {"state.0": np.zeros((1, 8), dtype=np.float64)}},
    ],
    ids=str,
)  # fmt: skip
def test_a_forged_file_is_damage(content, changes, tmp_path):
    assert "is damaged" in refused(tmp_path / "s", forged(content, **changes))


@pytest.mark.parametrize("name", ["buffer_pos", "has_uint32", "uinteger", "drawn", "counter", "key", "buffer"])
@pytest.mark.parametrize("value", [-1, 2**64, "1", None, [], [0] * 3, [-1] * 4, [2**64] * 4, [0.5] * 4])
def test_forged_noise_is_damage(content, name, value, tmp_path):
    noise = {**Session.begin(CHARS, "", 1).write(max_new_tokens=1)[1].open.noise, name: value}
    assert "is damaged" in refused(tmp_path / "s", forged(content, noise=noise))


def test_a_file_of_another_model_or_version_or_kind_is_named(content, tmp_path):
    path = tmp_path / "s"
    path.write_bytes(content)
    with pytest.raises(TextgenError, match=r"was saved by another model\.$") as caught:
        Session.load(made(CharTokenizer("abcd"), digest="two"), path)
    assert caught.value.hint == "model takes the folder of that one."
    assert "has format 3; this textgen reads up to 2." in refused(path, forged(content, version=3))
    for other in (forged(content, format="other"), b"\xff" * 100, b"", b"Once upon a time" * 10**6, content[:40]):
        assert refused(path, other) == f"{path} is not a saved state."
    assert "is damaged: its header is incomplete." in refused(path, content[:100])
    assert "is damaged" in refused(path, content + bytes(10**7))
    with pytest.raises(storage.DamagedError, match="is missing"):
        Session.load(CHARS, tmp_path / "none")
    with pytest.raises(storage.DamagedError, match="is not a regular file"):
        Session.load(CHARS, tmp_path)


def test_beams_do_not_start_from_a_state():
    with pytest.raises(UsageError, match=r"^num_beams=2 starts from a prompt, not from a state\.$"):
        Session.begin(CHARS, "", 1).write(num_beams=2, max_new_tokens=3)

"""Laws of characters: whatever a model computes and however it is asked, what it generates is text."""

from dataclasses import replace
from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import textgen
from textgen.data import CorpusOptions
from textgen.data.corpus import scan_corpus, tokenize
from textgen.data.tokenizers import ByteTokenizer, train_tokenizer
from textgen.generation import SampleOptions
from textgen.generation.copies import CopyGuard, CopyIndex
from textgen.generation.generate import EXACT_ROWS, complete, sampling_options, stream
from textgen.generation.language_model import LanguageModel, generation_config, with_generation_config
from textgen.generation.sampling import BETWEEN, NOWHERE, OUT, PLACES, CharacterGuard, character_guard, place_after
from textgen.generation.session import Session
from textgen.generation.streams import Streams
from textgen.model import ModelConfig

law = settings(deadline=None, max_examples=8)
TOKENIZER_KINDS = ["char", "byte", "word", "bpe", "unigram"]
TEXT = "The quick brown fox jumps over the lazy dog.\n    naïve café “quoted” — done.\n漢字 😀\n" * 8


class Random:
    """Logits that hang on all that a row has read and favor no token."""

    def __init__(self, vocab_size, seed=0, scale=1.0):
        self.table = np.random.default_rng(seed).normal(scale=scale, size=(997, vocab_size)).astype(np.float32)

    def initial_state(self, batch_size):
        return np.ones(batch_size, dtype=np.int64)

    def step(self, ids, state):
        state = (state * 31 + ids + 7) % 997
        return self.table[state], state

    def forward(self, ids, state):
        for column in ids.T:
            logits, state = self.step(column, state)
        return logits, state

    def select(self, state, indices):
        return state[indices]

    def concat(self, states):
        return np.concatenate(states)

    def arrays(self, state):
        return [state]

    def from_arrays(self, arrays):
        return arrays[0].copy()


@cache
def tokenizer_of(kind):
    return train_tokenizer(kind, [[TEXT.encode()]], vocab_size=300)


class Guarded(LanguageModel):
    """A language model whose training text is at hand."""

    def copy_guard(self, limit):
        return CopyGuard(CopyIndex([TEXT]), self.tokenizer, limit)


def model_of(kind, seed=0, scale=1.0, **parts):
    tokenizer = tokenizer_of(kind)
    stepper = Random(tokenizer.vocab_size, seed, scale)
    parts = {"unsampled": tokenizer.unsampled, "begin": (tokenizer.boundary,), "digest": "one", **parts}
    return Guarded(ModelConfig(tokenizer.vocab_size), tokenizer, stepper, **parts)


def is_text(text):
    return "\ufffd" not in text and text.encode().decode() == text


OPTIONS = [
    {},
    {"greedy": True},
    {"ignore_eos": True},
    {"temperature": [0.5, 2.0], "top_k": 5},
    {"top_p": 0.5, "repetition_penalty": 1.5, "frequency_penalty": 1.0},
    {"min_p": 0.5, "stop": ["a", "é"]},
    {"max_copy": 2},
    {"num_beams": 3},
]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("kind", TOKENIZER_KINDS)
@law
@given(seed=st.integers(0, 99), length=st.integers(1, 25), prompt=st.sampled_from(["", "The ", "é", "漢"]))
def test_what_a_model_generates_is_text(kind, options, seed, length, prompt):
    model = model_of(kind, seed, scale=3.0)
    options = sampling_options(model, {"max_new_tokens": length, "seed": seed, **options})
    (completion,) = complete(model, [prompt], options)
    assert is_text(completion.text)
    if options.num_beams is None:
        assert "".join(stream(model, prompt, max_new_tokens=length, seed=seed, **_given(options))) == completion.text


def _given(options):
    return {
        name: value for name, value in vars(options).items()
        if value != getattr(SampleOptions(), name) and name not in ("seed", "max_new_tokens")
    }  # fmt: skip


@pytest.mark.parametrize("kind", ["byte", "bpe"])
def test_a_bias_towards_broken_characters_does_not_break_them(kind):
    model = model_of(kind)
    ids = [
        id for id, symbol in enumerate(model.tokenizer.token_bytes) if symbol and symbol[0] >= 0x80 and len(symbol) == 1
    ]
    biases = dict.fromkeys(ids, 100)
    for seed in range(5):
        text = textgen.generate(model, logit_bias=biases, seed=seed, max_new_tokens=60, ignore_eos=True)
        assert is_text(text) and all(ord(character) >= 0x80 for character in text) and text


@pytest.mark.parametrize("kind", ["byte", "bpe"])
def test_rows_streams_and_sessions_are_text_and_the_text_of_one_run(kind, tmp_path):
    model = model_of(kind)
    biases = dict.fromkeys(tokenizer_of(kind).encode("漢é😀").tolist(), 6.0)
    options = {"logit_bias": biases, "max_new_tokens": 20, "temperature": 1.5}
    alone = [textgen.generate(model, "a", seed=seed, **options) for seed in range(EXACT_ROWS + 4)]
    assert any(ord(character) > 0x7F for text in alone for character in text) and all(map(is_text, alone))
    together = complete(model, ["a"] * len(alone), sampling_options(model, {**options, "seed": 0}))
    assert [completion.text for completion in together] == alone
    streams = Streams(model)
    keys = [streams.add("a", seed=seed, **options) for seed in range(len(alone))]
    texts = dict.fromkeys(keys, "")
    while len(streams):
        for piece in streams.step():
            texts[piece.key] += piece.text
    assert list(texts.values()) == alone
    for seed, whole in enumerate(alone):
        session, text = Session.begin(model, "a", seed), ""
        for length in (7, 6, 7):
            piece, session = session.write(**{**options, "max_new_tokens": length})
            text += piece
            session.save(tmp_path / "s")
            session = Session.load(model, tmp_path / "s")
            if len(text) >= len(whole):
                break
        assert whole.startswith(text) and is_text(session.rest)


def test_the_boundary_does_not_come_inside_a_character():
    model = model_of("byte")
    for seed in range(10):
        biases = {0xC3: 30, model.tokenizer.boundary: 25}
        text = textgen.generate(model, "a", logit_bias=biases, seed=seed, max_new_tokens=30)
        assert is_text(text)


@law
@given(data=st.binary(min_size=1, max_size=4) | st.lists(st.integers(0x80, 0xF7), max_size=4).map(bytes))
def test_places_are_those_of_a_decoder(data):
    decoder = ByteTokenizer().decoder()
    text, place = "".join(map(decoder.add, data)), place_after(BETWEEN, data)
    assert (place == NOWHERE) == ("\ufffd" in text)
    if place != NOWHERE:
        assert (place == BETWEEN) == (not decoder.held) and place_after(BETWEEN, decoder.held) == place


@law
@given(data=st.data(), kind=st.sampled_from(TOKENIZER_KINDS))
def test_no_place_that_can_be_reached_is_without_a_token_to_draw(data, kind):
    tokenizer = tokenizer_of(kind)
    words = [id for id in range(tokenizer.vocab_size) if id != tokenizer.boundary]
    unsampled = data.draw(st.sets(st.sampled_from(words), min_size=len(words) // 2)) | set(tokenizer.unsampled)
    guard = character_guard(tokenizer, unsampled, tokenizer.vocab_size)
    if guard is None:
        return
    reached = set(guard.after[~guard.barred].tolist()) - {NOWHERE} | {BETWEEN}
    assert all((~guard.barred[place]).any() for place in range(PLACES))
    drawable = [id for id in words if id not in unsampled]
    assert all((guard.after[place, drawable] != NOWHERE).any() for place in reached)
    (completion,) = complete(
        replace(model_of(kind), unsampled=tuple(unsampled)), ["a"],
        SampleOptions(max_new_tokens=20, seed=1, ignore_eos=True, temperature=5.0),
    )  # fmt: skip
    assert is_text(completion.text)


def test_tokens_that_are_whole_characters_need_no_guard():
    for kind, needed in {"char": False, "word": False, "byte": True, "bpe": True, "unigram": True}.items():
        tokenizer = tokenizer_of(kind)
        assert (character_guard(tokenizer, tokenizer.unsampled, tokenizer.vocab_size) is not None) == needed
    bpe = tokenizer_of("bpe")
    pieces = {id for id, symbol in enumerate(bpe.token_bytes) if len(symbol) == 1 and symbol[0] >= 0x80}
    assert character_guard(bpe, pieces | set(bpe.unsampled), bpe.vocab_size) is None


@pytest.mark.parametrize(
    ("content", "raw"),
    [("naïve café\n".encode() * 9, False), ("naïve café\n".encode("latin-1") * 9, True), (b"abc\xe6\xbc" * 9, True)],
)
def test_the_corpus_decides_whether_a_model_may_write_raw_bytes(content, raw, tmp_path):
    (tmp_path / "a.txt").write_bytes(content)
    corpus = scan_corpus([str(tmp_path / "a.txt")], CorpusOptions(tokenizer="byte", validation_split=0), 0)
    store = tokenize(corpus, tmp_path / "tokens")
    stored = generation_config(store)
    assert store.holds_text != raw and stored["raw_bytes"] == raw
    tokenizer = store.tokenizer
    model = with_generation_config(ModelConfig(tokenizer.vocab_size), tokenizer, Random(tokenizer.vocab_size), stored)
    texts = [textgen.generate(model, seed=seed, max_new_tokens=40) for seed in range(5)]
    assert any("\ufffd" in text for text in texts) == raw


def test_a_document_that_ends_inside_a_character_is_raw(tmp_path):
    for name, content in {"a.txt": b"ab\xc3", "b.txt": b"\xa9cd"}.items():
        (tmp_path / name).write_bytes(content)
    corpus = scan_corpus([str(tmp_path)], CorpusOptions(tokenizer="byte", validation_split=0), 0)
    assert not tokenize(corpus, tmp_path / "tokens").holds_text


# --- the beginning of a text ---


@pytest.mark.parametrize("options", [{}, {"greedy": True}, {"num_beams": 1}, {"num_beams": 3}, {"ignore_eos": True}])
@pytest.mark.parametrize("kind", TOKENIZER_KINDS)
def test_no_text_is_empty(kind, options):
    model = model_of(kind)
    model.stepper.table[:, model.tokenizer.boundary] = 50
    ended = textgen.generate(model, "The", max_new_tokens=9, seed=1, **options)
    assert textgen.generate(model, "", max_new_tokens=9, seed=1, **options)
    assert ended == "" or "ignore_eos" in options


def test_infinite_logits_of_barred_tokens_do_no_harm():
    guard = CharacterGuard(np.array([[0, NOWHERE]] * PLACES, dtype=np.int8))
    assert guard.mask(np.array([0.5, np.inf], dtype=np.float32), b"").tolist() == [0.5, OUT]

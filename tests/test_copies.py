"""Laws of copies: the longest one is found where it is, and a guarded text has none that is longer than allowed."""

import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_generate import scripted
from test_session import made

import textgen
from textgen.cli.sample import Form, Writer
from textgen.data.tokenizers import ByteTokenizer, CharTokenizer, WordTokenizer, train_tokenizer
from textgen.errors import TextgenError, UsageError
from textgen.generation import SampleOptions, copies
from textgen.generation.copies import BREAK, Copy, CopyIndex, index_of, sorted_places
from textgen.generation.generate import complete, sampling_options
from textgen.generation.session import Session
from textgen.training.stored_data import training_ids_of

law = settings(deadline=None)
DOCUMENTS = st.lists(st.text("abé", max_size=12), min_size=1, max_size=4)


def longest_by_hand(documents, text, after=0):
    """How many characters of the longest span that reaches beyond `after`, in every way there is."""
    spans = [text[a:b] for b in range(after + 1, len(text) + 1) for a in range(b)]
    return max((len(s) for s in spans if any(s in d for d in documents)), default=0)


def knowing(model, documents):
    """The model with these texts as what it learned from."""
    model.__dict__["training_text"] = CopyIndex(documents)
    return model


@law
@given(text=st.text("ab\ud800é😀", max_size=40))
def test_places_are_sorted_by_what_follows(text):
    assert sorted_places(text).tolist() == sorted(range(len(text)), key=lambda place: text[place:])


@pytest.mark.parametrize("text", ["a" * 3000, "ab" * 1500, "abcdefg" * 400 + "x"])
def test_long_repetitions_are_sorted_too(text):
    assert sorted_places(text).tolist() == sorted(range(len(text)), key=lambda place: text[place:])


@law
@given(documents=DOCUMENTS, text=st.text("abéx", max_size=12), after=st.integers(0, 12))
def test_the_longest_copy_is_that_of_a_search_by_hand(documents, text, after):
    found = CopyIndex(documents).longest(text, after)
    assert (len(found.text) if found else 0) == longest_by_hand(documents, text, after)
    if found:
        assert found.text in text
        assert documents[found.document].find(found.text) == found.character
        assert not any(found.text in document for document in documents[: found.document])


def test_a_planted_text_is_found_at_its_place():
    rng = np.random.default_rng(0)
    documents = ["".join(rng.choice(list("abcdefgh "), size)) for size in (3000, 5000, 2000)]
    planted = documents[1][1234:1434]
    text = "xx" + planted + "zz" + documents[2][50:90]
    assert CopyIndex(documents).longest(text) == Copy(planted, 1, 1234)
    assert CopyIndex(documents).longest(text, after=210) == Copy(documents[2][50:90], 2, 50)


def test_documents_are_those_of_the_store():
    tokenizer = CharTokenizer("abc")
    ids = [
        tokenizer.boundary,
        *tokenizer.encode("abé"),
        tokenizer.boundary,
        tokenizer.boundary,
        *tokenizer.encode("ca"),
    ]
    index = index_of(tokenizer, np.array(ids))
    assert index.longest("xbé") == Copy("bé", 0, 1) and index.longest("ca") == Copy("ca", 2, 0)
    assert index.longest("éc") == Copy("é", 0, 2) and BREAK not in index
    assert index_of(tokenizer, np.array([], dtype=np.int32)).longest("a") is None


def test_a_text_that_is_too_long_is_refused(monkeypatch):
    monkeypatch.setattr(copies, "LARGEST", 10)
    with pytest.raises(TextgenError, match=r"^the training text has 11 characters; .* at most 10\.$"):
        CopyIndex(["abcde", "abcd"])


CHARS, BYTES = made(CharTokenizer("abc")), made(ByteTokenizer())
TEXT = "abccbaabcabcbbcacbacbbacbabcbacbbcaabbccaacbbacbcabacbcabcabbcaabcbaccab" * 3
PIECES = train_tokenizer("bpe", [[("the cat sat on the mat and the hat is the cat's. " * 40).encode()]], 300)


@settings(deadline=None, max_examples=60)
@given(
    limit=st.integers(1, 9), seed=st.integers(0, 999), prompt=st.text("abc", max_size=6), documents=st.integers(1, 3)
)
def test_no_guarded_text_copies_more_than_it_may(limit, seed, prompt, documents):
    parts = [TEXT[k::documents] for k in range(documents)]
    model = knowing(made(CharTokenizer("abcdef")), parts)
    options = SampleOptions(max_copy=limit, seed=seed, max_new_tokens=40, ignore_eos=True, temperature=2.0)
    (completion,) = complete(model, [prompt], options)
    assert completion.unavoidable == 0
    assert longest_by_hand(parts, prompt + completion.text, len(prompt)) <= limit


@pytest.mark.parametrize("together", [1, 9])
def test_what_is_unavoidable_is_counted_to_the_end_of_each_text(together):
    model = knowing(made(CharTokenizer("ab")), ["ab" * 30, "ba" * 30, "aabb" * 9, "abab" * 9])
    options = SampleOptions(max_copy=1, max_new_tokens=40, stop=["a"], seed=3, ignore_eos=True)
    found = complete(model, ["a"] * together, options)
    assert all(completion.unavoidable <= completion.tokens for completion in found)
    assert together == 1 or any(0 < completion.tokens < 40 for completion in found)


def test_text_held_back_stands_in_a_report_of_copies_once(capfdbinary):
    text = "xyz abcdefgh"
    model = knowing(scripted("bcdefgh"), [text])
    _, after = Session.begin(model, "a").write(temperature=0, max_new_tokens=3, stop=["cdX"])
    assert after.open.text == "cd"
    form = Form(echo=None, stream=None, raw=False, as_json=True, null=False, verbose=False, report_copies=True,
                save_state=None)  # fmt: skip
    Writer(model, "", SampleOptions(temperature=0, max_new_tokens=4, stop=["cdX"]), form, after).write(1)
    assert json.loads(capfdbinary.readouterr().out)["longest_copy"]["text"] == "abcdefgh"


@pytest.mark.parametrize("limit", [1, 3, 6])
def test_symbols_of_several_characters_are_guarded_within_and_across(limit):
    text = "the cat sat on the mat and the hat is the cat's. " * 3
    model = knowing(made(PIECES, seed=3), [text])
    biases = dict.fromkeys(PIECES.encode(text).tolist(), 9.0)
    options = SampleOptions(seed=1, max_new_tokens=25, ignore_eos=True, logit_bias=biases, temperature=2.0)
    free, guarded = (
        [
            longest_by_hand([text], "the c" + c.text, 5)
            for c in complete(model, ["the c"] * 8, replace(options, max_copy=m))
        ]
        for m in (None, limit)
    )
    assert max(guarded) <= limit < max(free)


def test_bytes_are_guarded_by_character():
    text = "éàéèàéàèèéàèé"
    model = knowing(BYTES, [text])
    biases = dict.fromkeys((195, 160, 168, 169), 30)
    options = SampleOptions(max_copy=2, max_new_tokens=40, seed=3, ignore_eos=True, logit_bias=biases, temperature=3.0)
    for completion in complete(model, [""] * 8, options):
        assert longest_by_hand([text], completion.text) <= 2
    free = complete(model, [""] * 8, SampleOptions(**{**vars(options), "max_copy": None}))
    assert max(longest_by_hand([text], completion.text) for completion in free) > 2


def test_words_are_guarded_with_their_spaces():
    text = "ab cd e ab e cd cd ab\n" * 3
    model = knowing(made(WordTokenizer(["ab", "cd", "e", "f"])), [text])
    for seed in range(8):
        written = textgen.generate(model, "ab", seed=seed, max_copy=7, max_new_tokens=30, ignore_eos=True)
        assert longest_by_hand([text], "ab" + written, 2) <= 7


def test_only_what_would_copy_too_much_is_left_out():
    """Each symbol's fate, held to a search by hand."""
    tokenizer = CharTokenizer("abc")
    model = knowing(made(tokenizer), [TEXT])
    rng = np.random.default_rng(0)
    for _ in range(200):
        before = "".join(rng.choice(list("abc"), 9))
        limit = int(rng.integers(1, 6))
        logits = rng.normal(size=tokenizer.vocab_size)
        steered, avoided = model.copy_guard(limit).steer(logits, before, b"")
        texts = [tokenizer.decode([i]) for i in range(tokenizer.vocab_size)]
        wrong = [bool(t) and (before + t)[-limit - 1 :] in TEXT for t in texts]
        assert avoided and np.isneginf(steered).tolist() == wrong


def test_where_all_copy_too_much_the_shortest_copy_is_taken_and_counted():
    model = knowing(made(CharTokenizer("ab")), ["aab", "b"])
    logits = np.array([-np.inf, -np.inf, 0.0, 1.0])
    assert np.array_equal(model.copy_guard(1).steer(logits, "xa", b"")[0], [-np.inf, -np.inf, 0.0, 1.0])
    steered, avoided = model.copy_guard(1).steer(logits, "aa", b"")
    assert avoided is False and np.isneginf(steered).tolist() == [True, True, False, True]
    options = SampleOptions(max_copy=1, max_new_tokens=3, ignore_eos=True, seed=1)
    (completion,) = complete(model, ["a"], options)
    assert completion.unavoidable > 0 and len(completion.text) == 3


def test_the_guard_goes_on_with_a_session(tmp_path):
    model = knowing(made(CharTokenizer("abcdef")), [TEXT])
    options = {"max_copy": 4, "ignore_eos": True, "temperature": 2.0}
    for seed in range(6):
        whole = textgen.generate(model, "abc", seed=seed, max_new_tokens=40, **options)
        session, text = Session.begin(model, "abc", seed), ""
        for length in (3, 17, 20):
            piece, session = session.write(max_new_tokens=length, **options)
            session.save(tmp_path / "s")
            session, text = Session.load(model, tmp_path / "s"), text + piece
        assert text == whole and longest_by_hand([TEXT], "abc" + text, 3) <= 4


@pytest.mark.parametrize("documents", [[], ["abcab"], ["ab", "", "bca"]])
def test_the_training_text_is_read_from_the_ids_on_demand(documents):
    tokenizer, reads = CHARS.tokenizer, []

    def training_ids():
        reads.append(1)
        return np.array([i for d in documents for i in (tokenizer.boundary, *tokenizer.encode(d))], dtype=np.int32)

    model = replace(CHARS, training_ids=training_ids)
    assert model == CHARS and not reads
    assert model.training_text is model.training_text and len(reads) == 1
    spans = [d[a:b] for d in ["xabcabx", *documents] for b in range(len(d) + 1) for a in range(b)]
    for span in spans:
        assert (span in model.training_text) == any(span in d for d in documents)


def test_a_model_without_its_training_text_says_so(tmp_path):
    with pytest.raises(TextgenError, match=r"^the training text of this model is not known\.$"):
        textgen.generate(CHARS, max_copy=5)
    with pytest.raises(TextgenError, match=r"^the training text of '.*none' is not available: .*\.$"):
        training_ids_of(tmp_path / "none")
    with pytest.raises(UsageError, match=r"^max_copy must be a whole number from 1 to 1,000,000, not 0\.$"):
        sampling_options(CHARS, {"max_copy": 0})
    with pytest.raises(UsageError, match="max_copy"):
        sampling_options(CHARS, {"max_copy": 3, "num_beams": 2})

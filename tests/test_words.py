"""Laws of the word kind: what comes back, what does not, and that counts are those of published figures."""

import itertools
import json
import re
import tracemalloc
from collections import Counter
from unittest import mock

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from textgen.data import CorpusOptions
from textgen.data.corpus import scan_corpus, tokenize
from textgen.data.store import missing_escape
from textgen.data.tokenizers import base, load_tokenizer, train_tokenizer
from textgen.errors import TextgenError
from textgen.evaluation import score_encoded
from textgen.generation.language_model import LanguageModel

CONFIG = "tokenizer_config.json"
TEXT = "the fox saw the hen .\n\nthe hen saw\tthe  fox ,\r\nand ran\r"
TOKENIZER = train_tokenizer("word", [[TEXT.encode()]])
KNOWN = ["the", "fox", "saw", "hen", ".", ",", "and", "ran"]
TOKENS = st.sampled_from([*KNOWN, "<unk>", "owl", "é", "\u00a0", "\n", "\r\n", "\r", " ", "\t", "  "])
TEXTS = st.lists(TOKENS).map("".join) | st.lists(TOKENS).map(" ".join)
DOCUMENTS = TEXTS.map(str.encode) | st.binary(max_size=40)
law = settings(deadline=None)


def joined(tokenizer, pieces):
    return np.concatenate([np.empty(0, np.int32), *tokenizer.encode_pieces(pieces)])


def published(text):
    """The words of a text as published counts have them, with one symbol a line end."""
    lines = re.split(r"(\r\n?|\n)", text)
    return [
        word
        for line in lines
        for word in ([line] if line in ("\n", "\r", "\r\n") else re.split("[ \t]+", line))
        if word
    ]


@law
@given(text=TEXTS)
def test_each_word_and_each_line_end_is_one_symbol(text):
    known = {*KNOWN, "\n", "\r\n", "\r"}
    expected = [word if word in known else "<unk>" for word in published(text)]
    assert [TOKENIZER.token_bytes[i].decode() for i in TOKENIZER.encode(text)] == expected
    assert TOKENIZER.unknown_count(TOKENIZER.encode(text)) == expected.count("<unk>")


@law
@given(lines=st.lists(st.lists(st.sampled_from([*KNOWN, "<unk>"]))), end=st.sampled_from(["\n", "\r\n", "\r"]))
def test_known_words_divided_by_single_spaces_come_back(lines, end):
    text = end.join(" ".join(line) for line in lines)
    assert TOKENIZER.decode(TOKENIZER.encode(text)) == text


@law
@given(document=DOCUMENTS)
def test_what_is_lost_is_lost_at_once(document):
    ids = joined(TOKENIZER, [document])
    assert np.array_equal(joined(TOKENIZER, [TOKENIZER.decode_bytes(ids)]), ids)


@law
@given(document=DOCUMENTS, cuts=st.lists(st.integers(0, 40)), block=st.integers(1, 9), longest=st.integers(3, 6))
@example(document=b"thee fox", cuts=[], block=1, longest=3)  # unknown, though what is kept of it might be known
def test_cutting_at_any_byte_changes_nothing(document, cuts, block, longest):
    edges = [0, *sorted(min(cut, len(document)) for cut in cuts), len(document)]
    pieces = [document[a:b] for a, b in itertools.pairwise(edges)]
    with mock.patch.object(base, "LONGEST", longest):
        whole = joined(TOKENIZER, [document])
        with mock.patch.object(base, "BLOCK_BYTES", block):
            assert np.array_equal(joined(TOKENIZER, pieces), whole)


@law
@given(data=st.data(), after=TEXTS)
def test_streaming_goes_on_from_a_text(data, after):
    ids = data.draw(st.lists(st.integers(0, TOKENIZER.vocab_size - 1)) | TEXTS.map(TOKENIZER.encode))
    ids = [int(i) for i in ids]
    before = [base.UNKNOWN] if after and after[-1] not in " \t\r\n" else []
    whole = TOKENIZER.decode([*before, *ids]).removeprefix("<unk>" if before else "")
    decoder = TOKENIZER.decoder(after)
    for _ in range(2):
        assert "".join([*map(decoder.add, ids), decoder.finish()]) == whole


def test_a_space_stands_between_words_alone():
    ids = TOKENIZER.encode("the fox\nsaw")
    assert TOKENIZER.decode([*ids, TOKENIZER.boundary, ids[0]]) == "the fox\nsawthe"
    assert TOKENIZER.decoder("a fox").add(ids[0]) == " the"
    assert TOKENIZER.decoder("a fox ").add(ids[0]) == "the"


@law
@given(counts=st.lists(st.integers(1, 9), min_size=1, max_size=12), size=st.integers(3, 14))
def test_the_most_frequent_words_are_kept(counts, size):
    text = " ".join(f"w{k}" for k, count in enumerate(counts) for _ in range(count))
    tokenizer = train_tokenizer("word", [[text.encode()]], vocab_size=size)
    by_rank = sorted(range(len(counts)), key=lambda k: (-counts[k], f"w{k}"))
    assert tokenizer.words == [f"w{k}" for k in by_rank][: size - 2]
    assert tokenizer.token_bytes[:3] == [b"", b"<unk>", b"\n"] and tokenizer.vocab_size <= size + 1


def test_rare_words_may_be_let_go_while_counting():
    text = b"".join(b"the fox w%d\n" % k for k in range(100))
    with mock.patch.object(base, "MOST_COUNTED", 10), mock.patch.object(base, "BLOCK_BYTES", 40):
        tokenizer = train_tokenizer("word", [[text]])
    assert {"the", "fox"} <= set(tokenizer.words) and len(tokenizer.words) <= 10


def test_a_word_without_end_is_read_in_bounded_memory():
    endless = itertools.chain(itertools.repeat(b"x" * 10_000, 300), [b" the"])
    with mock.patch.object(base, "BLOCK_BYTES", 10_000):
        tracemalloc.start()
        ids = joined(TOKENIZER, endless).tolist()
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert ids == [base.UNKNOWN, *TOKENIZER.encode("the")] and peak < 200_000


def test_what_is_saved_loads_as_the_same_tokenizer():
    loaded = load_tokenizer(TOKENIZER.files())
    assert loaded.files() == TOKENIZER.files() and loaded.token_bytes == TOKENIZER.token_bytes
    assert np.array_equal(loaded.encode(TEXT), TOKENIZER.encode(TEXT))


BAD_WORDS = [None, "the", ["the", "the"], ["a b"], ["a\tb"], ["\n"], [""], ["<unk>"], [7], ["\ud800"], ["x" * 1001]]


@pytest.mark.parametrize("bad", BAD_WORDS, ids=ascii)
def test_wrong_words_are_refused(bad):
    config = {**json.loads(TOKENIZER.files()[CONFIG]), "words": bad}
    with pytest.raises(TextgenError, match=f"^{CONFIG}: 'words' .*\\.$"):
        load_tokenizer({CONFIG: json.dumps(config).encode()})


def test_units_are_words():
    assert TOKENIZER.units("the owl\nran") == ["the", "owl", "\n", "ran"]


# Honest figures


class _Uniform:
    """A stepper to which all symbols are equally likely."""

    def __init__(self, size):
        self.size = size

    def initial_state(self, batch_size):
        return ()

    def score(self, ids, targets, state):
        return np.full(ids.shape, -np.log(self.size)), state


def score(tokenizer, text):
    ids = np.concatenate([[tokenizer.boundary], tokenizer.encode(text)]).astype(np.int32)
    model = LanguageModel(None, tokenizer, _Uniform(tokenizer.vocab_size))
    return score_encoded(model.stepper, model, ids, len(text.encode()), len(text))


def test_lost_words_are_counted_and_no_figure_a_byte_is_given():
    scored = score(TOKENIZER, "the owl saw <unk> .\n")
    assert (scored.unknown, scored.tokens) == (2, 6)
    assert scored.perplexity == pytest.approx(TOKENIZER.vocab_size)
    shown = scored.to_json()
    assert shown["bits_per_byte"] is None and shown["nats_per_character"] is None and shown["unknown"] == 2
    other = score(train_tokenizer("byte", []), "the owl saw .\n")
    assert other.unknown is None and other.to_json()["bits_per_byte"] == pytest.approx(np.log2(257))


def test_the_unknown_word_is_learned_by_replacement_only_where_the_text_has_none():
    ids = np.bincount(np.arange(5000) % 7 + 1)
    assert missing_escape(ids, 1) is None
    assert missing_escape(ids, 0) == 0 and missing_escape(ids, None) is None


@pytest.mark.data
def test_penn_treebank_is_counted_as_published(data_folder, tmp_path):
    train, valid, test = (data_folder / "ptb" / f"ptb.{part}.txt" for part in ("train", "valid", "test"))
    options = CorpusOptions(tokenizer="word", vocab_size=10_000, validation_file=str(valid))
    store = tokenize(scan_corpus([str(train)], options, seed=0), tmp_path / "store")
    tokens, documents = store.about["tokens"], store.about["documents"]
    assert {part: tokens[part] - documents[part] for part in tokens} == {"train": 929_589, "validation": 73_760}
    assert len(store.tokenizer.encode(test.read_text())) == 82_430
    distinct = Counter(np.asarray(store.tokens("train")).tolist()) - Counter([store.tokenizer.boundary])
    assert len(distinct) == 10_000 == store.tokenizer.vocab_size - 1

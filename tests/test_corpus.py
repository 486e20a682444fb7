"""Laws of the way from documents to stored tokens: nothing depends on how the text was cut, or on who encoded it."""

import json
import os
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from itertools import chain
from pathlib import Path

import numpy as np
import pytest
import sentencepiece
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from textgen.data import CorpusOptions, sources, tokenization
from textgen.data import tokenizers as subword
from textgen.data.corpus import cached_store, scan_corpus, text_of, tokenize, write_store
from textgen.data.recipes import TRAIN, VALIDATION
from textgen.data.splits import WHOLE, Split, choose_split
from textgen.data.store import COUNTS, no_progress, open_store, scan, tokenizer_of
from textgen.data.tokenization import count_characters, encode_documents
from textgen.data.tokenizers import base, train_tokenizer
from textgen.errors import TextgenError
from textgen.storage import MANIFEST, DamagedError, read_manifest, seal
from textgen.storage.filesystem import replace_in_folder

ROOT = Path(__file__).parents[1]
CALM = settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.too_slow])
SAMPLE = "The quick brown fox, the lazy dog; it's  a tale.\n\n\tEl zorro, año tras año. 日本語の話。\u2581\r\n" * 30
TOKENIZER_KINDS = ["char", "byte", "bpe", "unigram"]
TEXTS = st.text(st.sampled_from("the fox dog.\n\n  ñ語\u2581\r\x00") | st.characters(exclude_categories=["Cs"]))


@pytest.fixture(scope="module")
def tokenizers():
    return {kind: train_tokenizer(kind, [[SAMPLE.encode()]], 330) for kind in [*TOKENIZER_KINDS, "word"]}


def cut_up(documents, sizes):
    """(number, piece) with pieces of changing sizes, at character borders."""
    for number, text in enumerate(documents):
        start = step = 0
        while start < len(text):
            length = 1 + sizes[step % len(sizes)] if sizes else len(text)
            yield number, text[start : start + length].encode()
            start, step = start + length, step + 1


@CALM
@given(documents=st.lists(TEXTS.filter(bool), min_size=1, max_size=5), sizes=st.lists(st.integers(0, 9), max_size=3))
@example(documents=["a", "é", "ab\x7f"], sizes=[])
def test_a_scan_sees_the_text_and_not_the_pieces(documents, sizes):
    found = scan(cut_up(documents, sizes))
    assert found == scan(cut_up(documents, []))
    assert list(found.sizes) == [len(text.encode()) for text in documents]
    assert found.distinct == len(set("".join(documents)))
    other = [documents[0] + "x", *documents[1:]]
    assert scan(cut_up(other, sizes)).digest != found.digest
    if len(documents) > 1:
        merged = ["".join(documents[:2]), *documents[2:]]
        assert scan(cut_up(merged, sizes)).digest != found.digest


def test_a_scan_in_many_batches_is_that_in_one(monkeypatch):
    whole = scan([(0, SAMPLE.encode()), (1, b"~")])
    monkeypatch.setattr(base, "BLOCK_BYTES", 3)
    assert scan(cut_up([SAMPLE, "~"], [1, 4])) == whole


@CALM
@given(
    documents=st.lists(TEXTS.filter(bool), min_size=1, max_size=9), share=st.floats(0.01, 0.9), seed=st.integers(0, 9)
)
def test_a_split_is_a_partition_near_its_share(documents, share, seed):
    sizes = [len(text.encode()) for text in documents]
    chosen = choose_split(sizes, share, seed)
    divided = list(chosen.divide(cut_up(documents, [3])))
    assert b"".join(piece for _, _, piece in divided) == "".join(documents).encode()
    assert all(piece and piece.decode() for _, _, piece in divided)
    held = sum(len(piece) for part, _, piece in divided if part == VALIDATION)
    if chosen.kind != WHOLE or len(chosen.cuts) > 1:
        assert abs(held - share * sum(sizes)) <= 0.05 * share * sum(sizes) + 5 * len(documents)
    assert choose_split(sizes, share, seed) == chosen
    assert list(Split().divide(cut_up(documents, []))) == [(TRAIN, k, t.encode()) for k, t in enumerate(documents)]


def test_choosing_among_very_many_documents_takes_no_time():
    sizes = [1000 + k % 7 for k in range(200_000)]
    held = sum(sizes[k] for k in choose_split(sizes, 0.1, 1).cuts)
    assert abs(held / sum(sizes) - 0.1) < 0.006


@CALM
@given(text=TEXTS)
def test_a_text_encoded_word_by_word_is_what_sentencepiece_makes_of_its_lines(tokenizers, text):
    tokenizer, whole = tokenizers["bpe"], []
    for stretch in chain.from_iterable(subword._found(subword._STRETCH, [text.encode()])):
        spelled = stretch[0] in subword.SPELLED
        whole += subword._spell(stretch) if spelled else tokenizer._processor.encode(stretch, out_type=int)
    assert tokenizer.encode(text).tolist() == whole


def test_words_forgotten_are_encoded_again_the_same(tokenizers, monkeypatch):
    before = tokenizers["bpe"].encode(SAMPLE)
    monkeypatch.setattr(subword, "MOST_IDS", 3)
    monkeypatch.setattr(subword, "LONGEST", 2)
    assert np.array_equal(tokenizers["bpe"].encode(SAMPLE), before)
    held = len(tokenizers["bpe"]._memory._ids)
    assert np.array_equal(tokenizers["bpe"].encode(SAMPLE), before)
    assert len(tokenizers["bpe"]._memory._ids) == held


@pytest.mark.parametrize("kind", ["bpe", "unigram"])
@CALM
@given(text=st.binary(max_size=40) | TEXTS.map(str.encode), more=st.binary(max_size=9) | TEXTS.map(str.encode))
@example(text="fox fox語".encode()[:-1], more=b"\x9e fox")
@example(text=b"The quick bro", more=b"wn fox")
@example(text=b"fox \n\n", more=b"\n the")
def test_both_sides_of_a_cut_are_encoded_as_they_are_together(tokenizers, kind, text, more):
    tokenizer = tokenizers[kind]
    end = tokenizer.cut(text)
    assert 0 <= end <= len(text)
    apart = [ids for part in (text[:end], text[end:] + more) for ids in tokenizer.encode_pieces([part])]
    together = list(tokenizer.encode_pieces([text + more]))
    assert np.concatenate([[], *apart]).tolist() == np.concatenate([[], *together]).tolist()


@pytest.mark.parametrize("kind", ["bpe", "unigram"])
def test_several_processes_give_the_same_ids_in_the_same_order(tokenizers, kind, monkeypatch):
    monkeypatch.setattr(tokenization, "BATCH_BYTES", 700)
    documents = [SAMPLE, "x" * 5000, " and so on" * 900, "end", SAMPLE[::-1], "\n" * 3000]
    texts = []
    for text, part in zip(documents, "ababab", strict=True):
        texts.append((part, (piece for _, piece in cut_up([text], [99, 400]))))
    monkeypatch.setattr(tokenization, "WORTHWHILE_BYTES", 0)
    monkeypatch.setattr(tokenization, "usable_cores", lambda: 2)
    found = list(tokenization.encode_parts(tokenizers[kind], texts, 1))
    assert len(found) > 20
    alone = encode_documents(tokenizers[kind], [(k, text.encode()) for k, text in enumerate(documents)])
    assert np.array_equal(np.concatenate([ids for _, _, (ids, _, _) in found]), alone[0])
    assert (sum(size for *_, (_, size, _) in found), sum(chars for *_, (_, _, chars) in found)) == alone[1:]
    assert [part for part, begins, _ in found if begins] == list("ababab")


def one_by_one(tokenizer, documents):
    """The ids of documents, each encoded by itself behind a boundary."""
    ids = [[[tokenizer.boundary], *tokenizer.encode_pieces([text.encode()])] for text in documents]
    return np.concatenate([np.empty(0, np.int32), *chain.from_iterable(ids)]).astype(np.int32)


@pytest.mark.parametrize("kind", [*TOKENIZER_KINDS, "word"])
@CALM
@given(
    documents=st.lists(TEXTS.filter(bool), min_size=1, max_size=12),
    sizes=st.lists(st.integers(0, 9), max_size=3),
    most=st.integers(1, 12),
)
def test_documents_encoded_together_are_as_if_encoded_one_by_one(tokenizers, kind, documents, sizes, most):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tokenization, "MAX_PARTS", most)
        ids, size, characters = encode_documents(tokenizers[kind], cut_up(documents, sizes))
    assert ids.dtype == np.int32 and np.array_equal(ids, one_by_one(tokenizers[kind], documents))
    assert (size, characters) == (len("".join(documents).encode()), len("".join(documents)))


@pytest.mark.parametrize("most", [7, 10_000])
@pytest.mark.parametrize("kind", [*TOKENIZER_KINDS, "word"])
def test_a_store_counts_as_if_documents_were_encoded_one_by_one(tmp_path, monkeypatch, kind, most):
    monkeypatch.setattr(tokenization, "MAX_PARTS", most)
    monkeypatch.setattr(sources, "READ_BYTES", 300)
    monkeypatch.setattr(sources, "CHUNK_BYTES", 100)
    lines = SAMPLE.split("\n")
    lines += ["", "", "ab", "é", "日本語", "x" * 1000, "fox  and\tdog\r", *(f"{k} foxes" for k in range(60)), "ñ" * 700]
    (tmp_path / "a.txt").write_bytes("\n".join(lines).encode())
    sized = {} if kind in ("char", "byte") else {"vocab_size": 330}
    options = CorpusOptions(tokenizer=kind, document_separator="\\n", validation_split=0.3, **sized)
    corpus = scan_corpus([str(tmp_path / "a.txt")], options, 1)
    store = tokenize(corpus, tmp_path / "store")
    documents = [line for line in lines if line]
    for part in (TRAIN, VALIDATION):
        own = [text for k, text in enumerate(documents) if (k in corpus.split.cuts) == (part == VALIDATION)]
        ids, text = one_by_one(store.tokenizer, own), "".join(own)
        assert np.array_equal(store.tokens(part), ids)
        raw = int((ids >= store.tokenizer.vocab_size).sum())
        found = [store.about[what][part] for what in ("tokens", "raw", "bytes", "characters", "documents")]
        assert found == [len(ids), raw, len(text.encode()), len(text), len(own)] and len(own) > 20
    expected = np.bincount(store.model_tokens(TRAIN), minlength=store.tokenizer.vocab_size)
    np.testing.assert_array_equal(store.frequencies, expected)


@pytest.mark.parametrize("kind", [*TOKENIZER_KINDS, "word"])
def test_the_cost_of_a_small_document_does_not_grow_with_the_corpus(tmp_path, monkeypatch, kind):
    calls = Counter()

    class Sizes(list):
        def __iter__(self):
            calls["sizes read"] += 1
            return super().__iter__()

    def counted(function, what):
        def call(*given, **named):
            calls[what] += 1
            return function(*given, **named)

        return call

    (tmp_path / "a.txt").write_text("".join(f"name{k % 50}\n" for k in range(3000)))
    sized = {} if kind in ("char", "byte") else {"vocab_size": 300}
    options = CorpusOptions(tokenizer=kind, document_separator="\\n", **sized)
    corpus = scan_corpus([str(tmp_path / "a.txt")], options, 1)
    corpus = replace(corpus, scan=replace(corpus.scan, sizes=Sizes(corpus.scan.sizes)))
    monkeypatch.setattr(np, "bincount", counted(np.bincount, "vocabularies counted"))
    write_store(corpus, tmp_path / "store", no_progress)
    assert calls["sizes read"] == 1 and 1 <= calls["vocabularies counted"] <= 3


@pytest.mark.parametrize("kind", ["bpe", "unigram"])
def test_encoding_documents_starts_no_threads(tokenizers, kind, monkeypatch):
    asked = []
    encode = sentencepiece.SentencePieceProcessor.encode

    def watched(self, input, **named):
        asked.append(input)
        return encode(self, input, **named)

    monkeypatch.setattr(sentencepiece.SentencePieceProcessor, "encode", watched)
    encode_documents(tokenizers[kind], [(k, b"unheard of %d" % (k % 30)) for k in range(500)])
    assert all(type(each) is str for each in asked)  # sentencepiece starts threads whenever it is given a list
    assert 30 <= len(asked) <= 32  # each word once


def test_a_worker_that_dies_is_said_and_leaves_nothing_behind(tokenizers, monkeypatch):
    started = []

    class Mortal(tokenization._Worker):
        def __init__(self, tokenizer):
            super().__init__(tokenizer)
            started.append(self.process)
            self.process.kill()
            self.process.wait()

    monkeypatch.setattr(tokenization, "_Worker", Mortal)
    with pytest.raises(TextgenError, match="a process that encodes text has ended"):
        list(tokenization.encode(tokenizers["bpe"], [("train", True, b"fox")], 1))
    assert all(process.poll() is not None for process in started)


def test_a_script_without_a_main_guard_may_encode_in_processes(tmp_path):
    (tmp_path / "text.txt").write_text(SAMPLE * 20)
    script = tmp_path / "script.py"
    script.write_text(
        "from textgen.data import tokenization\n"
        "tokenization.WORTHWHILE_BYTES = 0\ntokenization.usable_cores = lambda: 2\n"
        "from pathlib import Path\nfrom textgen.data.corpus import scan_corpus, tokenize\n"
        "from textgen.data import CorpusOptions\n"
        "corpus = scan_corpus(['text.txt'], CorpusOptions(vocab_size=330), 1)\n"
        "print(tokenize(corpus, Path('store')).about['tokens']['train'])\n"
    )
    done = subprocess.run(
        [sys.executable, script.name],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert int(done.stdout) > 1000 and done.stderr == ""


@pytest.mark.parametrize("kind", [*TOKENIZER_KINDS, "word"])
def test_a_store_holds_each_document_once_and_opens_as_it_was(tmp_path, kind):
    documents = [f"story {k}: the fox and the dog.\n" for k in range(20)]
    path = tmp_path / "a.jsonl"
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in documents))
    sized = {"vocab_size": 300} if kind in ("bpe", "unigram", "word") else {}
    made = tokenize(scan_corpus([str(path)], CorpusOptions(tokenizer=kind, **sized), 1), tmp_path / "store")
    store = open_store(tmp_path / "store")
    assert store.about == made.about and store.about["documents"] == {TRAIN: 18, VALIDATION: 2}
    found = []
    for part in (TRAIN, VALIDATION):
        ids = np.asarray(store.tokens(part), np.int32)
        at = np.flatnonzero(ids == store.tokenizer.boundary)
        found += [store.tokenizer.decode_bytes(piece[1:]).decode() for piece in np.split(ids, at)[1:]]
    lossless = kind != "word"
    assert sorted(found) == sorted(documents) or not lossless
    assert len(found) == 20
    assert store.about["characters"] == {p: store.about["bytes"][p] for p in (TRAIN, VALIDATION)}
    assert tokenizer_of(tmp_path / "store").files() == store.tokenizer.files()


def test_reading_options_reach_what_is_evaluated(tmp_path):
    path = tmp_path / "a.csv"
    path.write_bytes("id;text\n1;é|ü\n".replace(";", ",").encode("cp1252"))
    from textgen.data import Reading
    from textgen.data.sources import read

    sources, reading = text_of([str(path)], Reading(encoding="cp1252", document_separator="|"))
    assert list(read(sources, reading)) == [(0, "é".encode()), (1, "ü".encode())]


@given(text=st.text())
def test_characters_are_counted(text):
    assert count_characters(text.encode()) == len(text)


@pytest.mark.parametrize("kind", TOKENIZER_KINDS)
def test_symbols_are_counted_as_they_are_encoded(tmp_path, kind):
    (tmp_path / "text.txt").write_text(SAMPLE * 3 + "☃" * 40)
    options = CorpusOptions(tokenizer=kind, vocab_size=None if kind in ("char", "byte") else 330, validation_split=0.5)
    store = tokenize(scan_corpus([str(tmp_path / "text.txt")], options, seed=1), tmp_path / "store")
    expected = np.bincount(store.model_tokens(TRAIN), minlength=store.tokenizer.vocab_size)
    np.testing.assert_array_equal(store.frequencies, expected)


def test_counts_that_fit_no_tokenizer_are_damage(tmp_path):
    (tmp_path / "text.txt").write_text(SAMPLE)
    tokenize(scan_corpus([str(tmp_path / "text.txt")], CorpusOptions(tokenizer="char"), seed=1), tmp_path / "store")
    replace_in_folder(tmp_path / "store", COUNTS, b"\0" * 16)
    with pytest.raises(DamagedError, match=rf"{COUNTS} is damaged"):
        open_store(tmp_path / "store").frequencies


def test_a_store_without_counts_is_damaged_and_written_anew(tmp_path):
    (tmp_path / "text.txt").write_text(SAMPLE)
    corpus = scan_corpus([str(tmp_path / "text.txt")], CorpusOptions(tokenizer="char"), seed=1)
    folder = cached_store(corpus, tmp_path).folder
    manifest = read_manifest(folder)
    del manifest["files"][COUNTS]
    (folder / MANIFEST).write_bytes(seal(manifest))
    with pytest.raises(DamagedError, match=COUNTS):
        open_store(folder)
    assert cached_store(corpus, tmp_path).frequencies.sum() > 0


def test_a_store_of_an_older_version_is_refused_where_it_is_named_and_rebuilt_in_a_cache(tmp_path, recwarn, capsys):
    (tmp_path / "text.txt").write_text(SAMPLE)
    corpus = scan_corpus([str(tmp_path / "text.txt")], CorpusOptions(tokenizer="char"), seed=1)
    store = cached_store(corpus, tmp_path)
    before = store.tokens("train").tolist()
    (store.folder / MANIFEST).write_bytes(seal({**read_manifest(store.folder), "format_version": 1}))
    with pytest.raises(TextgenError, match=r"format version 1; this textgen reads version \d+\.$") as caught:
        scan_corpus([str(tmp_path / "text.txt")], CorpusOptions(tokenizer=str(store.folder)), seed=1)
    assert not isinstance(caught.value, DamagedError) and caught.value.hint.startswith("train again")
    assert cached_store(corpus, tmp_path).tokens("train").tolist() == before
    assert not recwarn.list and capsys.readouterr() == ("", "")


def test_any_bytes_go_with_a_byte_level_tokenizer_from_a_folder_too(tmp_path):
    raw = tmp_path / "raw.bin"
    raw.write_bytes(bytes(range(256)) * 40)
    first = scan_corpus([str(raw)], CorpusOptions(tokenizer="byte"), 0)
    tokenize(first, tmp_path / "store")
    again = scan_corpus([str(raw)], CorpusOptions(tokenizer=str(tmp_path / "store")), 0)
    assert (again.kind, again.total) == (first.kind, first.total)

"""Laws of a tokenizer, each over every kind: nothing is lost, cuts do not show, and what is damaged is refused."""

import hashlib
import io
import itertools
import json
import re
import subprocess
import sys
from unittest import mock

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from textgen.data import SIZED, TOKENIZER_KINDS, tokenizers
from textgen.data.tokenizers import base, load_tokenizer, train_tokenizer
from textgen.errors import TextgenError, UsageError

CONFIG, MODEL = "tokenizer_config.json", "tokenizer.model"
TEXT = """The miller's daughter went down to the water, and the water went down to the sea.
"What does the sea want with the water?" asked the daughter. "What does the mill want with it?" said the water.

    The wind turned the mill; the mill turned the stone; the stone turned the corn into flour.
Then the daughter went home, and the miller asked her: "Where were you?" — "Down at the water," she said, "où l'eau va."
"""
DOCUMENTS = [[TEXT.encode()], [b"Nothing else was sai", b"d that evening.\r\n", b""]]
TOKENIZERS = {kind: train_tokenizer(kind, DOCUMENTS, vocab_size=340) for kind in ("char", "byte", "bpe", "unigram")}
NASTY = [
    "", " ", "   ", " a", "a ", "  a  b  ", "\n", "\n\n", "\r", "\r\n", "a\n\nb", "\t\v\f\x85\u2028\u2029",
    "\x00", "\ufeffa", "<s>", "</s>", "<unk>", "<pad>", "<0x41>", "<0x0A>", "\u2581", "a\u2581b", "\u2581\u2581 \u2581",
    "\u2585", "a\u2585b", "e\u0301 \u00e9", "\ufb01\uff21\u2460", "\u00a0\u3000\u200b\u00ad", "\u202eabc\u202c",
    "\ud7ff\ue000\ufffd\uffff\U0010ffff", "\x01\x1b[0m\x7f", "👩‍👩‍👧‍👦🏳️‍🌈", "مرحبا עולם", "漢字 かな",
    "a" * 5000, " " * 5000, "\n" * 5000, "ab " * 3000, "\u2581" * 5000, TEXT,
]  # fmt: skip
SCALARS = "".join(chr(c) for c in range(0x110000) if not 0xD800 <= c < 0xE000)
TEXTS = st.text() | st.text("ab \n\u2581\u2585é漢", max_size=60) | st.lists(st.sampled_from(TEXT.split())).map(" ".join)
BYTES = st.binary(max_size=60) | TEXTS.map(str.encode)
law = settings(deadline=None)


SUBWORD = ("bpe", "unigram")


@pytest.fixture(params=TOKENIZERS, scope="module")
def tokenizer(request):
    return TOKENIZERS[request.param]


def joined(tokenizer, pieces):
    return np.concatenate([np.empty(0, np.int32), *tokenizer.encode_pieces(pieces)])


@law
@given(text=TEXTS)
def test_no_text_is_changed(tokenizer, text):
    ids = tokenizer.encode(text)
    assert ids.dtype == np.int32 and ids.ndim == 1
    assert tokenizer.decode_bytes(ids) == text.encode() and tokenizer.decode(ids) == text


@pytest.mark.parametrize("text", NASTY, ids=ascii)
def test_no_nasty_text_is_changed(tokenizer, text):
    assert tokenizer.decode_bytes(tokenizer.encode(text)) == text.encode()


@law
@given(document=BYTES)
def test_no_bytes_are_changed(tokenizer, document):
    assert tokenizer.decode_bytes(joined(tokenizer, [document])) == document


def test_no_character_is_changed(tokenizer):
    assert tokenizer.decode_bytes(tokenizer.encode(SCALARS)) == SCALARS.encode()
    between = "".join(f"a {c} b" for c in SCALARS[::23])
    assert tokenizer.decode_bytes(tokenizer.encode(between)) == between.encode()


@law
@given(document=BYTES, cuts=st.lists(st.integers(0, 60)), block=st.integers(1, 30))
def test_cutting_at_any_byte_changes_nothing(tokenizer, document, cuts, block):
    edges = [0, *sorted(min(cut, len(document)) for cut in cuts), len(document)]
    pieces = [document[a:b] for a, b in itertools.pairwise(edges)]
    whole = joined(tokenizer, [document])
    assert np.array_equal(joined(tokenizer, pieces), whole)
    with mock.patch.object(base, "BLOCK_BYTES", block):
        assert np.array_equal(joined(tokenizer, pieces), whole)


@law
@given(pieces=st.lists(st.binary(max_size=20)), block=st.integers(1, 12))
def test_blocks_do_not_depend_on_the_pieces(pieces, block):
    whole = b"".join(pieces)
    with mock.patch.object(base, "BLOCK_BYTES", block):
        assert list(base.regroup(pieces)) == [whole[i : i + block] for i in range(0, len(whole), block)]


@pytest.mark.parametrize("size", [1000, 4093])
def test_cutting_long_lines_changes_nothing(tokenizer, size):
    document = ("word é " * 2000 + "x" * 9000 + "\n" * 3000 + "\u2581" * 3000 + TEXT).encode()
    pieces = [document[i : i + size] for i in range(0, len(document), size)]
    with mock.patch.object(base, "BLOCK_BYTES", size - 1):
        assert np.array_equal(joined(tokenizer, pieces), joined(tokenizer, [document]))


@pytest.mark.parametrize("line", [b"one two ", b"x", b"\n"], ids=repr)
def test_a_document_without_end_is_encoded_as_it_comes(tokenizer, line):
    ids = tokenizer.encode_pieces(itertools.repeat(line * 100_000))
    assert all(len(part) > 0 for part in itertools.islice(ids, 2))


@law
@given(data=st.data())
def test_streaming_gives_the_text_of_all_ids(tokenizer, data):
    most = tokenizer.vocab_size + tokenizer.raw_tokens - 1
    ids = data.draw(st.lists(st.integers(0, most)) | TEXTS.map(tokenizer.encode))
    decoder = tokenizer.decoder()
    for _ in range(2):
        assert "".join([*map(decoder.add, ids), decoder.finish()]) == tokenizer.decode(ids)


def test_streaming_never_splits_a_character(tokenizer):
    decoder = tokenizer.decoder()
    pieces = [*map(decoder.add, tokenizer.encode("é漢👩‍👧\u2581")), decoder.finish()]
    assert [c for piece in pieces for c in piece] == list("é漢👩‍👧\u2581")


def test_symbols_say_what_ids_stand_for(tokenizer):
    assert len(tokenizer.token_bytes) == tokenizer.vocab_size
    assert [tokenizer.decode_bytes([i]) for i in range(tokenizer.vocab_size)] == tokenizer.token_bytes
    silent = {i for i, symbol in enumerate(tokenizer.token_bytes) if symbol == b""}
    assert silent == {tokenizer.boundary, *tokenizer.unsampled} and tokenizer.boundary not in tokenizer.unsampled


@law
@given(text=TEXTS | st.sampled_from(NASTY))
def test_no_text_gives_the_boundary_or_the_unknown_symbol(tokenizer, text):
    forbidden = {tokenizer.boundary, *tokenizer.unsampled} - {getattr(tokenizer, "escape", None)}
    assert forbidden.isdisjoint(tokenizer.encode(text).tolist())


def test_an_id_out_of_range_is_refused(tokenizer):
    end = tokenizer.vocab_size + tokenizer.raw_tokens
    for wrong in (-1, end):
        with pytest.raises(TextgenError, match=f"^id {wrong} is not between 0 and {end - 1}"):
            tokenizer.decode_bytes(np.array([0, wrong], np.int32))


def test_a_lone_surrogate_is_refused_by_its_position(tokenizer):
    with pytest.raises(TextgenError, match=r"U\+D83D at position 3"):
        tokenizer.encode("abc\ud83d")


@law
@given(text=TEXTS)
def test_model_ids_and_raw_ids_share_out_the_ids(tokenizer, text):
    ids = tokenizer.encode(text)
    shown = tokenizer.model_ids(ids)
    assert len(shown) + tokenizer.raw_count(ids) == len(ids) and (shown < tokenizer.vocab_size).all()
    unseen = [c for c in text if c.encode() not in tokenizer.token_bytes] if tokenizer.kind == "char" else []
    assert tokenizer.raw_count(ids) == len("".join(unseen).encode())


@settings(law, max_examples=10)
@given(sizes=st.lists(st.integers(1, 40), min_size=1))
def test_the_same_text_gives_the_same_tokenizer(tokenizer, sizes):
    def pieces(document):
        document, size = b"".join(document), itertools.cycle(sizes)
        while document:
            cut = next(size)
            yield document[:cut]
            document = document[cut:]

    again = train_tokenizer(tokenizer.kind, map(pieces, DOCUMENTS), vocab_size=340)
    assert again.files() == tokenizer.files()


# Model folders


def test_what_is_saved_loads_as_the_same_tokenizer(tokenizer):
    loaded = load_tokenizer({"config.json": b"not ours", **tokenizer.files()})
    assert loaded.files() == tokenizer.files()
    for name in ("kind", "token_bytes", "vocab_size", "boundary", "unsampled", "raw_tokens"):
        assert getattr(loaded, name) == getattr(tokenizer, name)
    assert np.array_equal(loaded.encode(TEXT + SCALARS[::99]), tokenizer.encode(TEXT + SCALARS[::99]))


def config_with(kind, /, **changes):
    """The files of a tokenizer, with other values in its configuration; None takes a value away."""
    files = TOKENIZERS[kind].files()
    config = {name: value for name, value in {**json.loads(files[CONFIG]), **changes}.items() if value is not None}
    return {**files, CONFIG: json.dumps(config).encode()}


def model_with(model):
    return {**config_with("bpe", model_sha256=hashlib.sha256(model).hexdigest()), MODEL: model}


def other_model(**options):
    from sentencepiece import SentencePieceTrainer

    model = io.BytesIO()
    options = {**tokenizers.LOSSLESS, "model_type": "bpe", "vocab_size": 340, **options}
    SentencePieceTrainer.train(sentence_iterator=iter(TEXT.split("\n")), model_writer=model, **options)
    return model.getvalue()


def exchanged(content, one, other):
    """The content with two byte strings of the same length, each of which it holds once, in each other's place."""
    before, between, after = re.split(b"|".join([one, other]), content)
    return before + other + between + one + after


WRONG_VALUES = {
    "tokenizer_class": [None, "PreTrainedTokenizerFast", 3],
    "kind": [None, "words", 7, ["char"]],
    "vocab_size": [None, "65", 5, -1, 1e3, True],
}


@pytest.mark.parametrize(("name", "value"), [(n, v) for n, values in WRONG_VALUES.items() for v in values])
def test_a_wrong_value_in_the_configuration_is_refused_by_name(tokenizer, name, value):
    with pytest.raises(TextgenError, match=f"^{CONFIG}: '{name}' .*\\.$"):
        load_tokenizer(config_with(tokenizer.kind, **{name: value}))


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"null", b"\xff\xfe\xff", b"[" * 100_000], ids=lambda c: c[:4])
def test_a_configuration_that_is_no_object_is_refused(tokenizer, content):
    with pytest.raises(TextgenError, match=f"^{CONFIG} "):
        load_tokenizer({**tokenizer.files(), CONFIG: content})


def test_missing_files_are_named(tokenizer):
    for missing in tokenizer.files():
        with pytest.raises(TextgenError, match=f"^{missing} is missing"):
            load_tokenizer({name: content for name, content in tokenizer.files().items() if name != missing})


@pytest.mark.parametrize("characters", [None, 7, ["a", "b"], "aa", "ba", "a\ud800"], ids=ascii)
def test_wrong_characters_are_refused(characters):
    with pytest.raises(TextgenError, match=f"^{CONFIG}: 'characters' "):
        load_tokenizer(config_with("char", characters=characters, vocab_size=4))


DAMAGED_MODELS = {
    "cut": lambda model: {MODEL: model[:-1]},
    "one bit": lambda model: {MODEL: model[:999] + bytes([model[999] ^ 1]) + model[1000:]},
    "empty": lambda model: model_with(b""),
    "no model": lambda model: model_with(b"no model at all" * 9),
    "a dummy prefix": lambda model: model_with(other_model(add_dummy_prefix=True)),
    "another normalisation": lambda model: model_with(other_model(normalization_rule_name="nmt_nfkc")),
    "no bytes": lambda model: model_with(other_model(byte_fallback=False, vocab_size=300)),
    "one symbol more": lambda model: model_with(other_model(bos_id=2)),
    "symbols exchanged": lambda model: model_with(other_model(unk_id=1, eos_id=0)),
    "a byte misnamed": lambda model: model_with(model.replace(b"<0xFE>", b"<0xFG>")),
    "bytes exchanged": lambda model: model_with(exchanged(model, b"<0xF4>", b"<0xF5>")),
}


@pytest.mark.parametrize("damage", DAMAGED_MODELS)
def test_a_damaged_model_is_refused_by_name(damage, capfd):
    files = TOKENIZERS["bpe"].files()
    with pytest.raises(TextgenError, match=f"^{MODEL} .*\\.$"):
        load_tokenizer({**files, **DAMAGED_MODELS[damage](files[MODEL])})
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("digest", [None, 7, "0" * 64])
def test_a_model_of_another_configuration_is_refused(digest):
    with pytest.raises(TextgenError, match=CONFIG):
        load_tokenizer(config_with("bpe", model_sha256=digest))


def test_a_size_that_is_not_the_models_is_refused():
    smaller = other_model(vocab_size=330)
    with pytest.raises(TextgenError, match=f"^{CONFIG}: 'vocab_size' is 340, but there are 330"):
        load_tokenizer(model_with(smaller))


# What each kind learns


def test_characters_are_numbered_by_code_point():
    tokenizer = train_tokenizer("char", [["ö漢b".encode()], [b"ab"], [b"\xff"]])
    assert tokenizer.token_bytes == [b"", b"", b"a", b"b", "ö".encode(), "漢".encode()]
    assert (tokenizer.boundary, tokenizer.unsampled) == (0, (1,))


def test_an_unseen_character_is_the_escape_and_its_bytes():
    tokenizer = train_tokenizer("char", [[b"abc"]])
    ids = tokenizer.encode("aöb")
    assert ids.tolist() == [2, 1, 5 + 0xC3, 5 + 0xB6, 3]
    assert tokenizer.model_ids(ids).tolist() == [2, 1, 3] and tokenizer.raw_count(ids) == 2


def test_bytes_are_themselves():
    tokenizer = TOKENIZERS["byte"]
    assert joined(tokenizer, [bytes(range(256))]).tolist() == list(range(256))
    assert (tokenizer.vocab_size, tokenizer.boundary) == (257, 256)


@pytest.mark.parametrize("kind", SUBWORD)
def test_pieces_are_fewer_than_characters(kind):
    tokenizer = TOKENIZERS[kind]
    assert 320 < tokenizer.vocab_size <= 340
    assert len(tokenizer.encode(TEXT)) < 0.6 * len(TEXT)


@pytest.mark.parametrize("kind", SUBWORD)
@law
@given(lines=st.lists(TEXTS.map(lambda text: text.replace("\n", " "))))
def test_no_piece_goes_across_lines(kind, lines):
    tokenizer = TOKENIZERS[kind]
    newline = tokenizers.FIRST_BYTE + 0x0A
    expected = [ids for line in lines for ids in [*tokenizer.encode(line).tolist(), newline]]
    assert tokenizer.encode("".join(line + "\n" for line in lines)).tolist() == expected
    assert not any(b"\n" in symbol for symbol in tokenizer.token_bytes[tokenizers.SPECIALS :])


@pytest.mark.parametrize("line", ["word " * 3000, "x" * 9000, "y" * 3000 + " z" * 3000, "é" * 2000 + " " * 4001])
@pytest.mark.parametrize("kind", SUBWORD)
def test_a_long_line_is_cut_where_the_text_says(kind, line):
    tokenizer, parts, rest = TOKENIZERS[kind], [], line
    while rest:
        space = rest.find(" ", 2000, 4000)
        cut = space if space > 0 else 4000
        parts.append(rest[:cut])
        rest = rest[cut:]
    expected = [id for part in parts for id in tokenizer.encode(part).tolist()]
    assert len(parts) > 1 and tokenizer.encode(line).tolist() == expected


@pytest.mark.parametrize(
    "text",
    [
        "turnip " * 10_000,
        "turnip" * 10_000,
        "turnip\u2585" * 99,
        "turnip\u2581" * 99,
        "turnip\n" * 99,
        "turnip</s>" * 99,
    ],
    ids=lambda text: ascii(text[:10]),
)
def test_bpe_learns_from_every_line(text):
    tokenizer = train_tokenizer("bpe", [[text.encode()]], vocab_size=300)
    assert len(tokenizer.encode("turnip")) <= 2


def test_bpe_learns_around_bytes_that_are_no_text():
    tokenizer = train_tokenizer("bpe", [[b"turnip\xff\xfe" * 99]], vocab_size=300)
    assert len(tokenizer.encode("turnip")) <= 2
    assert tokenizer.token_bytes[tokenizers.SPECIALS :] != []


@pytest.mark.parametrize("vocab_size", [260, 261, 300, 600])
@pytest.mark.parametrize("kind", SUBWORD)
def test_a_small_vocabulary_spells_rare_characters(kind, vocab_size):
    chinese = "".join(chr(c) * (0x4E00 + 700 - c) for c in range(0x4E00, 0x4E00 + 700, 3))
    tokenizer = train_tokenizer(kind, [[chinese.encode()]], vocab_size=vocab_size)
    assert tokenizer.vocab_size <= vocab_size
    assert tokenizer.decode(tokenizer.encode(chinese)) == chinese
    learned = [symbol.decode() for symbol in tokenizer.token_bytes[tokenizers.SPECIALS :]]
    single = [piece for piece in learned if len(piece) == 1 and piece != " "]
    assert "\u4e00" in learned and len(single) <= (vocab_size - 258) // 2


@pytest.mark.parametrize("kind", SUBWORD)
def test_a_vocabulary_that_the_text_cannot_fill_is_smaller(kind):
    tokenizer = train_tokenizer(kind, [[b"abab"]], vocab_size=8000)
    assert 258 < tokenizer.vocab_size < 270 and len(tokenizer.token_bytes) == tokenizer.vocab_size


def test_much_text_is_sampled_evenly_and_without_period():
    stretches = [f"{place:05d} " for place in range(10_000)]
    with mock.patch.object(tokenizers, "SAMPLE_CHARACTERS", 6 * 2600):
        kept = [int(stretch) for stretch in tokenizers._sample(stretches)]
    assert 2400 < len(kept) <= 2600 and kept == sorted(kept)
    for parts in (np.array(kept) // 1000, np.array(kept) % 2, np.array(kept) % 3, np.array(kept) % 8):
        counts = np.bincount(parts)
        assert counts.min() > 0.9 * counts.max()
    assert tokenizers._sample(stretches) == stretches


def test_of_text_without_blanks_a_smaller_sample_is_learned_from():
    """Each of its stretches is a word of its own to sentencepiece, which remembers every one."""
    with mock.patch.object(tokenizers, "SAMPLE_CHARACTERS", 60_000):
        divided, undivided = ([len(tokenizers._sample([f"{k:05d}{end}" for k in range(10_000)]))] for end in " -")
    assert divided[0] > 3 * undivided[0] > 0


@pytest.mark.parametrize("documents", [[], [[]], [[b""], [b"", b""]], [[b"\xff\xfe"]]], ids=repr)
@pytest.mark.parametrize("kind", ["char", "bpe", "unigram", "word"])
def test_without_text_nothing_is_learned(kind, documents):
    with pytest.raises(TextgenError, match="no text"):
        train_tokenizer(kind, documents)


@pytest.mark.parametrize("text", ["\n\n", "\u2581", " ", "a", "\x00", "</s>", "<unk> <0x41>"], ids=ascii)
@pytest.mark.parametrize("kind", SUBWORD)
def test_next_to_nothing_is_learned_from_or_refused(kind, text, capfd):
    try:
        tokenizer = train_tokenizer(kind, [[text.encode()]])
    except TextgenError as error:
        assert str(error).endswith(".")
    else:
        assert tokenizer.decode(tokenizer.encode(text)) == text
    assert capfd.readouterr() == ("", "")


def test_the_list_of_levels_is_that_of_the_tokenizers():
    made = {kind: train_tokenizer(kind, DOCUMENTS, vocab_size=340) for kind in TOKENIZER_KINDS}
    assert {kind: tokenizer.kind for kind, tokenizer in made.items()} == {kind: kind for kind in TOKENIZER_KINDS}
    smaller = {kind: train_tokenizer(kind, DOCUMENTS, vocab_size=280) for kind in TOKENIZER_KINDS}
    sized = [kind for kind in TOKENIZER_KINDS if smaller[kind].vocab_size < made[kind].vocab_size]
    assert sized == [kind for kind in SIZED if kind != "word"]  # all words of so short a text fit


def test_impossible_requests_are_refused():
    with pytest.raises(UsageError, match=r"'bytes'\. Did you mean 'byte'"):
        train_tokenizer("bytes", DOCUMENTS)
    with pytest.raises(UsageError, match="at least 260 for bpe, not 259"):
        train_tokenizer("bpe", DOCUMENTS, vocab_size=259)
    with pytest.raises(UsageError, match="at least 3 for word, not 2"):
        train_tokenizer("word", DOCUMENTS, vocab_size=2)


def test_learning_and_encoding_say_nothing(capfd):
    for kind in TOKENIZERS:
        train_tokenizer(kind, DOCUMENTS, vocab_size=340).encode(SCALARS[::99])
    assert capfd.readouterr() == ("", "")


def test_importing_the_tokenizers_imports_neither_torch_nor_sentencepiece():
    code = "import sys, textgen.data.tokenizers; print({'torch', 'sentencepiece'} & set(sys.modules))"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert (shown.stdout, shown.stderr) == ("set()\n", "")

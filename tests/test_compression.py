"""Laws of compression: every file comes back, an archive is as small as evaluation says, a damaged one is refused."""

import math
import random
import zlib
from dataclasses import replace
from unittest import mock

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from terminal import refusal, run

import textgen
from textgen.data import TOKENIZER_KINDS
from textgen.data.tokenizers import train_tokenizer
from textgen.errors import TextgenError
from textgen.evaluation import compression
from textgen.evaluation.compression import RangeDecoder, RangeEncoder, compress, decompress
from textgen.generation.language_model import LanguageModel
from textgen.model import ModelConfig
from textgen.model.weights import TorchStepper, make_model

LINES = [
    "the fox ran to the hen\n",
    "the hen ran to the mill\n",
    "an owl saw the fox — and hid\n",
    "où est le moulin\n",
]
TEXT = "".join(random.Random(1).choices(LINES, k=150))
HARD = {
    "nothing": b"",
    "one byte": b"\xff",
    "text": TEXT[:400].encode(),
    "other text": "Ångström, 漢字, 👩‍👩‍👧!\r\n\x00".encode() * 9,
    "noise": random.Random(2).randbytes(300),
    "cut characters": b"\xe2\x82a\xf0\x9f\x98\xc3(\xc3\xa9\xed\xa0\x80\xf4\x90\x80\x80 fox \xe2",
    "one symbol": b"t" * 300,
}
LOSSLESS = [kind for kind in TOKENIZER_KINDS if kind != "word"]
law = settings(deadline=None, max_examples=25)


def untrained(kind, seed=0):
    """A model of random weights, strong enough to prefer some symbols."""
    torch.manual_seed(seed)
    tokenizer = train_tokenizer(kind, [[TEXT.encode()]], vocab_size=300)
    config = ModelConfig(vocab_size=tokenizer.vocab_size, cell="gru", embedding_size=8, hidden_size=8)
    model = make_model(config).eval()
    with torch.no_grad():
        model.readout.linear.weight.mul_(4)
    return LanguageModel(config, tokenizer, TorchStepper(model), digest=f"{seed:02x}" * 32)


@pytest.fixture(scope="module", params=TOKENIZER_KINDS)
def model(request):
    return untrained(request.param)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A model that has learned the text."""
    here = tmp_path_factory.mktemp("compression")
    (here / "text.txt").write_text(TEXT)
    options = {"cell": "gru", "hidden_size": 32, "batch_size": 8, "seq_length": 16, "max_steps": 100, "threads": 1}
    return textgen.train(here / "text.txt", tokenizer="char", output_dir=str(here / "run"), **options)


@pytest.fixture(scope="module")
def trained(folder):
    return textgen.load(folder)


def bits(model, data):
    return textgen.evaluate(model, data).nats / math.log(2) if data else 0.0


def coded(model, data):
    """The payload of the data, which must come back; unlike an archive never the data as they are."""
    tokenizer = model.tokenizer
    ids = np.concatenate([np.empty(0, np.int32), *tokenizer.encode_pieces([data])])
    symbols, units = tokenizer.model_ids(ids), compression._raw_units(tokenizer, ids)
    payload = compression._encode(model, symbols, 1, units, compression.no_progress)
    opened = compression.Envelope(False, 1, len(symbols), b"", b"", payload)
    assert np.array_equal(compression._decode(model, opened, compression.no_progress), ids)
    return payload


@pytest.mark.parametrize("name", HARD)
def test_every_file_comes_back(model, name):
    data = HARD[name]
    ids = np.concatenate([np.empty(0, np.int32), *model.tokenizer.encode_pieces([data])])
    if model.tokenizer.decode_bytes(ids) != data:
        assert model.tokenizer.kind == "word"
        with pytest.raises(TextgenError, match=r"the word tokenizer .* cannot reproduce this text exactly\.$"):
            compress(model, data)
    else:
        archive = compress(model, data)
        assert decompress(model, archive) == data
        assert len(archive) <= min(1.01 * bits(model, data) / 8 + 16, len(data) + 16)
    assert len(coded(model, data)) <= 1.01 * bits(model, data) / 8 + 1


@law
@given(data=st.binary(max_size=200) | st.text(max_size=80).map(str.encode), kind=st.sampled_from(LOSSLESS))
def test_any_bytes_come_back(data, kind):
    model = _untrained[kind] = _untrained.get(kind) or untrained(kind)
    archive = compress(model, data)
    assert decompress(model, archive) == data and len(archive) <= 1.01 * bits(model, data) / 8 + 16
    assert len(coded(model, data)) <= 1.01 * bits(model, data) / 8 + 1


_untrained = {}


@law
@given(data=st.text(max_size=60).map(str.encode) | st.binary(max_size=60))
def test_unseen_characters_cost_what_evaluation_counts(data):
    """A character of several bytes takes 8 bits a byte exactly; a stray byte, half a bit more at most."""
    tokenizer = train_tokenizer("char", [[b"fox"]])
    ids = np.concatenate([np.empty(0, np.int32), *tokenizer.encode_pieces([data])])
    units = compression._raw_units(tokenizer, ids)
    assert np.array_equal(compression._with_raw_units(tokenizer, tokenizer.model_ids(ids), units), ids)
    encoder = RangeEncoder()
    for unit in units.values():
        compression._encode_unit(encoder, unit)
    coded = encoder.finish()
    decoder = RangeDecoder(coded)
    assert [compression._decode_unit(decoder) for _ in units] == list(units.values())
    stray = sum(len(unit) == 1 and unit[0] >= 0x80 for unit in units.values())
    assert 8 * len(coded) <= 8 * tokenizer.raw_count(ids) + 0.42 * stray + 8


@pytest.mark.parametrize("lanes", [2, 7, 64])
def test_lanes_change_the_size_and_not_the_content(trained, lanes):
    data = (TEXT[:1200] + "漢").encode()
    with mock.patch.object(compression, "_choose_lanes", return_value=lanes):
        archive = compress(trained, data)
    assert archive[2:4] == bytes([compression.FORMAT | compression.LONG, lanes])
    assert decompress(trained, archive) == data
    coded = compression._encode(trained, trained.tokenizer.encode("the"), lanes, {}, compression.no_progress)
    opened = compression.Envelope(False, lanes, 3, b"", b"", coded)
    assert trained.tokenizer.decode(compression._decode(trained, opened, compression.no_progress)) == "the"


def test_a_trained_model_makes_its_text_small(trained):
    data = TEXT.encode()
    archive = compress(trained, data)
    assert len(archive) < len(data) / 8 and len(archive) <= 1.01 * bits(trained, data) / 8 + 16
    with mock.patch.object(compression, "LANE_BYTES", len(archive) // 5):
        assert compress(trained, data)[3] in (4, 5)


def test_threads_of_the_caller_change_nothing(trained):
    data = TEXT[:300].encode()
    archives = []
    for threads in (1, 2):
        torch.set_num_threads(threads)
        archives.append(compress(trained, data))
        assert torch.get_num_threads() == threads
    assert archives[0] == archives[1]


@pytest.mark.parametrize("data", [TEXT[:200].encode(), random.Random(3).randbytes(40)], ids=["coded", "stored"])
def test_every_flipped_bit_and_every_truncation_is_refused(trained, data, request):
    archive = compress(trained, data)
    assert bool(archive[2] & compression.STORED) == ("stored" in request.node.name)
    for place in range(8 * len(archive)):
        damaged = bytearray(archive)
        damaged[place // 8] ^= 1 << place % 8
        with pytest.raises(TextgenError, match=r"^'a\.tgc' (is damaged|is not an archive)"):
            decompress(trained, bytes(damaged), "'a.tgc'")
    for size in range(len(archive)):
        with pytest.raises(TextgenError, match=r"^'a\.tgc' (is damaged|is not an archive)"):
            decompress(trained, archive[:size], "'a.tgc'")


@law
@given(noise=st.binary(max_size=60))
def test_what_is_no_archive_is_refused_even_with_a_right_checksum(trained, noise):
    body = compression.MAGIC + noise
    archive = body + zlib.crc32(body).to_bytes(4, "big")
    with pytest.raises(TextgenError, match=r"^'a\.tgc' .*\.$"):
        decompress(trained, archive, "'a.tgc'")


def test_another_model_is_refused_at_once(trained):
    archive = compress(trained, b"the fox")
    with pytest.raises(TextgenError, match=r"^'a\.tgc' was compressed with another model than this one\.$"):
        decompress(untrained("byte", seed=1), archive, "'a.tgc'")
    with pytest.raises(TextgenError, match="must come from a folder"):
        compress(replace(trained, digest=""), b"the fox")


def test_other_probabilities_are_noticed(trained):
    archive = compress(trained, TEXT[:300].encode())
    other = untrained("char")
    assert other.config.vocab_size == trained.config.vocab_size
    elsewhere = replace(trained, stepper=other.stepper)
    with pytest.raises(TextgenError, match=r"^'a\.tgc' cannot be restored: "):
        decompress(elsewhere, archive, "'a.tgc'")


def test_a_newer_format_is_refused_by_its_number(trained):
    body = compress(trained, b"the fox")[:-4]
    body = body[:2] + bytes([body[2] & 0xC0 | 9]) + body[3:]
    with pytest.raises(TextgenError, match=r"has format 9; this textgen reads 1\.$"):
        decompress(trained, body + zlib.crc32(body).to_bytes(4, "big"))


# The command


@pytest.fixture
def desk(tmp_path, monkeypatch, folder):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TEXTGEN_MODEL", str(folder))
    (tmp_path / "story.txt").write_bytes(TEXT[:2000].encode() + b"\xff\x00")
    return tmp_path


def test_the_commands_give_the_file_back(desk):
    before = (desk / "story.txt").read_bytes()
    packed = run("compress", "story.txt")
    assert (packed.code, packed.text) == (0, "story.txt.tgc\n") and "2,0" in packed.err
    assert (desk / "story.txt.tgc").stat().st_size < len(before) / 4
    again, _ = refusal(run("decompress", "story.txt.tgc"), 1)
    assert again == "'story.txt' exists already."
    unpacked = run("decompress", "story.txt.tgc", "-o", "other.txt", "-q")
    assert (unpacked.code, unpacked.text, unpacked.err) == (0, "other.txt\n", "")
    assert (desk / "other.txt").read_bytes() == before
    assert run("decompress", "story.txt.tgc", "--force").code == 0


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["compress", "none.txt"], 2, "file 'none.txt' does not exist."),
        (["compress", "."], 2, "'.' is a folder, not a file."),
        (
            ["compress", "story.txt", "-o", "story.txt"],
            2,
            "'story.txt' is an input of this command and is never replaced.",
        ),
        (["decompress", "story.txt"], 2, "'story.txt' does not end in .tgc."),
        (["decompress", "story.txt", "-o", "x"], 1, "'story.txt' is not an archive that textgen compress wrote."),
        (["decompress", "none.tgc"], 2, "file 'none.tgc' does not exist."),
    ],
)
def test_mistakes_are_one_sentence(desk, arguments, code, says):
    assert refusal(run(*arguments), code)[0] == says
    assert sorted(path.name for path in desk.iterdir()) == ["story.txt"]

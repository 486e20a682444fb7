"""A corpus tokenized in shards: the same bytes as in one piece, and nothing finished is done again."""

import os
import signal
from pathlib import Path

import pytest
from ranks import Job, ranks_of, wait_until

from textgen.data import CorpusOptions, corpus, shards

KINDS = ("char", "byte", "bpe", "unigram", "word")


@pytest.fixture
def small(monkeypatch):
    """Shards of some kilobytes, for corpora of some more, made of blocks of some hundred bytes."""
    from textgen.data import tokenization

    monkeypatch.setattr(shards, "SHARD_BYTES", 3000)
    monkeypatch.setattr(corpus, "SHARDED_BYTES", 0)
    monkeypatch.setattr(tokenization, "BATCH_BYTES", 500)
    monkeypatch.setattr(shards, "encode", alone)


def alone(tokenizer, blocks, processes):
    """Encoded here, without starting processes."""
    import numpy as np

    for block in blocks:
        ids = np.concatenate([np.zeros(0, np.int32), *tokenizer.encode_pieces([block[2]])])
        yield block, np.concatenate([[tokenizer.boundary], ids]).astype(np.int32) if block[1] else ids


@pytest.fixture
def texts(tmp_path):
    folder = tmp_path / "texts"
    folder.mkdir()
    for number in range(8):
        words = [f"{'bcdfgl'[k * k % 6]}{'aeiou'[k % 5]}{'nrst'[k % 4]}" for k in range(number * 37, number * 90 + 400)]
        lines = "\n".join(" ".join(words[at : at + 9]) for at in range(0, len(words), 9))
        (folder / f"{number}.txt").write_text(lines + "\nZoë – 猫\n")
    return folder


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def tokenized(texts, folder, **options):
    scanned = corpus.scan_corpus([str(texts)], CorpusOptions(**options), 3)
    return corpus.tokenize(scanned, folder)


@pytest.mark.parametrize("options", [*({"tokenizer": kind} for kind in KINDS), {"lines": True, "tokenizer": "char"}],
                         ids=str)  # fmt: skip
def test_shards_give_the_bytes_of_one_piece(tmp_path, texts, monkeypatch, small, options):
    if options["tokenizer"] in ("bpe", "unigram"):
        options = {**options, "vocab_size": 300}
    tokenized(texts, tmp_path / "shards", **options)
    monkeypatch.setattr(corpus, "SHARDED_BYTES", 1 << 40)
    tokenized(texts, tmp_path / "whole", **options)
    assert contents(tmp_path / "shards") == contents(tmp_path / "whole")
    assert not list(tmp_path.glob(".*"))


def test_finished_shards_are_not_done_again(tmp_path, texts, monkeypatch, small):
    whole = tokenized(texts, tmp_path / "whole", tokenizer="bpe", vocab_size=300)
    encoded, learned = [], []

    class Cut(Exception):
        pass

    def counted(tokenizer, blocks, processes):
        encoded.append(0)
        if len(encoded) == 4:
            raise Cut
        yield from alone(tokenizer, blocks, processes)

    def learning(*arguments):
        learned.append(arguments)
        return train(*arguments)

    train = corpus.train_tokenizer
    monkeypatch.setattr(shards, "encode", counted)
    monkeypatch.setattr(corpus, "train_tokenizer", learning)
    with pytest.raises(Cut):
        tokenized(texts, tmp_path / "store", tokenizer="bpe", vocab_size=300)
    assert not (tmp_path / "store").exists()
    (work,) = tmp_path.glob(".store.shards-*")
    damaged = work / "shard-00001" / "train.bin"
    damaged.write_bytes(bytes(damaged.stat().st_size))
    number = len(list(work.glob("shard-*")))
    tokenized(texts, tmp_path / "store", tokenizer="bpe", vocab_size=300)
    total = len(encoded) - 4
    assert number == 3 and len(learned) == 1
    assert total >= 2  # the damaged one, and those that were missing
    encoded.clear()
    assert contents(tmp_path / "store") == contents(whole.folder)


def test_several_processes_write_the_bytes_of_one_and_survive_a_kill(tmp_path, texts, small):
    whole = tokenized(texts, tmp_path / "whole", tokenizer="bpe", vocab_size=300).folder
    code = (
        "import sys\n"
        f"sys.path.insert(0, {str(Path(__file__).parent)!r})\n"
        "from textgen.data import corpus, shards, tokenization\n"
        "from textgen.cli import main\n"
        "import time\n"
        "from test_shards import alone\n"
        "shards.SHARD_BYTES, corpus.SHARDED_BYTES, tokenization.BATCH_BYTES = 3000, 0, 500\n"
        "shards.encode = lambda *given: (time.sleep(0.3), alone(*given))[1]\n"
        "sys.exit(main(sys.argv[1:]))\n"
    )
    (tmp_path / "small.py").write_text(code)
    command = ["tokenize", texts, "--tokenizer", "bpe", "--vocab-size", 300, "--seed", 3, "--output-dir"]
    job = Job(2, "--max-restarts", 1, "small.py", *command, "store", cwd=tmp_path)
    wait_until(lambda: len(list(tmp_path.glob(".store.shards-*/shard-*"))) > 2)
    os.kill(ranks_of(job.pid)[1], signal.SIGKILL)
    job.done()
    assert contents(tmp_path / "store") == contents(whole)
    assert not list(tmp_path.glob(".store*"))

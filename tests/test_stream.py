"""Laws of streams: every document once an epoch, in an order of the seed, exactly on after a stop, whatever the
server does; and what is held out is never trained on."""

import errno
import gzip
import io
import json
import shutil
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from bad_server import serving
from resuming import same_bits_when_resumed

from textgen.data import remote, stream
from textgen.data.stream_store import stream_lanes, stream_store
from textgen.errors import TextgenError, UsageError
from textgen.tasks import options_for
from textgen.training.start import start

SHARDS, EACH = 7, 12
LENGTH = {"batch_size": 3, "seq_length": 8}


@pytest.fixture(autouse=True)
def _small(monkeypatch):
    """Small buffers, short pauses, and no thread that outlives its test."""
    begun = []

    class Known(stream._Ahead):
        def __init__(self, *given):
            begun.append(self)
            super().__init__(*given)

    monkeypatch.setattr(stream, "_Ahead", Known)
    monkeypatch.setattr(stream, "BUFFER_TOKENS", 400)
    monkeypatch.setattr(remote, "FIRST_PAUSE", 0.001)
    yield
    for each in begun:
        each.wait()


def text(shard, number):
    """A document that no other is like."""
    return f"{chr(97 + shard)}{number:02d} " + "".join(
        "klmnop"[(shard * number + k) % 6] for k in range(10 + number * 2)
    )


def rows(shard):
    return [text(shard, number) for number in range(EACH)]


def as_jsonl(texts):
    return "".join(json.dumps({"text": each}) + "\n" for each in texts).encode()


def as_parquet(texts):
    file = io.BytesIO()
    pq.write_table(pa.table({"text": texts}), file)
    return file.getvalue()


FORMS = {
    "jsonl": as_jsonl,
    "jsonl.gz": lambda texts: gzip.compress(as_jsonl(texts), mtime=0),
    "parquet": as_parquet,
    "txt": lambda texts: "\n".join(texts).encode(),
}


def files(form="jsonl", make=rows):
    return {f"part-{shard}.{form}": FORMS[form](make(shard)) for shard in range(SHARDS)}


@pytest.fixture
def corpus(tmp_path):
    folder = tmp_path / "corpus"
    folder.mkdir()
    for name, content in files().items():
        (folder / name).write_bytes(content)
    return folder


def options(**more):
    given = {"stream": True, "tokenizer": "char", "max_steps": 10, "seed": 5, "validation_split": 0.2}
    return options_for({**given, **LENGTH, **more})


def opened(paths, cache, **more):
    """The store and the lanes of a stream."""
    given = options(**more)
    store = stream_store([str(path) for path in paths], given, given.seed, cache)
    boundary, line_end = store.tokenizer.boundary, int(store.tokenizer.encode("\n")[-1])
    return store, stream_lanes(store, given, given.window, (boundary, line_end), 1000)


def read(store, lanes, buffers):
    """The documents of the first buffers, in the order of reading."""
    tokenizer, found = store.tokenizer, []
    for number in range(buffers):
        begun = lanes.buffer(number)
        for _, _, ids in lanes._read(begun.position, begun.document):
            found.append(tokenizer.decode(ids[1:]))
    return found


def held_out(store):
    tokens, boundary = store.tokens("validation"), store.tokenizer.boundary
    parts = np.split(tokens, np.flatnonzero(tokens == boundary))
    return {store.tokenizer.decode(part[1:]) for part in parts if len(part) > 1}


@pytest.mark.parametrize("form", FORMS)
def test_every_document_comes_once_an_epoch_or_is_held_out(tmp_path, form):
    for name, content in files(form).items():
        (tmp_path / name).write_bytes(content)
    store, lanes = opened([tmp_path / "part-*"], tmp_path / "cache", lines=form == "txt" or None)
    everything = {each for shard in range(SHARDS) for each in rows(shard)}
    out = held_out(store)
    number = len(everything) - len(out)
    found = read(store, lanes, 40)
    first, second = found[:number], found[number : 2 * number]
    assert 0 < len(out) < len(everything) / 2
    assert set(first) == set(second) == everything - out and len(set(first)) == number
    assert first != second


@pytest.mark.parametrize("lost", ["nothing", "buffers", "shards", "everything"])
def test_a_stopped_stream_reads_on_exactly(tmp_path, corpus, lost, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def session(name):
        plan = {"hidden_size": 8, "num_layers": 1, "max_steps": 40, "save_steps": 10, "eval_steps": 20}
        more = {"threads": 1, "sample_steps": 0, "compile": False, "dropout": 0.1, "output_dir": name}
        return start([str(corpus)], options(**plan, **more), 0.0)

    def meanwhile():
        (folder,) = Path(".tokens").glob("stream-*")
        if lost == "buffers":
            (folder / stream.BUFFERS).unlink()
        elif lost == "shards":
            for shard in folder.glob("shard-*"):
                shutil.rmtree(shard)
        elif lost == "everything":
            shutil.rmtree(folder)

    same_bits_when_resumed(session("whole"), session("halved"), 20, meanwhile)


@pytest.mark.parametrize("fault", ["drop", "short", "429", "503", "slow"])
def test_what_passes_is_waited_for(tmp_path, corpus, fault):
    """A server in trouble gives the windows of files on this disk."""
    with serving(files(), fault) as (address, asked):
        paths = [f"{address}/part-{shard}.jsonl" for shard in range(SHARDS)]
        _, lanes = opened(paths, tmp_path / "remote")
        found = [lanes.window(step)[0] for step in range(60)]
    _, local = opened([corpus], tmp_path / "local")
    assert all(np.array_equal(local.window(step)[0], ids) for step, ids in enumerate(found))
    assert max(asked.values()) >= (1 if fault == "slow" else 3)


@pytest.mark.parametrize(("fault", "reason"), [("503", "the server answers 503"), ("gone", "404"),
                                               ("drop", "bytes"), ("lie", "wrong size")])  # fmt: skip
def test_what_does_not_pass_is_named(tmp_path, fault, reason):
    with serving(files(), fault, times=1000) as (address, _):
        path = f"{address}/part-3.jsonl"
        with pytest.raises(TextgenError, match=r"part-3\.jsonl.*cannot be read") as raised:
            opened([path], tmp_path / "cache")
    assert reason in str(raised.value)


def test_a_shard_that_fails_later_is_named_and_nothing_is_skipped(tmp_path, corpus):
    store, lanes = opened([corpus], tmp_path / "cache", stream_sample=1)
    broken = sorted(corpus.iterdir())[4]
    broken.write_bytes(b'{"text": "a"}\n{"text": broken\n')
    with pytest.raises(TextgenError, match=broken.name):
        for step in range(200):
            lanes.window(step)
    assert store.about["stream"]["files"] == SHARDS


def test_equal_documents_come_once(tmp_path):
    """Within a shard, across shards, and in every epoch."""
    repeated = {name: content * 2 + as_jsonl(rows(0)[:6]) for name, content in files().items()}
    for name, content in repeated.items():
        (tmp_path / name).write_bytes(content)
    store, lanes = opened([tmp_path / "part-*"], tmp_path / "cache", deduplicate=True)
    number = SHARDS * EACH - len(held_out(store))
    found = read(store, lanes, 40)
    assert Counter(found[: 2 * number]) == dict.fromkeys(found[:number], 2)
    once = opened([tmp_path / "part-*"], tmp_path / "cache")
    assert Counter(read(*once, 40)).most_common(1)[0][1] > 10


def test_short_documents_are_left_out_and_only_so_many_are_read(tmp_path, corpus):
    store, lanes = opened([corpus], tmp_path / "cache", min_length=20, max_documents=25)
    found = read(store, lanes, 30)
    assert min(map(len, found)) >= 20 and len(set(found)) == 25
    with pytest.raises(TextgenError, match="no document"):
        opened([corpus], tmp_path / "cache", min_length=1000)


def test_the_cache_keeps_to_its_size(tmp_path, corpus, monkeypatch):
    made = []
    _, lanes = opened([corpus], tmp_path / "cache", stream_cache="5k")
    make = lanes._cache._make
    monkeypatch.setattr(lanes._cache, "_make", lambda *given: made.append(given[0]) or make(*given))
    for step in range(300):
        lanes.window(step)
    lanes.wait()
    folders = list(lanes._folder.glob("shard-*"))
    size = sum(file.stat().st_size for folder in folders for file in folder.iterdir())
    assert len(folders) < SHARDS and size < 5000 + 2500
    assert len(made) > SHARDS
    _, whole = opened([corpus], tmp_path / "other")
    assert all(np.array_equal(whole.window(step)[1], lanes.window(step)[1]) for step in (0, 150, 299))


def test_spans_of_a_large_file_are_the_file(tmp_path, monkeypatch):
    monkeypatch.setattr(stream, "SPAN_BYTES", 700)
    path = tmp_path / "large.jsonl"
    path.write_bytes(b"".join(files().values()))
    store, lanes = opened([path], tmp_path / "cache", validation_split=0.0)
    assert len(lanes._plan.shards) >= 5
    everything = {each for shard in range(SHARDS) for each in rows(shard)}
    assert set(read(store, lanes, 40)) == everything


def test_a_single_large_text_is_divided_where_lines_end(tmp_path, monkeypatch):
    monkeypatch.setattr(stream, "SPAN_BYTES", 700)
    lines = [f"line {number} ends here" for number in range(300)]
    (tmp_path / "book.txt").write_text("\n".join(lines) + "\n")
    store, lanes = opened([tmp_path / "book.txt"], tmp_path / "cache")
    parts = set(read(store, lanes, 60)) | held_out(store)
    assert sorted(line for part in parts for line in part.splitlines()) == sorted(lines)


def test_addresses_of_fsspec(tmp_path):
    import fsspec

    system = fsspec.filesystem("memory")
    for name, content in files().items():
        system.pipe(f"/corpus/{name}", content)
    try:
        folder = opened(["memory://corpus"], tmp_path / "one")
        pattern = opened(["memory://corpus/part-*.jsonl"], tmp_path / "two")
        assert read(*folder, 5) == read(*pattern, 5)
    finally:
        system.rm("/corpus", recursive=True)


def test_a_full_disk_is_not_waited_for(tmp_path, monkeypatch):
    tries = []

    def full(*_):
        tries.append(1)
        raise OSError(errno.ENOSPC, "No space left on device", str(tmp_path))

    monkeypatch.setattr(remote, "_download", full)
    with serving(files()) as (address, _), pytest.raises(OSError, match="No space left"):
        opened([f"{address}/part-1.jsonl"], tmp_path / "cache")
    assert len(tries) == 1


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"epochs": 2.0, "max_steps": None}, "epochs does not go with stream"),
        ({"stream_cache": "ten"}, "must be a size such as 500M or 10G"),
        ({"stream": False, "deduplicate": True}, "deduplicate goes with stream"),
    ],
)
def test_options_that_do_not_go_together(tmp_path, corpus, given, sentence):
    from textgen.training import check_training

    with pytest.raises(UsageError, match=sentence):
        check_training(replace(options(), **given))


@pytest.mark.parametrize(
    ("path", "sentence"),
    [
        ("nothing://a/b.txt", "nothing"),
        ("-", "only once"),
        ("memory://nowhere/*.txt", "no file is found"),
        ("stories", "a corpus by name"),
        ("missing.txt", "does not exist"),
    ],
)
def test_addresses_that_cannot_be_read(tmp_path, path, sentence):
    with pytest.raises(TextgenError, match=sentence):
        opened([path], tmp_path / "cache")

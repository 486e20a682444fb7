"""The beginning of a stream, stored like a corpus: the tokenizer learns from it, and the model is evaluated on what is
held out of it. No other part of the stream is read before the first step.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from textgen.data import CorpusOptions, StreamOptions, check_reading, choose_tokenizer, parse_bytes
from textgen.data.corpus import given_tokenizer, reading_of, remembered_in
from textgen.data.recipes import TRAIN, VALIDATION, Progress
from textgen.data.remote import RemoteFile, find_files
from textgen.data.shards import PartsWriter
from textgen.data.sources import SourceOptions, find_sources
from textgen.data.splits import WHOLE
from textgen.data.store import COUNTS, KIND, Scan, TokenStore, no_progress, open_store
from textgen.data.stream import Filters, ShardCache, StreamLanes, StreamPlan, digest_of, documents, is_short, shards_of
from textgen.data.tokenization import encode_document, gathered
from textgen.data.tokenizers import train_tokenizer
from textgen.data.tokenizers.base import Tokenizer
from textgen.errors import TextgenError
from textgen.options import named
from textgen.storage import filesystem

UNKNOWN_BYTES = 1 << 30
"""The size that a file counts with whose server does not name one."""

Documents = list[tuple[int, bytes]]
"""Documents with their hashes."""


def stream_store(
    paths: Sequence[str], options: StreamOptions, seed: int, cache: Path, progress: Progress = no_progress
) -> TokenStore:
    """The store of the beginning of a stream, made if it is not in the cache. Raises TextgenError naming an address
    that cannot be read, UsageError for options that do not go together."""
    assert isinstance(options, CorpusOptions)
    check_reading(options)
    given = given_tokenizer(options.tokenizer)
    reading = replace(reading_of(options, given.kind if given else options.tokenizer), lines=bool(options.lines))
    files = find_files(paths)
    share = 0.0 if options.validation_file else options.validation_split
    filters = Filters(options.min_length, options.deduplicate, options.max_documents, share)
    plan = StreamPlan(tuple(shards_of(files)), reading, filters, seed)
    train, held_out = _beginning(plan, options.stream_sample * 1_000_000, cache, progress)
    if options.validation_file:
        held_out = _whole(options.validation_file, reading)
    elif share and not held_out and len(train) > 1:
        held_out = [train.pop()]
        plan = replace(plan, filters=replace(filters, also_held_out=held_out[0][0]))
    if not train:
        raise TextgenError("the beginning of the stream has no document to train on.")
    sampled = sum(len(text) for _, text in train + held_out)
    total = max(sampled, _bytes_of(files))
    distinct = len({character for _, text in train for character in text.decode("utf-8", "replace")})
    kind, size = choose_tokenizer(options, Scan([total], "", distinct))
    kind, size = (given.kind, given.vocab_size) if given else (kind, size)
    digests = [[digest for digest, _ in part] for part in (train, held_out)]
    key = filesystem.cache_key(plan.to_json(), kind, size, given.files() if given else {}, digests)

    def write() -> None:
        tokenizer = given or train_tokenizer(kind, (iter([text]) for _, text in train), size)
        about = {**plan.to_json(), "total": total, "sampled": sampled, "files": len(files)}
        _write(cache / key, key, tokenizer, train, held_out, reading, about)

    return filesystem.cached(cache / key, open_store, write)


def _beginning(plan: StreamPlan, most: int, cache: Path, progress: Progress) -> tuple[Documents, Documents]:
    """The first documents of the stream: those to train on, and those that are held out."""
    train: Documents = []
    held_out: Documents = []
    seen: set[int] = set()
    size = 0
    for place in range(len(plan.shards)):
        for document in documents(plan.shards[plan.shard_at(place)], plan.reading, cache):
            digest = digest_of(document)
            if is_short(document, plan.filters.min_length) or (plan.filters.deduplicate and digest in seen):
                continue
            seen.add(digest)
            (held_out if plan.filters.holds_out(digest) else train).append((digest, document))
            size += len(document)
            progress("reading", size, most)
            enough = plan.filters.max_documents is not None and len(train) >= plan.filters.max_documents
            if size >= most or enough:
                return train, held_out
    return train, held_out


def _whole(path: str, reading: SourceOptions) -> Documents:
    """All documents of a separate file."""
    (source,) = find_sources([path])
    (shard,) = shards_of([RemoteFile(str(source.path.absolute()), None)])
    return [(digest_of(text), text) for text in documents(shard, reading, source.path.parent)]


def _bytes_of(files: Sequence[RemoteFile]) -> int:
    return sum(UNKNOWN_BYTES if file.size is None else file.size for file in files)


def _write(
    folder: Path,
    key: str,
    tokenizer: Tokenizer,
    train: Documents,
    held_out: Documents,
    reading: SourceOptions,
    stream: dict[str, object],
) -> None:
    parts = {TRAIN: train, VALIDATION: held_out}

    def encoded() -> Iterator[tuple[str, bool, tuple[np.ndarray, int, int]]]:
        for part, texts in parts.items():
            for _, text in texts:
                for number, each in enumerate(encode_document(tokenizer, [text])):
                    yield part, number == 0, each

    with filesystem.new_folder(folder) as store:
        for name, content in tokenizer.files().items():
            store.write(name, content)
        writer = PartsWriter(store, tokenizer, reading.lines)
        for part, begun, each in gathered(encoded()):
            writer.add(part, begun, each)
        writer.finish()
        common = writer.frequencies.copy()
        common[[token for token in range(len(common)) if token not in set(tokenizer.unsampled)]] += 1  # may come later
        store.write(COUNTS, common.tobytes())
        store.about = {
            "kind": KIND,
            "key": key,
            "dtype": writer.dtype,
            "tokenizer": tokenizer.kind,
            "vocab_size": tokenizer.vocab_size,
            "corpus_documents": len(train) + len(held_out),
            "reading": remembered_in(reading),
            "held_out": {"kind": WHOLE, "names": []},
            **writer.counted,
            "stream": stream,
        }


def stream_lanes(
    store: TokenStore, options: StreamOptions, window: tuple[int, int], starts: tuple[int, int], epoch_tokens: float
) -> StreamLanes:
    """The windows of a stream whose beginning is stored."""
    plan = StreamPlan.from_json(store.about["stream"])
    folder = store.folder.with_name(f"stream-{store.key}")
    filesystem.make_parents(folder)
    cache = ShardCache(folder, plan, store.tokenizer, parse_bytes(named("stream_cache"), options.stream_cache))
    return StreamLanes(cache, plan, folder, window, starts, epoch_tokens)

"""Speed of reading and tokenizing, in MB of text per second on one core, next to sentencepiece's own bulk encoding.

    python benchmarks/tokenizing.py [--megabytes 20] [--vocab-size 4000] [--rounds 3] [FILE ...]

Without FILE, the bundled stories are repeated to the requested size; text with more distinct words is slower. `bpe` and
`unigram` are textgen's encoding; `sentencepiece` is one call of its `encode` for all lines of the same text, with the
same model; `workers` is textgen's encoding in one process per core, including the time to start them.
"""

import argparse
import os
import platform
import time
from pathlib import Path

import numpy as np
import sentencepiece

from textgen.data import tokenization
from textgen.data.sources import SourceOptions, cut, find_sources, read
from textgen.data.store import scan
from textgen.data.tokenization import encode_document
from textgen.data.tokenizers import train_tokenizer
from textgen.threads import usable_cores

STORIES = Path(__file__).parents[1] / "corpora" / "stories"


def best(run, rounds):
    """The least seconds of a few runs, and what the last gave."""
    times = []
    for _ in range(rounds):
        began = time.perf_counter()
        result = run()
        times.append(time.perf_counter() - began)
    return min(times), result


def ids_of(tokenizer, pieces):
    return np.concatenate([ids for ids, _, _ in encode_document(tokenizer, pieces)])


def in_workers(tokenizer, pieces):
    blocks = tokenization.blocks(tokenizer, [("train", iter(pieces))])
    return np.concatenate([ids for _, ids in tokenization.encode(tokenizer, blocks, usable_cores())])


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("files", nargs="*", metavar="FILE")
    parser.add_argument("--megabytes", type=float, default=20)
    parser.add_argument("--vocab-size", type=int, default=4000)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    sources = find_sources(options.files or [str(STORIES)])
    text = b"".join(piece for _, piece in read(sources, SourceOptions()))
    pieces = list(cut(text * (int(options.megabytes * 1e6) // len(text) + 1)))
    size = sum(map(len, pieces)) / 1e6
    print(
        f"{size:.0f} MB, {platform.processor() or platform.machine()}, {os.cpu_count()} cores, Python "
        f"{platform.python_version()}, numpy {np.__version__}, sentencepiece {sentencepiece.__version__}"
    )

    def show(name, seconds, note=""):
        print(f"{name:24} {size / seconds:8.1f} MB/s  {note}")

    show("scan", best(lambda: scan((0, piece) for piece in pieces), options.rounds)[0])
    for kind in ("byte", "char"):
        tokenizer = train_tokenizer(kind, [pieces])
        show(kind, best(lambda: ids_of(tokenizer, pieces), options.rounds)[0])  # noqa: B023
    lines = b"".join(pieces).decode().split("\n")
    for kind in ("bpe", "unigram"):
        tokenizer = train_tokenizer(kind, [[text]], options.vocab_size)
        own, ids = best(lambda: ids_of(tokenizer, pieces), options.rounds)  # noqa: B023
        processor = sentencepiece.SentencePieceProcessor(model_proto=tokenizer.files()["tokenizer.model"])
        theirs, rows = best(lambda: processor.encode(lines, num_threads=1), 1)  # noqa: B023
        several, again = best(lambda: in_workers(tokenizer, pieces), options.rounds)  # noqa: B023
        assert np.array_equal(ids, again)
        show(kind, own, f"{theirs / own:.2f} x sentencepiece, {(len(ids) - 1) / (size * 1e6):.3f} tokens per byte")
        show(f"  sentencepiece {kind}", theirs, f"{(sum(map(len, rows)) + len(lines) - 1) / (size * 1e6):.3f} tokens")
        show(f"  {usable_cores()} workers", several)


if __name__ == "__main__":
    main()

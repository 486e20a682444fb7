"""One text with every kind of tokenizer: vocabulary size, characters per token, encoding speed, unknown words.

    python benchmarks/tokenizer_kinds.py corpora/stories [--vocab-size 4000]

The vocabulary size applies to bpe, unigram and word. Each tokenizer is trained on the text that it then encodes.
"""

import argparse
import platform
import time
from collections.abc import Iterator

import numpy as np

from textgen.data import TOKENIZER_KINDS
from textgen.data.sources import SourceOptions, find_sources, read
from textgen.data.tokenizers import train_tokenizer


def documents(paths: list[str]) -> Iterator[list[bytes]]:
    """Every chunk as a separate document."""
    for _, chunk in read(find_sources(paths), SourceOptions()):
        yield [chunk]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("corpus", nargs="+")
    parser.add_argument("--vocab-size", type=int, default=4000)
    options = parser.parse_args()
    texts = list(documents(options.corpus))
    size = sum(len(chunk) for text in texts for chunk in text)
    characters = sum(len(chunk.decode()) for text in texts for chunk in text)
    print(f"{characters:,} characters, {size:,} bytes; numpy {np.__version__}, {platform.machine()}, 1 thread")
    print(f"{'kind':8} {'vocabulary':>10} {'tokens':>10} {'characters per token':>20} {'MB/s':>6} {'unknown':>11}")
    for kind in TOKENIZER_KINDS:
        tokenizer = train_tokenizer(kind, iter(texts), options.vocab_size)
        began = time.perf_counter()
        ids = np.concatenate([part for text in texts for part in tokenizer.encode_pieces(text)])
        speed = size / 1e6 / (time.perf_counter() - began)
        unknown = tokenizer.unknown_count(ids)
        print(
            f"{kind:8} {tokenizer.vocab_size:>10,} {len(ids):>10,} {characters / len(ids):>20.2f} {speed:>6.0f} "
            f"{'none' if unknown is None else f'{unknown:,}':>11}"
        )


if __name__ == "__main__":
    main()

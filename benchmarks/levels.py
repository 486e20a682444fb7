"""One text at every level: how large the vocabulary is, how many characters a symbol stands for, how fast it encodes.

    python benchmarks/levels.py corpora/stories [--vocab-size 4000]

The vocabulary size goes for bpe, unigram and word. Everything is learned from the text that is then encoded.
"""

import argparse
import platform
import time
from collections.abc import Iterator

import numpy as np

from textgen.text.levels import LEVELS
from textgen.text.sources import SourceOptions, find_sources, read
from textgen.text.tokenizer import train_tokenizer


def documents(paths: list[str]) -> Iterator[list[bytes]]:
    """Every piece as a document of its own."""
    for _, piece in read(find_sources(paths), SourceOptions()):
        yield [piece]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("corpus", nargs="+")
    parser.add_argument("--vocab-size", type=int, default=4000)
    options = parser.parse_args()
    texts = list(documents(options.corpus))
    size = sum(len(piece) for text in texts for piece in text)
    characters = sum(len(piece.decode()) for text in texts for piece in text)
    print(f"{characters:,} characters, {size:,} bytes; numpy {np.__version__}, {platform.machine()}, 1 thread")
    print(f"{'level':8} {'vocabulary':>10} {'symbols':>10} {'characters a symbol':>20} {'MB/s':>6} {'lost words':>11}")
    for level in LEVELS:
        tokenizer = train_tokenizer(level, iter(texts), options.vocab_size)
        began = time.perf_counter()
        ids = np.concatenate([part for text in texts for part in tokenizer.encode_pieces(text)])
        speed = size / 1e6 / (time.perf_counter() - began)
        lost = tokenizer.unknown_count(ids)
        print(
            f"{level:8} {tokenizer.vocab_size:>10,} {len(ids):>10,} {characters / len(ids):>20.2f} {speed:>6.0f} "
            f"{'none' if lost is None else f'{lost:,}':>11}"
        )


if __name__ == "__main__":
    main()

"""Compressed sizes: a model next to bzip2 and xz, and random bytes. Each archive is decompressed again and compared.

    textgen train corpora/stories --tokenizer byte --threads 1 --minutes 3 --output-dir runs/bytes
    python benchmarks/compression.py runs/bytes [FILE ...]

Without files, those of the Canterbury corpus in $TEXTGEN_DATA/canterbury are compressed. `ratio` is the size of the
archive over the bits that `textgen evaluate` reports for the file. It should be at most 1.01, plus 16 bytes.
"""

import argparse
import bz2
import lzma
import math
import os
import platform
import random
import time
from pathlib import Path

import torch

import textgen
from textgen.evaluation.compression import compress, decompress


def files(named):
    """Names and contents of the files to compress."""
    folder = Path(os.environ.get("TEXTGEN_DATA", ".")) / "canterbury"
    paths = [Path(name) for name in named] or sorted(folder.glob("*.txt"))
    yield from ((path.name, path.read_bytes()) for path in paths)
    yield "random bytes", random.Random(0).randbytes(20_000)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model")
    parser.add_argument("file", nargs="*")
    options = parser.parse_args()
    torch.set_num_threads(1)
    model = textgen.load(options.model)
    print(f"torch {torch.__version__}, {platform.machine()}, 1 thread; {model.config.cell} {model.config.hidden_size}")
    sizes = f"{'bytes':>9} {'textgen':>9} {'bzip2':>9} {'xz':>9}"
    print(f"{'file':14} {sizes} {'bits/byte':>10} {'ratio':>9} {'in, out (s)':>11}")
    for name, data in files(options.file):
        began = time.perf_counter()
        archive = compress(model, data)
        packed = time.perf_counter()
        assert decompress(model, archive) == data, name
        unpacked = time.perf_counter()
        expected = textgen.evaluate(model, data).nats / math.log(2) / 8
        ratio = f"{len(archive) / expected:.4f}"
        seconds = f"{packed - began:.0f}, {unpacked - packed:.0f}"
        rate = 8 * len(archive) / len(data)
        print(
            f"{name:14} {len(data):>9,} {len(archive):>9,} {len(bz2.compress(data, 9)):>9,} "
            f"{len(lzma.compress(data, preset=9 | lzma.PRESET_EXTREME)):>9,} {rate:>10.3f} {ratio:>9} {seconds:>11}",
            flush=True,
        )


if __name__ == "__main__":
    main()

"""A line of 64 MiB: it is tokenized in bounded memory, with the same tokens however it is read."""

import json
import random
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from .isolation import MIB, quick_folder
from .rows import Outcome, Row

PEAK = 350 * 10**6
PROGRAM = """
import hashlib, json, resource, sys
from textgen.data import corpus, sources
from textgen.data import CorpusOptions
path, kind, folder, *sizes = sys.argv[1:]
def digest(path):
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
options, digests = CorpusOptions(tokenizer=kind, encoding="utf-8", validation_split=0.1), []
for size in sizes:
    sources.READ_BYTES = int(size)
    store = corpus.cached_store(corpus.scan_corpus([path], options, 1), sources.Path(folder, size))
    digests.append({p.name: digest(p) for p in sorted(store.folder.iterdir())})
lines = open("/proc/self/status") if sys.platform == "linux" else []
own = [line.split()[1] for line in lines if line.startswith("VmHWM")]  # getrusage would give the parent's, if larger
unit = 1 if sys.platform == "darwin" else 1024
peaks = [int(own[0]) if own else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss,
         resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss]
print(json.dumps({"peak": max(peaks) * unit, "digests": digests}))
"""


@dataclass(frozen=True)
class Tokenized:
    """What a process that tokenizes comes to: its peak of memory (or that of one it started), and, for each size of
    reading, the digests of what it wrote."""

    peak: int
    digests: list[dict[str, str]]


def tokenized(path: Path, kind: str, folder: Path, *sizes: int) -> Tokenized:
    """Tokenize a file in a process of its own, reading so many bytes at a time."""
    arguments = [sys.executable, "-c", PROGRAM, str(path), kind, str(folder), *map(str, sizes)]
    done = subprocess.run(arguments, capture_output=True, text=True, check=False)
    if done.returncode:
        raise AssertionError(done.stderr[-1000:])
    return Tokenized(**json.loads(done.stdout))


def words(path: Path, size: int, seed: int) -> None:
    """One line of words, characters of several bytes among them."""
    chance = random.Random(seed)
    known = ["".join(chance.choices("abcdefghijklmnopé漢👩", k=chance.randrange(1, 12))) for _ in range(3000)]
    with path.open("w+b") as file:
        while file.tell() < size:
            file.write(" ".join(chance.choices(known, k=20_000)).encode() + b" ")
        file.truncate(size)
        file.seek(-12, 2)
        begun = next(k for k, byte in enumerate(file.read(5)[::-1]) if byte & 0xC0 != 0x80)  # where a character begins
        file.seek(-8 - begun, 2)
        file.write(b" " * begun + b"the end.")


def zeros(path: Path, size: int, seed: int) -> None:
    """One line of NUL characters, which takes no room on the disk."""
    with path.open("wb") as file:
        file.truncate(size)


def endless(path: Path, size: int, seed: int) -> None:
    """One line without a blank."""
    chance = random.Random(seed)
    part = "".join(chance.choices("abcdefghijklmnop", k=1 << 20)).encode()
    with path.open("wb") as file:
        for start in range(0, size, len(part)):
            file.write(part[: size - start])


LINES: dict[str, Callable[[Path, int, int], None]] = {"words": words, "zeros": zeros, "endless": endless}


def run(mebibytes: int, small: int, lines: list[tuple[str, str]], seed: int) -> Outcome:
    """Lines of so many MiB for memory, and of `small` MiB for reading in pieces of other sizes."""
    highest, wrong = 0, []
    with quick_folder() as folder:
        line = folder / "line.txt"
        for form, kind in lines:
            LINES[form](line, mebibytes * MIB, seed)
            done = tokenized(line, kind, folder / f"{form}-{kind}", 1 << 20)
            highest = max(highest, done.peak)
            wrong += [f"{form} {kind} {seed}: {done.peak // 10**6} MB"] if done.peak > PEAK else []
        for form, kind in (("words", "bpe"), ("endless", "bpe"), ("words", "char")):
            LINES[form](line, small * MIB, seed)
            stores = tokenized(line, kind, folder / f"{form}-{kind}-small", 4093, 1 << 20, 1_500_001).digests
            wrong += (
                []
                if len(stores) == 3 and stores[0] == stores[1] == stores[2]
                else [f"{form} {kind} {seed}: other tokens"]
            )
    figure = f"{mebibytes} MiB on a line: {highest // 10**6} MB at most; reading in 3 sizes: "
    return Outcome(figure + ("; ".join(wrong) or "the same tokens"), not wrong)


FEW, MANY = (
    [("words", "bpe"), ("zeros", "char")],
    [("words", "char"), ("words", "bpe"), ("zeros", "byte"), ("endless", "bpe")],
)
ROWS = [
    Row("R13", "64 MiB on one line", "<= 350 MB, the same tokens however it is read", partial(run, 64, 2, FEW), "ci"),
    Row("R13b", "256 MiB on one line, in other forms", "<= 350 MB", partial(run, 256, 8, MANY), "torture"),
]


if __name__ == "__main__":
    print(run(int(sys.argv[1]), 2, FEW, int(sys.argv[2])))

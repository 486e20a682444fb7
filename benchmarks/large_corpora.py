"""Corpora of many gigabytes: tokenized in shards, and streamed, in flat memory, with a kill halfway.

    python benchmarks/large_corpora.py --gigabytes 10 --folder build/large --output benchmarks/large_corpora.txt

Writes JSON lines of generated text (a seed makes the same ones), then, each under torchrun with two processes of one
thread where more than one is asked for:

- tokenizes them with bpe, kills the job halfway, starts it again, and reports time and the most memory of a process;
- trains on them with --stream for 1,000 steps, kills it halfway, resumes it, and reports the memory at the tenth and at
  the last tenth of the steps, what the cache holds, and whether the weights are those of a run that was not killed.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from datetime import date
from pathlib import Path

FILE_BYTES = 64_000_000
STREAM = [
    *("--stream", "--stream-cache", "1G", "--tokenizer", "bpe", "--vocab-size", "2000", "--hidden-size", "64"),
    *("--num-layers", "1", "--batch-size", "64", "--seq-length", "256", "--max-steps", "1000", "--save-steps", "100"),
    *("--eval-steps", "500", "--logging-steps", "100", "--sample-steps", "0", "--no-compile", "--dtype", "float32"),
]


def write_corpus(folder: Path, size: int) -> None:
    """Files of documents made of random words, unless they are there."""
    source = random.Random(1)
    words = ["".join(source.choices("etaoinshrdlu", k=source.randint(2, 9))) for _ in range(5000)]
    lines = [" ".join(source.choices(words[:800] + words, k=14)) + "." for _ in range(20_000)]
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(size // FILE_BYTES):
        path = folder / f"part-{number:04d}.jsonl"
        if path.exists():
            continue
        drawn, documents, written = random.Random(number), [], 0
        while written < FILE_BYTES:
            document = json.dumps({"text": f"{number} {len(documents)} " + "\n".join(drawn.choices(lines, k=8))})
            documents.append(document)
            written += len(document) + 1
        path.with_suffix(".new").write_text("\n".join(documents) + "\n")
        path.with_suffix(".new").rename(path)


def command(processes: int, *arguments: object) -> list[str]:
    """textgen in one process, or under torchrun."""
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    return [sys.executable, *(torchrun if processes > 1 else []), "-m", "textgen", *map(str, arguments)]


def family(pid: int) -> list[int]:
    """A process and all that it has started, in turn."""
    parents: dict[int, list[int]] = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            parents.setdefault(int(path.read_text().rpartition(")")[2].split()[1]), []).append(int(path.parent.name))
    found = [pid]
    for each in found:
        found += parents.get(each, [])
    return found


def memory_of(pid: int) -> int:
    """The bytes of the largest process of a family, without the files that it maps: the system may drop those."""
    found = [0]
    for each in family(pid):
        with suppress(OSError, IndexError):
            _, resident, shared, *_ = map(int, Path(f"/proc/{each}/statm").read_text().split())
            found.append((resident - shared) * os.sysconf("SC_PAGE_SIZE"))
    return max(found)


def run(given: list[str], folder: Path, kill_when=lambda seconds: False) -> tuple[float, list[tuple[float, int]]]:
    """Run a command, and kill it when the time has come: its seconds, and the memory of its largest process over
    time."""
    began, seen = time.monotonic(), []
    process = subprocess.Popen(given, cwd=folder, stdout=subprocess.DEVNULL)
    while process.poll() is None:
        seconds = time.monotonic() - began
        seen.append((seconds, memory_of(process.pid)))
        if kill_when(seconds):
            for each in family(process.pid):
                with suppress(ProcessLookupError):
                    os.kill(each, signal.SIGKILL)
        time.sleep(1)
    return time.monotonic() - began, seen


def highest(seen: list[tuple[float, int]], start: float = 0.0, end: float = 1.0) -> int:
    """The most memory in a part of the time, in MB."""
    last = seen[-1][0]
    return max((size for at, size in seen if start * last <= at <= end * last), default=0) // 1_000_000


def tokenizing(folder: Path, corpus: Path, processes: int) -> list[str]:
    """Tokenize the corpus, killed when a third of the shards are there, and again to the end."""
    size = sum(path.stat().st_size for path in corpus.iterdir())
    shards = size // (64 << 20)
    given = command(processes, "tokenize", corpus, "--tokenizer", "bpe", "--vocab-size", 2000, "--output-dir", "tokens")
    shutil.rmtree(folder / "tokens", ignore_errors=True)
    done = lambda: len(list(folder.glob(".tokens.shards-*/shard-*")))  # noqa: E731
    first, before = run(given, folder, lambda _: done() > shards / 3)
    kept = done()
    second, after = run(given, folder)
    rate = size / 1e6 / (first + second)
    return [
        f"tokenize: {size / 1e9:.1f} GB, {processes} processes, killed after {first:.0f} s with {kept} of {shards}",
        f"    shards (about), which the next attempt kept; {first + second:.0f} s in all, {rate:.1f} MB/s; "
        f"at most {max(highest(before), highest(after))} MB in a process",
        f"    100 GB would take {100_000 / rate / 3600:.1f} hours; memory grows by about 16 bytes a document",
    ]


def streaming(folder: Path, corpus: Path, processes: int) -> list[str]:
    """Train on the stream, killed at half of the steps, and again to the end; then without a kill."""
    size = sum(path.stat().st_size for path in corpus.iterdir())
    threads = ["--threads", 1]
    shutil.rmtree(folder / "runs", ignore_errors=True)
    train = ["train", corpus, *STREAM, *threads, "--output-dir"]
    run(command(processes, *train, "runs/killed"), folder, lambda _: (folder / "runs/killed/checkpoint-500").exists())
    run(command(processes, "train", "--resume", "runs/killed"), folder)
    (cache,) = (folder / "runs/.tokens").glob("stream-*")
    held = sum(path.stat().st_size for path in cache.rglob("*") if path.is_file()) / 1e6
    seconds, seen = run(command(processes, *train, "runs/whole"), folder)
    names = ("runs/killed", "runs/whole")
    same = len({(folder / name / "model.safetensors").read_bytes() for name in names}) == 1
    return [
        f"stream: {size / 1e9:.1f} GB, {processes} processes, 1,000 steps of 64 x 256 in {seconds:.0f} s; memory "
        f"{highest(seen, 0.1, 0.3)} MB in the second tenths, {highest(seen, 0.8, 1.0)} MB in the last; the cache holds "
        f"{held:.0f} MB; killed at half and resumed: {'the same' if same else 'OTHER'} weights"
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gigabytes", type=float, default=10)
    parser.add_argument("--folder", type=Path, default=Path("build/large"))
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--parts", nargs="*", default=["stream", "tokenize"], choices=("stream", "tokenize"))
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    corpus = options.folder.absolute() / "corpus"
    write_corpus(corpus, round(options.gigabytes * 1e9))
    said = [f"{' '.join(sys.argv)}, {date.today()}, {os.cpu_count()} cores"]
    for part in options.parts:
        work = {"stream": streaming, "tokenize": tokenizing}[part]
        said += work(options.folder.absolute(), corpus, options.processes)
        print("\n".join(said), flush=True)
    if options.output:
        options.output.write_text("\n".join(said) + "\n")


if __name__ == "__main__":
    main()

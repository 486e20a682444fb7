"""A short form of every benchmark, and a table of targets next to results; about ten minutes.

    python benchmarks/bench.py [CORPUS]          (or: make bench CORPUS=path/to/tinyshakespeare.txt)

CORPUS is Tiny Shakespeare, as a file or as the name of the corpus, which is then downloaded. Nothing else should run on
the machine. The trainings of ten minutes and an hour and the grids of benchmarks/planner.py and
benchmarks/small_corpora.py are not included.
"""

import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from datetime import date
from pathlib import Path

import torch
from targets import shown

HERE = Path(__file__).parent


def parts(corpus):
    """The scripts and their arguments."""
    for threads in ("1", "2"):
        yield "sequence.py", "--threads", threads, "--rounds", "5", "--cells", "lstm,gru,rnn,linear"
    yield "training_step.py", "--compile"
    for size in ("512x65", "1024x65", "512x8000", "1024x8000"):
        yield "sampling.py", "--rounds", "5", "--sizes", size
    yield "feeding.py", "--megabytes", "1", "--tokenizers", "char"
    yield "text_per_minute.py", corpus


def main():
    corpus = sys.argv[1] if len(sys.argv) > 1 else "tiny-shakespeare"
    began = time.perf_counter()
    environment = {"GOMP_SPINCOUNT": "2000", **os.environ}  # as the command sets it for itself
    failed = []
    with tempfile.TemporaryDirectory() as scratch:
        found = Path(scratch) / "results.jsonl"
        for script, *arguments in parts(corpus):
            print(f"\n== {script} {' '.join(arguments)}", flush=True)
            words = [sys.executable, str(HERE / script), *arguments, "--results", str(found)]
            if subprocess.run(words, env=environment, check=False).returncode:
                failed.append(script)
        rows = [json.loads(line) for line in found.read_text().splitlines()] if found.exists() else []
    print(f"\n== {date.today()}, {platform.machine()}, {os.cpu_count()} cores, torch {torch.__version__}, "
          f"{(time.perf_counter() - began) / 60:.1f} minutes")  # fmt: skip
    for row in rows:
        print(shown(row))
    print(f"{sum(row['met'] for row in rows)} of {len(rows)} met")
    if failed:
        sys.exit(f"these scripts failed: {', '.join(failed)}")


if __name__ == "__main__":
    main()

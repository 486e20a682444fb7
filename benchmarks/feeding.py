"""Data loading: how soon a second start on the same corpus has its first batch, and what loading costs per step.

    python benchmarks/feeding.py [--megabytes 1,300] [--tokenizers char,bpe] [--hidden-size 256] [--starts 3]

For each corpus (the bundled stories repeated, each time in another order), tokens are stored once. Then fresh processes
measure: the seconds until torch is imported, including the part that its optimizers load on first use; from there, the
seconds until the first batch, if only the corpus is opened, and as `textgen train` does it, with the model built, its
step stored and its run created; and the share of a training step that is spent on reading its window. Results are
medians. Seconds are CPU seconds, so that other work on the machine matters less.
"""

import argparse
import json
import platform
import random
import statistics
import subprocess
import sys
import tempfile
from datetime import date
from pathlib import Path

from targets import Results

STORIES = Path(__file__).parents[1] / "corpora" / "stories"
CHILD = """
import json, sys, time
import torch, torch._dynamo
imported = time.process_time()
from pathlib import Path
from textgen.tasks import options_for
from textgen.options import from_mapping
from textgen.tasks import TrainOptions
from textgen.data.store import no_progress
from textgen.tasks.language.data import LanguageData, stored_corpus
from textgen.storage import TOKENS
from textgen.training.start import start
path, given, whole = sys.argv[1], json.loads(sys.argv[2]), sys.argv[3] == "whole"
options = options_for( given)
found = {"torch": imported}
if whole:
    session = start([path], options, time.monotonic())
    task = session.trainer.objective
else:
    torch.set_num_threads(options.threads)
    store = stored_corpus([path], options, Path(options.output_dir).parent / TOKENS, no_progress)
    task = LanguageData(store).objective(options)
task.window(0)
found["batch"] = time.process_time() - imported
if whole:
    trainer, windows, steps = session.trainer, [], []
    read = trainer.objective.window
    class Watched(type(task)):
        def window(self, step):
            began = time.process_time()
            result = super().window(step)
            windows.append(time.process_time() - began)
            return result
    trainer.objective = Watched(**vars(task))
    for step in range(23):
        began = time.process_time()
        trainer._step(step)
        steps.append(time.process_time() - began)
    found["window"], found["step"] = (sorted(each[3:])[10] for each in (windows, steps))
print(json.dumps(found))
"""


def corpus(path, megabytes):
    """The stories again and again, until there are so many bytes."""
    stories, chance = [each.read_text() for each in sorted(STORIES.glob("**/*.txt"))], random.Random(1)
    left = megabytes * 10**6
    with open(path, "w") as file:
        while left > 0:
            chance.shuffle(stories)
            text = "\n".join(stories)[:left]
            left -= file.write(text)


def child(path, options, what):
    words = [sys.executable, "-c", CHILD, str(path), json.dumps(options), what]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


def measure(path, tokenizer, hidden, starts, scratch, results):
    options = {"tokenizer": tokenizer, "hidden_size": hidden, "num_layers": 1, "max_steps": 1000, "threads": 1,
               "compile": False, "batch_size": 16, "seq_length": 64, "overwrite_output_dir": True,
               "output_dir": str(scratch / f"run-{path.stem}-{tokenizer}")}  # fmt: skip
    first = child(path, options, "open")["batch"]
    opened = [child(path, options, "open") for _ in range(starts)]
    whole = [child(path, options, "whole") for _ in range(starts)]
    torch = statistics.median(each["torch"] for each in opened + whole)
    step, window = (statistics.median(each[name] for each in whole) for name in ("step", "window"))
    opened, whole = (statistics.median(each["batch"] for each in them) for them in (opened, whole))
    print(f"{path.stat().st_size / 1e6:5.0f} MB, {tokenizer:4}: torch {torch:.1f} s; tokens made in {first:.1f} s; "
          f"second start, after torch: corpus opened and first batch read {opened:.2f} s, in `textgen train` "
          f"{whole:.2f} s; reading a window {1e6 * window:.0f} µs of a step's {1e3 * step:.0f} ms, "
          f"{window / step:.2%}", flush=True)  # fmt: skip
    what = f"{path.stat().st_size / 1e6:.0f} MB by {tokenizer}:"
    results.add(f"{what} second start, torch imported, to the first batch", opened, "s", at_most=1)
    results.add(f"{what} share of a step spent on reading", 100 * window / step, "%", at_most=1)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--megabytes", default="1,300")
    parser.add_argument("--tokenizers", default="char,bpe")
    parser.add_argument("--hidden-size", type=int, default=256)
    parser.add_argument("--starts", type=int, default=3)
    parser.add_argument("--results", help="append the figures to this file")
    given = parser.parse_args()
    results = Results()
    print(f"{date.today()}, {platform.machine()}, one thread, lstm, 1 x {given.hidden_size}, 16 x 64, "
          f"Python {platform.python_version()}")  # fmt: skip
    with tempfile.TemporaryDirectory() as scratch:
        for megabytes in map(int, given.megabytes.split(",")):
            path = Path(scratch) / f"corpus{megabytes}.txt"
            corpus(path, megabytes)
            for tokenizer in given.tokenizers.split(","):
                measure(path, tokenizer, given.hidden_size, given.starts, Path(scratch), results)
    results.close(given.results)


if __name__ == "__main__":
    main()

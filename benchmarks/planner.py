"""The plan of `--minutes N` beside a grid of ten runs made by hand, each of as many minutes.

    python benchmarks/planner.py CORPUS [--minutes 1] [--cell lstm] [--tokenizer char] [--threads 2]

Runs the command `textgen train CORPUS --minutes N` with nothing else chosen, then with sizes and learning rates of
the grid: half, once and twice the planned size (one layer) with half, once and twice the planned rate, and the planned
size in two layers. Prints bits per byte of everything that is held out, wall time of the whole command, and by how
much the plan misses the best of the grid. Takes eleven times N minutes.
"""

import argparse
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


def train(corpus, folder, minutes, *options):
    """Bits per byte, seconds of the whole command, and what was planned."""
    words = ["train", corpus, "--minutes", str(minutes), "--output-dir", str(folder), "--sample-steps", "0", "-q"]
    began = time.perf_counter()
    subprocess.run([sys.executable, "-m", "textgen", *words, *map(str, options)], check=True)
    seconds = time.perf_counter() - began
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    bits = next(line["eval_bits_per_byte"] for line in reversed(lines) if line.get("final"))
    return bits, seconds, json.loads((folder / "training_args.json").read_text())["options"]


def shown(bits, seconds, plan):
    return (f"{bits:.4f} bits/byte  {seconds:4.0f} s  {plan['num_layers']} x {plan['hidden_size']}, rate "
            f"{plan['learning_rate']:g}, dropout {plan['dropout']}, {plan['max_steps']:,} steps, {plan['dtype']}, "
            f"{'compiled' if plan['compile'] else 'not compiled'}")  # fmt: skip


def grid(plan):
    """The other choices: hidden size, learning rate, layers."""
    size, rate = plan["hidden_size"], plan["learning_rate"]
    for hidden in (size // 2, size, size * 2):
        for factor in (0.5, 1, 2):
            yield hidden, rate * factor, 1
    yield size, rate, 2


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("corpus")
    parser.add_argument("--minutes", type=float, default=1)
    parser.add_argument("--cell", default="lstm")
    parser.add_argument("--tokenizer", default="char")
    parser.add_argument("--threads", type=int, default=2)
    asked = parser.parse_args()
    common = ["--cell", asked.cell, "--tokenizer", asked.tokenizer, "--threads", asked.threads]
    print(f"{date.today()}, {platform.machine()}, {os.cpu_count()} cores, {asked.threads} threads, torch "
          f"{torch.__version__}; {asked.cell}, {asked.minutes:g} min, {Path(asked.corpus).name}")  # fmt: skip
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "runs"
        train(asked.corpus, folder / "first", 0.2, *common)  # the text is tokenized here, for all alike
        bits, seconds, plan = train(asked.corpus, folder / "plan", asked.minutes, *common)
        print("plan ", shown(bits, seconds, plan), flush=True)
        found = []
        for hidden, rate, layers in grid(plan):
            options = ["--hidden-size", hidden, "--learning-rate", f"{rate:.5f}", "--num-layers", layers]
            found.append(train(asked.corpus, folder / f"{hidden}-{rate}-{layers}", asked.minutes, *common, *options))
            print("grid ", shown(*found[-1]), flush=True)
    best = min(each[0] for each in found)
    print(f"plan over best of grid: {bits / best - 1:+.1%} bits (asked: at most +3 %), wall {seconds:.0f} s of "
          f"{60 * asked.minutes:.0f} ({seconds / (60 * asked.minutes) - 1:+.1%}; asked: within 5 %)")  # fmt: skip


if __name__ == "__main__":
    main()

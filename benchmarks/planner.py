"""The plan of `--minutes N` compared with a grid of ten models chosen by hand, each with the steps that fit N minutes.

    GOMP_SPINCOUNT=2000 python benchmarks/planner.py CORPUS [--minutes 1] [--cell lstm] [--tokenizer char] [--choices K]

This runs `textgen train CORPUS --minutes N` with no other choices, to measure its wall time and get its plan. The grid
is half, once and twice the planned size (one layer) with half, once and twice the planned learning rate, and two layers
of the planned size; it includes the plan itself. A step of each shape is timed in turns, in both precisions, so that
other work on the machine affects all of them alike. Each model then trains for as many steps as fit the training time
of the plan. Since only the number of steps matters then, two trainings run at once, with one thread each. The script
prints bits per byte of the whole held-out part, and by how much the plan misses the best of the grid. It takes about
ten times N minutes, less with K choices.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import date
from pathlib import Path

import torch

from textgen.tasks import TrainOptions
from textgen.training.planner import PRECISION_GAIN, ThisMachine, keep_memory
from textgen.training.start import start

ROUNDS, SECONDS = 7, 0.7


def train(corpus, folder, *options):
    """Bits per byte, seconds of the whole command, and what was planned."""
    words = ["train", corpus, "--output-dir", folder, "--sample-steps", "0", "-q", *options]
    began = time.perf_counter()
    subprocess.run([sys.executable, "-m", "textgen", *map(str, words)], check=True)
    seconds = time.perf_counter() - began
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    bits = next(line["eval_bits_per_byte"] for line in reversed(lines) if line.get("final"))
    return bits, seconds, json.loads((folder / "training_args.json").read_text())


def grid(plan):
    """All choices, the planned one and those next to it first: hidden size, layers, learning rate."""
    size, rate = plan["hidden_size"], plan["learning_rate"]
    own = size, plan["num_layers"], rate
    near = [(size, 1, 2 * rate), (size // 2, 1, rate), (size, 1, rate / 2), (2 * size, 1, rate), (size, 2, rate)]
    far = [(hidden, 1, factor * rate) for hidden in (size // 2, 2 * size) for factor in (2, 0.5)]
    return list(dict.fromkeys([own, (size, 1, rate), *near, *far]))


def paces(shapes, corpus, folder, given, compiled):
    """For each shape, (hidden size, layers): the precision that the plan would take, and the seconds of a step."""
    keep_memory()
    sessions = {}
    for hidden, layers in shapes:
        options = TrainOptions(**given, hidden_size=hidden, num_layers=layers, max_steps=1, output_dir=str(folder))
        sessions[hidden, layers] = start([corpus], options, time.monotonic(), dry_run=True)
    times = {(shape, dtype): [] for shape in shapes for dtype in ("float32", "bfloat16")}
    for _ in range(ROUNDS):
        for shape, dtype in times:
            session = sessions[shape]
            measured = ThisMachine(session.data, "cpu").step_seconds(
                session.config, session.options, SECONDS, compiled=compiled, dtype=dtype
            )
            times[shape, dtype].append(measured)
    found = {}
    for shape in shapes:
        plain, rounded = (statistics.median(times[shape, dtype]) for dtype in ("float32", "bfloat16"))
        found[shape] = ("bfloat16", rounded) if rounded < PRECISION_GAIN * plain else ("float32", plain)
    return found


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("corpus")
    parser.add_argument("--minutes", type=float, default=1)
    parser.add_argument("--cell", default="lstm")
    parser.add_argument("--tokenizer", default="char")
    parser.add_argument("--choices", type=int, default=10, help="only so many, those next to the plan first")
    asked = parser.parse_args()
    given = {"cell": asked.cell, "tokenizer": asked.tokenizer}
    common = ["--cell", asked.cell, "--tokenizer", asked.tokenizer]
    print(f"{date.today()}, {platform.machine()}, {os.cpu_count()} cores, torch {torch.__version__}; "
          f"{asked.cell}, {asked.minutes:g} min, {Path(asked.corpus).name}")  # fmt: skip
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "runs"
        train(asked.corpus, folder / "first", "--minutes", 0.2, *common)  # the text is tokenized here, for all alike
        bits, wall, arguments = train(asked.corpus, folder / "plan", "--minutes", asked.minutes, *common)
        plan, budget = arguments["options"], arguments["estimate"]["train_seconds"]
        print(f"--minutes {asked.minutes:g}: {wall:.0f} s ({wall / (60 * asked.minutes) - 1:+.1%}; target: within 5 %)"
              f", {plan['num_layers']} x {plan['hidden_size']}, rate {plan['learning_rate']:g}, {plan['max_steps']:,} "
              f"steps, {bits:.4f} bits/byte", flush=True)  # fmt: skip
        choices = grid(plan)[: asked.choices]
        shapes = sorted({choice[:2] for choice in choices})
        speed = paces(shapes, asked.corpus, folder / "pace", given, plan["compile"])

        def trained(choice):
            hidden, layers, rate = choice
            dtype, seconds = speed[hidden, layers]
            steps = max(10, int(budget / seconds))
            compiling = "--compile" if plan["compile"] else "--no-compile"
            bits, _, arguments = train(
                asked.corpus, folder / f"{hidden}-{layers}-{rate:.5f}", "--hidden-size", hidden, "--num-layers", layers,
                "--learning-rate", f"{rate:.5f}", "--max-steps", steps, "--dtype", dtype, "--threads", 1, compiling,
                *common,
            )  # fmt: skip
            which, dropout = "plan" if choice == choices[0] else "grid", arguments["options"]["dropout"]
            print(f"{which}  {bits:.4f} bits/byte  {layers} x {hidden}, rate {rate:.5f}, dropout {dropout}, "
                  f"{steps:,} steps, {dtype}", flush=True)  # fmt: skip
            return bits

        with ThreadPoolExecutor(2) as two:
            found = list(two.map(trained, choices))
    print(f"plan over best of grid: {found[0] / min(found) - 1:+.1%} bits (target: at most +3 %)")


if __name__ == "__main__":
    main()

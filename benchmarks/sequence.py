"""One layer over a sequence, forward and backward: our cells beside torch.nn's of the same kind and sizes, in one run.

    python benchmarks/sequence.py [--threads 2] [--rounds 7]

Columns: `own` is the cell as it ships, `engine` the same equations through GatedCell's engine, `loop` the plain step
loop, `torch` the module of torch.nn; all in GFLOP/s of the products (medians), and own / torch as a ratio of medians.
"""

import argparse
import platform
import statistics
import time

import torch

from textgen import Cell, GatedCell, plugins

SIZES = [(64, 16, 256), (128, 32, 256), (64, 64, 512), (35, 20, 650)]
TORCH = {"rnn": torch.nn.RNN, "lstm": torch.nn.LSTM, "gru": torch.nn.GRU}


def seconds(run, xs):
    began = time.perf_counter()
    ys, _ = run(xs)
    ys.sum().backward()
    return time.perf_counter() - began


def compare(name, length, batch, hidden, rounds):
    cell, theirs = plugins.cell(name)(hidden, hidden), TORCH[name](hidden, hidden)
    xs = torch.randn(length, batch, hidden)
    candidates = {
        "own": cell,
        "engine": lambda x: GatedCell.forward(cell, x),
        "loop": lambda x: Cell.forward(cell, x),
        "torch": theirs,
    }
    for run in candidates.values():
        seconds(run, xs)
    times = {label: [] for label in candidates}
    for _ in range(rounds):  # interleaved, so that a change in the machine's speed falls on all
        for label, run in candidates.items():
            times[label].append(seconds(run, xs))
    work = 3 * 2 * length * batch * 2 * hidden * hidden * cell.gates / 1e9
    return {label: work / statistics.median(series) for label, series in times.items()}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    print(f"torch {torch.__version__}, {platform.machine()}, {options.threads} threads, float32, GFLOP/s")
    print(f"{'cell':5} {'(T, B, H)':16} {'own':>6} {'engine':>7} {'loop':>6} {'torch':>6} {'own/torch':>10}")
    for name in TORCH:
        for size in SIZES:
            speed = compare(name, *size, options.rounds)
            figures = f"{speed['own']:6.0f} {speed['engine']:7.0f} {speed['loop']:6.0f} {speed['torch']:6.0f}"
            print(f"{name:5} {size!s:16} {figures} {speed['own'] / speed['torch']:10.2f}")


if __name__ == "__main__":
    main()

"""One layer over a sequence, forward and backward: textgen's cells next to those of torch.nn, with the same sizes.

    python benchmarks/sequence.py [--threads 2] [--rounds 11] [--cells rnn,lstm,gru,linear]

`compiled` is the cell's equations run by GatedCell's engine, compiled; `engine` the same without a compiler; `loop` the
plain loop over steps; `own` the cell as it ships, if that is something else; `torch` the torch.nn module. For each, the
script prints the GFLOP/s of the matrix products (median) and, in brackets, torch's time divided by its own, paired
round by round: lower quartile, median, upper quartile. Above 1 is faster than torch. The last column is the compile
time. For `linear`, a small LinearCell, it prints its time divided by that of the products of its input alone, forward
and backward.
"""

import argparse
import platform
import statistics
import time

import torch
from targets import Results

from textgen import plugins
from textgen.cells import Cell, GatedCell, LinearCell
from textgen.training.planner import keep_memory

SIZES = [(64, 16, 256), (128, 32, 256), (64, 64, 512), (35, 20, 650)]
LINEAR_SIZES = [(512, 16, 256), (512, 64, 512)]
ASKED = {
    "lstm": dict(zip(SIZES, (0.65, 0.8, 0.95, 0.8), strict=True)),
    "gru": dict.fromkeys(SIZES, 1.1),
    "rnn": dict.fromkeys(SIZES, 1.1),
}
"""The speed of `compiled` asked for, as a multiple of torch.nn's."""
TORCH = {"rnn": torch.nn.RNN, "lstm": torch.nn.LSTM, "gru": torch.nn.GRU}


def seconds(run, parameters, xs):
    for parameter in parameters:
        parameter.grad = None
    began = time.perf_counter()
    ys, _ = run(xs)
    ys.sum().backward()
    return time.perf_counter() - began


def compare(name, length, batch, hidden, rounds):
    cell, theirs = plugins.cell(name)(hidden, hidden), TORCH[name](hidden, hidden)
    fast = plugins.cell(name)(hidden, hidden)
    fast.compiled = True
    xs = torch.randn(length, batch, hidden)
    candidates = {
        "torch": (theirs, theirs),
        "compiled": (lambda x: GatedCell.forward(fast, x), fast),
        "engine": (lambda x: GatedCell.forward(cell, x), cell),
        "loop": (lambda x: Cell.forward(cell, x), cell),
    }
    if type(cell).forward is not GatedCell.forward:
        candidates["own"] = (cell, cell)
    compiling = {}
    for label, (run, module) in candidates.items():
        began = time.perf_counter()
        seconds(run, list(module.parameters()), xs)
        compiling[label] = time.perf_counter() - began
        seconds(run, list(module.parameters()), xs)
    times = {label: [] for label in candidates}
    for _ in range(rounds):  # interleaved, so that a change in the machine's speed falls on all
        for label, (run, module) in candidates.items():
            times[label].append(seconds(run, list(module.parameters()), xs))
    work = 3 * 2 * length * batch * 2 * hidden * hidden * cell.gates / 1e9
    return work, times, compiling["compiled"]


class Leaky(LinearCell):
    """As little as a LinearCell can do besides the products of its input."""

    def __init__(self, input_size, hidden_size):
        super().__init__(input_size, hidden_size)
        self.gate, self.value = (torch.nn.Linear(input_size, hidden_size) for _ in range(2))

    def coefficients(self, xs):
        return torch.sigmoid(self.gate(xs)), self.value(xs)


def linear(length, batch, hidden, rounds):
    """The times of a LinearCell over those of its input's products alone, round by round."""
    cell, xs = Leaky(hidden, hidden), torch.randn(length, batch, hidden, requires_grad=True)
    parameters = list(cell.parameters())

    def products(given):
        return cell.gate(given) + cell.value(given), None

    for run in (cell, products):
        seconds(run, parameters, xs)
    return [seconds(cell, parameters, xs) / seconds(products, parameters, xs) for _ in range(rounds)]


def quartiles(label, times):
    """Torch's time over its own, paired round by round."""
    return statistics.quantiles([a / b for a, b in zip(times["torch"], times[label], strict=True)], n=4)


def shown(label, work, times):
    low, middle, high = quartiles(label, times)
    speed = work / statistics.median(times[label])
    return f"{label} {speed:4.0f}" + (f" ({low:.2f} {middle:.2f} {high:.2f})" if label != "torch" else "")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument("--cells", default="rnn,lstm,gru")
    parser.add_argument("--results", help="append the figures to this file")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    keep_memory()  # as the command does
    print(f"torch {torch.__version__}, {platform.machine()}, {options.threads} threads, float32, GFLOP/s")
    results, threads = Results(), f"{options.threads} threads"
    for name in options.cells.split(","):
        if name == "linear":
            for size in LINEAR_SIZES:
                low, middle, high = statistics.quantiles(linear(*size, options.rounds), n=4)
                print(f"linear {size!s:15} {low:.2f} {middle:.2f} {high:.2f} times its input's products", flush=True)
                results.add(f"LinearCell {size}, {threads}: time / its input's products", middle, at_most=1.5)
            continue
        for size in SIZES:
            work, times, compiling = compare(name, *size, options.rounds)
            figures = "  ".join(shown(label, work, times) for label in times)
            print(f"{name:5}{size!s:15} {figures}  {compiling:.1f} s", flush=True)
            speed = quartiles("compiled", times)[1]
            results.add(f"{name} {size}, {threads}: compiled / torch.nn", speed, at_least=ASKED[name][size])
            if "own" in times:
                results.add(f"{name} {size}, {threads}: as it ships / torch.nn", quartiles("own", times)[1], at_least=1)
    results.close(options.results)


if __name__ == "__main__":
    main()

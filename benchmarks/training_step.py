"""A whole training step: the speed of its matrix products next to the machine's best, and where the time goes.

    python benchmarks/training_step.py [--cell gru] [--threads 2] [--compile] [--plain-memory]

Two layers of 512 units, 16 x 64 tokens, for vocabularies of 65, 2,000 and 10,000, through the trainer itself: GFLOP/s
of all matrix products over the time of the whole step (median, and the share of the best product measured in the same
run), then the torch operations that take most of the CPU time themselves, with products marked by *.
"""

import argparse
import platform
import statistics
import tempfile
import time
from pathlib import Path

import torch
from targets import Results
from torch.profiler import ProfilerActivity, profile

from textgen.model import ModelConfig
from textgen.model.weights import make_model
from textgen.tasks import TrainOptions
from textgen.tasks.objective import Objective
from textgen.training.planner import compilable, keep_memory
from textgen.training.runs import Run
from textgen.training.trainer import Trainer

LENGTH, BATCH, HIDDEN = 64, 16, 512
NEVER = 10**9
PRODUCTS = ("mkldnn", "mm", "linear", "lstm", "Gated")


def best_product():
    """GFLOP/s of the larger products of these models: the fastest of a few tries, by either library of torch's."""
    xs, weight = torch.randn(1024, HIDDEN), torch.randn(2048, HIDDEN)
    work, times = 2 * 1024 * HIDDEN * 2048 / 1e9, []
    for multiply in (torch.nn.functional.linear, torch.ops.mkldnn._linear_pointwise):
        arguments = (xs, weight, None) + (("none", [], "") if multiply is not torch.nn.functional.linear else ())
        for _ in range(10):
            began = time.perf_counter()
            multiply(*arguments)
            times.append(time.perf_counter() - began)
    return work / min(times)


def work_of(model, vocab_size):
    """Billions of floating point operations in the products of a step: two a weight and symbol, three times over."""
    matrices = [p for name, p in model.stack.named_parameters() if p.dim() >= 2]
    return 3 * 2 * LENGTH * BATCH * (sum(p.numel() for p in matrices) + vocab_size * HIDDEN) / 1e9


class AnySymbols(Objective):
    """Predict symbols that were drawn at random, the state carried from step to step."""

    steps_per_epoch, tokens_per_step = NEVER, LENGTH * BATCH

    def __init__(self, vocab_size):
        self._ids = torch.randint(vocab_size, (LENGTH + 1, BATCH))

    def fresh(self, step):
        return torch.zeros(BATCH, dtype=torch.bool)

    def window(self, step):
        return self._ids[:-1].int(), self._ids[1:]

    def loss(self, outputs, targets):
        return torch.nn.functional.cross_entropy(outputs.flatten(0, 1), targets.flatten())

    def evaluate(self, model, quick):
        return None


def measure(cell, vocab_size, compiled, rounds):
    config = ModelConfig(
        vocab_size, cell, embedding_size=HIDDEN, hidden_size=HIDDEN, num_layers=2,
        tie_word_embeddings=vocab_size > 100,
    )  # fmt: skip
    options = TrainOptions(
        cell=cell, max_steps=NEVER, logging_steps=NEVER, eval_steps=NEVER, save_steps=NEVER, batch_size=BATCH,
        seq_length=LENGTH, learning_rate=1e-3, warmup_steps=0, dtype="float32",
    )  # fmt: skip
    model = make_model(config)
    for gated in compilable(model):
        gated.compiled = compiled
    times = []
    with tempfile.TemporaryDirectory() as scratch:
        steps = Trainer(Run(Path(scratch)), AnySymbols(vocab_size), model, options).run()
        for _ in range(rounds + 2):
            began = time.perf_counter()
            next(steps)
            times.append(time.perf_counter() - began)
        with profile(activities=[ProfilerActivity.CPU]) as profiled:
            next(steps)
    return work_of(model, vocab_size) / statistics.median(times[2:]), profiled.key_averages()


def shown(operations):
    whole = sum(each.self_cpu_time_total for each in operations)
    first = sorted(operations, key=lambda each: -each.self_cpu_time_total)[:6]
    return "  ".join(
        f"{each.key.removeprefix('aten::')}{'*' if any(part in each.key for part in PRODUCTS) else ''} "
        f"{each.self_cpu_time_total / whole:.0%}"
        for each in first
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cell", default="gru")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--plain-memory", action="store_true", help="leave the memory allocator as it is")
    parser.add_argument("--results", help="append the figures to this file")
    options = parser.parse_args()
    results = Results()
    torch.set_num_threads(options.threads)
    if not options.plain_memory:
        keep_memory()
    print(f"torch {torch.__version__}, {platform.machine()}, {options.threads} threads, {options.cell}, float32")
    for vocab_size in (65, 2000, 10_000):
        speed, operations = measure(options.cell, vocab_size, options.compile, options.rounds)
        best = best_product()
        print(f"{vocab_size:6,} tokens: {speed:4.0f} GFLOP/s of {best:.0f} ({speed / best:.0%})  {shown(operations)}")
        results.add(f"{options.cell} 2 x 512, {vocab_size:,} tokens: step / best product", speed / best, at_least=0.7)
    results.close(options.results)


if __name__ == "__main__":
    main()

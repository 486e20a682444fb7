"""Generating from a pool of Python threads while other processes keep the processor busy.

    python benchmarks/thread_pool.py [--units 512] [--symbols 2000] [--tokens 100] [--busy 2] [--workers 1,2,4,8]

A text is generated on the main thread, and then one text per worker by a pool of workers; first on an idle machine,
then next to busy processes. The script prints milliseconds per text (total time divided by the number of texts, median
over the rounds), and the ratio to the main thread. Sampling uses one BLAS thread on every Python thread, so the ratio
should not be above 1. With more, the BLAS threads spin while they wait for each other, and the busy processes occupy
the cores.
"""

import argparse
import os
import statistics
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import torch

import textgen
from textgen import plugins
from textgen.data.tokenizers import CharTokenizer
from textgen.generation.language_model import LanguageModel
from textgen.model import ModelConfig
from textgen.model.stack import build_model
from textgen.model.weights import model_tensors
from textgen.runtime import NumpyStepper
from textgen.tracing import trace


def made(units, symbols):
    """An untrained LSTM, run by its stored step."""
    tokenizer = CharTokenizer("".join(map(chr, range(0x4E00, 0x4E00 + symbols - 2))))
    config = ModelConfig(tokenizer.vocab_size, cell="lstm", embedding_size=units, hidden_size=units)
    torch.manual_seed(1)
    model = build_model(config, plugins.cell("lstm"))
    weights = {name: tensor.detach().numpy() for name, tensor in model_tensors(model).items()}
    return LanguageModel(config, tokenizer, NumpyStepper(trace(model), weights), unsampled=tokenizer.unsampled)


def measure(model, tokens, workers, rounds):
    """Seconds a text on the main thread, and by pools of so many workers."""

    def one(seed):
        textgen.generate(model, seed=seed, max_new_tokens=tokens, ignore_eos=True)

    def timed(run, number):
        began = time.perf_counter()
        run()
        return (time.perf_counter() - began) / number

    one(0)
    main, pools = [], {number: [] for number in workers}
    for _ in range(rounds):
        main.append(timed(lambda: one(1), 1))
        for number, seconds in pools.items():
            with ThreadPoolExecutor(number) as pool:
                seconds.append(timed(lambda pool=pool, number=number: list(pool.map(one, range(number))), number))
    return statistics.median(main), {number: statistics.median(seconds) for number, seconds in pools.items()}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--units", type=int, default=512)
    parser.add_argument("--symbols", type=int, default=2000)
    parser.add_argument("--tokens", type=int, default=100)
    parser.add_argument("--busy", type=int, default=os.cpu_count())
    parser.add_argument("--workers", type=lambda text: [int(each) for each in text.split(",")], default=[1, 2, 4, 8])
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    model = made(options.units, options.symbols)
    for busy in (0, options.busy):
        processes = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(busy)]
        try:
            alone, pools = measure(model, options.tokens, options.workers, options.rounds)
        finally:
            for process in processes:
                process.kill()
                process.wait()
        print(f"beside {busy} busy processes: main thread {1000 * alone:.0f} ms per text", end="")
        for number, seconds in pools.items():
            print(f" · {number} workers {1000 * seconds:.0f} ms ({seconds / alone:.2f} times)", end="")
        print(flush=True)


if __name__ == "__main__":
    main()

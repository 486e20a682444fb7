"""What a GPU does: cells next to cuDNN, CUDA graphs, bfloat16, sampling, and Tiny Shakespeare in a minute.

    python benchmarks/gpu.py --data ../shared/data/tinyshakespeare/input.txt --output benchmarks/gpu.txt

One script, under eight minutes on a CUDA device; `--device cpu --quick` only tries that it runs.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import date
from functools import partial
from pathlib import Path

import numpy as np
import torch

from textgen import plugins
from textgen.cells.matmul import reduced_precision
from textgen.model import ModelConfig
from textgen.model.weights import TorchStepper, make_model

CUDNN = {"rnn": torch.nn.RNN, "lstm": torch.nn.LSTM, "gru": torch.nn.GRU}
ROUNDS = 7


def seconds_of(work: Callable[[], object], device: str, seconds: float) -> float:
    """The median time of some calls."""
    times: list[float] = []
    for _ in range(3):
        work()
    while len(times) < ROUNDS or sum(times) < seconds:
        if device == "cuda":
            torch.cuda.synchronize()
        began = time.perf_counter()
        work()
        if device == "cuda":
            torch.cuda.synchronize()
        times.append(time.perf_counter() - began)
    return statistics.median(times)


def cells(device: str, sizes: tuple[int, int, int], seconds: float) -> list[str]:
    """Forward and backward of each cell over (T, B, H), next to torch's own layer, which is cuDNN on a GPU."""
    steps, batch, hidden = sizes
    xs = torch.randn(steps, batch, hidden, device=device, requires_grad=True)
    said = [f"forward and backward, (T, B, H) = {sizes}"]
    for name, layer in CUDNN.items():
        cell, theirs = plugins.cell(name)(hidden, hidden).to(device), layer(hidden, hidden).to(device)
        for precision in ("float32", "bfloat16"):

            def work(module, precision=precision):
                with reduced_precision(torch.device(device).type, precision):
                    ys = module(xs)[0]
                ys.float().sum().backward()

            own, other = (seconds_of(lambda module=module: work(module), device, seconds) for module in (cell, theirs))
            said.append(
                f"  {name:5} {precision:9} {1e3 * own:8.2f} ms, torch.nn {1e3 * other:8.2f} ms: {own / other:.2f}"
            )
    return said


def graphs(device: str, hidden: int, seconds: float) -> list[str]:
    """A step of 1 x hidden for 64 rows, as it is and as a CUDA graph."""
    model = make_model(ModelConfig(96, "lstm", embedding_size=64, hidden_size=hidden)).to(device).eval()
    ids, state = torch.zeros(64, dtype=torch.long, device=device), model.initial_state(64)
    with torch.no_grad():
        eager = seconds_of(lambda: model.step(ids, state), device, seconds)
        if device != "cuda":
            return [f"a step of 64 rows: {1e6 * eager:.0f} microseconds; CUDA graphs need a GPU"]
        stream = torch.cuda.Stream()
        with torch.cuda.stream(stream):
            model.step(ids, state)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            model.step(ids, state)
        replayed = seconds_of(graph.replay, device, seconds)
    return [f"a step of 64 rows: {1e6 * eager:.0f} microseconds, as a CUDA graph {1e6 * replayed:.0f}"]


def sampling(device: str, hidden: int, seconds: float) -> list[str]:
    """Steps with the softmax of 1, 64 and 1,024 texts."""
    model = make_model(ModelConfig(96, "lstm", embedding_size=64, hidden_size=hidden)).to(device).eval()
    said = []
    for rows in (1, 64, 1024):
        stepper, ids = TorchStepper(model), np.zeros(rows, np.int64)
        state = stepper.initial_state(rows)
        found = seconds_of(partial(stepper.step, ids, state), device, seconds)
        said.append(f"sampling {rows:5} texts: {rows / found:12,.0f} tokens/s")
    return said


def shakespeare(data: Path, device: str, minutes: float) -> list[str]:
    """The default plan for a minute."""
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        command = [
            "-m",
            "textgen",
            "train",
            str(data),
            "--minutes",
            str(minutes),
            "--device",
            device,
            "--tokenizer",
            "char",
        ]
        subprocess.run([sys.executable, *command, "--output-dir", str(run), "-q", "--init-from", "none"], check=True)
        lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
        config = json.loads((run / "config.json").read_text())
    final = next(line for line in lines if line.get("final"))
    speed = max(line.get("tokens_per_second", 0) for line in lines)
    return [f"{data.parent.name}, {minutes:g} min: {final['eval_loss']:.4f} nats per character, "
            f"{config['num_layers']} x {config['hidden_size']}, {speed:,.0f} tokens/s"]  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda", choices=("cuda", "cpu"))
    parser.add_argument("--data", type=Path)
    parser.add_argument("--quick", action="store_true", help="Small sizes, to try the script.")
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    device, quick = options.device, options.quick
    name = torch.cuda.get_device_name() if device == "cuda" else platform.processor() or platform.machine()
    said = [f"{' '.join(sys.argv)}, {date.today()}, {name}, torch {torch.__version__}"]
    sizes, hidden, seconds = ((8, 4, 32), 32, 0.05) if quick else ((64, 64, 1024), 1024, 2.0)
    said += cells(device, sizes, seconds) + graphs(device, hidden, seconds) + sampling(device, hidden, seconds)
    if options.data:
        said += shakespeare(options.data, device, 0.2 if quick else 1.0)
    print("\n".join(said))
    if options.output:
        options.output.write_text("\n".join(said) + "\n")


if __name__ == "__main__":
    main()

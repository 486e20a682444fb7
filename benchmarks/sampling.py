"""Sampling from a two-layer LSTM, one text and 64, on one thread: the stored step in numpy next to loops in torch.

    python benchmarks/sampling.py [--sizes 512x65,1024x65,512x8000,1024x8000] [--rounds 9]

For each size (units x vocabulary), this measures tokens per second of the whole loop, with temperature 0.8 and top-p
0.9: `ours`; `torch.nn.LSTM` called step by step, as most people write it; the same without oneDNN; `LSTMCell`; and the
model's own step in torch (`textgen sample --backend torch`). All take turns; results are medians over the rounds. Then:
the bare step, as a share of the speed of a matrix-vector product over the same number of bytes; 64 texts at once, as a
share of the speed of their matrix products alone; 8-bit weights (`--backend int8`, if onnxruntime is installed) in
turns with floats, for one text and 64; and the command: seconds to the first character, and memory.
"""

import argparse
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from dataclasses import replace
from datetime import date
from pathlib import Path

os.environ.update(dict.fromkeys(("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"), "1"))
import numpy as np
import torch
from targets import Results

import textgen
from textgen import plugins
from textgen.data.tokenizers import CharTokenizer, WordTokenizer
from textgen.errors import TextgenError
from textgen.model import CONFIG, GENERATION, ModelConfig
from textgen.model.stack import build_model
from textgen.runtime import quantize
from textgen.storage import filesystem
from textgen.tracing import stored_step
from textgen.training.runs import Run

SAMPLING = {"temperature": 0.8, "top_p": 0.9, "ignore_eos": True, "seed": 1}
STREAMS = 64


class AsPeopleWriteIt:
    """nn.Embedding, nn.LSTM and nn.Linear, a step at a time, behind the loop's protocol."""

    def __init__(self, model, cells, onednn=True):
        layers, size = model.stack.layers, model.stack.hidden_size
        self.encoder, self.readout, self.onednn, self.cells = model.encoder, model.readout.linear, onednn, None
        if cells:
            self.cells = torch.nn.ModuleList(torch.nn.LSTMCell(layer.input_size, size) for layer in layers)
            for cell, layer in zip(self.cells, layers, strict=True):
                cell.load_state_dict(layer.state_dict())
        else:
            self.lstm = torch.nn.LSTM(model.encoder.embedding_dim, size, len(layers))
            named = {f"{n}_l{k}": t for k, layer in enumerate(layers) for n, t in layer.state_dict().items()}
            self.lstm.load_state_dict(named)

    def initial_state(self, batch_size):
        zeros = torch.zeros(2, batch_size, self.readout.in_features)
        return zeros, zeros

    def step(self, ids, state):
        with torch.inference_mode(), torch.backends.mkldnn.flags(enabled=self.onednn):
            x = self.encoder(torch.from_numpy(ids))
            if self.cells is None:
                ys, state = self.lstm(x.unsqueeze(0), state)
                return self.readout(ys[0]).numpy(), state
            after = []
            for cell, h, c in zip(self.cells, *state, strict=True):
                x, c = cell(x, (h, c))
                after.append((x, c))
            return self.readout(x).numpy(), tuple(zip(*after, strict=True))

    def forward(self, ids, state):
        for column in ids.T:
            logits, state = self.step(column, state)
        return logits, state


def made(folder, hidden, symbols):
    """A model folder with random weights, some symbols far likelier than others as after training, and the model."""
    tokenizer = CharTokenizer("".join(map(chr, range(32, 30 + symbols)))) if symbols < 1000 else WordTokenizer(
        [f"w{k}" for k in range(symbols - 3)])  # fmt: skip
    config = ModelConfig(tokenizer.vocab_size, "lstm", {}, hidden, hidden, 2)
    model = build_model(config, plugins.cell("lstm")).eval()
    with torch.no_grad():
        logits, _ = model(torch.arange(64).view(64, 1) % tokenizer.vocab_size)
        model.readout.linear.weight.mul_(4 / logits[-1].std())
    contents = {CONFIG: filesystem.to_json(config.to_json()), GENERATION: filesystem.to_json({}), **tokenizer.files()}
    Run.create(folder, {**contents, **stored_step(model, "lstm")[0]}).publish(model)
    return model


def in_turns(measured, rounds, seconds):
    """Medians of the speed of each: calls that take a count and do that many things."""
    counts = {}
    for name, run in measured.items():
        run(2)
        began = time.perf_counter()
        run(4)
        counts[name] = max(4, round(seconds * 4 / (time.perf_counter() - began)))
    speeds = {name: [] for name in measured}
    for _ in range(rounds):
        for name, run in measured.items():
            began = time.perf_counter()
            run(counts[name])
            speeds[name].append(counts[name] / (time.perf_counter() - began))
    return {name: statistics.median(found) for name, found in speeds.items()}


def steps(stepper, batch):
    ids, state = np.zeros(batch, np.int32), [stepper.initial_state(batch)]

    def run(count):
        for _ in range(count):
            _, state[0] = stepper.step(ids, state[0])

    return run


def products(weights, batch):
    """The matrix products of one step for so many rows, and nothing else."""
    given = [np.ones((batch, len(weight)), np.float32) for weight in weights]
    pairs = [(x, w, np.empty((batch, w.shape[1]), np.float32)) for x, w in zip(given, weights, strict=True)]

    def run(count):
        for _ in range(count):
            for x, weight, out in pairs:
                np.matmul(x, weight, out=out)

    return run


def of_one_size(hidden, symbols, rounds, scratch, results):
    folder = Path(scratch) / f"{hidden}x{symbols}"
    model = made(folder, hidden, symbols)
    ours, torchs = textgen.load(folder, "numpy"), textgen.load(folder, "torch")
    rivals = {
        "ours": ours,
        "nn.LSTM": replace(ours, stepper=AsPeopleWriteIt(model, cells=False)),
        "nn.LSTM, no oneDNN": replace(ours, stepper=AsPeopleWriteIt(model, cells=False, onednn=False)),
        "LSTMCell": replace(ours, stepper=AsPeopleWriteIt(model, cells=True)),
        "--backend torch": torchs,
    }
    texts = {textgen.generate(model, "", max_new_tokens=40, **SAMPLING) for model in rivals.values()}
    assert len(texts) == 1, "they write different texts"
    loop = {name: lambda n, m=m: textgen.generate(m, "", max_new_tokens=n, **SAMPLING) for name, m in rivals.items()}
    speeds = in_turns(loop, rounds, 0.12)
    best = max(speeds[name] for name in rivals if name not in ("ours", "--backend torch"))
    print(f"\n{hidden} units, {symbols:,} tokens: the loop, tokens per second")
    print("  " + " · ".join(f"{name} {speed:,.0f}" for name, speed in speeds.items()))
    print(f"  ours is {speeds['ours'] / best:.1f} times the best of torch's three")
    what = f"2 x {hidden}, {symbols:,} tokens:"
    results.add(f"{what} sampling / best torch loop", speeds["ours"] / best, at_least=4)
    weights = matrices(ours.stepper)
    size = sum(weight.nbytes for weight in weights)
    one = np.ones((size // 4 // (4 * hidden), 4 * hidden), np.float32)
    few = in_turns({"step": steps(ours.stepper, 1), "vector": products([one], 1), "turned": products([one.T], 1)},
                   rounds, 0.12)  # fmt: skip
    limit = size * max(few["vector"], few["turned"]) / 1e9
    print(f"  bare step {1e6 / few['step']:,.0f} µs: {size / 1e6:.1f} MB at {size * few['step'] / 1e9:.1f} GB/s, "
          f"{size * few['step'] / 1e9 / limit:.0%} of the {limit:.1f} GB/s of a matrix-vector product")  # fmt: skip
    results.add(f"{what} share of the memory limit", size * few["step"] / 1e9 / limit, at_least=0.6)
    many = in_turns({"step": steps(ours.stepper, STREAMS), "products": products(weights, STREAMS)}, rounds, 0.12)
    speed = 2 * STREAMS * size / 4 * many["step"] / 1e9
    print(f"  {STREAMS} texts: {STREAMS * many['step']:,.0f} tokens per second, {speed:.0f} GFLOP/s, "
          f"{many['step'] / many['products']:.0%} of its matrix products alone")  # fmt: skip
    results.add(f"{what} {STREAMS} texts, share of the products alone", many["step"] / many["products"], at_least=0.7)
    of_eight_bits(folder, ours, rounds, what, results)
    if symbols < 1000:
        of_the_command(folder, what, results)


def of_eight_bits(folder, floats, rounds, what, results):
    try:
        small = textgen.load(folder, "int8")
    except TextgenError as reason:
        print(f"  eight bits: {reason}")
        return
    models = {"floats": floats, "eight bits": small}
    one = {name: lambda n, m=m: textgen.generate(m, "", max_new_tokens=n, **SAMPLING) for name, m in models.items()}
    loop = in_turns(one, rounds, 0.2)
    many = in_turns({name: steps(model.stepper, STREAMS) for name, model in models.items()}, rounds, 0.2)
    before, after = quantize(folder, folder.parent / f"{folder.name}-small")
    print(f"  eight bits: {loop['eight bits']:,.0f} tokens per second beside {loop['floats']:,.0f} in floats, "
          f"{loop['eight bits'] / loop['floats']:.1f} times; {STREAMS} texts {STREAMS * many['eight bits']:,.0f} "
          f"beside {STREAMS * many['floats']:,.0f}; {after / 1e6:.1f} MB instead of {before / 1e6:.1f}")  # fmt: skip
    results.add(f"{what} eight bits / floats", loop["eight bits"] / loop["floats"], at_least=1.3)


def matrices(stepper):
    """The matrices that a step multiplies by, (K, N) each, as they lie in memory."""
    blank = stepper._step.new_values()
    return [blank[call.sources[1]] for call in stepper._step._calls if call.op == "product"]


MEMORY = """
import sys
from textgen.cli import main
main(sys.argv[1:])
print(*[line for line in open("/proc/self/status") if line.startswith("VmHWM")], file=sys.stderr)
"""


def of_the_command(folder, what, results):
    words = ["sample", "-m", str(folder), "-n", "50", "--seed", "1"]
    firsts = []
    for _ in range(5):
        began = time.perf_counter()
        with subprocess.Popen([sys.executable, "-m", "textgen", *words], stdout=subprocess.PIPE) as child:
            child.stdout.read(1)
            firsts.append(time.perf_counter() - began)
            child.stdout.read()
    told = subprocess.run([sys.executable, "-c", MEMORY, *words], capture_output=True, text=True, check=True).stderr
    stored = (folder / "model.safetensors").stat().st_size / 1e6
    memory = int(told.split()[-2]) / 1e3
    print(f"  the command: first character after {statistics.median(firsts):.2f} s, "
          f"at most {memory:.0f} MB of memory with {stored:.0f} MB of weights")  # fmt: skip
    results.add(f"{what} first character of the command", statistics.median(firsts), "s", at_most=0.6)
    results.add(f"{what} memory besides the weights", memory - stored, "MB", at_most=150)
    began = time.perf_counter()
    subprocess.run([sys.executable, "-m", "textgen", "--help"], stdout=subprocess.DEVNULL, check=True)
    results.add("textgen --help", time.perf_counter() - began, "s", at_most=0.3)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--sizes", default="512x65,1024x65,512x8000,1024x8000")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--eight-bits-only", action="store_true", help="only float and 8-bit weights, in turns")
    parser.add_argument("--results", help="append the figures to this file")
    options = parser.parse_args()
    results = Results()
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore", "TF32 acceleration")
    print(f"{date.today()}, {platform.machine()}, {os.cpu_count()} cores, one thread; "
          f"numpy {np.__version__}, torch {torch.__version__}, Python {platform.python_version()}")  # fmt: skip
    with tempfile.TemporaryDirectory() as scratch:
        for size in options.sizes.split(","):
            hidden, symbols = map(int, size.split("x"))
            if options.eight_bits_only:
                folder = Path(scratch) / size
                made(folder, hidden, symbols)
                print(f"\n{hidden} units, {symbols:,} tokens", flush=True)
                of_eight_bits(folder, textgen.load(folder, "numpy"), options.rounds, f"{size}:", results)
            else:
                of_one_size(hidden, symbols, options.rounds, scratch, results)
    results.close(options.results)


if __name__ == "__main__":
    main()

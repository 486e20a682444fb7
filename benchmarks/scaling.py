"""What a second process gains: tokens per second, bytes on the wire, slow networks, and averaging weights less often.

    python benchmarks/scaling.py --output benchmarks/scaling.txt

For an LSTM of 512 units and a batch of 64 x 64 characters, in several rounds side by side:

- two processes of one thread next to one process of two threads (and one of one thread): tokens per second;
- bytes and messages that a process sends in a step;
- the same with 1, 5 and 20 ms added to each message, and with --sync-every 1, 4 and 16;
- the same over a network of 1 Gbit/s: a token bucket filter (tbf) on the loopback device of a network namespace, where
  that is permitted;
- what --sync-every costs in loss: `textgen train` on the bundled stories, 600 steps;
- from these, on paper: 8 and 64 machines, each with 64 lanes of its own.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from datetime import date
from pathlib import Path

SECONDS, ROUNDS = 4.0, 3
SIZES = {"hidden": 512, "batch": 64, "length": 64, "vocabulary": 96}
DELAYS, EVERY = (0.001, 0.005, 0.02), (4, 16)
NETWORK = "ip link set lo up && tc qdisc add dev lo root tbf rate 1gbit burst 128kb latency 50ms && exec "


def measure(seconds: float, threads: int, delay: float, every: int) -> dict[str, float]:
    """Seconds of a step in this process's job, and what a process sends in it."""
    import torch

    from textgen.distributed import world
    from textgen.model import ModelConfig
    from textgen.model.weights import make_model
    from textgen.tasks import TrainOptions
    from textgen.tasks.objective import Objective
    from textgen.training.distributed import WIRE
    from textgen.training.optimization import Update

    class AnySymbols(Objective):
        steps_per_epoch, tokens_per_step = 10**9, SIZES["batch"] * SIZES["length"]
        ids = torch.randint(SIZES["vocabulary"], (SIZES["length"] + 1, SIZES["batch"]))

        def fresh(self, step):
            return torch.zeros(SIZES["batch"], dtype=torch.bool)

        def window(self, step):
            return self.ids[:-1].int(), self.ids[1:]

        def loss(self, outputs, targets):
            return torch.nn.functional.cross_entropy(outputs.flatten(0, 1), targets.flatten())

        def evaluate(self, model, quick):
            return None

    job = world()
    job.connect(60)
    job.join("cpu")
    torch.set_num_threads(threads)
    torch.manual_seed(1)
    model = make_model(ModelConfig(SIZES["vocabulary"], "lstm", embedding_size=64, hidden_size=SIZES["hidden"]))
    options = TrainOptions(batch_size=SIZES["batch"], seq_length=SIZES["length"], sync_every=every)
    update = Update(AnySymbols(), model, options, "cpu", job)
    for step in range(every + 1):
        update.take(step, 1e-3)
    WIRE.delay, WIRE.bytes, WIRE.messages = delay, 0, 0
    times: list[float] = []
    while len(times) < 2 * every or sum(times) < seconds:
        began = time.perf_counter()
        update.take(len(times), 1e-3)
        times.append(job.longest(time.perf_counter() - began))
    whole = len(times) // every * every
    parameters = sum(p.numel() for p in model.parameters())
    sent = {"bytes": WIRE.bytes / len(times), "messages": WIRE.messages / len(times), "parameters": parameters}
    return {"seconds": sum(times[:whole]) / whole, **sent}


def started(processes: int, threads: int, delay: float = 0.0, every: int = 1, slow: bool = False) -> dict[str, float]:
    """A measurement in processes of its own."""
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "measured.json"
        torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
        job = [json.dumps([SECONDS, threads, delay, every]), str(output)]
        given = [sys.executable, *(torchrun if processes > 1 else []), __file__, "--measure", *job]
        if slow:
            given = ["unshare", "-rn", "sh", "-c", NETWORK + '"$@"', "sh", *given]
        environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "TORCH_CPP_LOG_LEVEL": "ERROR"}
        done = subprocess.run(given, env=environment, capture_output=True, text=True, check=False)
        if done.returncode:
            raise SystemExit(done.stderr)
        found: dict[str, float] = json.loads(output.read_text())
        return found


def can_limit() -> bool:
    """Whether this user may slow down the network of a namespace."""
    return (
        subprocess.run(["unshare", "-rn", "sh", "-c", NETWORK + "true"], capture_output=True, check=False).returncode
        == 0
    )


def losses(every: int, folder: Path) -> list[float]:
    """The held-out loss after training with weights averaged once in so many steps, and the seconds."""
    run = folder / f"every-{every}"
    given = f"stories --tokenizer char --hidden-size 256 --max-steps 600 --seed 1 --threads 1 --sync-every {every}"
    more = f"--dropout 0.1 --no-compile --dtype float32 --sample-steps 0 --validation-split 0.1 --output-dir {run}"
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    began = time.monotonic()
    command = [*torchrun, "-m", "textgen", "train", *given.split(), *more.split()]
    subprocess.run(command, check=True, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [next(line["eval_loss"] for line in lines if line.get("final")), time.monotonic() - began]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path)
    parser.add_argument("--measure", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        from textgen.distributed import rank

        found = measure(*json.loads(options.measure[0]))
        if rank() == 0:
            Path(options.measure[1]).write_text(json.dumps(found))
        return
    said: list[str] = []

    def say(line: str = "") -> None:
        said.append(line)
        print(line, flush=True)

    say(f"{' '.join(sys.argv)}, {date.today()}, {platform.machine()}, {os.cpu_count()} cores")
    say(f"lstm 1 x {SIZES['hidden']}, {SIZES['batch']} x {SIZES['length']} characters; medians of {ROUNDS} rounds")
    two = {"processes": 2, "threads": 1}
    ways = {
        "1 process, 1 thread": {"processes": 1, "threads": 1},
        "1 process, 2 threads": {"processes": 1, "threads": 2},
        "2 processes, 1 thread": two,
        **{f"  {1000 * delay:g} ms more for a message": {**two, "delay": delay} for delay in DELAYS},
        **{f"  --sync-every {every}": {**two, "every": every} for every in EVERY},
        **{f"  --sync-every {every}, 20 ms more": {**two, "every": every, "delay": 0.02} for every in EVERY},
    }
    if can_limit():
        ways["  at 1 Gbit/s"] = {**two, "slow": True}
        ways |= {f"  --sync-every {every} at 1 Gbit/s": {**two, "every": every, "slow": True} for every in EVERY}
    measured: dict[str, list[dict[str, float]]] = {name: [] for name in ways}
    for _ in range(ROUNDS):
        for name, way in ways.items():
            measured[name].append(started(**way))
    tokens = SIZES["batch"] * SIZES["length"]
    seconds = {name: statistics.median(each["seconds"] for each in found) for name, found in measured.items()}
    first = seconds["1 process, 2 threads"]
    for name, found in measured.items():
        sent = (
            f"{found[0]['bytes'] / 1e6:7.2f} MB, {found[0]['messages']:4.1f} messages a step" if name[0] in " 2" else ""
        )
        say(f"{name:38} {tokens / seconds[name]:9,.0f} tokens/s  {first / seconds[name]:5.2f} x  {sent}")
    say()
    with tempfile.TemporaryDirectory() as folder:
        for every in (1, *EVERY):
            loss, took = losses(every, Path(folder))
            say(f"stories, 600 steps, --sync-every {every:2}: held-out loss {loss:.4f} in {took:.0f} s")
    say()
    say("On paper: each machine computes 64 lanes in the time of '1 process, 1 thread', and gradients go round a ring,")
    say("2 (W - 1) / W times their size, after 2 (W - 1) delays of 0.1 ms.")
    computing, size = seconds["1 process, 1 thread"], measured["2 processes, 1 thread"][0]["parameters"] * 4
    for machines in (8, 64):
        for gigabits in (1, 10):
            for every in (1, 16):
                sending = 2 * (machines - 1) * (size / machines / (gigabits * 125e6) + 1e-4)
                if every > 1:
                    sending *= 3 / every  # weights and the two moments of AdamW
                speed = machines * tokens / (computing + sending)
                say(f"{machines:3} machines, {gigabits:2} Gbit/s, --sync-every {every:2}: {speed:12,.0f} tokens/s, "
                    f"{machines * computing / (computing + sending):5.1f} times one")  # fmt: skip
    if options.output:
        options.output.write_text("\n".join(said) + "\n")


if __name__ == "__main__":
    main()

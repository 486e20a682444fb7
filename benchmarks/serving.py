"""A server under load: streaming clients next to `Streams` alone, first tokens, stalled clients, turns, and states.

    python benchmarks/serving.py [--clients 1,8,64,256] [--seconds 8] [--rounds 3] [--states 100000] [--soak MINUTES]

`textgen serve` runs in one process and all clients in another, on the same cores. The model is an untrained LSTM of two
layers of 512 units over characters. `Streams` alone and the server take turns; each figure is the median of the rounds.

- Tokens per second of so many clients, as a share of `Streams` alone with as many texts: computed one by one up to
  eight of them, as the server does to be exact, and in one batch beyond. The batch of up to eight is shown, too.
- A client with a prompt of 20 characters joins 63 that are writing: how many of their steps until its first token.
- A client that does not read what it asked for: how much slower the others are, once its buffers are full.
- A conversation of 200 turns: seconds of the last turn, through states and by sending the text again.
- States: so many are stored, the server is killed and started again, and 1,000 of them continue; memory.
- With --soak, 64 clients come and go: memory, and whether every text is what it is alone.
"""

import argparse
import asyncio
import json
import os
import platform
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import date
from pathlib import Path

import httpx
import numpy as np
import torch
from targets import Results

import textgen
from textgen import plugins
from textgen.data.tokenizers import CharTokenizer
from textgen.generation.generate import EXACT_ROWS
from textgen.generation.streams import Streams
from textgen.model import CONFIG, GENERATION, ModelConfig
from textgen.model.stack import build_model
from textgen.storage import filesystem
from textgen.tracing import stored_step
from textgen.training.runs import Run

LETTERS = "abcdefghijklmnopqrstuvwxyz ,.;:!?ABCDEFGHIJKLMNOPQRSTUVWXYZ"
BODY = {"temperature": 0.8, "ignore_eos": True, "max_tokens": 1_000_000}
PROMPT = "a prompt of 20 chars"
FILLING = 10
"""Seconds until the buffers of a client that does not read are full."""
SHARES = {1: 0.8, 8: 0.8, 64: 0.7, 256: 0.6}


def made(folder, units, layers):
    """The folder of an untrained LSTM over characters."""
    tokenizer = CharTokenizer("".join(sorted(LETTERS)))
    config = ModelConfig(tokenizer.vocab_size, cell="lstm", embedding_size=256, hidden_size=units, num_layers=layers)
    torch.manual_seed(1)
    model = build_model(config, plugins.cell("lstm"))
    generation = {"begin": [tokenizer.boundary], "suppress_tokens": [*tokenizer.unsampled]}
    contents = {CONFIG: filesystem.to_json(config.to_json()), GENERATION: filesystem.to_json(generation)}
    step, _ = stored_step(model, "lstm")
    Run.create(folder, {**contents, **tokenizer.files(), **step}).publish(model)
    return folder


@contextmanager
def server(folder, *arguments):
    """A `textgen serve` process and its address."""
    words = [sys.executable, "-m", "textgen", "serve", str(folder), "--port", "0", *arguments]
    process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    try:
        yield process, process.stdout.readline().strip()
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()


def talking(url):
    """A client of the server at this address."""
    return httpx.Client(base_url=url, trust_env=False, timeout=600)


def text_of(client, **body):
    """The text of a completion."""
    return client.post("/v1/completions", json=body).json()["choices"][0]["text"]


# --- clients, in a process of their own ---


class Client:
    """One streaming client over a plain socket: counts characters, which are tokens of this model."""

    def __init__(self, port):
        self.port, self.tokens, self.first, self.writer = port, 0, None, None

    async def ask(self, body):
        """Send a request; the answer is read by `listen`."""
        content = json.dumps(body).encode()
        self.reader, self.writer = await asyncio.open_connection("127.0.0.1", self.port)
        self.asked = time.perf_counter()
        head = f"POST /v1/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: {len(content)}\r\n\r\n"
        self.writer.write(head.encode() + content)
        await self.writer.drain()

    async def listen(self):
        """Count what arrives, until the connection is closed."""
        while line := await self.reader.readline():
            if line.startswith(b"data: {"):
                if self.first is None:
                    self.first = time.perf_counter()
                self.tokens += len(json.loads(line[6:])["choices"][0]["text"])

    def leave(self):
        self.writer.close()


async def load(port, number, seconds, stalled, late):
    """Tokens per second of so many clients, and the wait of `late` clients that join them, in steps of the others."""
    clients = [Client(port) for _ in range(number)]
    for seed, client in enumerate(clients):
        await client.ask({**BODY, "prompt": "a", "seed": seed, "stream": True})
    tasks = [asyncio.ensure_future(client.listen()) for client in clients]
    unread = [Client(port) for _ in range(stalled)]
    for seed, client in enumerate(unread):
        await client.ask({**BODY, "prompt": "a", "seed": seed, "stream": True})
    while not all(client.first for client in clients):
        await asyncio.sleep(0.01)
    await asyncio.sleep(FILLING if stalled else 0)
    before, began = sum(client.tokens for client in clients), time.perf_counter()
    waits = []
    for seed in range(late):
        await asyncio.sleep(seconds / (late + 1))
        client, steps = Client(port), sum(each.tokens for each in clients)
        await client.ask({**BODY, "prompt": PROMPT, "seed": seed, "stream": True})
        task = asyncio.ensure_future(client.listen())
        while client.first is None:
            await asyncio.sleep(0.0005)
        waits.append((sum(each.tokens for each in clients) - steps) / number)
        task.cancel()
        client.leave()
    await asyncio.sleep(max(0.0, began + seconds - time.perf_counter()))
    rate = (sum(client.tokens for client in clients) - before) / (time.perf_counter() - began)
    for client, task in zip(clients, tasks, strict=True):
        task.cancel()
        client.leave()
    return {"rate": rate, "waits": waits}


def clients(url, number, seconds, stalled=0, late=0):
    """What `load` finds, in another process."""
    numbers = [url.rpartition(":")[2], number, seconds, stalled, late]
    words = [sys.executable, __file__, "--load", *map(str, numbers)]
    found = json.loads(subprocess.run(words, capture_output=True, text=True, check=True).stdout)
    time.sleep(0.5)  # the server notices that they have left
    return found


# --- measurements ---


def alone(model, number, seconds, exact_rows=EXACT_ROWS):
    """Tokens per second of `Streams` with so many texts."""
    streams = Streams(model, exact_rows=exact_rows)
    for seed in range(number):
        streams.add("a", seed=seed, temperature=0.8, ignore_eos=True, max_new_tokens=-1)
    for _ in range(3):
        streams.step()
    began, steps = time.perf_counter(), 0
    while time.perf_counter() - began < seconds:
        streams.step()
        steps += 1
    return number * steps / (time.perf_counter() - began)


def measure_load(results, folder, model, asked):
    with server(folder, "--max-streams", "1024", "--max-queue", "1024") as (_, url):
        for number in asked.clients:
            rates = [
                (alone(model, number, asked.seconds), clients(url, number, asked.seconds)["rate"])
                for _ in range(asked.rounds)
            ]
            share = statistics.median(served / by_itself for by_itself, served in rates)
            middle = [statistics.median(each) for each in zip(*rates, strict=True)]
            batch = f", in a batch {alone(model, number, asked.seconds, 0):8.0f}" if 1 < number <= EXACT_ROWS else ""
            print(f"{number:4} clients: Streams {middle[0]:8.0f}, served {middle[1]:8.0f} tokens/s{batch}", flush=True)
            results.add(f"{number} clients: tokens per second / Streams alone", share, at_least=SHARES.get(number, 0.6))
        waits = [wait for _ in range(asked.rounds) for wait in clients(url, 63, asked.seconds, late=10)["waits"]]
        results.add("first token of a client that joins 63, in their steps", statistics.median(waits), at_most=10)
        slower = [
            clients(url, 16, asked.seconds, stalled=1)["rate"] / clients(url, 16, asked.seconds)["rate"]
            for _ in range(asked.rounds)
        ]
        results.add("16 clients next to a stalled one / without it", statistics.median(slower), at_least=0.95)


def measure_turns(results, folder, turns=200):
    with server(folder) as (_, url), talking(url) as client:
        body = {"max_tokens": 20, "temperature": 0.8, "ignore_eos": True}

        def timed(**more):
            began = time.perf_counter()
            found = client.post("/v1/completions", json={**body, **more}).json()
            return time.perf_counter() - began, found

        through, again, text, state = [], [], "", {}
        for turn in range(turns):
            said = f"turn {turn} says this much. "
            seconds, found = timed(prompt=said, return_state=True, **state)
            through.append(seconds)
            state = {"state": found["state"]["id"]}
            text += said
            seconds, found = timed(prompt=text)
            again.append(seconds)
            text += found["choices"][0]["text"]
        first, last = (statistics.median(through[part]) for part in (slice(1, 11), slice(-10, None)))
        sent = statistics.median(again[-10:])
        print(f"turn 1: {1e3 * first:.1f} ms, turn {turns}: {1e3 * last:.1f} ms through states, "
              f"{1e3 * sent:.1f} ms by sending the text again")  # fmt: skip
        results.add(f"turn {turns} / turn 1, through states", last / first, at_most=1.2)
        results.add(f"turn {turns} / turn 1, by sending the text again", sent / first, at_least=1.2)


def memory(process):
    """The resident memory of a process in MB."""
    lines = Path(f"/proc/{process.pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS")) / 1e3


def measure_states(results, folder, number, limit):
    with tempfile.TemporaryDirectory() as states:
        options = ("--states-dir", states, "--states-limit", limit)
        with server(folder, *options) as (process, url), talking(url) as client:
            begins = memory(process)
            made = client.post("/v1/states", json={"prompt": "the first", "seed": 1}).json()["id"]
            content = client.get(f"/v1/states/{made}").content
            draw, began = random.Random(1), time.perf_counter()
            ids = [f"{draw.getrandbits(128):032x}" for _ in range(number)]
            for id in ids:
                client.put(f"/v1/states/{id}", content=content).raise_for_status()
            took, ends = time.perf_counter() - began, memory(process)
            body = {"max_tokens": 20, "temperature": 0.8}
            wanted = text_of(client, **body, state=made)
        with server(folder, *options) as (_, url), talking(url) as client:
            chosen = random.Random(2).sample(ids, min(1000, number))
            texts = [text_of(client, **body, state=id) for id in chosen]
        size = sum(path.stat().st_size for path in Path(states).iterdir())
    each = f"{len(content):,} bytes and {1e3 * took / number:.2f} ms each"
    print(f"{number:,} states, {each}, {size / 1e6:,.0f} MB on disk, memory {begins:.0f} -> {ends:.0f} MB")
    same = sum(text == wanted for text in texts) / len(chosen)
    results.add(f"{len(chosen):,} of {number:,} states that continue after a kill", same, at_least=1)
    results.add("memory gained by storing them", ends - begins, "MB", at_most=200)


def measure_soak(results, folder, model, minutes):
    def one(client, seed):
        options = {"max_tokens": draw.randrange(1, 200), "seed": seed, "temperature": 0.8}
        text = text_of(client, prompt="a", **options)
        return text, textgen.generate(model, "a", seed=seed, temperature=0.8, max_new_tokens=options["max_tokens"])

    draw, seeds = random.Random(3), iter(range(10**9))
    with server(folder) as (process, url), talking(url) as client:
        sizes, same, total, until = [], 0, 0, time.monotonic() + 60 * minutes
        with ThreadPoolExecutor(64) as pool:
            while time.monotonic() < until:
                for got, wanted in pool.map(lambda seed: one(client, seed), [next(seeds) for _ in range(256)]):
                    same, total = same + (got == wanted), total + 1
                sizes.append(memory(process))
    print(f"{total:,} texts in {minutes:g} minutes, {total - same} differ; memory {sizes[0]:.0f} -> {sizes[-1]:.0f} MB")
    results.add("texts of the soak that are their own", same / total, at_least=0.99)
    results.add("memory at the end / after the first minute", sizes[-1] / sizes[len(sizes) // 10], at_most=1.1)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clients", type=lambda text: [int(each) for each in text.split(",")], default=[1, 8, 64, 256])
    parser.add_argument("--seconds", type=float, default=8)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--units", type=int, default=512)
    parser.add_argument("--states", type=int, default=100_000)
    parser.add_argument("--states-limit", default="12G")
    parser.add_argument("--soak", type=float, default=0, metavar="MINUTES")
    parser.add_argument("--results", type=Path)
    parser.add_argument("--load", nargs=5, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.load:
        port, number, seconds, stalled, late = asked.load
        print(json.dumps(asyncio.run(load(int(port), int(number), float(seconds), int(stalled), int(late)))))
        return
    print(f"{date.today()}, {platform.machine()}, {os.cpu_count()} cores, numpy {np.__version__}")
    results = Results()
    with tempfile.TemporaryDirectory() as scratch:
        folder = made(Path(scratch) / "model", asked.units, 2)
        model = textgen.load(folder)
        measure_load(results, folder, model, asked)
        measure_turns(results, folder)
        if asked.states:
            measure_states(results, folder, asked.states, asked.states_limit)
        if asked.soak:
            measure_soak(results, folder, model, asked.soak)
    results.close(asked.results)


if __name__ == "__main__":
    main()

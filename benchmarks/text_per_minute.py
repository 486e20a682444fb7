"""Quality per minute: `textgen train` on Tiny Shakespeare, character kind, with a time and no other choices.

    python benchmarks/text_per_minute.py [CORPUS] [--minutes 3.33] [--cell gru]

CORPUS is a file, or the name of a corpus that `textgen train` knows. The last tenth is held out and never trained on.
The script prints nats per character on all of it, next to the targets for 200 seconds and for ten minutes, and the wall
time of the whole command next to the time requested.
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

from targets import Results

ASKED = {3.33: 1.50, 10: 1.4697}
"""Minutes, and the nats per character asked of them."""


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("corpus", nargs="?", default="tiny-shakespeare")
    parser.add_argument("--minutes", type=float, default=3.33)
    parser.add_argument("--cell", default="gru")
    parser.add_argument("--results", help="append the figures to this file")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "run"
        words = [asked.corpus, "--tokenizer", "char", "--cell", asked.cell, "--minutes", str(asked.minutes)]
        began = time.perf_counter()
        subprocess.run([sys.executable, "-m", "textgen", "train", *words, "--output-dir", str(folder)], check=True)
        seconds = time.perf_counter() - began
        lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
        plan = json.loads((folder / "training_args.json").read_text())["options"]
    nats = next(line["eval_loss"] for line in reversed(lines) if line.get("final"))
    made = f"{plan['num_layers']} x {plan['hidden_size']}, {plan['max_steps']:,} steps, {plan['dtype']}, " + (
        "compiled" if plan["compile"] else "not compiled"
    )
    machine = f"{date.today()}, {platform.machine()}, {os.cpu_count()} cores"
    print(f"{machine}: {asked.cell} {made}: {nats:.4f} nats per character in {seconds:.0f} s")
    results = Results()
    if asked.minutes in ASKED:
        results.add(f"{asked.cell}, {asked.minutes:g} minutes: nats per character", nats, at_most=ASKED[asked.minutes])
    off = abs(seconds / (60 * asked.minutes) - 1)
    results.add(f"{asked.cell}, {asked.minutes:g} minutes: wall time off by", 100 * off, "%", at_most=5)
    results.close(asked.results)


if __name__ == "__main__":
    main()

"""What a pretrained base gives, to read: texts of a model from new weights next to those of one from base-en.

    python benchmarks/base_samples.py [--minutes 5] [--data DIR] [--output docs/base-samples.md]

For *Alice*, a folder of notes (product reviews) and Hacker News titles, `textgen train` runs twice, once with
`--init-from none` and once with `--init-from base-en`; each model then writes with seeds 1, 2 and 3 and no other
choices. Nothing is selected. Up to 30 minutes on two cores.
"""

import argparse
import json
import platform
import subprocess
import sys
import tempfile
from datetime import date
from pathlib import Path

from notes import write_notes

ROOT = Path(__file__).resolve().parents[1]
TEXTS = {
    "alice": ("*Alice in Wonderland*", "stories/carroll-alice.txt", ["--max-new-tokens", "100"]),
    "notes": ("A folder of notes (reviews of products, lower case)", None, ["--max-new-tokens", "100"]),
    "titles": ("Hacker News titles", "lines/hacker-news-titles.txt", ["--lines", "--num-samples", "5"]),
}
"""What each text is called, its place in the data folder, and how much is written."""

STARTS = {"none": "new weights", "base-en": "base-en"}
SEEDS = (1, 2, 3)


def textgen(*words, cwd):
    """The standard output of a command."""
    command = [sys.executable, "-m", "textgen", *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, check=True, cwd=cwd).stdout


def train(source, start, minutes, folder):
    """Train a model; returns what it says of itself, and its held-out bits per byte."""
    words = [source, "--minutes", f"{minutes:g}", "--seed", 1, "--init-from", start, "--output-dir", folder]
    textgen("train", *words, cwd=folder.parent)
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    final = next(line for line in reversed(lines) if line.get("final"))
    plan = json.loads((folder / "training_args.json").read_text())
    print(f"{source}: {start}, {plan['options']['max_steps']:,} steps", file=sys.stderr, flush=True)
    return final["eval_bits_per_byte"]


def section(name, asked, scratch):
    """The chapter of one text."""
    title, path, options = TEXTS[name]
    source = asked.data.resolve() / path if path else write_notes(asked.data, scratch / name)
    folders = {start: scratch / f"{name}-{start}" for start in STARTS}
    bits = {start: train(source, start, asked.minutes, folder) for start, folder in folders.items()}
    lines = [f"## {title}", ""]
    for seed in SEEDS:
        for start, folder in folders.items():
            text = textgen("sample", "-m", folder, "--seed", seed, *options, cwd=scratch).strip("\n")
            said = f"Seed {seed}, from {STARTS[start]} ({bits[start]:.2f} bits per byte):"
            lines += [said, "", "```text", text, "```", ""]
    return lines


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=5)
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data")
    parser.add_argument("--output", type=Path, default=ROOT / "docs" / "base-samples.md")
    asked = parser.parse_args()
    lines = [
        "# Texts from new weights, and from a base",
        "",
        f"Each model was trained for {asked.minutes:g} minutes or less, as its plan decided; seeds 1, 2 and 3, nothing",
        f"selected ({date.today()}, {platform.machine()}, `python benchmarks/base_samples.py`).",
        "[Pretrained bases](bases.md) has more measurements.",
        "",
    ]
    with tempfile.TemporaryDirectory() as scratch:
        for name in TEXTS:
            lines += section(name, asked, Path(scratch))
    asked.output.write_text("\n".join(lines))


if __name__ == "__main__":
    main()

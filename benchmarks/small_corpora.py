"""More time must mean better text: the default plan of `textgen train` on eight small corpora, with several budgets.

    python benchmarks/small_corpora.py [--corpora alice,names] [--minutes 1,5] [--seeds 1] [--quick]
        [--train "--cell gru"] [--data DIR] [--results FILE] [--any-commit]
    python benchmarks/small_corpora.py --report [--plot [FILE]]

Each run is `textgen train CORPUS --minutes M --seed S` in a process of its own, with no other choices. The default grid
is half a minute to five minutes with seed 1 on all corpora (about 70 minutes), two more seeds on three of them, 15
minutes on two, and Tiny Shakespeare by characters: about 165 minutes. --corpora keeps only these of it, and may add
`notes`, a folder of product reviews; --minutes and --seeds run every combination instead; --quick takes five minutes.
Every finished run is appended to the results file at once, and a second start skips it. --train adds options of
`textgen train`. Results with other options, or of another version of the code, do not mix; --any-commit accepts those
of any version. Training starts from new weights unless --train names a model; results of --train "--init-from base-en"
are a column of the report.

The split belongs to seed 1, whatever the seed of the training: where another seed would hold out other documents, the
run reads tokens that were stored with the split of seed 1. PPMd (order 8, 64 MiB), a statistical compressor, reads the
training part and then predicts exactly the bytes that the run holds out. Where documents are lines, the end of each
counts as a byte, for both.
"""

import argparse
import atexit
import json
import math
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, fields
from datetime import date
from functools import cache
from itertools import groupby, product
from pathlib import Path
from typing import Any, NamedTuple

from notes import ARCHIVE, write_notes
from small_corpora_results import CHARACTERS, NOTES, TITLES, Cells, Run, draw, read_runs, report

from textgen.cli import tokenize
from textgen.cli.params import given
from textgen.data import CorpusOptions
from textgen.data.corpus import Corpus, scan_corpus, write_store
from textgen.data.recipes import TRAIN, VALIDATION
from textgen.data.store import no_progress
from textgen.errors import TextgenError
from textgen.model import find_model
from textgen.options import from_mapping
from textgen.training.pretrained import NONE

ROOT = Path(__file__).resolve().parents[1]
PATHS = {
    "blake": "stories/blake-poems.txt",
    "titles": "lines/hacker-news-titles.txt",
    "alice": "stories/carroll-alice.txt",
    "names": "lines/names.txt",
    "bryant": "stories/bryant-stories.txt",
    "stories": str(ROOT / "corpora" / "stories"),  # absolute: not in the data folder
    "grimm": "stories/grimm.txt",
    "shakespeare": "tinyshakespeare/input.txt",
    CHARACTERS: "tinyshakespeare/input.txt",
    NOTES: ARCHIVE,
}
"""Each corpus in the data folder; the notes are unpacked from there."""

BASE = "--init-from base-en"
"""The options of runs that start from the base, which the report shows beside the others."""

OWN_OPTIONS = {CHARACTERS: ["--tokenizer", "char"]}
CORPORA = [name for name in TITLES if name not in (CHARACTERS, NOTES)]
SEVERAL = ("alice", "stories", "titles")
BUDGETS = (1.0, 5.0, 2.0, 0.5)
"""Minutes, the most informative first."""

SPLIT_SEED = 1


class Case(NamedTuple):
    """One training to run."""

    corpus: str
    minutes: float
    seed: int


def grid(corpora: list[str], minutes: list[float], seeds: list[int]) -> list[Case]:
    """The trainings to run, the most informative first: the default ones of these corpora (of all, if none is named),
    or with minutes or seeds every combination."""
    if minutes or seeds:
        return [
            Case(name, each, seed) for seed, each, name in product(seeds or [1], minutes or BUDGETS, corpora or CORPORA)
        ]
    cases = [
        *(Case(name, each, 1) for each in BUDGETS for name in CORPORA),
        Case(CHARACTERS, 3, 1),
        *(Case(name, each, seed) for seed in (2, 3) for each in BUDGETS for name in SEVERAL),
        *(Case("alice", 15, 1), Case("shakespeare", 15, 1), Case(CHARACTERS, 10, 1)),
    ]
    return [case for case in cases if not corpora or case.corpus in corpora]


def commit() -> str:
    """The commit that last changed the code; with a plus sign if the code has changed since."""
    code = ["--", "textgen", "plugins/textgen_cells"]
    said = [subprocess.run(["git", *words, *code], cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()
            for words in (["log", "-1", "--format=%h"], ["status", "--porcelain"])]  # fmt: skip
    return said[0] + ("+" if said[1] else "")


def apart(words: Iterable[str]) -> tuple[list[str], list[str]]:
    """Options of `textgen train` that say how a corpus is read, and all others."""
    names = {field.name for field in fields(CorpusOptions)}
    reading: list[str] = []
    others: list[str] = []
    group = others
    for word in words:
        if re.match(r"--?[a-z]", word):
            name = word.partition("=")[0].lstrip("-").removeprefix("no-").replace("-", "_")
            group = reading if name in names else others
        group.append(word)
    return reading, others


def base_of(options: Sequence[str]) -> str:
    """The model that training starts from; the benchmark starts from none unless it is named."""
    return options[options.index("--init-from") + 1] if "--init-from" in options else NONE


@cache
def source_of(name: str, data: Path) -> str:
    """The file or folder of a corpus."""
    if name == NOTES:
        scratch = tempfile.mkdtemp()
        atexit.register(shutil.rmtree, scratch, ignore_errors=True)
        return str(write_notes(data, Path(scratch) / NOTES))
    return str((data / PATHS[name]).resolve())


@cache
def scanned(source: str, reading: tuple[str, ...], seed: int) -> Corpus:
    """A corpus with the split of this seed, as `textgen train` reads it."""
    context = tokenize.command.make_context("tokenize", [source, *reading])
    return scan_corpus([source], from_mapping(CorpusOptions, given(CorpusOptions, context.params)), seed)


@cache
def ppmd(source: str, reading: tuple[str, ...]) -> tuple[float, int, int]:
    """PPMd's bits per byte of the held-out part after the training part; bytes of the held-out part, and of both."""
    import pyppmd  # pip install '.[bench]'

    parts: dict[str, list[bytes]] = {TRAIN: [], VALIDATION: []}
    for (part, _), chunks in groupby(scanned(source, reading, SPLIT_SEED).parts(), key=lambda each: each[:2]):
        parts[part].append(b"".join(chunk for _, _, chunk in chunks))
    documents = [*parts[TRAIN], *parts[VALIDATION]]
    are_lines = len(documents) > 2 and not any(b"\n" in document for document in documents)
    train, held_out = (b"".join(each + b"\n" * are_lines for each in parts[part]) for part in (TRAIN, VALIDATION))

    def size(text: bytes) -> int:
        return len(pyppmd.compress(text, max_order=8, mem_size=64 << 20))

    return 8 * (size(train + held_out) - size(train)) / len(held_out), len(held_out), len(train + held_out)


def measure(case: Case, source: str, options: str, code: str) -> Run:
    """Train in a new process and folder. Raises CalledProcessError if that fails."""
    reading, others = apart([*OWN_OPTIONS.get(case.corpus, []), *shlex.split(options)])
    base = base_of(others)
    known = [] if base == NONE else ["--tokenizer", str(find_model(base))]
    corpus, own = (scanned(source, (*reading, *known), seed) for seed in (SPLIT_SEED, case.seed))
    others += [] if "--init-from" in others else ["--init-from", NONE]
    bits_of_ppmd, held_out_bytes, corpus_bytes = ppmd(source, tuple(reading))
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "run"
        words = [source, *reading]
        if own.split != corpus.split:
            words = [str(Path(scratch) / "tokens")]
            write_store(corpus, Path(words[0]), no_progress)
        words += ["--minutes", f"{case.minutes:g}", "--seed", str(case.seed), "--output-dir", str(folder), *others]
        began = time.perf_counter()
        command = [sys.executable, "-m", "textgen", "train", *words]
        said = subprocess.run(command, capture_output=True, text=True, check=True, cwd=scratch).stderr
        seconds = time.perf_counter() - began
        found = read_run(folder, said)
        if found.pop("store") != corpus.key():
            raise ValueError(f"{case.corpus}: the run did not hold out the part that PPMd is measured on")
    bits = found.pop("nats") / math.log(2) / held_out_bytes
    return Run(
        *case, options, code, bits_per_byte=bits, ppmd_bits_per_byte=bits_of_ppmd, held_out_bytes=held_out_bytes,
        corpus_bytes=corpus_bytes, wall_seconds=round(seconds, 2), date=date.today().isoformat(), **found,
    )  # fmt: skip


def read_run(folder: Path, said: str) -> dict[str, Any]:
    """What a finished run folder and the output of its training say, by the names of `Run`; also its total nats and the
    key of its tokens."""
    metrics = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    final = next(line for line in reversed(metrics) if line.get("final"))
    arguments, config, tokenizer, state = (
        json.loads(path.read_text())
        for path in (
            *(folder / "training_args.json", folder / "config.json", folder / "tokenizer_config.json"),
            max(folder.glob("checkpoint-*"), key=lambda path: int(path.name[11:])) / "trainer_state.json",
        )
    )
    options, steps = arguments["options"], state["step"]
    lines = [line.strip() for line in said.splitlines() if not line.startswith("step=")]
    early = [line for line in lines if re.search(r"(?<!-)\bearly\b(?!-)|not help", line)]
    took = [re.findall(r"(\d+) (h|min|s)\b", line.split(" · ")[1]) for line in lines
            if re.match(r"(best at step|done) .*· ", line)]  # fmt: skip
    kept = ("cell", "hidden_size", "dropout", "embedding_dropout", "weight_drop", "weight_decay", "average_weights",
            "learning_rate")  # fmt: skip
    return {
        **{name: options[name] for name in kept},
        "store": arguments["store"],
        "nats": final["eval_nats"],
        "nats_per_character": final["eval_nats_per_character"],
        "best_step": state["best_step"],
        "steps": steps,
        "ended_early": early[-1] if early else "early stopping" if steps < options["max_steps"] else None,
        "train_seconds": sum(int(n) * {"h": 3600, "min": 60, "s": 1}[unit] for n, unit in took[-1]) if took else None,
        "layers": options["num_layers"],
        "epochs": round(state["epoch"], 2),
        "parameters": arguments["estimate"]["parameters"],
        "tokenizer": tokenizer["kind"],
        "vocab_size": config["vocab_size"],
        "threads": arguments["made_with"]["threads"],
        "processor": arguments["made_with"]["processor"],
    }


def listed(kind: Callable[[str], Any]) -> Callable[[str], list[Any]]:
    """The type of an option that is a list with commas."""

    def parsed(text: str) -> list[Any]:
        return [kind(each) for each in text.split(",")]

    return parsed


def known(name: str) -> str:
    if name not in PATHS:
        raise argparse.ArgumentTypeError(f"there is no corpus {name!r}; there are {', '.join(PATHS)}")
    return name


def run_all(cases: list[Case], asked: argparse.Namespace, options: str) -> int:
    """Run what is missing in the results file; returns how many trainings failed."""
    code, failed = commit(), 0
    done = {(run.corpus, run.minutes, run.seed) for run in read_runs(asked.results)
            if run.options == options and (asked.any_commit or run.commit == code)}  # fmt: skip
    missing = [case for case in cases if case not in done]
    print(f"{len(missing)} of {len(cases)} trainings to run, {sum(case.minutes for case in missing):g} minutes")
    for number, case in enumerate(missing, 1):
        source = asked.data / PATHS[case.corpus]
        if not source.exists():
            print(f"{case.corpus} is left out: there is no {source} (--data names the folder).", flush=True)
            continue
        try:
            run = measure(case, source_of(case.corpus, asked.data), options, code)
        except (subprocess.CalledProcessError, TextgenError) as error:
            failed += 1
            said = getattr(error, "stderr", str(error)).splitlines()[-5:]
            print(f"{case.corpus}, {case.minutes:g} min, seed {case.seed} failed:", *said, sep="\n  ", flush=True)
            continue
        with asked.results.open("a") as file:
            file.write(json.dumps(asdict(run)) + "\n")
        print(f"{number}/{len(missing)}  {run}: {run.loss:.4f} (PPMd {run.ppmd_bits_per_byte:.4f} bits per byte), best "
              f"at {run.best_at:.0%}, {run.wall_seconds:.0f} s, {run.layers} x {run.hidden_size}, {run.epochs:.1f} "
              f"epochs{'; ' + run.ended_early if run.ended_early else ''}", flush=True)  # fmt: skip
    return failed


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--corpora", type=listed(known), default=[], help="only these, such as alice,names")
    parser.add_argument("--minutes", type=listed(float), default=[], help="such as 1,5")
    parser.add_argument("--seeds", type=listed(int), default=[], help="such as 1,2,3")
    parser.add_argument("--quick", action="store_true", help="three corpora, half a minute and a minute")
    parser.add_argument("--train", default="", metavar="OPTIONS", help="more options of textgen train")
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data", help="the folder of the corpora")
    parser.add_argument("--results", type=Path, default=ROOT / "benchmarks" / "small_corpora.jsonl")
    parser.add_argument("--any-commit", action="store_true", help="results of other commits count as well")
    parser.add_argument("--report", action="store_true", help="print the results, and write them beside the file")
    parser.add_argument("--plot", type=Path, nargs="?", const=ROOT / "docs" / "small-corpora.png", metavar="FILE")
    asked = parser.parse_args()
    options = shlex.join(shlex.split(asked.train))
    if not asked.report and not asked.plot:
        quick = (["blake", "alice", "stories"], [1.0, 0.5], [1])
        chosen = quick if asked.quick else (asked.corpora, asked.minutes, asked.seeds)
        sys.exit(1 if run_all(grid(*chosen), asked, options) else 0)
    everything = read_runs(asked.results)
    runs = [run for run in everything if run.options == options]
    cells = Cells(run for run in runs if asked.any_commit or run.commit == runs[-1].commit)
    base = Cells(run for run in everything if run.options == BASE)
    if not runs:
        sys.exit(f"there are no results with these options in {asked.results}")
    if asked.report:
        text = report(cells, base)
        asked.results.with_suffix(".txt").write_text(text + "\n")
        print(text)
    if asked.plot:
        asked.plot.write_bytes(draw(cells))


if __name__ == "__main__":
    main()

"""Proves that the tests can fail: applies one fault at a time to a private copy and runs the test that must catch it.

`python -m tests.torture.mutate [NAME ...] [--output FILE]`. A mutation that survives, or a test that fails without it,
is an error.
"""

from __future__ import annotations

import argparse
import importlib
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from datetime import date
from pathlib import Path

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
COPIED = (
    "textgen",
    "tests",
    "plugins",
    "corpora",
    "docs",
    "pyproject.toml",
    "README.md",
    "CONTRIBUTING.md",
    "Makefile",
    "CHANGELOG.md",
)
SECONDS = 300


@dataclass(frozen=True)
class Mutation:
    """A fault: in `file`, `old` becomes `new`. `test` is rows ("R3 --share 0.2"), or what pytest is given."""

    name: str
    file: str
    old: str
    new: str
    test: str


def all_mutations():
    """(module, mutation) for every module beside this one whose name begins with `mutations_`."""
    stems = [path.stem for path in sorted(HERE.glob("mutations_*.py"))]
    return [(stem, each) for stem in stems for each in importlib.import_module(f"torture.{stem}").MUTATIONS]


def command(test):
    words = shlex.split(test)
    if words[0].startswith("R") and words[0][1:2].isdigit():
        return [sys.executable, "-m", "tests.torture", "--jobs", "1", *words]
    if words[0] in ("python", "python3", "pytest"):
        words = words[1:] if words[0] != "pytest" else ["-m", *words]
        return [sys.executable, *words]
    return [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", *words]


def passes(copy, test):
    """Whether a test passes on a copy of the tree; one that hangs does not."""
    path = os.pathsep.join([str(copy), str(copy / "plugins")])
    environment = os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"}
    process = subprocess.Popen(
        command(test), cwd=copy, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        start_new_session=True,
    )  # fmt: skip
    try:
        said, _ = process.communicate(timeout=SECONDS)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, 9)
        process.communicate()
        return False, f"no end after {SECONDS} s"
    lines = [line for line in said.splitlines() if "FAIL" in line or "Error" in line] or said.splitlines()[-1:]
    return process.returncode == 0, lines[0].strip()[:160] if lines else ""


def tried(copy, mutation):
    """(whether it was caught, the first thing that was said)."""
    path = copy / mutation.file
    content = path.read_text()
    if content.count(mutation.old) != 1:
        return False, f"{mutation.file} holds the text to replace {content.count(mutation.old)} times"
    path.write_text(content.replace(mutation.old, mutation.new))
    try:
        passed, said = passes(copy, mutation.test)
    finally:
        path.write_text(content)
    return not passed, said


def write_table(path, rows):
    """The table of all faults: those tried now, and what was known of the others."""
    known = path.read_text().splitlines() if path.is_file() else []
    known = {line.split(" | ")[0].removeprefix("| "): line for line in known if line.count("|") == 5}
    kept = [(known | rows)[each.name] for _, each in all_mutations() if each.name in known | rows]
    caught = sum("SURVIVED" not in row for row in kept)
    head = ["# Faults put into the code, and the test that caught each", "",
            f"`make mutate`, {date.today()}: {caught} of {len(kept)} faults caught.", "",
            "| fault | file | | test |", "|---|---|---|---|"]  # fmt: skip
    path.write_text("\n".join([*head, *kept, ""]))


def main(arguments):
    parser = argparse.ArgumentParser(prog="python -m tests.torture.mutate", description=__doc__)
    parser.add_argument("names", nargs="*", help="by (part of) their name or their module's; all if none")
    parser.add_argument("--output", type=Path, help="also write the table here")
    parser.add_argument("--unmutated", action="store_true", help="first see every test pass without a fault")
    chosen = parser.parse_args(arguments)
    names = chosen.names or [""]
    mutations = [each for stem, each in all_mutations() if any(name in each.name or name in stem for name in names)]
    rows, bad, began = {}, 0, time.monotonic()
    with tempfile.TemporaryDirectory(prefix="mutate-") as folder:
        copy = Path(folder)
        for name in COPIED:
            source, skip = ROOT / name, shutil.ignore_patterns("__pycache__", ".*", "*.egg-info")
            shutil.copytree(source, copy / name, ignore=skip) if source.is_dir() else shutil.copy(source, copy / name)
        for test in dict.fromkeys(each.test for each in mutations) if chosen.unmutated else ():
            passed, said = passes(copy, test)
            bad += not passed
            print(f"{'passes' if passed else 'FAILS WITHOUT A FAULT'}: {test} {'' if passed else said}", flush=True)
        for mutation in mutations:
            caught, said = tried(copy, mutation)
            bad += not caught
            mark = "caught" if caught else "**SURVIVED**"
            rows[mutation.name] = f"| {mutation.name} | `{mutation.file}` | {mark} | `{mutation.test}` |"
            print(f"{mark}: {mutation.name}  [{said}]", flush=True)
            if chosen.output:
                write_table(chosen.output, rows)
    survived = sum("SURVIVED" in row for row in rows.values())
    print(f"{len(rows) - survived} of {len(rows)} faults caught, {time.monotonic() - began:.0f} s.")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.path.insert(0, str(HERE.parent))
    from torture.mutate import main as main_of_module  # the same class Mutation that the lists are made of

    sys.exit(main_of_module(sys.argv[1:]))

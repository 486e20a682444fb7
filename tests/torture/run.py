"""Runs rows, each in a process of its own, and prints one table of the figures they reached."""

from __future__ import annotations

import argparse
import importlib
import json
import os
import platform
import sys
import time
import traceback
from datetime import date
from pathlib import Path

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
COLUMNS = ("row", "what", "target", "figure reached", "seconds", "of processor", "")


def prepare():
    """See this checkout before any other, no plugins of this machine, and one thread."""
    for folder in (HERE.parent, ROOT / "plugins", ROOT):
        sys.path.insert(0, str(folder))
    added = os.pathsep.join(str(folder) for folder in (ROOT, ROOT / "plugins"))
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (added, os.environ.get("PYTHONPATH"))))
    os.environ |= {"TEXTGEN_LOAD_PLUGINS": "", "NO_COLOR": "1", "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}


def all_rows():
    """The rows of every module beside this one that has a list of them, in the order of their numbers."""
    names = sorted(path.stem for path in HERE.glob("*.py") if "\nROWS" in path.read_text())
    rows = [row for name in names for row in importlib.import_module(f"torture.{name}").ROWS]
    assert len({row.id for row in rows}) == len(rows), "two rows have one number"
    return sorted(rows, key=lambda row: (int("".join(filter(str.isdigit, row.id)) or 0), row.id))


def run_row(row, seed, out):
    """Run a row in a child; its outcome comes back by the pipe `out`."""
    from torture.tools import fork

    def work():
        began = time.monotonic()
        try:
            result = row.run(seed)
            told = {"figure": result.figure, "passed": result.passed}
        except BaseException as error:
            traceback.print_exc()
            told = {"figure": f"seed {seed}: {type(error).__name__}: {error}"[:300], "passed": False}
        told |= {"seconds": time.monotonic() - began, "processor": sum(os.times()[:4])}
        content = json.dumps(told).encode() + b"\n"
        os.write(out, content)

    return fork(work)


def run_rows(rows, seed, jobs):
    """Run rows, `jobs` at a time, the long ones first as they stand; yields (row, what came back) as they end."""
    waiting, running = list(rows), {}
    while waiting or running:
        while waiting and len(running) < jobs:
            row = waiting.pop(0)
            inlet, out = os.pipe()
            child = run_row(row, seed, out)
            os.close(out)
            running[child] = (row, inlet)
        child, status = os.wait()
        if child not in running:
            continue
        row, inlet = running.pop(child)
        with os.fdopen(inlet, "rb") as pipe:
            told = pipe.read()
        lost = {
            "figure": f"the row itself ended with status {status}",
            "passed": False,
            "seconds": 0.0,
            "processor": 0.0,
        }
        yield row, json.loads(told) if told else lost


def line(row, told):
    passed = "pass" if told["passed"] else "**FAIL**"
    figure = told["figure"].replace("|", "/").replace("\n", " ")
    times = f"{told['seconds']:.0f} | {told['processor']:.0f}"
    return f"| {row.id} | {row.what} | {row.target} | {figure} | {times} | {passed} |"


def heading():
    """By which command, when, and on what."""
    from importlib.metadata import version

    versions = ", ".join(f"{name} {version(name)}" for name in ("torch", "numpy", "safetensors", "sentencepiece"))
    processor = next((each.split(":")[1].strip() for each in cpuinfo() if each.startswith("model name")), "")
    machine = f"{processor or platform.machine()}, {os.cpu_count()} cores"
    how = "The last figures of each row, by `make torture` or `python -m tests.torture ROW`"
    return f"{how}, {date.today()}, {machine}, Python {platform.python_version()}, {versions}."


def write_table(path, rows, took):
    """The figures of all rows: those reached now, and the last ones of rows that were not run."""
    known = path.read_text().splitlines() if path.is_file() else []
    known = {line.split(" | ")[0].removeprefix("| "): line for line in known if line.startswith("| R")}
    lines = [(known | rows)[row.id] for row in all_rows() if row.id in known | rows]
    passed = sum(line.endswith("| pass |") for line in lines)
    head = [f"| {' | '.join(COLUMNS)} |", "|---|---|---|---|--:|--:|---|"]
    end = f"{passed} of {len(lines)} rows passed; the last {len(rows)} were run in {took}."
    path.write_text("\n".join(["# The figures reached", "", heading(), "", *head, *lines, "", end, ""]))


def cpuinfo():
    path = Path("/proc/cpuinfo")
    return path.read_text().splitlines() if path.is_file() else []


def main(arguments):
    parser = argparse.ArgumentParser(prog="python -m tests.torture", description=__doc__)
    parser.add_argument("rows", nargs="*", metavar="ROW", help="rows by their number, such as R3; all if none")
    parser.add_argument("--ci", action="store_true", help="only what is run for every change")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--share", default="1", help="the part of the cases of each row to try, such as 0.1")
    parser.add_argument("--jobs", type=int, default=min(2, os.cpu_count() or 1), help="rows at a time")
    parser.add_argument("--output", type=Path, help="also write the table here")
    chosen = parser.parse_args(arguments)
    prepare()
    os.environ["TORTURE_SHARE"] = chosen.share
    from torture.tools import ready

    rows = [row for row in all_rows() if (row.id in chosen.rows if chosen.rows else row.where == "ci" or not chosen.ci)]
    unknown = set(chosen.rows) - {row.id for row in rows}
    if unknown:
        parser.error(f"no such row: {', '.join(sorted(unknown))}")
    ready()
    began, done = time.monotonic(), {}
    for row, told in run_rows(rows, chosen.seed, chosen.jobs):
        done[row.id] = told
        print(line(row, told), flush=True)
    failed = [name for name, told in done.items() if not told["passed"]]
    took = f"{time.monotonic() - began:.0f} s (seed {chosen.seed})"
    print(f"{len(rows) - len(failed)} of {len(rows)} rows passed in {took}.")
    if chosen.output:
        write_table(chosen.output, {row.id: line(row, done[row.id]) for row in rows}, took)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

"""Hostile folders again, seen from below Python: what native code opens, starts or connects to."""

import os
import re
import shutil
import subprocess
import sys
from functools import partial
from pathlib import Path

from . import folders, hostile
from .isolation import quick_folder
from .rows import Outcome, Row

MARK = "/textgen-torture-begins-here"
PROGRAM = """
import sys
from pathlib import Path
from torture import folders
first, warm, *cases = map(Path, sys.argv[1:])
for each in (first, warm, first, warm):
    folders.in_this_process(each)
Path("{mark}").exists()
try:
    open("{mark}")
except OSError:
    pass
for each in cases:
    folders.in_this_process(each)
"""
CALL = re.compile(
    r'(openat|open|execve|connect|socket|unlinkat?|rename\w*|mkdir\w*)\((?:AT_FDCWD, )?"?([^",]*)"?.*\) = (-?\d+)'
)
TRACED = "open,openat,execve,connect,socket,unlink,unlinkat,rename,renameat,mkdir"
HARMLESS = ("/proc/", "/sys/", "/dev/null", "/dev/urandom", "/etc/localtime")


def calls_after_mark(trace: str) -> list[tuple[str, str, int]]:
    """The system calls after the mark, as (name, what it names, result)."""
    after = trace.partition(MARK)[2].partition("\n")[2]
    return [(match[1], match[2], int(match[3])) for match in CALL.finditer(after)]


def reaches_out(call: tuple[str, str, int], allowed: tuple[str, ...]) -> bool:
    """Whether a call did something that opening a folder of data must not do."""
    name, what, result = call
    if name in ("open", "openat"):
        return result >= 0 and not what.startswith((*allowed, *HARMLESS))
    return name != "socket" or result >= 0


def run(count: int, seed: int) -> Outcome:
    """So many mutants in one process under strace; plugins may be looked up where packages are installed."""
    if shutil.which("strace") is None:
        return Outcome("strace is not installed here", True)
    with quick_folder() as folder:
        parents = folders.make_models(folder)
        good = [folder / f"{cell}-{kind}" for cell, kind, _ in folders.MODELS[1:3]]
        cases = [folder / "hostile" / str(number) / hostile.kind(number) for number in range(count)]
        ways = [hostile.spoil(parents, number, seed, case) for number, case in enumerate(cases)]
        calm = [str(case) for case, way in zip(cases, ways, strict=True) if way not in ("bomb", "sparse")]
        program = [sys.executable, "-P", "-c", PROGRAM.format(mark=MARK), *map(str, good), *calm]
        given = ["strace", "-f", "-qq", "-e", f"trace={TRACED}"]
        environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
        command = [*given, "-o", str(folder / "trace"), *program]
        done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
        trace = (folder / "trace").read_text(errors="replace") if (folder / "trace").exists() else ""
        if done.returncode or MARK not in trace:
            return Outcome(f"strace cannot be used here: {done.stderr[-200:]}", "ptrace" in done.stderr)
        found = calls_after_mark(trace)
        allowed = (str(folder / "hostile"), *filter(None, sys.path))
        wrong = sorted({f"{name} {what}" for name, what, result in found if reaches_out((name, what, result), allowed)})
    opened = sum(name.startswith("open") and result >= 0 for name, _, result in found)
    return Outcome(
        f"{len(calm)} folders, {opened:,} files opened; {'; '.join(wrong)[:300] or 'none outside'}", not wrong
    )


ROWS = [
    Row(
        "R14c",
        "the same, below Python",
        "no file outside, no process, no connection",
        partial(run, 150),
        "torture",
    )
]


if __name__ == "__main__":
    print(run(int(sys.argv[1]), int(sys.argv[2])))

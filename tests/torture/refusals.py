"""A disk that refuses: whichever call fails and however, earlier checkpoints stay and a sentence says what is wrong."""

from __future__ import annotations

import contextlib
import errno
import io
import re
import resource
import shutil
import subprocess
import sys

from faults import Failing, Quick, Short, Watched

from torture.rows import Outcome, Row
from torture.tools import begin, copy, draws, fork, go_on, newest, outcome, scratch, some, wait
from torture.tools import whole_run as undisturbed

ERRORS = ("ENOSPC", "EIO", "EDQUOT", "EROFS", "EMFILE")
FULL = {errno.ENOSPC, errno.EDQUOT}


class Told(Failing):
    """Remembers which call was refused."""

    refused = ""

    def before(self, name, *args):
        if self.count == self.at:
            self.refused = name
        super().before(name, *args)


def complaint(error):
    """The exit code of the command for an error, and what it says."""
    from textgen.cli import complain

    with contextlib.redirect_stderr(io.StringIO()) as said:
        code = complain(error)
    return code, said.getvalue()


def refused_calls(seed):
    from textgen.storage import filesystem

    draw = draws(seed, "refusals")
    with scratch() as root:
        filesystem.system = Quick()
        wanted = undisturbed(root, max_steps=9)
        begin(root, "begun", max_steps=9)
        go_on(root / "begun", lambda event: (root / "begun" / "checkpoint-6").exists() and event.step == 6)
        filesystem.system = Short()
        go_on(copy(root / "begun", root / "short"))
        assert outcome(root / "short") == wanted, "short writes: other bits"
        counter = filesystem.system = Watched()
        go_on(copy(root / "begun", root / "counted"))
        cases = [(at, name, draw.random() < 0.5) for at in range(1, counter.count + 1) for name in ERRORS]
        cases, seen, again = draw.sample(cases, some(len(cases))), set(), 0
        for number, (at, name, lasting) in enumerate(cases):
            folder, code = copy(root / "begun", root / "run"), getattr(errno, name)
            faulty = filesystem.system = Told(at, code, lasting)
            case = f"seed {seed}, call {at} ({name}, lasting: {lasting})"
            try:
                go_on(folder)
            except OSError as error:
                exit_code, said = complaint(error)
                assert exit_code == 1 and str(folder) in said and said.count("\n") <= 2, f"{case}: {said}"
                assert faulty.refused != "write" or code not in FULL or re.search(r"[\d,]+ bytes", said), said
            else:
                assert faulty.refused in ("unlink", "rmdir"), f"{case}: {faulty.refused} was refused, and nothing said"
            seen.add(faulty.refused)
            filesystem.system = Quick()
            newest(folder, (6, 9))
            if number % 10 == 0:
                again += 1
                go_on(folder)
                assert outcome(folder) == wanted, f"{case}: other bits"
    told = f"{len(cases)} refusals of {len(seen)} kinds of call: 6 or 9 whole, path named; {again} went on"
    return Outcome(told, len(seen) >= 9)


def below_python(seed):
    """The same from the operating system itself: a limit to the size of files, and calls refused by strace."""
    draw = draws(seed, "below")
    with scratch() as root:
        undisturbed(root, max_steps=9)
        begin(root, "begun", max_steps=9)
        limited = [size_limit(root, draw.randrange(1, 12_000)) for _ in range(some(30))]
        traced = (
            [strace(root, name, at) for name in ERRORS[:3] for at in (2, 9, 16, 23)] if shutil.which("strace") else []
        )
    hit = sum(limited) + sum(traced)
    return Outcome(f"{len(limited) + len(traced)} runs, {hit} refused: whole, path named, exit 1", hit >= some(15))


def size_limit(root, most):
    """Whether a run was stopped by a limit on the size of files; asserts what must hold then."""
    from textgen.cli import main

    folder, said = copy(root / "begun", root / "run"), root / "said"
    said.write_text("")

    def train():
        resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))
        return main(["train", "--resume", str(folder), "--progress", "none"])

    code = wait(fork(train, None if most < 4000 else said))
    return judged(folder, code, said.read_text() if most >= 4000 else None)


def strace(root, name, at):
    """As `size_limit`, with the calls of the system from a number on refused below Python."""
    folder, said = copy(root / "begun", root / "run"), root / "said"
    refuse = ["strace", "-f", "-o", "/dev/null", "-e", f"inject=write,fsync:error={name}:when={at}+", "-P", str(folder)]
    place = [each for path in folder.rglob("*") for each in ("-P", str(path))]
    given = [sys.executable, "-m", "textgen", "train", "--resume", str(folder), "--progress", "none"]
    with said.open("wb") as errors:
        code = subprocess.run([*refuse, *place, *given], stderr=errors, check=False).returncode
    return judged(folder, code, said.read_text())


def judged(folder, code, said):
    newest(folder, (None, 0, 3, 6, 9))
    assert code in (0, 1), f"exit code {code}: {said}"
    if code and said is not None:
        assert str(folder) in said and "Traceback" not in said, said
    return code


KEPT = "earlier checkpoints whole; exit 1 naming the path, and on a full disk the bytes"
ROWS = [
    Row("R4", f"each of {len(ERRORS)} errors at every call of the disk, once or for good", KEPT, refused_calls, "ci"),
    Row("R4b", "the same from below: RLIMIT_FSIZE, strace", KEPT, below_python, "torture"),
]

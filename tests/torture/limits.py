"""Too little memory, too small a disk, a damaged newest checkpoint: a sentence each, and nothing lost."""

from __future__ import annotations

import re
import resource

from faults import Quick

from torture.rows import Outcome, Row
from torture.tools import apart, begin, copy, draws, fork, go_on, go_on_to, newest, outcome, scratch, some, wait
from torture.tools import whole_run as undisturbed

SCALES = {"kB": 1e3, "MB": 1e6, "GB": 1e9, "bytes": 1}


def said_by(arguments, root, limit=None):
    """Exit code and words of a command, in a child that may take `limit` bytes more than it holds now."""
    from textgen.cli import main

    (root / "said").write_text("")

    def call():
        if limit is not None:
            with open("/proc/self/statm") as file:
                held = int(file.read().split()[5]) * resource.getpagesize()
            resource.setrlimit(resource.RLIMIT_DATA, (held + limit, held + limit))
        return main([str(each) for each in arguments])

    code = wait(fork(call, root / "said"))
    return code, (root / "said").read_text()


def little_memory(seed):
    """Batches too large for a gigabyte."""
    draw = draws(seed, "memory")
    with scratch() as root:
        (root / "long.txt").write_bytes(draw.randbytes(6000).hex().encode() * 200)
        sizes = ["--hidden-size", 256, "--tokenizer", "byte", "--seq-length", 100, "--threads", 1, "--progress", "none"]
        cells, steps = ("gru", "lstm", "rnn"), (["--max-steps", 2], ["--minutes", 1])
        cases = [(cell, more, draw.randrange(12_000, 18_000)) for cell in cells for more in steps]
        for number, (cell, more, batch) in enumerate(cases[: some(len(cases))]):
            given = ["--cell", cell, *sizes, *more, "--batch-size", batch, "--output-dir", root / f"run-{number}"]
            code, said = said_by(["train", root / "long.txt", *given], root, limit=1 << 30)
            found = re.search(r"out of memory: a step of [\d,]+ x 100 tokens needs about ([\d.]+) GB\.", said)
            assert code == 1 and found and "Traceback" not in said, f"{cell}, batch {batch}: {code}, {said}"
            assert 1 <= float(found.group(1)) <= 100 and said.count("Error: ") == said.count("Hint: ") == 1, said
        code, said = said_by(
            ["train", root / "long.txt", *sizes, "--max-steps", 2, "--batch-size", 8, "--output-dir", root / "fits"],
            root, limit=1 << 30,
        )  # fmt: skip
        assert code == 0, f"a batch that fits: {said}"
    return f"{some(len(cases))} batches too large: exit 1 with an estimate"


class Small(Quick):
    """A disk with so much room."""

    def __init__(self, room):
        self.room = room

    def free(self, path):
        return self.room


def little_disk(root):
    """A disk that cannot hold two checkpoints and the model is refused before step 1."""
    from textgen.errors import TextgenError
    from textgen.storage import filesystem

    begin(root, "begun")
    checkpoint = sum(path.stat().st_size for path in whole_checkpoint(root).iterdir())
    for room, fits in ((1_000, False), (checkpoint, False), (3 * checkpoint, True)):
        filesystem.system, again = Small(room), copy(root / "begun", root / "again")
        for make, place in ((begin, (root, f"small-{room}")), (go_on, (again,))):
            try:
                make(*place)
            except TextgenError as error:
                assert not fits and "free" in str(error) and "two checkpoints" in str(error), error
                assert not list(again.glob("checkpoint-*")), "step 1 was made"
            else:
                assert fits, f"{room} bytes were enough for {checkpoint} a checkpoint"
        assert fits or not (root / f"small-{room}").exists()
    filesystem.system = Quick()


def whole_checkpoint(root):
    from textgen.training.runs import Run

    run = Run(root / "whole")
    return run.folder / f"checkpoint-{run.checkpoints()[-1]}"


def damaged_newest(root, draw, wanted):
    """Two checkpoints are kept; of a damaged newest one the command says so, and goes on from the other."""
    from textgen.training.runs import Run

    for number in range(some(8)):
        folder = copy(root / "begun", root / "run")
        last = draw.choice(range(6, 37, 3))
        kept = apart(lambda f=folder, last=last: go_on_to(f, last))
        assert kept == [last - 3, last], "at least two checkpoints are kept"
        newest(folder, (last,))
        victim = draw.choice(sorted((folder / f"checkpoint-{last}").iterdir()))
        content = victim.read_bytes()
        victim.write_bytes(content[: draw.randrange(len(content) - 1)])
        code, said = said_by(["train", "--resume", folder, "--progress", "none"], root)
        assert code == 0 and str(victim) in said and "older checkpoint is used" in said, f"case {number}: {said}"
        assert outcome(folder) == wanted and not Run(folder).latest()[1], f"case {number}: other bits"


def limits(seed):
    from textgen.storage import filesystem

    draw = draws(seed, "limits")
    memory = little_memory(seed)
    with scratch() as root:
        filesystem.system = Quick()
        wanted = undisturbed(root)
        apart(lambda: little_disk(root))
        damaged_newest(root, draw, wanted)
    return Outcome(
        f"{memory}; a small disk refused before step 1; {some(8)} damaged newest ones passed over, told", True
    )


ROWS = [
    Row("R9", "a batch too large for memory, a disk too small, a damaged newest checkpoint",
        "one sentence with the estimate, no traceback; before step 1; falls back and says so", limits, "ci"),
]  # fmt: skip

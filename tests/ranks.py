"""What the processes of a job compute: under torchrun, the losses of every cell and task, written by rank 0.

torchrun --standalone --nproc-per-node 2 tests/ranks.py FOLDER OUTPUT TRIALS
"""

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import torch

sys.path.insert(0, str(Path(__file__).parent))
os.environ["TEXTGEN_LOAD_PLUGINS"] = ""

import numpy as np
from zoo import CELLS as OWN
from zoo import WORKED

from textgen.data.store import no_progress
from textgen.distributed import ALONE, world
from textgen.model.stack import build_model
from textgen.tasks import options_for, task_of
from textgen.tasks.objective import Objective
from textgen.training.optimization import Update

ROOT = Path(__file__).parents[1]
CELLS = {name: cell for name, cell in (OWN | WORKED).items() if name != "elman"}
"""Every cell once, those of the worked packages too."""
SIZES = {"hidden_size": 8, "embedding_size": 8, "num_layers": 2, "batch_size": 7, "seq_length": 9, "seed": 5}
DROPPED = {"dropout": 0.2, "embedding_dropout": 0.1}
TASKS = {
    "lm": {"tokenizer": "char", "lines": False},
    "complete": {"tokenizer": "char", "prompt_column": "text", "completion_column": "label", "seq_length": 60},
    "classify": {"tokenizer": "char", "text_column": "text", "label_column": "label"},
    "forecast": {"horizon": 2, "target_column": ["a", "b"]},
}


class Trial(NamedTuple):
    """A short training: the cell, the task, the precision, the number of steps, and more options."""

    cell: str
    task: str = "lm"
    dtype: str = "float64"
    steps: int = 50
    options: dict = {}  # noqa: RUF012


class Exact(Objective):
    """An objective with its numbers in the precision of the model."""

    def __init__(self, inner, dtype):
        self.inner, self.dtype = inner, dtype

    def __getattribute__(self, name):
        own = ("inner", "dtype", "window", "__class__")
        return object.__getattribute__(self, name) if name in own else getattr(self.inner, name)

    def window(self, step):
        tensors = self.inner.window(step)
        return tuple(each.to(self.dtype) if each.is_floating_point() else each for each in tensors)

    steps_per_epoch = tokens_per_step = loss = evaluate = None  # those of the inner one


def corpora(folder):
    """A small file for each task."""
    random = np.random.default_rng(3)
    words = ["".join(chr(97 + c) for c in random.integers(0, 9, 1 + k % 7)) for k in range(40)]
    lines = [" ".join(random.choice(words, 3 + k % 9)) for k in range(120)]
    (folder / "text.txt").write_text("\n".join(lines))
    rows = [{"text": line, "label": "long" if len(line) > 30 else "short"} for line in lines]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    values = "\n".join(f"{np.sin(k / 5) + k / 90:.4f},{np.cos(k / 4):.4f}" for k in range(300))
    (folder / "series.csv").write_text(f"a,b\n{values}\n")


def losses(folder, trial, job=ALONE):
    """The losses of a trial, as this process sees them."""
    torch.set_num_threads(1)
    files = {"lm": "text.txt", "forecast": "series.csv"}
    dropped = {"dropout": 0.2} if trial.task == "forecast" else DROPPED
    given = {**SIZES, **dropped, **TASKS[trial.task], **trial.options, "task": trial.task}
    options = options_for(given)
    path = str(folder / files.get(trial.task, "rows.jsonl"))
    data = job.in_turn(lambda: task_of(options).data().prepare([path], options, folder / "cache", no_progress))
    options = data.with_defaults(options)
    torch.manual_seed(1)
    dtype = getattr(torch, trial.dtype)
    model = build_model(data.config(options, 8), CELLS[trial.cell]).to(dtype)
    update = Update(Exact(data.objective(options), dtype), model, options, "cpu", job)
    return [update.take(step, 0.002)[0] for step in range(trial.steps)]


class Job:
    """torchrun with some processes, and what all of them say."""

    def __init__(self, processes, *arguments, **options):
        torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
        environment = {**os.environ, "OMP_NUM_THREADS": "1", **options.pop("environment", {})}
        self._log = tempfile.TemporaryFile()
        self._process = subprocess.Popen(
            [*torchrun, *map(str, arguments)], env=environment, stdout=self._log, stderr=subprocess.STDOUT,
            start_new_session=True, **options,
        )  # fmt: skip
        self.pid = self._process.pid

    def said(self):
        """What was said so far."""
        self._log.seek(0)
        return self._log.read().decode(errors="replace")

    def kill(self):
        """Kill the launcher alone."""
        self._process.kill()
        self._process.wait()

    def done(self, code=0, seconds=300):
        """What was said, after the job has ended with this code."""
        try:
            self._process.wait(seconds)
            said = self.said()
            assert self._process.returncode == code, said[-3000:]
            return said
        finally:
            self.close()

    def close(self):
        """End what is left of the job."""
        with suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        self._process.wait()
        self._log.close()


def children(pid):
    """The processes that a process has started, and that still live."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            fields = path.read_text().rpartition(")")[2].split()
            if int(fields[1]) == pid and fields[0] != "Z":
                found.append(int(path.parent.name))
    return sorted(found)


def alive(pid):
    """Whether a process still runs."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def rank_of(pid):
    """The rank of a process, None before it has one."""
    with suppress(OSError):
        for each in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0"):
            if each.startswith(b"RANK="):
                return int(each[5:])
    return None


def ranks_of(launcher):
    """The process of each rank that a launcher has started."""
    found = {rank_of(pid): pid for pid in children(launcher)}
    return {rank: pid for rank, pid in found.items() if rank is not None}


def wait_until(ready, seconds=60.0):
    """What `ready` returns, once it is true."""
    until = time.monotonic() + seconds
    while not (found := ready()):
        assert time.monotonic() < until, f"waited in vain for {ready}"
        time.sleep(0.02)
    return found


def compute(folder, output, trials):
    """Run all trials, and let rank 0 write their losses."""
    job = world()
    job.connect(60)
    job.join("cpu")
    with job.taking_part():
        found = [losses(folder, Trial(*each), job) for each in json.loads(trials.read_text())]
    if job.leads:
        output.write_text(json.dumps(found))


if __name__ == "__main__":
    compute(*map(Path, sys.argv[1:]))

"""Jobs of several processes: ranks and launchers killed at any moment, and the same bits in the end."""

from __future__ import annotations

import os
import shutil
import signal
import time
from collections import Counter
from contextlib import suppress

from ranks import Job, alive, corpora, ranks_of, wait_until

from torture.rows import Outcome, Row
from torture.tools import draws, scratch, some

RANKS, LAUNCHER = (0, 1), "launcher"
MOMENTS = ("starting", "training", "saving")
FLAGS = [
    *("--cell", "gru", "--hidden-size", "16", "--batch-size", "7", "--seq-length", "9", "--tokenizer", "char"),
    *("--dropout", "0.2", "--threads", "1", "--save-steps", "25", "--eval-steps", "200", "--logging-steps", "50"),
    *("--sample-steps", "0", "--save-total-limit", "3"),
]


def launch(root, run, steps, restarts):
    """A new run of two processes, or the rest of one that has begun."""
    begun = (run / "training_args.json").is_file()
    what = ["--resume", run] if begun else ["text.txt", "--output-dir", run, "--max-steps", steps, *FLAGS]
    return Job(2, "--max-restarts", restarts, "-m", "textgen", "train", *what, cwd=root)


def at(moment, job, run, draw):
    """Wait for a moment: just after the start of a rank, some time into a step, or while a checkpoint is written."""
    ranks = wait_until(lambda: (found := ranks_of(job.pid)) and len(found) == 2 and found)
    if moment == "starting":
        time.sleep(draw.uniform(0, 2.5))
        return ranks
    before = max((path.stat().st_mtime for path in run.glob("checkpoint-*")), default=0.0)
    saved = lambda: any(path.stat().st_mtime > before for path in run.glob("checkpoint-*"))  # noqa: E731
    with suppress(FileNotFoundError):
        wait_until(lambda: saved() or not alive(job.pid))
    if moment == "training":
        time.sleep(draw.uniform(0, 0.3))
    else:
        until = time.monotonic() + 5
        while not list(run.glob(".*.tmp-*")) and time.monotonic() < until:
            pass
    return ranks_of(job.pid)


def kill_table(times):
    """Kills of each rank and of the launcher, at each moment, until there were enough; then the run may end."""

    def run(seed):
        draw, wished, steps = draws(seed, "jobs"), some(times), 400 * some(times)
        cases = [(victim, moment) for moment in MOMENTS for victim in (*RANKS, LAUNCHER)]
        draw.shuffle(cases)
        with scratch() as root:
            corpora(root)
            folder, kills, slowest = root / "killed", Counter(), 0.0
            job = launch(root, folder, steps, 10 * wished)
            while kills.total() < wished and alive(job.pid):
                victim, moment = cases[kills.total() % len(cases)]
                ranks = at(moment, job, folder, draw)
                if victim == LAUNCHER:
                    job.kill()
                    began = time.monotonic()
                    wait_until(lambda ranks=ranks: not any(map(alive, ranks.values())), 15)
                    slowest = max(slowest, time.monotonic() - began)
                    job.close()
                    job = launch(root, folder, steps, 10 * wished)
                elif victim in ranks:
                    with suppress(ProcessLookupError):
                        os.kill(ranks[victim], signal.SIGKILL)
                    wait_until(lambda ranks=ranks: not any(map(alive, ranks.values())), 60)
                else:
                    continue
                kills[victim, moment] += 1
            job.done(seconds=600)
            launch(root, root / "whole", steps, 0).done(seconds=600)
            one, other = ((root / name / "model.safetensors").read_bytes() for name in ("killed", "whole"))
            shutil.rmtree(root / "runs", ignore_errors=True)
        assert one == other, f"seed {seed}: other bits after {kills}"
        said = ", ".join(
            f"{number} of {victim} {moment}" for (victim, moment), number in sorted(kills.items(), key=str)
        )
        figure = f"{kills.total()} kills ({said}): the same bits; orphans ended within {slowest:.1f} s"
        return Outcome(figure, kills.total() >= wished and slowest < 10)

    return run


WHAT = "ranks 0 and 1 of two, and their launcher, killed while they start, train and save"
SAME = "bits of a job never stopped; orphans end within 10 s"
ROWS = [
    Row("R10", WHAT, SAME, kill_table(6), "ci"),
    Row("R10b", "the same, 50 times", SAME, kill_table(50), "torture"),
]

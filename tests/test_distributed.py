"""Laws of jobs with several processes: their losses are those of one, and whatever dies, nothing is lost."""

import json
import os
import re
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from ranks import CELLS, ROOT, TASKS, Job, Trial, alive, corpora, losses, ranks_of, wait_until

from textgen.storage import metrics

pytestmark = pytest.mark.skipif("sys.platform == 'win32'", reason="torchrun's processes need signals")

EXPLODING = ("lnlstm",)
"""Cells whose dynamics grow every rounding error."""

PARTS = {"gradient_accumulation_steps": 2}
AVERAGED = {"weight_drop": 0.3, "average_weights": 0.9, "optimizer": "sgd", "momentum": 0.5}
SHORT = {
    2: [Trial(cell) for cell in CELLS],
    3: [
        *(Trial("lstm", task) for task in TASKS),
        *(Trial("lstm", task, options=PARTS) for task in TASKS),
        Trial("gru", options={"sampled_softmax": 4}),
        Trial("gru", options=AVERAGED),
        Trial("gru", options={"stream": True, "lines": True}),
    ],
}
LONG = {
    2: [Trial(cell, dtype="float32", steps=200) for cell in CELLS if cell not in EXPLODING],
    3: [Trial(cell, task) for cell in CELLS if cell not in EXPLODING for task in TASKS if task != "lm"],
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ranks")
    corpora(folder)
    return folder


def together(folder, processes, trials):
    """The losses of some trials, computed by several processes."""
    (folder / "trials.json").write_text(json.dumps(trials))
    Job(processes, ROOT / "tests/ranks.py", folder, folder / "losses.json", folder / "trials.json").done()
    return json.loads((folder / "losses.json").read_text())


@pytest.mark.parametrize("processes", [2, 3])
@pytest.mark.parametrize("trials", [SHORT, pytest.param(LONG, marks=pytest.mark.slow)], ids=["short", "long"])
def test_several_processes_give_the_losses_of_one(folder, processes, trials):
    """With three, the lanes of a batch of seven are divided unevenly."""
    for trial, found in zip(trials[processes], together(folder, processes, trials[processes]), strict=True):
        wanted = losses(folder, trial)
        assert len(set(wanted)) > 5
        within = 1e-9 if trial.dtype == "float64" else 1e-5
        np.testing.assert_allclose(found, wanted, rtol=0, atol=within, err_msg=str(trial))


STEPS = 60
RUN = {
    "cell": "gru",
    "hidden-size": 16,
    "batch-size": 7,
    "seq-length": 9,
    "tokenizer": "char",
    "dropout": 0.2,
    "max-steps": STEPS,
    "save-steps": 4,
    "eval-steps": 20,
    "logging-steps": 10,
    "learning-rate": 0.01,
    "threads": 1,
    "save-total-limit": 3,
    "sample-steps": 0,
    "average-weights": 0.9,
}
FLAGS = [part for name, value in RUN.items() for part in (f"--{name}", str(value))]


def train(folder, processes, *arguments, restarts=0, **options):
    """`textgen train` under torchrun, in a folder."""
    command = ["--max-restarts", restarts, "-m", "textgen", "train", *arguments]
    return Job(processes, *command, cwd=folder, **options)


def same_weights(one, other):
    return (one / "model.safetensors").read_bytes() == (other / "model.safetensors").read_bytes()


def newest(run):
    """The last step that a run has saved."""
    return max((int(path.name.rpartition("-")[2]) for path in run.glob("checkpoint-*")), default=0)


@pytest.fixture(scope="module")
def whole(folder):
    """A run of two processes that nothing disturbed."""
    train(folder, 2, "text.txt", "--output-dir", "whole", *FLAGS).done()
    return folder / "whole"


@pytest.mark.parametrize(
    "kills", [[(1, 8)], pytest.param([(0, 0), (0, 12), (1, 24), (0, 44)], marks=pytest.mark.slow)], ids=["one", "four"]
)
def test_a_killed_rank_costs_no_bit(folder, whole, kills):
    run = folder / f"killed-{len(kills)}"
    job = train(folder, 2, "text.txt", "--output-dir", run, *FLAGS, restarts=len(kills))
    for victim, after in kills:
        wait_until(lambda after=after: newest(run) >= after)
        os.kill(wait_until(lambda victim=victim: ranks_of(job.pid).get(victim)), signal.SIGKILL)
    job.done()
    assert same_weights(run, whole)
    steps = [line["step"] for line in metrics(run) if "loss" in line]
    assert steps == sorted(set(steps))


def test_a_signal_on_any_rank_stops_all_and_saves_once(folder, whole):
    run = folder / "stopped"
    job = train(folder, 2, "text.txt", "--output-dir", run, *FLAGS)
    wait_until(lambda: newest(run) >= 8)
    os.kill(ranks_of(job.pid)[1], signal.SIGTERM)
    said = job.done(code=1)
    assert said.count("saved.") == 1 and said.count("Continue: textgen train --resume") == 1
    assert 8 <= newest(run) < STEPS
    train(folder, 2, "--resume", run).done()
    assert same_weights(run, whole)


@pytest.mark.slow
def test_averaged_weights_learn_and_survive_a_kill(folder):
    """With --sync-every each process trains on its own between two averages; checkpoints are made at averages."""
    every = ("--sync-every", "3", "--save-steps", "5")  # a checkpoint between two regular averages makes one, too
    train(folder, 2, "text.txt", "--output-dir", "averaged", *FLAGS, *every).done()
    run = folder / "averaged-killed"
    job = train(folder, 2, "text.txt", "--output-dir", run, *FLAGS, *every, restarts=1)
    wait_until(lambda: newest(run) >= 10)
    os.kill(ranks_of(job.pid)[1], signal.SIGKILL)
    job.done()
    assert same_weights(run, folder / "averaged")
    held_out = [line["eval_loss"] for line in metrics(run) if "eval_loss" in line]
    assert held_out[-1] < held_out[0]


@pytest.mark.slow
def test_ranks_without_their_launcher_save_and_end_within_ten_seconds(folder, whole):
    run = folder / "orphans"
    job = train(folder, 2, "text.txt", "--output-dir", run, *FLAGS)
    wait_until(lambda: newest(run) >= 8)
    ranks = ranks_of(job.pid)
    job.kill()
    began = time.monotonic()
    wait_until(lambda: not any(map(alive, ranks.values())), 15)
    assert time.monotonic() - began < 10
    job.done(code=-signal.SIGKILL)
    train(folder, 2, "--resume", run).done()
    assert same_weights(run, whole)


@pytest.mark.slow
def test_a_run_continues_with_another_number_of_processes(folder):
    run = folder / "grown"
    train(folder, 1, "text.txt", "--output-dir", run, *FLAGS, "--max-time", "0.0001").done()
    for processes in (2, 3):
        said = train(folder, processes, "--resume", run, "--max-time", "0.0001").done()
        assert f"processes is now {processes}, it was 1: the quality will be the same, but not every bit." in said
    train(folder, 1, "--resume", run, "--max-time", "10").done()
    train(folder, 1, "text.txt", "--output-dir", "alone", *FLAGS).done()
    one, other = ([line["loss"] for line in metrics(each) if "loss" in line] for each in (folder / "alone", run))
    np.testing.assert_allclose(one, other, rtol=0, atol=1e-5)


@pytest.mark.slow
def test_a_hung_rank_is_named(folder):
    run = folder / "hung"
    job = train(folder, 2, "text.txt", "--output-dir", run, *FLAGS, "--max-steps", "100000", "--ddp-timeout", "4")
    wait_until(lambda: newest(run) >= 8)
    victim = ranks_of(job.pid)[1]
    os.kill(victim, signal.SIGSTOP)
    wait_until(lambda: "Error" in job.said())
    os.kill(victim, signal.SIGKILL)
    assert re.search(r"rank 1 did not take part in step \d+", job.done(code=1))


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        pytest.param(["missing.txt"], "'missing.txt'", marks=pytest.mark.slow),
        (["text.txt", "--batch-size", "1"], "2 processes divide the lanes of a batch, but it has 1."),
        pytest.param(["text.txt", "--hidden-size", "0"], "--hidden-size", marks=pytest.mark.slow),
    ],
)
def test_an_error_of_all_ranks_is_said_once(folder, arguments, sentence):
    said = train(folder, 2, *arguments, "--max-steps", "2").done(code=1)
    (error,) = [line for line in said.splitlines() if line.startswith("Error")]
    assert sentence in error


@pytest.mark.parametrize(("what", "value"), [("--hidden-size", 12), ("corpus", "other.txt")])
def test_ranks_that_differ_are_refused_by_name(folder, what, value):
    """Each machine runs its own command, which may differ."""
    (folder / "other.txt").write_text("other words " * 200)
    corpus = value if what == "corpus" else "text.txt"
    differing = [sys.executable, "-m", "textgen", "train", corpus, "--max-steps", "2", "--tokenizer", "char"]
    code = (
        "import os, sys\n"
        f"given = {differing!r}\n"
        f"if os.environ['RANK'] == '0': given[4] = 'text.txt'\n"
        f"elif {what!r} != 'corpus': given += [{what!r}, {str(value)!r}]\n"
        "os.execv(given[0], given)\n"
    )
    (folder / "differing.py").write_text(code)
    said = Job(2, "differing.py", cwd=folder).done(code=1)
    (error,) = [line for line in said.splitlines() if line.startswith("Error")]
    assert f"rank 1 has {what}" in error
    assert not list((folder / "runs").glob("*-2"))


def textgen(folder, processes, *arguments):
    """What a command writes to standard output, in one process or in several."""
    if processes == 1:
        command = [sys.executable, "-m", "textgen", *map(str, arguments)]
        return subprocess.run(command, cwd=folder, capture_output=True, check=True).stdout.decode()
    (folder / "to_file.py").write_text(
        "import sys\nfrom textgen.cli import main\n"
        "if __import__('os').environ['RANK'] == '0': sys.stdout = open('out.txt', 'w')\n"
        "code = main(sys.argv[1:])\nsys.stdout.flush()\nsys.exit(code)\n"
    )
    Job(processes, "to_file.py", *arguments, cwd=folder).done()
    return (folder / "out.txt").read_text()


def test_texts_are_sampled_and_scored_by_several_processes(folder, whole):
    sampling = ("sample", "-m", whole, "--num-samples", 21, "--seed", 4, "-n", 12, "--json")
    assert textgen(folder, 2, *sampling) == textgen(folder, 1, *sampling)
    scoring = ("evaluate", "text.txt", "-m", whole, "--json")
    one, other = (json.loads(textgen(folder, number, *scoring)) for number in (1, 3))
    assert one["nats"] == pytest.approx(other["nats"], rel=1e-6) and one["tokens"] == other["tokens"]


@pytest.mark.slow
def test_labels_are_predicted_by_several_processes(folder, monkeypatch):
    columns = ("--text-column", "text", "--label-column", "label")
    sizes = ("--task", "classify", "--hidden-size", 8, "--max-steps", 30, "--output-dir", "labels")
    textgen(folder, 1, "train", "rows.jsonl", *columns, *sizes)
    many = folder / "many.jsonl"
    many.write_text((folder / "rows.jsonl").read_text() * 20)
    for command in (("predict", many, "-m", "labels"), ("evaluate", many, "-m", "labels", *columns)):
        assert textgen(folder, 3, *command) == textgen(folder, 1, *command)


@pytest.mark.slow
def test_a_comparison_gives_the_same_losses_and_continues_after_a_kill(folder):
    asked = ["compare", "text.txt", "--cells", "gru,rnn", "--budget", "params=3k", "--budget", "tokens=20k"]
    asked += ["--seeds", 2, "--threads", 1, "--tokenizer", "char", "--output-dir"]
    textgen(folder, 1, *asked, "compared/one")
    job = Job(2, "--max-restarts", 1, "-m", "textgen", *asked, "compared/two", cwd=folder)
    wait_until(lambda: list((folder / "compared/two").glob("*-seed*")), 120)
    os.kill(ranks_of(job.pid)[1], signal.SIGKILL)
    job.done()
    found = []
    for name in ("one", "two"):
        record = json.loads((folder / "compared" / name / "comparison.json").read_text())
        found.append(
            {
                each["name"]: (each["rate"], each["tried"], [run["bits_per_byte"] for run in each["runs"].values()])
                for each in record["candidates"]
            }
        )
    assert found[0] == found[1] and all(len(runs) == 2 for _, _, runs in found[0].values())

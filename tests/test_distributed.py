"""Laws of jobs with several processes: their losses are those of one, and whatever dies, nothing is lost."""

import json

import numpy as np
import pytest
from ranks import CELLS, ROOT, TASKS, Trial, corpora, losses, start

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
    job = start(processes, ROOT / "tests/ranks.py", folder, folder / "losses.json", folder / "trials.json")
    said, _ = job.communicate(timeout=600)
    assert job.returncode == 0, said[-3000:]
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

"""What every test shares: a number of threads, no plugins of this machine, no colour, and a seed."""

import os
import random
import signal
import sys
from pathlib import Path

import hypothesis
import pytest

sys.path.insert(0, str(Path(__file__).parent))
os.environ.update({"TEXTGEN_LOAD_PLUGINS": "", "NO_COLOR": "1", "HF_HUB_OFFLINE": "1", "COLUMNS": "100"})
THREADS = int(os.environ.get("SUITE_THREADS", "1"))
"""Threads of torch where a test does not choose them itself."""
for number in (signal.SIGINT, signal.SIGTERM, getattr(signal, "SIGHUP", signal.SIGTERM)):
    if signal.getsignal(number) == signal.SIG_IGN:  # as in a background job and under nohup
        signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)


def pytest_addoption(parser):
    parser.addoption("--shuffle", type=int, metavar="SEED", help="run files, and the tests of each, in random order")


def pytest_configure(config):
    """Hypothesis tries the same examples each time, and others where the order is random."""
    if config.getoption("--shuffle") is None:
        hypothesis.settings.register_profile("same examples", derandomize=True)
        hypothesis.settings.load_profile("same examples")


def pytest_collection_modifyitems(config, items):
    seed = config.getoption("--shuffle")
    if seed is not None:
        places = {item.path: random.Random(f"{seed} {item.path.name}").random() for item in items}
        items.sort(key=lambda item: (places[item.path], random.Random(f"{seed} {item.nodeid}").random()))


def refuse_to_fork(event, arguments):
    """A copy of this process would be without the threads of autograd; `process.start` makes a fresh one."""
    if event in ("os.fork", "os.forkpty"):
        raise RuntimeError("a test does not fork the process of all tests; see tests/process.py")


sys.addaudithook(refuse_to_fork)


@pytest.fixture(autouse=True)
def _seeded(monkeypatch):
    """A seed and a number of threads, whatever a test before has chosen for the process."""
    import torch

    from textgen import threads as chosen

    monkeypatch.setattr(chosen._Chosen, "threads", 0)
    torch.manual_seed(0)
    threads = torch.get_num_threads()
    torch.set_num_threads(THREADS)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def data_folder():
    """The optional folder of real data sets beside the checkout; tests that need it are skipped without it."""
    folder = Path(os.environ.get("TEXTGEN_DATA", Path(__file__).parents[2] / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip("no folder of real data sets here")
    return folder

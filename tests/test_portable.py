"""Training and sampling need nothing that only POSIX has."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import without_posix
from terminal import run

TEXT = "".join(f"{who} saw a {what}.\n" for who in ("Tom", "Lily") * 9 for what in ("fox", "kite"))
TRAIN = ["train", "text.txt", "--hidden-size", "8", "--threads", "1", "--max-steps", "4", "--save-steps", "2", "-q"]
SAMPLE = ["sample", "-n", "40", "--seed", "1"]


def test_what_windows_lacks_is_removed():
    program = """
import without_posix
without_posix.LIBRARIES = ()
without_posix.remove()
import os, signal
assert not any(hasattr(os, name) for name in ("fork", "getuid", "killpg", "O_NOFOLLOW", "set_blocking"))
assert not any(hasattr(signal, name) for name in ("SIGHUP", "SIGKILL", "SIGALRM", "pthread_sigmask"))
assert set(signal.Signals.__members__) == without_posix.SIGNALS
for name in without_posix.MODULES:
    try:
        __import__(name)
    except ImportError:
        continue
    raise AssertionError(name)
"""
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=Path(without_posix.__file__).parent, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


@pytest.fixture
def desk(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "text.txt").write_text(TEXT)


def test_a_model_is_trained_and_samples_without_posix(desk):
    commands = [
        [*TRAIN, "--output-dir", "runs/a"],
        ["train", "--resume", "runs/a", "-q"],
        [*SAMPLE, "-m", "runs/a"],
        ["compress", "text.txt", "-m", "runs/a", "-q"],
        ["runs", "verify"],
    ]
    script = [sys.executable, without_posix.__file__, *map(json.dumps, commands)]
    done = subprocess.run(script, capture_output=True, text=True, encoding="utf-8")
    assert done.returncode == 0 and "Traceback" not in done.stderr, done
    assert run(*TRAIN, "--output-dir", "runs/b").code == 0
    assert done.stdout.startswith(run(*SAMPLE, "-m", "runs/b").text)

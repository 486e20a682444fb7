"""Laws of the pytest plugin: a suite with no test file, declared failures, and no cost where it is not asked for."""

import os
import subprocess
import sys

import pytest
import torch._dynamo
from wrong_cells import NoMemory, SeesTheFuture

from textgen import plugins
from textgen.testing.runner import LAWS

assert torch._dynamo, "imported here, since pytester forgets what its runs import, and torch cannot be imported twice"
pytest_plugins = ["pytester"]
FAST = [law.name for law in LAWS if not law.slow]
FIVE_LINES = """
from textgen.testing import parametrize_with_checks
from wrong_cells import {cell}

@parametrize_with_checks([{cell}], laws=["causality", "empty_sequence", "recurrent_mask"])
def test_conformance(check):
    check()
"""


def test_an_installed_cell_is_tested_with_no_test_file(pytester):
    done = pytester.runpytest("--textgen-cell", "gru", "-v", "-k", "causality or finite or sizes")
    done.assert_outcomes(passed=3, deselected=len(FAST) - 3)
    done.stdout.fnmatch_lines(["textgen-cell/gru::causality PASSED*"])


def test_all_fast_laws_are_collected_and_with_an_option_the_slow_ones(pytester):
    for options, laws in ([], FAST), (["--textgen-slow"], [law.name for law in LAWS]):
        done = pytester.runpytest("--textgen-cell", "rnn", "--textgen-cell", "gru", "--collect-only", "-q", *options)
        wanted = [f"textgen-cell/{cell}::{law}" for cell in ("rnn", "gru") for law in laws]
        assert [line for line in done.outlines if "::" in line] == wanted


def test_a_broken_law_fails_with_its_meaning_and_without_a_traceback(pytester, monkeypatch):
    monkeypatch.setattr(plugins, "cell", {"future": SeesTheFuture}.get)
    done = pytester.runpytest("--textgen-cell", "future", "-k", "causality")
    done.assert_outcomes(failed=1, deselected=len(FAST) - 1)
    done.stdout.fnmatch_lines(
        ["*SeesTheFuture breaks the law causality", "  law *", "  found *", "  in *", "  meaning *"]
    )
    assert "Traceback" not in done.stdout.str() and "raise LawBroken" not in done.stdout.str()


def test_what_is_declared_is_an_expected_failure_strictly(pytester, monkeypatch):
    cell = type("Declared", (NoMemory,), {"expected_failures": {"gradient_flow": "so be it", "causality": "no"}})
    monkeypatch.setattr(plugins, "cell", {"declared": cell}.get)
    done = pytester.runpytest("--textgen-cell=declared", "-k", "gradient_flow or causality or recurrent_mask", "-rxs")
    done.assert_outcomes(xfailed=1, failed=1, skipped=1, deselected=len(FAST) - 3)
    done.stdout.fnmatch_lines(["*XPASS(strict)*declared to fail: no*", "*only a GatedCell*"])


def test_five_lines_are_a_test_file(pytester):
    pytester.makepyfile(test_right=FIVE_LINES.format(cell="Right"), test_wrong=FIVE_LINES.format(cell="SeesTheFuture"))
    done = pytester.runpytest("-v")
    done.assert_outcomes(passed=3, failed=1, skipped=2)
    done.stdout.fnmatch_lines(["*test_conformance[[]Right-causality] PASSED*", "*[[]SeesTheFuture-causality] FAILED*"])


@pytest.mark.parametrize("name, said", [("lsmt", "Did you mean 'lstm'"), ("no such thing", "no cell named")])
def test_an_unknown_cell_is_refused_in_a_sentence(pytester, name, said):
    done = pytester.runpytest("--textgen-cell", name)
    assert done.ret == pytest.ExitCode.USAGE_ERROR
    assert said in done.stderr.str() + done.stdout.str()


def test_a_run_that_does_not_ask_for_it_imports_neither_torch_nor_the_library(tmp_path):
    (tmp_path / "test_nothing.py").write_text(
        "import sys\n\ndef test_nothing():\n"
        "    seen = {name for name in sys.modules if name.split('.')[0] in ('textgen', 'torch', 'numpy')}\n"
        "    assert seen == {'textgen', 'textgen.testing', 'textgen.testing.pytest_plugin'}\n"
    )
    alone = {**os.environ, "PYTHONPATH": "", "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}  # others import what they like
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "textgen.testing.pytest_plugin"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, env=alone)
    assert done.returncode == 0, done.stdout + done.stderr

"""The tests themselves: under which settings they are run, in which order, and that none forks."""

import itertools
import os
from pathlib import Path
from types import SimpleNamespace

import conftest
import machines
import pytest

ROOT = Path(__file__).parents[1]
VALUES = {
    "OPENBLAS_CORETYPE": {"Prescott", "Haswell", "SkylakeX"},
    "ATEN_CPU_CAPABILITY": {"default", "avx2"},
    "ONEDNN_MAX_CPU_ISA": {"SSE41", "AVX2"},
    "threads": {"1", "2", "4"},
    "LC_ALL": {"C"},
    "TZ": {"Pacific/Chatham"},
    "PYTHONHASHSEED": {"1", "2"},
    "shuffle": {"1"},
}


def test_every_setting_occurs_in_the_first_rows():
    seen = {name: {row[place] for row in machines.ROWS[:3]} - {None} for place, name in enumerate(machines.COLUMNS)}
    assert seen == VALUES and len(machines.ROWS) <= 5
    assert all((ROOT / "tests" / name).exists() for name in machines.NUMERIC)


@pytest.mark.parametrize(
    ("has", "lacking"),
    [
        ({"X86", "SSE3", "SSE41", "AVX2", "AVX512F"}, []),
        ({"X86", "SSE3", "SSE41", "AVX2"}, ["SkylakeX"]),
        ({"X86", "SSE3"}, ["SSE41", "Haswell", "avx2", "AVX2", "SkylakeX"]),
        (set(), ["Prescott", "default", "SSE41", "Haswell", "avx2", "AVX2", "SkylakeX"]),
    ],
    ids=["AVX-512", "AVX2", "SSE3", "not x86-64"],
)
def test_what_a_processor_lacks_is_left_out(has, lacking):
    found = [machines.possible(row, has) for row in machines.ROWS[:3]]
    assert [name for _, names in found for name in names] == lacking
    assert [settings["threads"] for settings, _ in found] == ["1", "2", "4"]
    assert not set(lacking) & {value for settings, _ in found for value in settings.values()}


def shuffled(seed):
    """Five tests of each of five files, in the order that a seed gives them."""
    tests = [(f"test_{file}.py", f"test_{file}.py::{name}") for file in "abcde" for name in "12345"]
    items = [SimpleNamespace(path=Path(path), nodeid=nodeid) for path, nodeid in tests]
    conftest.pytest_collection_modifyitems(SimpleNamespace(getoption=lambda name: seed), items)
    return [item.nodeid for item in items]


def test_a_seed_decides_the_order_and_files_stay_together():
    usual = shuffled(None)
    assert usual == sorted(usual) != shuffled(1) != shuffled(2) and shuffled(1) == shuffled(1)
    assert sorted(shuffled(1)) == usual
    assert len([path for path, _ in itertools.groupby(shuffled(1), lambda name: name.split("::")[0])]) == 5


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_no_test_forks_the_process_of_all_tests():
    with pytest.raises(RuntimeError, match=r"process\.py"):
        os.fork()

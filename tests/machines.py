"""The tests under the settings in which correct machines differ: BLAS kernels, instruction sets, threads, locale, zone.

`python -m tests.machines` runs the numeric tests under the first rows, in which each setting occurs once;
`python -m tests.machines --whole` runs the whole suite under every row. A setting that this processor does not have is
left out and named.
"""

import argparse
import os
import platform
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]
COLUMNS = ("OPENBLAS_CORETYPE", "ATEN_CPU_CAPABILITY", "ONEDNN_MAX_CPU_ISA", "threads", "LC_ALL", "TZ")
COLUMNS += ("PYTHONHASHSEED", "shuffle")
ROWS = [
    ("Prescott", "default", "SSE41", "1", "C", None, "1", None),
    ("Haswell", "avx2", "AVX2", "2", None, "Pacific/Chatham", "2", None),
    ("SkylakeX", None, None, "4", None, None, "1", "1"),
    ("Haswell", "default", "AVX2", "4", "C", "Pacific/Chatham", "1", None),
    ("Prescott", "avx2", "SSE41", "2", None, None, "2", None),
]
NUMERIC = ["test_cells.py", "test_gates.py", "test_testing.py", "test_runtime.py", "test_trace.py", "test_int8.py"]
NUMERIC += ["test_sampling.py", "test_generate.py", "test_beams.py", "test_session.py", "test_training.py"]
NUMERIC += ["test_compiling.py", "test_optimization.py", "test_sampled_softmax.py", "test_dropout.py"]
NUMERIC += ["test_evaluate.py", "test_coder.py", "test_streams.py", "test_healing.py", "test_serving.py"]
NUMERIC += ["test_export.py"]
OF_THE_PROCESSOR = {"OPENBLAS_CORETYPE": "AVX2", "ATEN_CPU_CAPABILITY": "AVX2", "ONEDNN_MAX_CPU_ISA": "AVX2"}
NEEDED = {"Prescott": "SSE3", "default": None, "SSE41": "SSE41", "SkylakeX": "AVX512F"}
"""What the processor must have for a setting; AVX2 for those that are not here."""


def features():
    """The instruction sets of this processor by numpy's names; none where it is not an x86-64."""
    if platform.machine().lower() not in ("x86_64", "amd64"):
        return set()
    from numpy._core._multiarray_umath import __cpu_features__

    return {"X86"} | {name for name, there in __cpu_features__.items() if there}


def possible(row, has):
    """The settings of a row that this processor has, and the names of the others."""
    settings = {name: value for name, value in zip(COLUMNS, row, strict=True) if value is not None}
    needed = {name: NEEDED.get(settings[name], "AVX2") or "X86" for name in OF_THE_PROCESSOR if name in settings}
    lacking = [name for name, feature in needed.items() if feature not in has]
    return {name: value for name, value in settings.items() if name not in lacking}, [settings[n] for n in lacking]


def run(row, has, arguments):
    """Run pytest under a row; returns its exit code."""
    settings, lacking = possible(row, has)
    print("==", *(f"{name}={value}" for name, value in settings.items()), flush=True)
    if lacking:
        print(f"left out, which this processor does not have: {', '.join(lacking)}", flush=True)
    threads, shuffle = settings.pop("threads"), settings.pop("shuffle", None)
    variables = ("SUITE_THREADS", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
    environment = {**os.environ, **settings, **dict.fromkeys(variables, threads)}
    order = ["--shuffle", shuffle] if shuffle else []
    began = time.monotonic()
    done = subprocess.run([sys.executable, "-m", "pytest", *order, *arguments], cwd=ROOT, env=environment)
    print(f"exit code {done.returncode} after {time.monotonic() - began:.0f} s", flush=True)
    return done.returncode


def main():
    parser = argparse.ArgumentParser(prog="python -m tests.machines", description=__doc__)
    parser.add_argument("--whole", action="store_true", help="the whole suite under every row")
    parser.add_argument("--row", type=int, help="only this one, from 1")
    parser.add_argument("--jobs", default="2", help="processes of pytest")
    chosen, more = parser.parse_known_args()
    arguments = ["-q", "-n", chosen.jobs, *more]
    if not chosen.whole:
        arguments += [*(f"tests/{name}" for name in NUMERIC), *map(str, sorted(ROOT.glob("plugins/*/tests")))]
    rows = ROWS if chosen.whole else ROWS[:3]
    if chosen.row:
        rows = [ROWS[chosen.row - 1]]
    has = features()
    failed = [row for row in rows if run(row, has, arguments)]
    print(f"{len(rows) - len(failed)} of {len(rows)} runs passed.")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())

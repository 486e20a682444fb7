"""Laws of missing packages: what needs one says so in a sentence, with what to install; everything else works."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from textgen.errors import TextgenError, missing, needed, require

PROGRAM = """
import sys
from importlib.abc import MetaPathFinder

class Gone(MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in sys.argv[1].split(","):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Gone())
from textgen.cli import main
for arguments in sys.argv[2].split("|"):
    sys.stderr.write(f"[{arguments}] {main(arguments.split())}\\n")
"""
TINY = "--max-steps 2 --hidden-size 4 --embedding-size 4 --threads 1 --tokenizer char --batch-size 2 --seq-length 8"


def without(packages, *commands):
    """The lines of standard error for each command, its exit code last, where some packages are not installed."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, packages, "|".join(commands)],
        capture_output=True, text=True, check=True, env={**os.environ, "TEXTGEN_LOAD_PLUGINS": ""},
    )  # fmt: skip
    parts, lines = [], []
    for line in done.stderr.splitlines():
        lines.append(line)
        if line.startswith("["):
            parts.append((lines[:-1], int(line.rpartition(" ")[2])))
            lines = []
    return parts


@pytest.fixture(scope="module")
def desk(tmp_path_factory):
    """A folder with a text and a trained model."""
    folder, before = tmp_path_factory.mktemp("desk"), Path.cwd()
    os.chdir(folder)
    Path("notes.txt").write_text("A small fox sat on a stone.\n" * 80)
    from textgen.cli import main

    assert main(["train", "notes.txt", *TINY.split()]) == 0
    yield folder
    os.chdir(before)


def test_without_torch_a_sentence_says_what_is_missing(desk):
    wanted = {
        f"train notes.txt {TINY}": "training",
        "train --resume runs/lstm-notes-1": "training",
        "compare notes.txt --cells rnn,gru --budget params=1k,tokens=64": "training",
        "plugins": "loading plugins",
        "plugins check rnn": "checking a cell",
        "cells show gru": "describing a cell",
        "sample -n 3 --backend torch": "running a model without its stored step",
    }
    for (lines, code), purpose in zip(without("torch", *wanted), wanted.values(), strict=True):
        assert code == 1
        assert lines == [
            f"Error: {purpose} needs torch, which is not installed.",
            "Hint: pip install 'textgen-lm[train]'",
        ]


def test_without_torch_everything_else_works(desk):
    commands = ["cells", "--help", "runs", "sample -n 3 --seed 1", "evaluate notes.txt", "env", "train --help"]
    assert [code for _, code in without("torch", *commands)] == [0] * len(commands)


TRAINING = "torch,datasets,pyarrow,pandas,huggingface_hub,fsspec,httpx,requests,matplotlib,onnxruntime"
"""What the light install does not bring."""


def test_the_light_install_runs_models_of_every_task(desk):
    from textgen.cli import main

    Path("pairs.csv").write_text("prompt,completion\n" + "say fox,fox!\nsay hen,hen!\nsay den,den!\n" * 20)
    Path("labels.csv").write_text("text,label\n" + "a fine day,pos\na dull day,neg\n" * 20)
    days = [f"2026-{m:02}-{d:02},{d + m}\n" for m in (1, 3, 5, 7, 8) for d in range(1, 32)]
    Path("sales.csv").write_text("day,sales\n" + "".join(days[:124]))
    Path("more.csv").write_text("day,sales\n" + "".join(days))
    tiny = "--max-steps 2 --hidden-size 4 --embedding-size 4 --threads 1"
    columns = {
        "pairs": "--prompt-column prompt --completion-column completion --tokenizer char",
        "labels": "--label-column label",
        "sales": "--target-column sales --horizon 3",
    }
    for name, options in columns.items():
        assert main(f"train {name}.csv {options} {tiny} --output-dir runs/{name}".split()) == 0
    commands = [
        *("sample -m runs/pairs -p say", "evaluate -m runs/pairs", "evaluate -m runs/pairs pairs.csv"),
        *("predict -m runs/labels labels.csv", "evaluate -m runs/labels", "evaluate -m runs/labels labels.csv"),
        *("predict -m runs/sales sales.csv", "evaluate -m runs/sales", "evaluate -m runs/sales more.csv"),
        *("sample -m runs/lstm-notes-1 -n 3", "evaluate -m runs/lstm-notes-1", "runs show pairs"),
        "compress notes.txt -m runs/lstm-notes-1",
    ]
    for command, (lines, code) in zip(commands, without(TRAINING, *commands), strict=True):
        assert code == 0, (command, lines)


@pytest.mark.parametrize(
    "package, command, error, hint",
    [
        ("sentencepiece", f"train notes.txt {TINY.replace('char', 'bpe')} --vocab-size 300",
         "a subword tokenizer needs sentencepiece, which is not installed.", "pip install sentencepiece"),
        ("datasets", "train hub:someone/something",
         "reading data sets from the Hub needs datasets, which is not installed.", "pip install 'textgen-lm[train]'"),
        ("pyarrow", "train table.parquet",
         "reading parquet files needs pyarrow, which is not installed.", "pip install 'textgen-lm[train]'"),
        ("safetensors", "sample -m runs/lstm-notes-1 -n 3 --backend torch",
         "reading and writing weights needs safetensors, which is not installed.", "pip install safetensors"),
    ],
)  # fmt: skip
def test_so_it_is_for_other_packages(desk, package, command, error, hint):
    Path("table.parquet").write_bytes(b"PAR1")
    ((lines, code),) = without(package, command)
    assert (code, lines) == (1, [f"Error: {error}", f"Hint: {hint}"])


def test_a_package_that_is_there_and_broken_is_not_said_to_be_missing():
    with pytest.raises(TextgenError, match=r"needs torch, which cannot be imported \(libtorch\.so: no such file\)\."):  # noqa: SIM117
        with needed("torch"):
            raise ImportError("libtorch.so: no such file", name="torch")
    with pytest.raises(TextgenError, match=r"cannot be imported \(No module named 'sympy'\)"), needed("torch"):
        raise ModuleNotFoundError("No module named 'sympy'", name="sympy")


def test_only_imports_of_our_packages_are_explained(monkeypatch):
    assert missing(ImportError("odd")) is None and missing(RuntimeError("torch")) is None
    assert missing(ModuleNotFoundError("No module named 'x'", name="x")) is None
    assert "needs torch" in str(missing(ModuleNotFoundError("gone", name="torch.nn")))
    require("json", "nothing")
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(TextgenError, match="training needs torch, which is not installed"):
        require("torch")

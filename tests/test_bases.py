"""Installed models by name, half-precision weights, and what a model remembers of the one it started from."""

import json
import re
import shutil
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from installing import registering, site
from resuming import same_bits_when_resumed
from safetensors.torch import load_file, save_file
from test_runtime import made, saved

import textgen
from textgen import plugins
from textgen.cli import group, main
from textgen.errors import TextgenError
from textgen.generation.language_model import load
from textgen.model import CARD, WEIGHTS, ModelConfig, find_model, read_config
from textgen.model.bases import listed, record_of, sentences
from textgen.model.stack import build_model
from textgen.model.weights import load_weights
from textgen.runtime import quantize
from textgen.storage import DamagedError, filesystem, read_manifest
from textgen.tasks import TrainOptions, options_for
from textgen.training import pretrained
from textgen.training.optimization import make_optimizer
from textgen.training.planner import FINETUNING_DECAY
from textgen.training.start import start

TEXT = "the fox ran to the den and the hen ran home\n" * 60
TINY = ["--hidden-size", "4", "--max-steps", "2", "--sample-steps", "0", "--threads", "1"]
HEADER = """---
library_name: textgen
license: cc0-1.0
datasets:
- old books
- "new notes"
---
# fox

A model of foxes.
"""


def run(*arguments):
    return CliRunner().invoke(group, list(map(str, arguments)))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return saved(tmp_path_factory.mktemp("models") / "lstm", *made(embedding_size=48, hidden_size=64))


@pytest.fixture
def installed(tmp_path, monkeypatch):
    """A package that offers the model `base-fox`; returns the folder of the model."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TEXTGEN_LOAD_PLUGINS", "textgen-base")
    Path("notes.txt").write_text(TEXT)
    assert main(["train", "notes.txt", *TINY, "--tokenizer", "char", "--output-dir", "made"]) == 0
    with site(tmp_path / "site") as packages:
        source = registering("base-fox", kind="models").replace(", HERE)", ", HERE / 'fox')")
        packages.install("base", source, ["base-fox"], kind="models", summary="A model of foxes.")
        Path("made").rename(packages.folder / "fox")
        (packages.folder / "fox" / "training_args.json").unlink()
        filesystem.replace_in_folder(packages.folder / "fox", CARD, HEADER.encode())
        yield packages.folder / "fox"


# --- by name ---


def test_an_installed_model_is_found_by_name_wherever_a_model_is_named(installed, capfd):
    assert find_model("base-fox") == installed
    options = {"seed": 1, "max_new_tokens": 5}
    texts = [textgen.generate(textgen.load(each), "the", **options) for each in ("base-fox", installed)]
    assert texts[0] == texts[1]
    capfd.readouterr()
    assert main(["sample", "-m", "base-fox", "-n", "5", "--seed", "1", "--prompt", "the"]) == 0
    assert main(["evaluate", "-m", "base-fox", "notes.txt"]) == 0
    Path("base-fox").mkdir()
    assert find_model("base-fox") == Path("base-fox"), "a folder comes before a package"


def test_a_name_that_is_almost_right_is_corrected(installed):
    answer = run("sample", "-m", "base-fax", "--prompt", "the")
    assert answer.exit_code == 1 and "no model folder 'base-fax'. Did you mean 'base-fox'?" in str(answer.exception)
    answer = run("models", "show", "base-fax")
    assert answer.exit_code == 1 and "no installed model 'base-fax'. Did you mean" in str(answer.exception)


def test_without_a_run_an_installed_model_is_suggested(installed):
    shutil.rmtree("runs", ignore_errors=True)
    assert "-m base-fox" in run("sample", "--prompt", "the").exception.hint


def test_installed_models_are_listed_and_described(installed):
    rows = json.loads(run("models", "--json").output)
    assert rows == json.loads(run("models", "list", "--json").output)
    assert rows == [{"model": "base-fox", "package": "textgen-base 1.0", "about": "A model that knows English."}]
    assert "A model that knows English." in run("models").output
    shown = run("models", "show", "base-fox").output
    assert "lstm 1 x 4" in shown and "A model of foxes." in shown and "license:" not in shown
    content = json.loads(run("models", "show", "base-fox", "--json").output)
    assert content["hidden_size"] == 4 and content["card"] == HEADER and content["folder"] == str(installed)


def test_without_any_the_list_says_how_to_get_one(monkeypatch):
    monkeypatch.setenv("TEXTGEN_LOAD_PLUGINS", "none")
    assert "No pretrained models are installed" in run("models").stderr and run("models").stdout == ""
    assert json.loads(run("models", "--json").stdout) == []


@pytest.mark.parametrize("name", [WEIGHTS, "config.json"])
def test_a_damaged_one_is_one_sentence(installed, name):
    content = bytearray((installed / name).read_bytes())
    content[len(content) // 2] ^= 1
    (installed / name).write_bytes(content)
    for arguments in (("sample", "-m", "base-fox"), ("train", "notes.txt", "--init-from", "base-fox")):
        answer = run(*arguments)
        assert answer.exit_code == 1 and isinstance(answer.exception, DamagedError), answer.output
        assert name in str(answer.exception) and "\n" not in str(answer.exception)


# --- what a model remembers ---


def test_a_model_remembers_its_base_and_its_card_names_it(installed, capfd):
    assert main(["train", "notes.txt", "--init-from", "base-fox", *TINY[2:], "--output-dir", "one"]) == 0
    again = next(line for line in capfd.readouterr().err.splitlines() if line.startswith("again"))
    assert "--init-from base-fox" in again and "--tokenizer" not in again
    base = read_config(Path("one")).base
    assert base["name"] == "base-fox" and base["package"] == "textgen-base 1.0" and base["license"] == "cc0-1.0"
    assert base["digest"] == read_manifest(installed)["files"][WEIGHTS]["sha256"]
    card = Path("one", CARD).read_text()
    assert 'base_model: "base-fox"' in card.partition("\n---\n")[0]
    began = "Its training started from base-fox, package textgen-base 1.0; "
    assert f"{began}trained on old books, new notes; license cc0-1.0." in card
    assert main(["train", "notes.txt", "--init-from", "one", *TINY[2:], "--output-dir", "two"]) == 0
    assert read_config(Path("two")).base["base"] == base
    assert "The training of one started from base-fox" in Path("two", CARD).read_text()
    assert not read_config(installed).base and "base_model" not in Path(installed, CARD).read_text()


def test_the_search_for_copies_says_that_the_text_of_the_base_is_not_searched(installed):
    assert main(["train", "notes.txt", "--init-from", "base-fox", *TINY[2:], "--output-dir", "one"]) == 0
    for asked in (["--report-copies"], ["--max-copy", "40"]):
        answer = run("sample", "-m", "one", "-n", "5", *asked)
        assert answer.exit_code == 0 and "not in that of base-fox" in answer.stderr, answer.output
    assert "base-fox" not in run("sample", "-m", "one", "-n", "5").stderr


def test_a_card_is_read_as_it_is_written():
    assert listed(HEADER, "datasets") == ["old books", "new notes"] and listed(HEADER, "license") == ["cc0-1.0"]
    assert listed(HEADER, "language") == [] and listed("# no header", "license") == []
    assert listed("---\nlicense:\n---\n", "license") == []
    assert sentences({}) == "" and sentences({"name": "x"}) == "Its training started from x."


def test_a_folder_is_remembered_by_its_name(folder):
    assert record_of(str(folder), folder)["name"] == "lstm" and not record_of(str(folder), folder)["package"]


# --- a plan that starts from a base ---


def chosen(monkeypatch, fitting=99.0, paths=("notes.txt",), **options):
    """The name of the base that is chosen, or None, and the warnings."""
    monkeypatch.setattr(pretrained, "FITTING", fitting)
    found, warnings = pretrained.choose(paths, options_for({"minutes": 1.0, **options}))
    return found and found.name, warnings


def test_a_plan_starts_from_a_base_that_knows_the_text(installed, capfd, monkeypatch):
    monkeypatch.setattr(pretrained, "FITTING", 99.0)
    assert main(["train", "notes.txt", "--minutes", "0.03", "--threads", "1", "--output-dir", "one"]) == 0
    said = {line.split()[0]: line for line in capfd.readouterr().err.splitlines() if line.strip()}
    assert re.search(r"base-fox, which predicts this text at \d\.\d\d bits per byte; --init-from none", said["from"])
    assert "--init-from base-fox" in said["again"] and "lstm 1 x 4" in said["model"]
    assert read_config(Path("one")).base["name"] == "base-fox"
    again = said["again"].split()[1:]
    assert main(["train", "notes.txt", *again, "--output-dir", "two", "-q"]) == 0
    assert Path("one", WEIGHTS).read_bytes() == Path("two", WEIGHTS).read_bytes(), "again repeats the run"
    words = ["train", "notes.txt", "--minutes", "0.03", "--threads", "1", "--init-from", "none", "--output-dir", "new"]
    assert main(words) == 0
    assert not read_config(Path("new")).base


@pytest.mark.parametrize(
    "options",
    [
        {"init_from": "none"}, {"init_from": "runs/x"}, {"cell": "gru"}, {"hidden_size": 8}, {"size": "small"},
        {"num_layers": 2}, {"tokenizer": "char"}, {"vocab_size": 300}, {"tie_weights": True}, {"max_steps": 3},
        {"epochs": 1.0}, {"cell_options": {"forget_bias": 0.0}}, {"embedding_size": 4}, {"task": "classify"},
    ],
    ids=str,
)  # fmt: skip
def test_a_base_is_not_chosen_against_what_is_given(installed, monkeypatch, options):
    assert chosen(monkeypatch, **options) == (None, [])


def test_a_base_is_chosen_only_for_texts_that_it_knows(installed, monkeypatch):
    assert chosen(monkeypatch) == ("base-fox", [])
    assert chosen(monkeypatch, seed=3, dropout=0.1, lines=False) == ("base-fox", [])
    assert chosen(monkeypatch, fitting=0.01) == (None, [])
    Path("many").mkdir()
    for number in range(3):
        Path("many", f"{number}.txt").write_text(TEXT)
    assert chosen(monkeypatch, paths=("many",)) == ("base-fox", [])
    assert main(["tokenize", "notes.txt", "--tokenizer", "char", "--output-dir", "tokens"]) == 0
    assert chosen(monkeypatch, paths=("tokens",)) == (None, []), "its tokens are decided"
    assert chosen(monkeypatch, paths=("hub:somebody/texts",)) == (None, [])


def test_a_base_that_does_not_work_is_named_and_training_goes_on(installed, monkeypatch, capfd):
    (installed / WEIGHTS).write_bytes(b"")
    found, (warning,) = chosen(monkeypatch)
    assert found is None and warning.startswith("base-fox is not used: ") and WEIGHTS in warning
    assert main(["train", "notes.txt", "--minutes", "0.03", "--threads", "1", "--output-dir", "one"]) == 0
    assert "base-fox is not used" in capfd.readouterr().err


def test_lower_layers_learn_more_slowly_when_training_starts_from_a_model(installed):
    assert main(["train", "notes.txt", "--init-from", "base-fox", *TINY[2:], "--output-dir", "one"]) == 0
    assert main(["train", "notes.txt", *TINY, "--tokenizer", "char", "--output-dir", "new"]) == 0
    decay = {name: json.loads(Path(name, "training_args.json").read_text())["options"]["layer_decay"]
             for name in ("one", "new")}  # fmt: skip
    assert decay == {"one": FINETUNING_DECAY, "new": 1.0}
    model = build_model(ModelConfig(7, hidden_size=6, num_layers=2), plugins.cell("lstm"))
    optimizer = make_optimizer(model, TrainOptions(layer_decay=0.5))
    rates = {id(p): group["rate"] for group in optimizer.param_groups for p in group["params"]}
    named = {name: rates[id(p)] for name, p in model.named_parameters()}
    assert all(rate == 0.125 for name, rate in named.items() if name.startswith("encoder."))
    assert all(rate == 1.0 for name, rate in named.items() if name.startswith("readout."))
    assert {rate for name, rate in named.items() if name.startswith("stack.")} == {0.25, 0.5}
    tied = build_model(ModelConfig(7, embedding_size=5, hidden_size=6, tie_word_embeddings=True), plugins.cell("lstm"))
    (rate,) = {group["rate"] for group in make_optimizer(tied, TrainOptions(layer_decay=0.5)).param_groups
               if any(p is tied.encoder.weight for p in group["params"])}  # fmt: skip
    assert rate == 1.0, "embeddings that are also the readout learn like it"


# --- half precision ---


def test_a_finetuned_run_resumes_with_the_same_bits(installed):
    """Also without the base, whose weights are needed only once."""
    options = {"init_from": "base-fox", "max_steps": 9, "eval_steps": 4, "sample_steps": 0, "threads": 1, "seed": 3}
    whole, cut = (start(["notes.txt"], options_for({**options, "output_dir": name}), time.monotonic())
                  for name in ("whole", "cut"))  # fmt: skip
    same_bits_when_resumed(whole, cut, 4, lambda: installed.rename(installed.with_name("gone")))


def test_half_precision_is_read_alike_by_both_backends(folder, tmp_path):
    before, after = quantize(folder, tmp_path / "half", dtype="float16")
    assert 0.49 < after / before < 0.55
    config, manifest = read_config(tmp_path / "half"), read_manifest(tmp_path / "half")
    tensors = load_weights(tmp_path / "half", manifest, config).state_dict()
    for name, tensor in load_file(folder / WEIGHTS).items():
        assert tensors[name].dtype == torch.float32 and torch.equal(tensors[name], tensor.half().float())
    ids = np.random.default_rng(0).integers(0, 12, (3, 12)).astype(np.int32)
    logits = []
    for backend in ("numpy", "torch"):
        stepper = load(tmp_path / "half", backend).stepper
        logits.append(stepper.forward(ids, stepper.initial_state(3))[0])
    np.testing.assert_allclose(*logits, atol=1e-4)


def test_half_precision_can_be_trained_further(installed):
    quantize(installed, Path("half"), dtype="float16")
    assert main(["train", "notes.txt", "--init-from", "half", *TINY[2:], "--output-dir", "one"]) == 0
    assert all(tensor.dtype == torch.float32 for tensor in load_file(Path("one", WEIGHTS)).values())


def test_a_number_too_large_for_half_precision_is_refused(folder, tmp_path):
    shutil.copytree(folder, tmp_path / "large")
    tensors = load_file(tmp_path / "large" / WEIGHTS)
    name = next(iter(tensors))
    tensors[name].view(-1)[0] = 1e5
    save_file(tensors, tmp_path / "weights")
    filesystem.replace_in_folder(tmp_path / "large", WEIGHTS, (tmp_path / "weights").read_bytes())
    with pytest.raises(TextgenError, match=f"{name!r} holds a number that float16 cannot hold"):
        quantize(tmp_path / "large", tmp_path / "half", dtype="float16")
    assert not (tmp_path / "half").exists()
    with pytest.raises(TextgenError, match="dtype must be int8 or float16, not 'float8'"):
        quantize(folder, tmp_path / "half", dtype="float8")


def test_the_command_stores_half_precision(folder, tmp_path, capfd):
    assert main(["quantize", str(folder), str(tmp_path / "half"), "--dtype", "float16"]) == 0
    assert "MB (float16)" in capfd.readouterr().err
    assert run("quantize", folder, tmp_path / "half", "--dtype", "float8").exit_code == 2


def test_the_last_run_is_called_latest_wherever_a_model_is_named(installed, capfd):
    assert main(["train", "notes.txt", *TINY, "--tokenizer", "char", "--init-from", "none"]) == 0
    run = Path("runs", Path("runs", "latest").read_text().strip())
    for name in ("latest", "runs/latest", run.name):
        assert find_model(name) == run
        assert main(["sample", "-m", name, "-n", "3", "--seed", "1"]) == 0
    assert textgen.load("latest").folder == run
    Path("runs/latest").write_text("../elsewhere")
    assert not find_model("latest").is_dir()

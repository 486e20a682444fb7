"""Where settings come from, and which of them wins: command line, environment, file, built-in."""

import json

import pytest

from textgen.cli import main

TEXT = "one two three four five six seven eight nine ten\n" * 200
SMALL = ["--max-steps", "2", "--threads", "1", "--sample-steps", "0", "--progress", "none"]


@pytest.fixture
def corpus(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "notes.txt").write_text(TEXT)
    return tmp_path


def train(*arguments, config=()):
    assert (
        main([*config, "train", "notes.txt", *SMALL, "--output-dir", "run", "--overwrite-output-dir", *arguments]) == 0
    )
    with open("run/training_args.json") as file:
        return json.load(file)["options"]


def refused(capsys, arguments):
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert error.startswith("Error: ") and error.count("\n") <= 2
    return error


def test_the_command_line_wins_over_the_environment_and_that_over_the_file(corpus, monkeypatch):
    (corpus / "c.toml").write_text("[train]\nhidden-size = 5\n")
    assert train("--hidden-size", "7", config=["-c", "c.toml"])["hidden_size"] == 7
    assert train(config=["-c", "c.toml"])["hidden_size"] == 5
    monkeypatch.setenv("TEXTGEN_TRAIN_HIDDEN_SIZE", "6")
    assert train(config=["-c", "c.toml"])["hidden_size"] == 6
    assert train("--hidden-size", "7", config=["-c", "c.toml"])["hidden_size"] == 7


def test_a_file_of_the_folder_is_read_by_itself_and_spellings_agree(corpus):
    (corpus / "textgen.toml").write_text(
        '[train]\nnhid = 5\nlayer_norm = true\ncell = "rnn"\n[train.cell-options]\nnonlinearity = "relu"\n'
    )
    options = train()
    assert (options["hidden_size"], options["layer_norm"], options["cell"]) == (5, True, "rnn")
    assert options["cell_options"] == {"nonlinearity": "relu"}


def test_a_run_goes_on_whatever_a_file_proposes_for_new_ones(corpus, capsys):
    (corpus / "textgen.toml").write_text('[train]\ncell = "rnn"\n[train.cell-options]\nnonlinearity = "relu"\n')
    train()
    assert main(["train", "--resume", "run", "--progress", "none"]) == 0
    assert main(["train", "--resume", "run", "-o", "nonlinearity", "relu", "--progress", "none"]) == 0
    (corpus / "textgen.toml").write_text('[train]\ncell = "gru"\nhidden-size = 9\nmax-time = 5\n')
    assert main(["train", "--resume", "run", "--progress", "none"]) == 0
    capsys.readouterr()
    assert "--cell lstm cannot change" in refused(capsys, ["train", "--resume", "run", "--cell", "lstm"])
    said = refused(capsys, ["train", "--resume", "run", "-o", "nonlinearity", "tanh"])
    assert "cannot change on --resume" in said


def test_a_length_that_is_typed_wins_over_another_in_a_file(corpus, monkeypatch):
    (corpus / "textgen.toml").write_text("[train]\nminutes = 10\n")
    assert train()["max_steps"] == 2
    monkeypatch.setenv("TEXTGEN_TRAIN_EPOCHS", "3")
    assert (options := train())["max_steps"] == 2 and options["epochs"] is None


def test_the_arguments_of_a_run_repeat_it(corpus):
    first = train("--hidden-size", "6", "--cell", "rnn", "-o", "nonlinearity", "relu")
    weights = (corpus / "run" / "model.safetensors").read_bytes()
    (corpus / "run").rename(corpus / "before")
    again = train(config=["-c", "before/training_args.json"])
    assert weights == (corpus / "run" / "model.safetensors").read_bytes()
    assert {**again, "output_dir": None, "overwrite_output_dir": None} == {
        **first,
        "output_dir": None,
        "overwrite_output_dir": None,
    }


@pytest.mark.parametrize(
    ("content", "named"),
    [
        ("[train]\nhidden-sise = 5\n", "train has no option 'hidden-sise'. Did you mean 'hidden_size'?"),
        ("[train]\nhidden-size = 2.7\n", "--hidden-size must be a whole number from 1 to 65,536, not 2.7."),
        ("[train]\ndropout = nan\n", "--dropout must be a number from 0 to 0.95, not nan."),
        ("[trian]\nhidden-size = 2\n", "unknown command 'trian'. Did you mean 'train'?"),
        ("train = 5\n", "'train' must be a table of options, not 5."),
    ],
)
def test_what_no_option_knows_is_named(corpus, capsys, content, named):
    (corpus / "c.toml").write_text(content)
    assert named in refused(capsys, ["-c", "c.toml", "train", "notes.txt", *SMALL])


def test_a_config_file_that_is_missing_or_no_toml_is_named(corpus, capsys):
    assert "'c.toml' does not exist" in refused(capsys, ["-c", "c.toml", "train", "notes.txt"])
    (corpus / "c.toml").write_text("[train\n")
    assert main(["-c", "c.toml", "train", "notes.txt"]) == 1
    assert "'c.toml' is invalid" in capsys.readouterr().err


def test_runs_lists_and_shows_every_run(corpus, capsys):
    for _ in range(2):
        main(["train", "notes.txt", *SMALL, "--hidden-size", "5"])
    capsys.readouterr()
    assert main(["runs", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [row["run"] for row in rows] == ["lstm-notes-1", "lstm-notes-2"]
    assert all(row["step"] == row["steps"] == 2 and row["best_loss"] > 0 for row in rows)
    assert main(["runs", "path", "lstm-notes-1"]) == 0
    assert capsys.readouterr().out == "runs/lstm-notes-1\n"
    assert main(["runs", "show", "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["run"] == "lstm-notes-2" and shown["evaluations"][-1]["final"]


@pytest.mark.parametrize(("kind", "bits"), [("char", True), ("word", False)])
def test_a_figure_that_a_level_does_not_have_is_not_shown(corpus, capsys, kind, bits):
    quiet = SMALL[: SMALL.index("--progress")]
    assert main(["train", "notes.txt", *quiet, "--progress", "plain", "--hidden-size", "5", "--tokenizer", kind]) == 0
    lines = capsys.readouterr().err
    assert "eval_perplexity=" in lines and ("eval_bits_per_byte=" in lines) is bits and "nan" not in lines
    assert main(["runs", "show"]) == 0
    row = capsys.readouterr().out.splitlines()[-1].split()
    assert (row[0], row[3] == "-", row[-1]) == ("2", not bits, "final")
    assert main(["runs"]) == 0
    assert capsys.readouterr().out.split()[-1].startswith("-") is not bits


def test_runs_without_any_is_one_sentence(corpus, capsys):
    assert main(["runs"]) == 1
    assert capsys.readouterr().err.startswith("Error: no run in runs/.")

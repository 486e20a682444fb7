"""A tagger trains, stops and goes on, is scored and predicts, on sentences from a small grammar."""

import json
import random
import subprocess
import sys

import pytest

import textgen
from textgen.model import WEIGHTS

WORDS = {
    "DET": ["the", "a", "every", "this"],
    "NOUN": ["dog", "cat", "bird", "walk", "fish"],
    "VERB": ["sees", "likes", "walk", "fish"],
    "PUNCT": [".", "!"],
}
"""`walk` and `fish` are nouns or verbs: only the words around them tell."""
SHAPES = ["DET NOUN VERB DET NOUN PUNCT", "DET NOUN VERB PUNCT", "NOUN VERB DET NOUN PUNCT"]
TINY = {
    "task": "tag", "hidden_size": 16, "embedding_size": 8, "batch_size": 8, "learning_rate": 0.04, "max_steps": 100,
    "eval_steps": 20, "save_steps": 10, "save_total_limit": 9, "threads": 1,
}  # fmt: skip


def conll(sentences, seed, separator="\t"):
    chance = random.Random(seed)
    lines = []
    for _ in range(sentences):
        lines += [f"{chance.choice(WORDS[label])}{separator}{label}\n" for label in chance.choice(SHAPES).split()]
        lines.append("\n")
    return "".join(lines)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TEXTGEN_LOAD_PLUGINS", "textgen-tagger")
        folder = tmp_path_factory.mktemp("tagger")
        (folder / "train.conll").write_text(conll(120, 1))
        (folder / "test.conll").write_text(conll(30, 2, " "))
        textgen.train(folder / "train.conll", output_dir=str(folder / "runs" / "whole"), **TINY)
        yield folder


@pytest.fixture
def run(place, monkeypatch):
    monkeypatch.setenv("TEXTGEN_LOAD_PLUGINS", "textgen-tagger")
    monkeypatch.chdir(place)

    def run(*arguments, text=None):
        command = [sys.executable, "-m", "textgen", *map(str, arguments)]
        return subprocess.run(command, input=text, capture_output=True, text=True, encoding="utf-8")

    return run


def test_words_with_two_labels_are_told_apart_by_what_is_around_them(run, place):
    model = textgen.load(place / "runs" / "whole")
    sentences = [["the", "walk", "likes", "a", "fish", "."], ["this", "dog", "fish", "!"]]
    assert model.tag(sentences) == [["DET", "NOUN", "VERB", "DET", "NOUN", "PUNCT"], ["DET", "NOUN", "VERB", "PUNCT"]]


def test_a_run_that_was_stopped_goes_on_with_the_same_bits(run, place):
    folder = place / "runs" / "stopped"
    textgen.train("train.conll", output_dir=folder, max_time=1e-6, **TINY)
    assert not (folder / "checkpoint-100").exists()
    assert run("train", "--resume", folder, "--max-time", 10, "-q").returncode == 0
    for name in (WEIGHTS, "checkpoint-100/optimizer.safetensors"):
        assert (folder / name).read_bytes() == (place / "runs" / "whole" / name).read_bytes()


def test_accuracy_and_f1_are_those_of_the_predictions(run, place):
    scores = json.loads(run("evaluate", "-m", "whole", "test.conll", "--json").stdout)
    lines = (place / "test.conll").read_text().split("\n\n")
    sentences = [[line.split() for line in sentence.splitlines()] for sentence in lines if sentence.strip()]
    true = [label for sentence in sentences for _, label in sentence]
    model = textgen.load(place / "runs" / "whole")
    told = [label for labels in model.tag([[token for token, _ in each] for each in sentences]) for label in labels]
    assert scores["tokens"] == len(true) and scores["labels"] == sorted(WORDS)
    assert scores["accuracy"] == pytest.approx(sum(map(str.__eq__, true, told)) / len(true))
    hits = sum(a == b == "NOUN" for a, b in zip(true, told, strict=True))
    assert scores["f1"][1] == pytest.approx(2 * hits / (true.count("NOUN") + told.count("NOUN")))
    assert scores["accuracy"] > 0.9


def test_without_a_corpus_the_held_out_part_is_scored_as_at_the_end_of_training(run, place):
    last = json.loads((place / "runs" / "whole" / "metrics.jsonl").read_text().splitlines()[-1])
    scores = json.loads(run("evaluate", "-m", "whole", "--json").stdout)
    assert last["final"] and scores["accuracy"] == last["eval_accuracy"]
    assert scores["nats_per_token"] == pytest.approx(last["eval_loss"], rel=1e-4)
    assert "accuracy" in run("evaluate", "-m", "whole").stdout


def test_predictions_of_lines_and_of_conll_are_the_same(run):
    by_line = run("predict", "-m", "whole", "-", text="the dog sees .\n\na cat !\n").stdout
    assert by_line == "the\tDET\ndog\tNOUN\nsees\tVERB\n.\tPUNCT\n\na\tDET\ncat\tNOUN\n!\tPUNCT\n\n"
    answers = run(
        "predict", "-m", "whole", "-", "--json", "--conll", text="the DET\ndog\nsees\n.\n\n\na\ncat\n!"
    ).stdout
    first, second = (json.loads(line) for line in answers.splitlines())
    assert first == {"tokens": ["the", "dog", "sees", "."], "labels": ["DET", "NOUN", "VERB", "PUNCT"]}
    assert second == {"tokens": ["a", "cat", "!"], "labels": ["DET", "NOUN", "PUNCT"]}


def test_a_label_does_not_depend_on_the_sentences_beside_it(run, place):
    model = textgen.load(place / "runs" / "whole")
    sentences = [["the", "dog", "fish", "."] * n for n in (1, 7, 2)] * 40
    assert model.tag(sentences) == [model.tag([sentence])[0] for sentence in sentences]


def test_runs_list_the_task(run):
    assert run("runs").stdout.split("\n")[-2].split()[:3] == ["whole", "tag", "lstm"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("the DET\ndog\n", "line 2 of 'wrong.conll' must hold a token and its label, not 'dog'."),
        ("the DET\n\na b DET\n", "line 3 of 'wrong.conll' must hold a token and its label, not 'a b DET'."),
        ("\n \n", "there is no sentence in 'wrong.conll'."),
    ],
)
def test_a_wrong_file_is_one_sentence_with_its_line(run, place, text, message):
    (place / "wrong.conll").write_text(text)
    with pytest.raises(textgen.TextgenError) as raised:
        textgen.train("wrong.conll", task="tag", max_steps=1, output_dir="runs/wrong")
    done = run("evaluate", "-m", "whole", "wrong.conll")
    assert str(raised.value) == message and done.returncode == 1 and f"Error: {message}" in done.stderr


def test_an_unknown_label_is_named_with_those_that_are_known(run, place):
    (place / "wrong.conll").write_text("the DET\ndog NUON\n")
    done = run("evaluate", "-m", "whole", "wrong.conll")
    assert done.returncode == 1 and "line 2 of 'wrong.conll' has the label 'NUON'" in done.stderr
    assert "'DET', 'NOUN', 'PUNCT', 'VERB'. Did you mean 'NOUN'?" in done.stderr
    with pytest.raises(textgen.TextgenError, match=r"line 2 of 'wrong\.conll' has the label 'NUON'"):
        textgen.train("train.conll", task="tag", max_steps=1, validation_file="wrong.conll", output_dir="runs/wrong")


def test_the_package_of_the_task_is_recorded(place):
    made_with = json.loads((place / "runs" / "whole" / "training_args.json").read_text())["made_with"]
    assert made_with["package of task tag"].startswith("textgen-tagger ")


def test_the_options_of_the_task_have_their_section_and_their_limits(run):
    shown = run("train", "--task", "tag", "--help-all").stdout
    assert "Tagging (--task tag):" in shown and "--lookahead N" in shown
    assert run("train", "train.conll", "--task", "tag", "--lookahead", 101).returncode == 2
    planned = run("train", "train.conll", "--task", "tag", "--lookahead", 2, "--max-steps", 1, "--dry-run").stderr
    assert "4 labels" in planned and "--tokenizer" not in planned

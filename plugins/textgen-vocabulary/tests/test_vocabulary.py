"""The command counts the tokens of a text, and knows which embeddings are similar."""

import numpy as np
import pytest
from click.testing import CliRunner
from safetensors import numpy as safetensors
from textgen_vocabulary import similarities, vocabulary

import textgen

TEXT = "abba caba\n" * 30


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    (folder / "text.txt").write_text(TEXT)
    options = {"tokenizer": "char", "hidden_size": 8, "max_steps": 2, "threads": 1, "sample_steps": 0}
    return textgen.train(folder / "text.txt", output_dir=str(folder / "run"), **options)


def run(*arguments):
    return CliRunner().invoke(vocabulary, [str(argument) for argument in arguments])


def test_the_tokens_of_a_text_are_counted(model, tmp_path):
    (tmp_path / "text.txt").write_text("aaab b")
    done = run("-m", model, tmp_path / "text.txt", "-n", 3)
    rows = [line.rsplit(maxsplit=2) for line in done.stdout.splitlines()]
    assert rows == [["'a'", "3", "(50.0%)"], ["'b'", "2", "(33.3%)"], ["' '", "1", "(16.7%)"]]
    assert done.stderr == "4 of 7 tokens are not used.\n"


def test_a_token_is_most_similar_to_itself(model):
    loaded = textgen.load(model)
    vectors = safetensors.load_file(loaded.folder / "model.safetensors")["encoder.weight"]
    a, b = (loaded.tokenizer.encode(letter)[0] for letter in "ab")
    cosine = vectors[a] @ vectors[b] / np.linalg.norm(vectors[a]) / np.linalg.norm(vectors[b])
    assert similarities(loaded, "a")[b] == pytest.approx(cosine, abs=1e-6)
    first, *others = [line.split() for line in run("-m", model, "--like", "a", "-n", 4).stdout.splitlines()]
    assert first == ["'a'", "1.000"] and len(others) == 3


@pytest.mark.parametrize("arguments", [[], ["--like", "ab"], ["nowhere.txt"], [__file__, "--like", "a"]])
def test_what_cannot_be_shown_is_a_usage_error(model, arguments):
    assert run("-m", model, *arguments).exit_code == 2

"""Co-writing, driven through a pipe; and the state and copies options of `textgen sample`."""

import io
import json

import pytest

import textgen
from textgen.cli import main


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cowrite")
    (folder / "notes.txt").write_text("the cat sat on the mat.\nthe dog lay by the door.\n" * 60)
    sizes = {"hidden_size": 24, "max_steps": 60, "threads": 1, "batch_size": 4, "seq_length": 16, "tokenizer": "char"}
    return textgen.train(folder / "notes.txt", output_dir=str(folder / "runs" / "r"), learning_rate=0.02, **sizes)


class Stdin(io.StringIO):
    """Lines on a pipe; 'Ctrl-C' raises where a person would have pressed it."""

    def readline(self, *size):
        line = super().readline(*size)
        if line == "Ctrl-C\n":
            raise KeyboardInterrupt
        return line


@pytest.fixture
def sample(run, capfd, monkeypatch):
    def call(*arguments, stdin=""):
        monkeypatch.setattr("sys.stdin", Stdin(stdin))
        code = main(["sample", "-m", str(run), *map(str, arguments)])
        captured = capfd.readouterr()
        return code, captured.out, captured.err

    return call


def talk(sample, *lines, **options):
    code, out, err = sample(
        "-i", "-s", "3", "-n", "60", *options.get("more", ()), stdin="".join(f"{x}\n" for x in lines)
    )
    assert code == 0, err
    return out.splitlines(), err


def test_a_text_kept_and_gone_on_with_is_the_text_of_one_run(sample, tmp_path):
    state = tmp_path / "here.state"
    whole = sample("-p", "the ", "-s", "5", "-n", "80")[1]
    first = sample("-p", "the ", "-s", "5", "-n", "30", "--save-state", state)[1]
    second = sample("-n", "50", "--load-state", state)[1]
    assert first[:-1] + second == whole
    forks = [sample("-n", "50", "--load-state", state, "-s", seed)[1] for seed in (1, 2, 1)]
    assert forks[0] == forks[2] != forks[1]
    several = sample("-n", "50", "--load-state", state, "-s", 1, "--num-samples", 2, "-0")[1].split("\0")
    assert [text + "\n" for text in several[:2]] == forks[:2]
    assert sample("-n", "9", "--load-state", state, "-p", "the dog", "--echo")[1].startswith("the dog")


def test_lines_take_turns_and_the_state_is_carried(sample, tmp_path):
    alone, _ = talk(sample, "", "", "")
    assert len(alone) == 3 and talk(sample, "", "", "")[0] == alone
    kept = tmp_path / "s"
    talk(sample, "", "", f"/save {kept}", "/quit", "", "")
    assert talk(sample, "", more=["--load-state", str(kept)])[0] != []
    state = tmp_path / "end"
    talk(sample, "", "", more=["--save-state", str(state)])
    assert state.read_bytes() == kept.read_bytes()


def test_undo_is_a_fork(sample, tmp_path):
    files = [tmp_path / name for name in "ab"]
    talk(sample, "the cat", f"/save {files[0]}")
    talk(sample, "the cat", "the dog", "", "/undo", "/undo", f"/save {files[1]}")
    assert files[0].read_bytes() == files[1].read_bytes()
    _, err = talk(sample, "a", "/keep", "/undo", "/again")
    assert err.count("there is no turn to undo.") == 2


def test_another_draft_comes_from_the_same_place(sample, tmp_path):
    options = {"more": ["--temperature", "3"]}
    lines, _ = talk(sample, "the cat", "/again", "/again", **options)
    assert len(lines) >= 3 and len(set(lines)) == len(lines)
    one, two = tmp_path / "one", tmp_path / "two"
    lines, err = talk(sample, "the cat", "/alternatives 2", "2", f"/save {one}", **options)
    numbered = [line for line in lines if line[:3] in ("1: ", "2: ")]
    assert len(numbered) == 2 and numbered[0][3:] != numbered[1][3:] and "Type a number" in err
    talk(sample, "the cat", "/alternatives 3", "2", f"/save {two}", **options)
    assert one.read_bytes() == two.read_bytes()
    assert "no number 9" in talk(sample, "/alternatives 2", "9", "1", **options)[1]


def test_a_line_may_be_gone_on_with_or_begin_with_a_slash(sample, tmp_path):
    for line, read in (("the do\\", "the do"), ("the do", "the do\n"), ("//x", "/x\n")):
        path = tmp_path / "s"
        talk(sample, line, f"/save {path}", more=["-n", "0"])
        assert path.read_bytes().endswith(read.encode())  # the last characters of the text


def test_commands_say_what_is_wrong_and_go_on(sample):
    lines, err = talk(sample, "/agin", "/temperature hot", "/temperature 0", "/alternatives x", "/save", "/help", "")
    assert "there is no command '/agin'. Did you mean 'again'?" in err
    assert "--temperature must be" in err and "'hot'" in err
    assert "/alternatives takes a whole number from 1 to 100, not 'x'." in err
    assert "/save needs the name of a file." in err and "undo the last turn" in err
    assert len(lines) == 1


def test_ctrl_c_ends_a_text_and_not_the_writing(sample, monkeypatch):
    from textgen.runtime import NumpyStepper

    steps, real = [], NumpyStepper.step

    def step(self, ids, state):
        steps.append(1)
        if len(steps) == 5:
            raise KeyboardInterrupt
        return real(self, ids, state)

    monkeypatch.setattr(NumpyStepper, "step", step)
    lines, err = talk(sample, "", "Ctrl-C", "")
    assert len(lines) == 2 and len(lines[0]) == 4 and "Ctrl-D or /quit leaves" in err


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--save-state", "s", "--num-samples", "2"], "--save-state keeps the state after one text, not after 2."),
        (["-i", "-p", "-"], "--interactive reads standard input itself; --prompt - cannot."),
        (["-i", "--json"], "--interactive and --json exclude each other."),
        (["--save-state", "s", "--num-beams", "2"], "--num-beams 2 keeps no state and continues from none."),
    ],
)
def test_options_that_exclude_each_other(sample, arguments, says):
    code, out, err = sample(*arguments)
    assert code == 2 and out == "" and f"Error: {says}\n" in err


def test_a_file_that_is_not_a_state_is_named(sample, tmp_path):
    wrong = tmp_path / "wrong"
    wrong.write_bytes(b"x" * 99)
    code, out, err = sample("--load-state", wrong)
    assert (
        code == 1
        and out == ""
        and err.splitlines()
        == [
            f"Error: {wrong} is not a saved state.",
            "Hint: textgen sample --save-state FILE saves one.",
        ]
    )


def test_copies_are_reported_and_steered_away_from(sample, run):
    text = "the cat sat on the mat.\nthe dog lay by the door.\n" * 60
    err = sample("-p", "the cat", "-n", "40", "--greedy", "--report-copies")[2]
    assert err.startswith("longest copy: ") and "of document 0 of the training text: " in err
    content = json.loads(sample("-p", "the cat", "-n", "40", "--greedy", "--report-copies", "--json")[1])
    copy = content["longest_copy"]
    assert copy["characters"] == len(copy["text"]) > 8
    assert text[copy["character"] :].startswith(copy["text"]) and copy["document"] == 0
    for seed in range(4):
        guarded = "the cat" + sample("-p", "the cat", "-n", "40", "-s", seed, "--max-copy", "8")[1][:-1]
        assert not any(guarded[a : a + 9] in text for a in range(len(guarded) - 8))


def test_a_model_whose_text_is_gone_says_so(sample, run):
    notes, tokens = run.parents[1] / "notes.txt", run.parent / ".tokens"
    notes.rename(notes.with_suffix(".away"))
    tokens.rename(tokens.with_name("away"))
    try:
        code, out, err = sample("--report-copies")
    finally:
        notes.with_suffix(".away").rename(notes)
        tokens.with_name("away").rename(tokens)
    assert code == 1 and out == "" and err.startswith("Error: the training text of ") and "is not available: " in err

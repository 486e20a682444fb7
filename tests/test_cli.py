"""Laws of the command: standard output holds the result alone, a mistake is one sentence, a seed repeats its bytes."""

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from contextlib import suppress
from functools import partial
from pathlib import Path
from unittest import mock

import click
import pytest
import torch
from terminal import refusal, run

from textgen.cli import COMMANDS, group, main
from textgen.cli.params import Value
from textgen.errors import LONGEST_END, visible
from textgen.generation import SampleOptions
from textgen.options import declared, flag, value_type
from textgen.tasks import TrainOptions
from textgen.training.trainer import Trainer

STORY = "".join(
    f"{who} saw a {what} by the {where}, and said: {say}!\n"
    for who in ("Tom", "Lily", "The old duck")
    for what in ("fox", "red kite", "boat")
    for where in ("pond", "gate", "mill", "sea")
    for say in ("Good day", "Come here")
)
near = partial(pytest.approx, rel=1e-5)
TINY = ["--hidden-size", "8", "--batch-size", "4", "--seq-length", "16", "--threads", "1"]


@pytest.fixture(autouse=True)
def desk(tmp_path, monkeypatch):
    """An empty folder to work in, with one story."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("TEXTGEN_MODEL", raising=False)
    (tmp_path / "story.txt").write_text(STORY)
    return tmp_path


@pytest.fixture(scope="session")
def trained(tmp_path_factory):
    """A small model, trained by the command."""
    folder = tmp_path_factory.mktemp("trained")
    (folder / "story.txt").write_text(STORY)
    sizes = ["--max-steps", "30", "--hidden-size", "16", "--threads", "1"]
    done = run("train", folder / "story.txt", *sizes, "--output-dir", folder / "runs" / "lstm-story-1")
    assert (done.code, done.out) == (0, b""), done.err
    return folder / "runs" / "lstm-story-1"


def sample(model, *arguments, **how):
    done = run("sample", "-m", model, *arguments, **how)
    assert done.code == 0, done.err
    return done


def runs():
    """What is in runs/, if there is such a folder."""
    return {path.name for path in Path("runs").glob("*")}


def weights(folder):
    return Path(folder, "model.safetensors").read_bytes()


# --- what costs nothing ---

LEAN = [
    [], ["--help"], ["-h"], ["--version"], ["cells"], ["cells", "list", "--json"], ["env"], ["env", "--json"],
    ["train", "--help-all"], *([verb, "--help"] for verb in COMMANDS),
    *(["completion", shell] for shell in ("bash", "zsh", "fish")),
]  # fmt: skip
DRIVER = """
import io, json, os, sys
from contextlib import redirect_stderr, redirect_stdout
from textgen.cli import main
for arguments in json.load(sys.stdin):
    with redirect_stdout(io.StringIO()) as out, redirect_stderr(io.StringIO()) as err:
        code = main(arguments)
    slow = {"torch", "numpy", "datasets", "sentencepiece", "rich", "pyarrow"} & sys.modules.keys()
    print(json.dumps([arguments, code, sorted(slow), bool(out.getvalue()), err.getvalue()]))
os.environ |= {"_TEXTGEN_COMPLETE": "bash_complete", "COMP_WORDS": "textgen train --cel", "COMP_CWORD": "2"}
print(json.dumps([main([]), sorted({"torch", "numpy", "datasets"} & sys.modules.keys())]))
"""

# --- mistakes: what is typed, the exit code, the sentence, the hint (as patterns that match from the beginning) ---

HELP = r"textgen.* --help(-all)? lists all (options|commands)\.$"
CHEAP = [
    ("trian story.txt", 2, r"No such command 'trian'\. Did you mean 'train'\?$", HELP),
    ("xyzzy", 2, r"No such command 'xyzzy'\.$", HELP),
    ("--nope", 2, r"No such option '--nope'\.$", HELP),
    ("train story.txt --hiden-size 3", 2, r"No such option '--hiden-size'\..*--hidden-size", HELP),
    ("train story.txt --progress loud", 2, r"Invalid value for '--progress': 'loud' is not one of 'auto'", HELP),
    ("train story.txt --max-steps", 2, r"Option '--max-steps' requires an argument\.$", None),
    ("train story.txt -o forget_bias", 2, r"Option '-o' requires 2 arguments\.$", None),
    ("train", 2, r"no corpus given\.$", r"textgen train FILE"),
    ("train strory.txt", 2, r"corpus 'strory\.txt' does not exist\. Did you mean 'story\.txt'\?$", None),
    ("train story.txt strory.txt", 2, r"corpus 'strory\.txt' does not exist\. Did you mean 'story\.txt'\?$", None),
    ("train *.md", 2, r"no file matches '\*\.md'\.$", None),
    ("train story.txt --cell lsmt", 2, r"no cell named 'lsmt'\. Did you mean 'lstm'\?$", r"installed: elman, gru"),
    ("train story.txt --minutes 1 --epochs 2", 2, r"--minutes and --epochs exclude each other; give one", None),
    ("train story.txt --max-steps 1 --epochs 2", 2, r"--epochs and --max-steps exclude each other", None),
    ("train story.txt --vocab-size 400 --tokenizer char", 2, r"--vocab-size goes with --tokenizer .*, not with char\.$",
     None),
    ("train story.txt --optimizer adamm", 2, r"--optimizer must be .*, not 'adamm'\. Did you mean 'adamw'\?$", None),
    ("train story.txt -o a 1 -o a 2", 2, r"cell option 'a' is given twice\.$", None),
    ("train story.txt -o a-b 1 -o a_b 2", 2, r"cell option 'a_b' is given twice\.$", None),
    ("train story.txt --resume", 2, r"--resume uses the corpus of the run; omit 'story\.txt'",
     r"textgen train story\.txt --init-from RUN"),
    ("train --resume nowhere", 1, r"there is no run 'nowhere' here or in runs/\.$", None),
    ("train --resume", 1, r"no run in runs/\.$", r"train one: textgen train FILE$"),
    ("tokenize", 2, r"no corpus given\.$", r"textgen tokenize FILE"),
    ("tokenize story.txt", 2, r"--output-dir is missing\.$", r"textgen tokenize FILE"),
    ("tokenize strory.txt --output-dir x", 2, r"corpus 'strory\.txt' does not exist\. Did you mean", None),
    ("tokenize story.txt --output-dir x --tokenizer byte --vocab-size 300", 2, r"--vocab-size goes with", None),
    ("tokenize story.txt --output-dir .", 1, r"'\.' exists already\.$", r"choose another --output-dir"),
    ("sample --prompt a --file b", 2, r"--prompt and --file exclude each other\.$", None),
    ("sample --file nowhere.txt", 2, r"prompt file 'nowhere\.txt' does not exist\.$", None),
    ("sample --file .", 1, r"\.: Is a directory\.$", None),
    ("sample --prompt \udc80", 1, r"the prompt is not UTF-8 text \(character 0\)\.$", None),
    ("sample --greedy --temperature 0.7", 2, r"--greedy and --temperature 0\.7 exclude each other\.$", None),
    ("sample --logprobs 3", 2, r"--logprobs goes with --json\.$", None),
    ("sample --stop ''", 2, r"--stop is empty; it must be the text to stop at\.$", None),
    ("sample", 1, r"no run in runs/\.$", r"train one: textgen train FILE$"),
    ("evaluate strory.txt", 2, r"corpus 'strory\.txt' does not exist\. Did you mean 'story\.txt'\?$", None),
    ("evaluate --encoding latin-1", 2, r"--encoding goes with a corpus\.$", None),
    ("cells shwo lstm", 2, r"No such command 'shwo'\. Did you mean 'show'\?$", HELP),
    ("cells show lsmt", 2, r"no cell named 'lsmt'\. Did you mean 'lstm'\?$", r"installed: "),
    ("cells show", 2, r"Missing argument 'NAME'\.$", HELP),
    ("completion bsh", 2, r"Invalid value for 'SHELL': 'bsh' is not one of 'bash', 'zsh', 'fish'\.$", HELP),
    ("completion", 2, r"Missing argument 'SHELL'\. Choose from: bash, zsh, fish", HELP),
]  # fmt: skip
DEAR = [
    ("train story.txt -o forget 1", 2, r"cell 'lstm' has no option 'forget'\. Did you mean 'forget_bias'\?$",
     r"its options: forget_bias"),
    ("train story.txt --cell gru -o x 1", 2, r"cell 'gru' has no option 'x'\.$", r"it has none\.$"),
    ("train story.txt -o forget_bias x", 2, r"cell option forget_bias must be a finite number, not 'x'\.$", None),
    ("train story.txt --device tpu", 2, r"--device must be auto, cpu, cuda or mps, not 'tpu'\.$", None),
    ("train story.txt --device cuda", 1, r"--device cuda: this torch .* (is built without CUDA|sees no GPU)\.$",
     r"--device auto uses cpu here\.$"),
    ("train story.txt --encoding nope", 2, r"unknown encoding 'nope'\.", None),
    ("train story.txt --tokenizer letter", 2, r"--tokenizer must be .* that holds a tokenizer, not 'letter'\.$", None),
    ("train story.txt --output-dir .", 1, r"'\.' exists already\.$", r"--resume \. continues it, --overwrite"),
    ("train story.txt --output-dir . --overwrite-output-dir", 1, r"'\.' is not a run of textgen, so it is not", None),
    ("train empty.txt", 1, r"corpus 'empty\.txt' has no text \(0 bytes\)\.$", None),
    ("train binary.bin", 1, r"'binary\.bin' is not UTF-8 text \(byte 0xff at offset 4\)\.$",
     r"--encoding auto detects the encoding of 'binary\.bin'"),
    ("train pipe", 1, r"'pipe' is a named pipe, not a file\.$", r"pipe it to standard input and name it -\.$"),
    ("train nothing", 1, r"no \.txt, .* file in 'nothing'\.$", None),
    ("sample -m nowhere", 1, r"there is no model folder 'nowhere'\.$", r"train one: textgen train FILE$"),
    ("sample -m nothing", 1, r"'nothing' is not a model folder \(it has no manifest\.json\)\.$", None),
    ("evaluate story.txt -m nothing", 1, r"'nothing' is not a model folder", None),
]  # fmt: skip


@pytest.fixture
def odd_files(desk):
    """Corpora that are none."""
    Path("empty.txt").touch()
    Path("binary.bin").write_bytes(b"good\xff\xfe")
    Path("nothing").mkdir()
    os.mkfifo("pipe")


def test_help_lists_and_usage_errors_import_nothing_slow(desk):
    typed = [*LEAN, *(shlex.split(line) for line, code, *_ in CHEAP if code == 2)]
    child = [sys.executable, "-c", DRIVER]
    done = subprocess.run(child, input=json.dumps(typed), capture_output=True, text=True, check=True)
    *lines, completion = [json.loads(line) for line in done.stdout.splitlines() if line[0] == "["]
    assert [(line[0], line[2]) for line in lines if line[2]] == []
    assert [line[0] for line in lines if line[1] != (0 if line[0] in LEAN else 2)] == []
    assert [line[0] for line in lines[: len(LEAN)] if not line[3] or line[4]] == []
    assert completion == [0, []] and "plain,--cell" in done.stdout


@pytest.mark.parametrize(
    ("line", "code", "sentence", "hint"), [*CHEAP, *DEAR], ids=[case[0] for case in [*CHEAP, *DEAR]]
)
def test_a_mistake_is_one_sentence_and_at_most_a_hint(odd_files, line, code, sentence, hint):
    if "cuda" in line and torch.cuda.is_available():
        pytest.skip("there is a GPU here")
    said, hinted = refusal(run(*shlex.split(line)), code)
    assert re.match(sentence, said), said
    assert (hinted is None) == (hint is None) and re.match(hint or "", hinted or ""), hinted
    assert runs() <= {".tokens"}


# --- options ---


def commands(command=group, name=()):
    """Every command with its words."""
    if isinstance(command, click.Group):
        for verb in command.list_commands(None):
            yield from commands(command.get_command(click.Context(command), verb), (*name, verb))
    yield name, command


ALL = [(" ".join(name), parameter) for name, command in commands() for parameter in command.params]
NUMBERS = [(name, p) for name, p in ALL if isinstance(p.type, Value) and p.type.kind in (int, float)]


def by_name(pairs):
    return pytest.mark.parametrize(("name", "option"), pairs, ids=[f"{name} {p.name}".strip() for name, p in pairs])


def wrong_numbers(option):
    limits, kind = option.type.declaration, option.type.kind
    yield from ("x", "", "nan", "NaN", "inf", "1e999", "-1e999", "1..2", "0x10", "1 2", "--", "9" * 5000)
    yield "1,x" if limits.cycle else "1,2"
    if kind is int:
        yield from ("2.7", "1e3", "10" * 200)
    if limits.low is not None:
        yield from (f"{limits.low - 1}", f"{-(10**9)}")
    if limits.above is not None:
        yield from (f"{limits.above}", "-1", "-0.0")
    if limits.high is not None:
        yield from (f"{limits.high + 1}", f"{limits.high * 10 + 1}")


@by_name(NUMBERS)
def test_a_number_outside_its_declaration_is_named_with_what_is_allowed(name, option):
    first = next(spelling for spelling in option.opts if spelling.startswith("--"))
    for number in wrong_numbers(option):
        for spelling in (option.opts[0], option.opts[-1]):
            said, hint = refusal(run(*name.split(), "x", spelling, number), 2)
            assert re.match(rf"{first} must be a (whole )?number.* (from|above|of at (least|most)) .*, not .*\.$", said)
            wrong = number.split(",")[-1] if option.type.declaration.cycle else number
            ends = (f"not {wrong!r}.", f"not {wrong}.", f"not {wrong}.0.")
            assert hint is None and said.endswith(tuple(end[-LONGEST_END:] for end in ends))
    assert not runs()


@by_name(NUMBERS)
def test_the_limits_themselves_are_allowed(name, option):
    limits, kind = option.type.declaration, option.type.kind
    for limit in {limits.low, limits.high} - {None}:
        taken = option.type.convert(str(limit), option, None)
        assert taken == limit and type(taken) is kind
    if kind is int and limits.high >= 1_000_000:
        assert option.type.convert("1,000,000", option, None) == 1_000_000


@by_name([(name, p) for name, p in ALL if isinstance(p, click.Option)])
def test_every_option_says_what_it_is_and_what_happens_without_it(name, option):
    assert option.help
    if isinstance(option.type, Value):
        assert "[default: " in option.help


@pytest.mark.parametrize(("verb", "settings"), [("train", TrainOptions), ("sample", SampleOptions)])
def test_every_setting_arrives_under_each_of_its_spellings(verb, settings):
    command = group.get_command(click.Context(group), verb)
    for field, limits in declared(settings):
        if field.name == "cell_options":
            continue
        kind, _ = value_type(settings, field.name)
        one = limits.high if kind in (int, float) else (limits.choices or ["x"])[0]
        value, typed = (True, []) if kind is bool else ((one,) if kind in (list, dict) else one, [str(one)])
        for spelling in (flag(field.name), *limits.also):
            assert command.make_context(verb, [spelling, *typed]).params[field.name] == value
        if kind is bool:
            assert command.make_context(verb, [flag(f"no_{field.name}")]).params[field.name] is False


# --- sampling ---


def test_the_same_seed_writes_the_same_bytes_and_another_seed_others(trained):
    texts = [sample(trained, "-n", "60", "--seed", seed).out for seed in (1, 2, 3, 1, 2, 3)]
    assert texts[:3] == texts[3:] and len(set(texts)) == 3
    assert all(len(text.decode()) == 61 and text.endswith(b"\n") for text in texts)


def test_each_of_several_texts_is_what_its_own_seed_writes(trained):
    alone = [sample(trained, "-n", "30", "--seed", seed).text[:-1] for seed in (5, 6, 7)]
    several = [trained, "-n", "30", "--seed", "5", "--num-samples", "3"]
    assert sample(*several, "-0").text == "".join(f"{text}\0" for text in alone)
    assert sample(*several).text == "\n".join(f"{text}\n" for text in alone)
    headed = [f"— {number} of 3 —\n{text}\n" for number, text in enumerate(alone, 1)]
    assert sample(*several, terminal=True).text == "\n".join(map(visible, headed))
    objects = [json.loads(line) for line in sample(*several, "--json").out.splitlines()]
    assert [(o["seed"], o["text"]) for o in objects] == list(zip((5, 6, 7), alone, strict=True))


def test_many_texts_are_written_together_and_numbered_by_seed(trained):
    several = [trained, "-n", "10", "--seed", "5", "--num-samples", "10"]
    objects = [json.loads(line) for line in sample(*several, "--json").out.splitlines()]
    assert [o["seed"] for o in objects] == list(range(5, 15)) and {o["tokens"] for o in objects} == {10}
    assert sample(*several, "-0").text == "".join(f"{o['text']}\0" for o in objects)


@pytest.mark.parametrize("options", [["-0"], ["--json"], ["--echo", "-p", "Tom"], ["--stop", "a"], ["-n", "0"], []])
def test_streaming_changes_no_byte(trained, options):
    arguments = [trained, "-n", "40", "--seed", "3", "--num-samples", "2", *options]
    assert sample(*arguments, "--stream").out == sample(*arguments, "--no-stream").out == sample(*arguments).out


def test_json_tells_the_text_its_seed_and_why_it_ended(trained):
    prompt = ["-p", 'Tom \t"é']
    (told,) = map(json.loads, sample(trained, "-n", "25", "--seed", "4", *prompt, "--json").out.splitlines())
    assert told.keys() == {"prompt", "text", "seed", "tokens", "finish_reason"}
    assert (told["prompt"], told["seed"], told["tokens"], told["finish_reason"]) == (prompt[1], 4, 25, "length")
    assert sample(trained, "-n", "25", "--seed", "4", *prompt).text == told["text"] + "\n"
    (stopped,) = map(json.loads, sample(trained, "-n", "99", "--seed", "4", "--stop", "a", "--json").out.splitlines())
    assert stopped["finish_reason"] == "stop" and "a" not in stopped["text"]


def test_logprobs_are_of_each_symbol_and_of_the_likeliest(trained):
    (told,) = map(json.loads, sample(trained, "-n", "12", "--greedy", "--logprobs", "3", "--json").out.splitlines())
    assert "".join(choice["token"] for choice in told["logprobs"]) == told["text"] and len(told["logprobs"]) == 12
    for choice in told["logprobs"]:
        chances = [logprob for _, logprob in choice["top"]]
        assert len(chances) == 3 and chances == sorted(chances, reverse=True) and chances[0] <= 0
        assert [choice["token"], choice["logprob"]] in choice["top"]


def test_the_prompt_may_come_from_an_argument_a_pipe_or_a_file(trained):
    prompt = "Lily saw\na fox, 日"
    Path("prompt.txt").write_text(prompt)
    arguments = [trained, "-n", "30", "--seed", "9", "--echo"]
    expected = sample(*arguments, "--prompt", prompt).text
    assert expected.startswith(prompt)
    assert sample(*arguments, "-p", "-", stdin=prompt.encode()).text == expected
    assert sample(*arguments, "--file", "prompt.txt").text == expected
    assert sample(*arguments, "--no-echo", "--start", prompt).text == expected.removeprefix(prompt)
    Path("prompt.txt").write_bytes(b"Lily \xe9")
    for how in (["-p", "-"], ["-f", "prompt.txt"]):
        said, _ = refusal(run("sample", "-m", trained, *how, stdin=b"Lily \xe9"), 1)
        assert re.match(r"'(standard input|prompt\.txt)' is not UTF-8 text \(byte 0xe9 at offset 5\)\.$", said)


def test_characters_the_model_never_saw_are_named_and_the_text_is_written(trained):
    done = sample(trained, "-n", "9", "--seed", "1", "-p", "Tom €日€")
    assert done.err.startswith("Warning: the model never saw '€' '日' ") and len(done.err.splitlines()) == 1
    assert len(done.text) == 10
    assert sample(trained, "-n", "9", "--seed", "1", "-p", "Tom").err == ""


def test_verbose_speaks_on_standard_error_and_gives_the_seed_that_repeats(trained):
    loud = sample(trained, "-n", "50", "-v")
    (line,) = loud.err.splitlines()
    assert line.startswith("50 tokens · ") and line.endswith("stopped by length")
    assert sample(trained, "-n", "50", "--seed", re.search(r"seed (\d+)", line)[1]).out == loud.out


def test_the_likeliest_symbol_needs_no_seed(trained):
    ways = [["--greedy"], ["--greedy", "--seed", "7"], ["--temperature", "0"], ["--top-k", "1", "--temp", "5"]]
    assert len({sample(trained, "-n", "40", *way).out for way in ways}) == 1


def test_without_a_model_named_it_is_the_environments_or_the_latest_run(trained, monkeypatch):
    expected = sample(trained, "-n", "20", "--seed", "1").out
    monkeypatch.chdir(trained.parents[1])
    assert run("sample", "-n", "20", "--seed", "1").out == expected
    assert run("sample", "-m", trained.name, "-n", "20", "--seed", "1").out == expected
    monkeypatch.setenv("TEXTGEN_MODEL", "nowhere")
    refusal(run("sample"), 1)
    monkeypatch.setenv("TEXTGEN_MODEL", trained.name)
    assert run("sample", "-n", "20", "--seed", "1").out == expected


def test_on_a_terminal_the_prompt_is_shown_and_nothing_moves_the_cursor(trained, monkeypatch):
    prompt = "Tom \x1b[2J\u202e\n"
    plain = sample(trained, "-n", "9", "--seed", "1", "-p", prompt).text
    shown = sample(trained, "-n", "9", "--seed", "1", "-p", prompt, terminal=True).text
    assert shown == "Tom \\x1b[2J\\u202e\n" + plain
    monkeypatch.delenv("NO_COLOR")
    bold = sample(trained, "-n", "9", "--seed", "1", "-p", "Tom", terminal=True).text
    assert bold.startswith("\x1b[1mTom\x1b[0m") and bold.count("\x1b") == 2


DAMAGE = {
    "cut short": lambda path: path.write_bytes(path.read_bytes()[:-9]),
    "changed": lambda path: path.write_bytes(path.read_bytes()[:-1] + bytes([path.read_bytes()[-1] ^ 1])),
    "replaced": lambda path: path.write_bytes(b"\0" * 9),
    "missing": lambda path: path.unlink(),
    "a folder": lambda path: (path.unlink(), path.mkdir()),
}


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        *(
            (name, damage)
            for name in ("config", "generation_config", "manifest")
            for damage in ("cut short", "missing")
        ),
        ("tokenizer_config", "replaced"),
        *(("model", damage) for damage in DAMAGE),
    ],
)
def test_a_damaged_model_is_one_sentence_that_names_the_file(trained, name, damage):
    shutil.copytree(trained, "copy")
    file = f"{name}.safetensors" if name == "model" else f"{name}.json"
    DAMAGE[damage](Path("copy", file))
    said, _ = refusal(run("sample", "-m", "copy", "-n", "5"), 1)
    assert file in said and "copy" in said


def test_a_run_without_weights_says_how_to_get_them():
    with mock.patch.object(Trainer, "run", lambda self: (_ for _ in ()).throw(KeyboardInterrupt)):
        assert run("train", "story.txt", "--max-steps", "2", *TINY, "--output-dir", "a run").code == 130
    said, hint = refusal(run("sample", "-m", "a run"), 1)
    assert said == "'a run' holds no weights yet." and hint.startswith("go on training: textgen train --resume")


# --- evaluating ---


def test_without_a_corpus_what_was_held_out_is_scored(trained):
    scored = json.loads(run("evaluate", "-m", trained, "--json", "--threads", "1").out)
    held_out = STORY.encode()[-scored["bytes"] :]
    assert 0.08 < scored["bytes"] / len(STORY.encode()) < 0.12
    Path("held out.txt").write_bytes(held_out)
    assert json.loads(run("evaluate", "held out.txt", "-m", trained, "--json").out)["nats"] == near(scored["nats"])
    *_, last = (json.loads(line) for line in (trained / "metrics.jsonl").read_text().splitlines())
    assert last["final"] and last["eval_loss"] == near(scored["nats_per_token"])
    assert last["eval_bits_per_byte"] == near(scored["bits_per_byte"])


def test_what_cannot_be_evaluated_is_a_sentence(trained, odd_files):
    said = [refusal(run("evaluate", name, "-m", trained), 1)[0] for name in ("empty.txt", "binary.bin")]
    assert said[0] == "corpus 'empty.txt' has no text (0 bytes)." and said[1].startswith("'binary.bin' is not UTF-8")


def test_scores_are_shown_in_one_line_and_lanes_do_not_change_them(trained):
    Path("long.txt").write_text(STORY * 3)
    command = ["evaluate", "long.txt", "-m", trained, "--threads", "1"]
    one, many = (json.loads(run(*command, "--json", "--lanes", lanes).out) for lanes in (1, 16))
    assert many["nats"] == pytest.approx(one["nats"], rel=0.02) and many["tokens"] == one["tokens"]
    shown = run(*command)
    assert shown.err == "" and shown.text.count("\n") == 1
    for name, unit in (("nats_per_token", "nats per token"), ("bits_per_byte", "bits per byte")):
        assert f"{many[name]:.4f} {unit}" in shown.text


def test_nothing_held_out_is_a_sentence():
    assert run("train", "story.txt", "--max-steps", "2", *TINY, "--validation-split", "0").code == 0
    said, hint = refusal(run("evaluate"), 1)
    assert said == "'runs/lstm-story-1' has no held-out part." and hint == "textgen evaluate FILE"


# --- training ---


def test_tokenizing_first_trains_the_same_model_and_remembers_what_was_held_out():
    assert run("train", "story.txt", "--max-steps", "4", *TINY, "--output-dir", "here/run").code == 0
    done = run("tokenize", "story.txt", "--output-dir", "tokens")
    assert (done.code, done.text) == (0, "tokens\n") and "token" in done.err
    assert run("train", "tokens", "--max-steps", "4", *TINY, "--output-dir", "there/run").code == 0
    assert weights("here/run") == weights("there/run")
    scores = [run("evaluate", "-m", folder, "--json").out for folder in ("here/run", "there/run")]
    assert scores[0] == scores[1] != b""
    for option in (["--tokenizer", "char"], ["--encoding", "utf-8"], ["--validation-file", "story.txt"]):
        said, _ = refusal(run("train", "tokens", *option), 2)
        assert said == f"{option[0]} was decided when 'tokens' was tokenized; omit it here."


def test_the_held_out_part_is_found_again_when_its_tokens_are_gone():
    assert run("train", "story.txt", "--max-steps", "2", *TINY, "--output-dir", "runs/a").code == 0
    before = run("evaluate", "-m", "a", "--json").out
    shutil.rmtree("runs/.tokens")
    assert run("evaluate", "-m", "a", "--json").out == before != b""
    shutil.rmtree("runs/.tokens")
    Path("story.txt").write_text(STORY.replace("duck", "dock"))
    said, hint = refusal(run("evaluate", "-m", "a"), 1)
    assert (
        "the held-out part of 'runs/a' is not available: the corpus has changed" in said
        and hint == "textgen evaluate FILE"
    )


def test_a_dry_run_shows_the_plan_and_creates_no_run():
    done = run("train", "story.txt", "--max-steps", "4", *TINY, "--dry-run")
    assert (done.code, done.out) == (0, b"")
    assert re.search(r"^model +lstm 1 x 8 ", done.err, re.M) and "4 steps of 4 x 16" in done.err
    assert "runs/lstm-story-1" in done.err and runs() == {".tokens"}


def test_quiet_says_nothing():
    done = run("train", "story.txt", "--max-steps", "2", *TINY, "-q")
    assert (done.code, done.out, done.err) == (0, b"", "")


@pytest.mark.parametrize(
    "options",
    [
        "--max-steps 3 --cell rnn -o nonlinearity relu",
        "--epochs 0.1 --tie-weights --embedding-size 8 --eval-steps 2 --validation-split 0.2 --lr 0.004",
        "--max-steps 3 --num-layers 3 --no-residual --dropout 0.25 --weight-decay 0.1 --no-layer-norm --seed 5",
        "--max-steps 3 --tokenizer bpe --vocab-size 300 --document-separator 'said: '",
    ],
)
def test_the_flags_that_are_shown_make_the_same_model(options):
    first = run("train", "story.txt", *shlex.split(options), *TINY, "--output-dir", "runs/first")
    (again,) = re.findall(r"^again +(.*)$", first.err, re.M)
    assert first.code == 0 and "--output-dir" not in again
    repeated = run("train", "story.txt", *shlex.split(again), "--output-dir", "runs/second")
    assert repeated.code == 0, repeated.err
    assert weights("runs/first") == weights("runs/second")
    assert re.findall(r"^again +(.*)$", repeated.err, re.M)


def test_the_flags_that_are_shown_name_the_tokenizer_that_a_model_brings():
    assert run("train", "story.txt", "--max-steps", "1", "--tokenizer", "bpe", "--vocab-size", "300", *TINY,
               "--output-dir", "runs/first").code == 0  # fmt: skip
    Path("other.txt").write_text(STORY.replace("fox", "wolverine") * 2)
    sizes = [word for word in TINY if word not in ("--hidden-size", "8")]
    second = run(
        "train", "other.txt", "--max-steps", "2", "--init-from", "runs/first", *sizes, "--output-dir", "runs/b"
    )
    (again,) = re.findall(r"^again +(.*)$", second.err, re.M)
    assert "--tokenizer runs/first" in again and "--dtype float32" in again
    assert run("train", "other.txt", *shlex.split(again), "--output-dir", "runs/c").code == 0
    assert weights("runs/b") == weights("runs/c")


def test_more_parts_than_lanes_are_refused_where_the_batch_is_planned_too():
    said, hint = refusal(run("train", "story.txt", "--max-steps", "1", "--gradient-accumulation-steps", "99"), 2)
    assert said.startswith("--gradient-accumulation-steps 99 is more than the batch has lanes (")
    assert hint == "--batch-size sets how many."


@pytest.mark.parametrize("text", [STORY, "[/]\x1b" * 500], ids=["story", "markup"])
def test_how_progress_is_shown_changes_no_weight(text):
    Path("text.txt").write_text(text)
    for style in ("none", "plain", "rich"):
        done = run("train", "text.txt", "--max-steps", "3", *TINY, "--progress", style, "--output-dir", f"runs/{style}")
        assert (done.code, done.out) == (0, b"") and "\x1b" not in done.err, done.err
        assert ("step=3" in done.err) == (style == "plain")
    assert weights("runs/none") == weights("runs/plain") == weights("runs/rich")


def test_the_corpus_may_come_by_pipe():
    for number, (name, how) in enumerate([("-", {"stdin": STORY.encode()}), ("story.txt", {})]):
        done = run("train", name, "--max-steps", "2", *TINY, "--output-dir", f"runs/{number}", **how)
        assert done.code == 0, done.err
    assert weights("runs/0") == weights("runs/1")


def test_the_next_step_that_is_named_works():
    done = run("train", "story.txt", "--max-steps", "2", *TINY, "--output-dir", "my runs/a b")
    (following,) = re.findall(r"^next: textgen (.*)$", done.err, re.M)
    assert run(*shlex.split(following), "-n", "5").code == 0
    done = run("train", "story.txt", "--max-steps", "2", *TINY)
    (following,) = re.findall(r"^next: textgen (.*)$", done.err, re.M)
    assert "-m" not in following and run(*shlex.split(following), "-n", "5").code == 0


@pytest.mark.parametrize("size", [1, 3, 40])
@pytest.mark.parametrize("window", [[], ["--batch-size", "7", "--seq-length", "64"], ["--batch-size", "300"]])
def test_a_corpus_too_short_for_a_batch_gets_a_hint_that_fits(size, window):
    Path("short.txt").write_text(STORY[:size])
    command = ["train", "short.txt", "--max-steps", "1", "--hidden-size", "4", "--validation-split", "0", *window]
    done = run(*command, "-q")
    if done.code:
        said, hint = refusal(done, 1)
        assert re.match(r"the training part has [\d,]+ tokens; ", said)
        if hint and hint.endswith(" fits."):
            assert size == 40 and run(*command, *hint.removesuffix(" fits.").split(), "-q").code == 0
        else:
            assert size < 40 and hint.startswith("use a longer text")
    else:
        assert not window and size == 40


def test_an_occupied_folder_is_kept_unless_it_may_be_replaced():
    command = ["train", "story.txt", "--max-steps", "2", *TINY, "--output-dir", "runs/a", "-q"]
    assert run(*command).code == 0
    before = weights("runs/a")
    said, _ = refusal(run(*command, "--seed", "2"), 1)
    assert said == "'runs/a' exists already." and weights("runs/a") == before
    assert run(*command, "--seed", "2", "--overwrite-output-dir").code == 0
    assert weights("runs/a") != before


# --- stopping ---

LONG = ["story.txt", "--max-steps", "12", "--save-steps", "5", "--dropout", "0.2", *TINY]
STOPPING = """
import os, signal, sys
from textgen.cli import main
from textgen.training.trainer import Trainer
step = Trainer._step
def step_and_stop(self, number):
    if number == 6:
        os.kill(os.getpid(), signal.SIGINT)
    return step(self, number)
Trainer._step = step_and_stop
sys.exit(main(sys.argv[1:]))
"""


def interrupting(at, *signals):
    """Send these signals to this process before a step."""
    step = Trainer._step

    def step_and_stop(self, number):
        if number == at:
            for each in signals:
                signal.raise_signal(each)
        return step(self, number)

    return mock.patch.object(Trainer, "_step", step_and_stop)


def test_ctrl_c_saves_says_how_to_go_on_and_going_on_ends_with_the_same_bytes():
    assert run("train", *LONG, "--output-dir", "runs/whole").code == 0
    child = [sys.executable, "-c", STOPPING, "train", *LONG, "--output-dir", "runs/in two"]
    stopped = subprocess.run(child, capture_output=True, text=True)
    assert (stopped.returncode, stopped.stdout) == (130, ""), stopped.stderr
    *_, said, how = stopped.stderr.splitlines()
    assert said == "Stopped at step 7; saved."
    words = shlex.split(how.removeprefix("Continue: "))
    resumed = run(*words[1:])
    assert words[0] == "textgen" and resumed.code == 0 and "Warning" not in resumed.err, resumed.err
    assert weights("runs/in two") == weights("runs/whole")
    logs = [Path(folder, "metrics.jsonl").read_text().splitlines() for folder in ("runs/in two", "runs/whole")]
    assert [json.loads(line)["step"] for line in logs[0]] == [json.loads(line)["step"] for line in logs[1]]


@pytest.mark.parametrize(
    ("signals", "code", "last"),
    [
        ([signal.SIGTERM], 143, "Continue: textgen train --resume runs/a"),
        ([signal.SIGINT], 130, "Continue: textgen train --resume runs/a"),
        ([signal.SIGINT, signal.SIGINT], 130, "Stopped without saving; runs/a keeps its last checkpoint."),
    ],
)
def test_a_signal_ends_with_its_own_code_and_gives_the_handlers_back(signals, code, last):
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    with interrupting(3, *signals):
        done = run("train", *LONG, "--output-dir", "runs/a")
    assert (done.code, done.out) == (code, b"") and done.err.split("\n")[-2 - done.err.endswith("\n\n")] == last
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before
    assert run("train", "--resume", "runs/a", "-q").code == 0


def test_what_is_fixed_cannot_change_on_resume():
    with interrupting(3, signal.SIGINT):
        run("train", *LONG)
    for option, had in (("--hidden-size", "8"), ("--seed", "1337"), ("--batch-size", "4")):
        said, hint = refusal(run("train", "--resume", option, "30"), 2)
        assert said == f"{option} 30 cannot change on --resume (the run has {had})." and "--init-from RUN" in hint
    assert run("train", "--resume", "lstm-story-1", "--hidden-size", "8", "--max-time", "9", "-q").code == 0


def test_ctrl_c_before_training_or_while_writing_leaves_quietly(trained):
    for home, name, command in (
        ("textgen.data.corpus", "scan", ["train", *LONG]),
        ("textgen.generation.generate", "stream_rows", ["sample", "-m", trained]),
    ):
        with mock.patch(f"{home}.{name}", side_effect=KeyboardInterrupt):
            assert run(*command) == (130, b"", "\nStopped.\n")
    assert runs() <= {".tokens"}


# --- the shell ---


def closed_pipe():
    reading, writing = os.pipe()
    os.close(reading)
    return os.fdopen(writing, "w")


def test_whoever_stops_reading_is_left_in_peace(trained):
    for command in (["sample", "-m", str(trained), "-n", "50"], ["env"], ["--help"]):
        pipe = closed_pipe()
        with (
            mock.patch.object(sys, "stdout", pipe),
            mock.patch.object(sys, "stderr", mock.Mock(wraps=sys.stderr)) as err,
        ):
            assert main(command) == 1
        err.write.assert_not_called()
        with pytest.raises(BrokenPipeError):
            pipe.close()
    for command in ("env", "--help", "cells"):
        with closed_pipe() as pipe:
            done = subprocess.run([sys.executable, "-m", "textgen", command], stdout=pipe, stderr=subprocess.PIPE)
        assert (done.returncode, done.stderr) == (1, b"")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no full device here")
def test_a_full_device_is_a_sentence(trained, capfd):
    full = open("/dev/full", "w")
    with mock.patch.object(sys, "stdout", full):
        assert main(["sample", "-m", str(trained), "-n", "5"]) == 1
    with suppress(OSError):
        full.close()
    assert capfd.readouterr().err == "Error: standard output: No space left on device.\n"


def test_without_a_standard_output_the_result_cannot_be_given(trained, capfd):
    with mock.patch.object(sys, "stdout", None):
        assert main(["sample", "-m", str(trained), "-n", "5"]) == 1
        assert main(["env"]) == 1
    assert capfd.readouterr().err == "Error: standard output is closed.\n" * 2


def test_a_fault_says_where_to_look_and_shows_it_on_request(monkeypatch):
    monkeypatch.setenv("TEXTGEN_RAISE_ERRORS", "")  # restored at the end, though --traceback sets it
    with mock.patch("textgen.cli.env.platform.platform", side_effect=RuntimeError("odd\nthing")):
        said, hint = refusal(run("env"), 1)
        assert said == "internal error: RuntimeError: odd thing." and "--traceback" in hint
        with pytest.raises(RuntimeError):
            run("--traceback", "env")
    with mock.patch("textgen.cli.env.platform.platform", side_effect=MemoryError):
        monkeypatch.setenv("TEXTGEN_RAISE_ERRORS", "")
        said, hint = refusal(run("env"), 1)
    assert said == "out of memory." and "--batch-size" in hint

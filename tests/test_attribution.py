"""Laws of attribution: what a plugin's cell raises is its failure, with the package, the line and what to run."""

import traceback
from pathlib import Path

import pytest
from installing import site
from terminal import refusal, run

import textgen
from textgen import plugins
from textgen.errors import UsageError, place_of
from textgen.plugins import PluginError

SICK = '''"""A cell that fails where SICK says."""
import os
import sys
import torch
import textgen


def fail(place):
    if os.environ.get("SICK") == place:
        how = os.environ["HOW"]
        if how == "torch":
            torch.zeros(2, 3) @ torch.zeros(2, 3)
        if how == "exit":
            sys.exit(3)
        raise {"io": FileNotFoundError(2, "No such file", "/no/where"), "memory": MemoryError(), "silent": KeyError(),
               "value": ValueError("never"), "loud": RuntimeError("one\\n\\n two\\x1b"), "mute": Mute()}[how]


class Mute(Exception):
    def __str__(self):
        raise TypeError


class Identity(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, grad):
        fail("backward")
        return grad


class Sick(textgen.Cell):
    def __init__(self, input_size, hidden_size):
        super().__init__(input_size, hidden_size)
        fail("__init__")
        self.input = torch.nn.Linear(input_size, hidden_size)

    def initial_state(self, batch_size):
        fail("initial_state")
        return super().initial_state(batch_size)

    def parameter_groups(self):
        fail("parameter_groups")
        return super().parameter_groups()

    def step(self, x, state):
        fail("step")
        h = torch.tanh(self.input(x) + state[0])
        h = Identity.apply(h) if os.environ.get("SICK") == "backward" else h
        return {"wide": (h.repeat(1, 2), (h,)), "none": None, "list": (h, [h]), "more": (h, (h, h)),
                "number": (1, (h,))}.get(os.environ.get("RETURN"), (h, (h,)))

    def forward(self, xs, state=None):
        fail("forward")
        return super().forward(xs, state)


class Gated(textgen.GatedCell):
    gates = 1

    def activate(self, wx, rh, state):
        fail("activate")
        h = torch.tanh(wx + rh)
        return h, (h,)


class Linear(textgen.LinearCell):
    def coefficients(self, xs):
        fail("coefficients")
        return torch.sigmoid(xs), xs


class Unlike(textgen.Cell):
    def __init__(self, size):
        super().__init__(size, size)

    def step(self, x, state):
        return x, state


class Short(textgen.Cell):
    def step(self, x):
        return x, ()


@textgen.hookimpl
def register_cells(register):
    register("sick", Sick)
    register("gated", Gated)
    register("linear", Linear)
    register("unlike", Unlike)
    register("short", Short)
'''
TEXT = "A small fox sat on a large stone and looked at the sea.\n" * 40
TINY = ["--hidden-size", "4", "--embedding-size", "4", "--max-steps", "2", "--batch-size", "2", "--seq-length", "8"]
TINY += ["--threads", "1", "--tokenizer", "char"]
LINES = {place: 1 + SICK[: SICK.index(f'fail("{place}")')].count("\n") for place in ("step", "backward", "__init__")}
RAISED = 1 + SICK[: SICK.index("        raise {")].count("\n")
LAWS = {
    "__init__": "sizes", "initial_state": "initial_state", "parameter_groups": "parameter_groups",
    "step": "forward_matches_step", "forward": "forward_matches_step", "backward": "gradcheck",
}  # fmt: skip


@pytest.fixture
def sick(tmp_path, monkeypatch):
    """The package, and a folder with a text to train on."""
    with site(tmp_path / "site") as made:
        made.install("sick", SICK, ["sick", "gated", "linear", "unlike", "short"])
        monkeypatch.chdir(tmp_path)
        monkeypatch.setenv("HOW", "loud")
        Path("notes.txt").write_text(TEXT)
        yield monkeypatch


def train(cell="sick"):
    return run("train", "notes.txt", "--cell", cell, *TINY)


def fault(result, code=1):
    """The sentence and the hint with which a command ended, whatever it showed before."""
    *_, error, hint = result.err.splitlines()
    return refusal(result._replace(err=f"{error}\n{hint}\n"), code)


@pytest.mark.parametrize("place", LAWS)
def test_what_a_cell_raises_in_training_is_attributed(sick, place):
    sick.setenv("SICK", place)
    said, hint = fault(train(), 1)
    assert said.startswith("cell 'sick' of textgen-sick 1.0 failed at textgen_try_sick.py:"), said
    assert said.endswith(": RuntimeError: one two\\x1b.")
    assert hint.startswith(f"textgen plugins check sick --law {LAWS[place]} ")


@pytest.mark.parametrize("cell, place", [("gated", "activate"), ("linear", "coefficients")])
def test_so_is_what_the_methods_of_the_other_kinds_raise(sick, cell, place):
    sick.setenv("SICK", place)
    said, hint = fault(train(cell), 1)
    assert said.startswith(f"cell '{cell}' of textgen-sick 1.0 failed at textgen_try_sick.py:{RAISED}: RuntimeError")
    assert "--law state_structure" in hint


HOWS = {
    "torch": "RuntimeError: mat1 and mat2 shapes cannot be multiplied",
    "io": "FileNotFoundError: [Errno 2] No such file: '/no/where'",
    "silent": "KeyError.",
    "value": "ValueError: never.",
    "mute": "Mute.",
    "exit": "SystemExit: 3.",
}


@pytest.mark.parametrize("how", HOWS)
@pytest.mark.parametrize("place", ["step", "backward"])
def test_whatever_is_raised_becomes_one_sentence(sick, how, place):
    sick.setenv("SICK", place)
    sick.setenv("HOW", how)
    said, _ = fault(train(), 1)
    assert said.startswith("cell 'sick' of textgen-sick 1.0 failed at textgen_try_sick.py:") and HOWS[how] in said


def test_a_lack_of_memory_is_no_fault_of_the_plugin(sick):
    sick.setenv("SICK", "step")
    sick.setenv("HOW", "memory")
    assert fault(train(), 1)[0].startswith("out of memory")


def test_a_size_that_a_cell_refuses_is_a_wrong_request(sick):
    sick.setenv("SICK", "__init__")
    sick.setenv("HOW", "value")
    assert refusal(train(), 2)[0] == "cell 'sick' refuses: never."
    assert refusal(run("cells", "show", "sick"), 2)[0] == "cell 'sick' refuses: never."


@pytest.mark.parametrize(
    "returned, said",
    [
        ("wide", "Sick returns a tensor of shape (2, 8, 8) as its output, not a tensor of shape (2, 8, 4)"),
        ("none", "TypeError: cannot unpack non-iterable NoneType"),
        ("list", "Sick returns a list of 1 as its state, not a tuple of 1"),
        ("more", "Sick returns a tuple of 2 as its state, not a tuple of 1"),
        ("number", "TypeError: expected Tensor"),
    ],
)
def test_a_cell_that_returns_something_else_is_named(sick, returned, said):
    sick.setenv("RETURN", returned)
    found, hint = fault(train(), 1)
    assert found.startswith("cell 'sick' of textgen-sick 1.0 failed") and ": TypeError: " in found
    assert said.replace("(2, 8, ", "(8, 2, ") in found and "textgen plugins check sick" in hint


def test_a_method_that_cannot_be_called_is_named(sick):
    said, _ = fault(train("short"), 1)
    assert said.startswith("cell 'short' of textgen-sick 1.0 failed: TypeError: ") and "positional argument" in said


def test_a_constructor_that_cannot_be_read_is_named(sick):
    said, _ = refusal(train("unlike"), 1)
    assert said.startswith("Unlike.size of textgen-sick 1.0 needs a default")


def test_sampling_and_scoring_with_torch_name_the_plugin_too(sick):
    assert train().code == 0
    sick.setenv("SICK", "step")
    assert run("sample", "-n", "3", "--seed", "1").code == 0  # numpy runs the stored step
    for command in (["sample", "-n", "3", "--backend", "torch"], ["evaluate", "notes.txt", "--backend", "torch"]):
        said, hint = refusal(run(*command), 1)
        assert said.startswith("cell 'sick' of textgen-sick 1.0 failed at textgen_try_sick.py:")
        assert "textgen plugins check sick" in hint


def test_a_comparison_goes_on_and_names_the_plugin(sick):
    sick.setenv("SICK", "backward")
    done = run("compare", "notes.txt", "--cells", "rnn,sick", "--budget", "params=1k,tokens=64", "--seeds", "1",
               "--learning-rates", "0.01", "--threads", "1")  # fmt: skip
    assert done.code == 0 and "cell 'sick' of textgen-sick 1.0 failed at textgen_try_sick.py:" in done.text + done.err


def test_a_step_that_fails_while_it_is_stored_is_a_warning_that_names_the_line(sick):
    from textgen.model import ModelConfig
    from textgen.model.weights import make_model
    from textgen.tracing import stored_step

    model = make_model(ModelConfig(9, embedding_size=4, hidden_size=4, cell="sick"))
    sick.setenv("SICK", "step")
    content, (warning,) = stored_step(model, "sick")
    assert content == {} and f"textgen-sick 1.0 failed at textgen_try_sick.py:{RAISED}: RuntimeError" in warning


def test_in_python_it_is_a_plugin_error_with_its_cause(sick, tmp_path):
    options = {"hidden_size": 4, "max_steps": 2, "batch_size": 2, "seq_length": 8, "threads": 1, "tokenizer": "char"}
    for place in ("__init__", "step", "backward", "parameter_groups"):
        sick.setenv("SICK", place)
        with pytest.raises(PluginError, match=r"textgen-sick 1\.0 failed at textgen_try_sick\.py") as raised:
            textgen.train("notes.txt", cell="sick", **options)
        assert type(raised.value.__cause__) is RuntimeError
        assert any(f.filename.endswith("sick.py") for f in traceback.extract_tb(raised.value.__cause__.__traceback__))
    sick.setenv("SICK", "")
    folder = textgen.train("notes.txt", cell="sick", **options)
    sick.setenv("SICK", "step")
    with pytest.raises(PluginError, match="failed at"):
        textgen.generate(textgen.load(folder, "torch"), "A", max_new_tokens=2, seed=1)


def test_a_key_pressed_inside_a_cell_stops_the_command(sick):
    cell = plugins.cell("sick")
    sick.setattr(cell, "step", lambda self, x, state: (_ for _ in ()).throw(KeyboardInterrupt))
    assert train().code == 130


def test_what_no_plugin_has_a_part_in_stays_an_internal_error(sick):
    plugins.cell("sick")
    sick.setattr("textgen.cli.env.platform.platform", lambda: 1 / 0)
    said, hint = refusal(run("env"), 1)
    assert said == "internal error: ZeroDivisionError: division by zero."
    assert "textgen plugins check" in hint and "sick" in hint and "please report it" in hint
    assert plugins.attributed(UsageError("a sentence.")) is None


def test_the_line_is_that_of_the_module_that_is_nearest(tmp_path, monkeypatch):
    folder = tmp_path / "many_cells" / "one"
    folder.mkdir(parents=True)
    (folder / "deep.py").write_text("def f():\n    return [].pop()\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    from many_cells.one import deep

    with pytest.raises(IndexError) as raised:
        deep.f()
    place = place_of(raised.value, ["many_cells.two", "many_cells.one", "torch"])
    assert (place.module, str(place), place.entered) == ("many_cells.one", "many_cells/one/deep.py:2", "f")
    assert place_of(raised.value, ["many"]) is None and place_of(RuntimeError(), ["many_cells.one"]) is None

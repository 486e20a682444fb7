"""Laws of the engine behind GatedCell: traced, compiled or through oneDNN, it is the step loop; and what it must not
trace it runs as it is."""

import os
import subprocess
import sys
import time
import warnings
from dataclasses import replace

import pytest
import torch
from faults import Quick
from test_cells import TIGHT, inputs, outcome
from torch import nn
from zoo import CELLS, WRITTEN

from textgen.cells import Cell, GatedCell, engine, matmul
from textgen.errors import CompilerError, TextgenError, UsageError
from textgen.storage import filesystem
from textgen.tasks import TrainOptions, model_config, options_for
from textgen.tasks.data import TaskData
from textgen.tasks.language.data import LanguageData
from textgen.training.planner import plan
from textgen.training.start import resume, start

GATED = {name: cell for name, cell in CELLS.items() if issubclass(cell, GatedCell)}
needs_compiler = pytest.mark.skipif(engine.compiler() is None, reason="no C++ compiler here")
needs_bfloat16 = pytest.mark.skipif(not matmul.has_bfloat16(), reason="no products in bfloat16 on this processor")


def make(kind, input_size=3, hidden_size=4):
    made = kind(input_size, hidden_size).double()
    for parameter in made.parameters():
        nn.init.normal_(parameter, std=0.4)
    return made


def assert_is_the_loop(cell, xs, state, **tolerance):
    fast = outcome(lambda x, s: GatedCell.forward(cell, x, s), cell, xs, state)
    slow = outcome(lambda x, s: Cell.forward(cell, x, s), cell, xs, state)
    torch.testing.assert_close(fast, slow, **(tolerance or TIGHT))


def taken_apart(cell, xs, state):
    return engine.halves(cell, dict(cell.named_parameters()), cell.project(xs)[0], state, engine.interpreted)


@pytest.mark.parametrize("name", GATED)
def test_every_gated_cell_is_traced(name):
    cell = make(GATED[name])
    xs, state = inputs(cell, 2, 2)
    assert taken_apart(cell, xs, state) is not None


@pytest.mark.parametrize("name", GATED)
def test_sizes_can_be_asked_for_without_memory(name):
    with torch.device("meta"):
        ys, _ = GATED[name](3, 4)(torch.empty(5, 2, 3))
        ys.sum().backward()
    assert ys.is_meta


@needs_compiler
@pytest.mark.parametrize("name", ["gru", "Peephole", "Projected", "Independent"])
def test_compiled_is_the_step_loop(name):
    cell = make(GATED[name])
    cell.compiled = True
    xs, state = inputs(cell, 5, 2)
    assert_is_the_loop(cell, xs, state)


@pytest.mark.parametrize("name", ["gru", "lstm", "Peephole"])
def test_large_products_are_the_step_loop(name):
    cell = GATED[name](200, 256)
    assert matmul.has_onednn() is torch.backends.mkldnn.is_available()
    xs, state = torch.randn(60, 5, 200, requires_grad=True), tuple(s.requires_grad_() for s in cell.initial_state(5))
    assert_is_the_loop(cell, xs, state, rtol=1e-4, atol=1e-4)
    with torch.no_grad():
        torch.testing.assert_close(cell(xs, state), Cell.forward(cell, xs, state), rtol=1e-4, atol=1e-4)


def test_a_processor_without_bfloat16_is_warned_about(monkeypatch):
    from textgen.tasks import TrainOptions
    from textgen.training import planner

    asked = TrainOptions(dtype="bfloat16")
    said = "dtype=bfloat16: this processor has no bfloat16 products; training uses float32."
    for has in (False, True):
        monkeypatch.setattr(planner, "has_bfloat16", lambda has=has: has)
        assert planner.precision_missed(asked, "cpu") == ([] if has else [said])
        assert planner.precision_missed(asked, "cuda:0") == planner.precision_missed(TrainOptions(), "cpu") == []


def test_a_processor_without_bfloat16_is_not_asked_for_it():
    code = """
import torch
from textgen.cells import matmul
from textgen.training.planner import ThisMachine
assert ThisMachine(None, "cpu").can_round() is matmul.has_bfloat16()
with matmul.reduced_precision("cpu", "bfloat16"):
    matmul.linear(torch.ones(64, 256), torch.ones(256, 256), torch.ones(256))
    matmul.product_with(torch.ones(256, 256), torch.ones(256), 64)
    assert matmul.rounds(torch.ones(1)) is matmul.has_bfloat16()
"""
    for isa in ("SSE41", "AVX2"):
        environment = {**os.environ, "ONEDNN_MAX_CPU_ISA": isa}
        done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr


@needs_bfloat16
@pytest.mark.parametrize("name", CELLS)
def test_products_in_bfloat16_change_results_by_its_rounding_alone(name, monkeypatch):
    monkeypatch.setattr(matmul, "LARGE", 0)
    cell = CELLS[name](24, 32)
    for parameter in cell.parameters():
        nn.init.normal_(parameter, std=0.2)
    xs, state = torch.randn(12, 5, 24, requires_grad=True), tuple(s.requires_grad_() for s in cell.initial_state(5))

    def rounded(x, s):
        with matmul.reduced_precision("cpu", "bfloat16"):
            return cell(x, s)

    (near, near_gradients), (exact, gradients) = outcome(rounded, cell, xs, state), outcome(cell, cell, xs, state)
    for found, expected in zip([*near, *near_gradients], [*exact, *gradients], strict=True):
        assert (found - expected).norm() <= 0.04 * expected.norm() + 1e-3
    assert {tensor.dtype for tensor in near} == {torch.float32}
    if isinstance(cell, GatedCell) and cell.recurrent is not None:
        assert not torch.equal(near[0], exact[0])
    torch.testing.assert_close(outcome(cell, cell, xs, state), (exact, gradients), rtol=0, atol=0)


@needs_bfloat16
@needs_compiler
@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("name", ["gru", "Peephole", "Projected"])
def test_gates_and_states_stay_float32_where_products_are_rounded(name, compiled, monkeypatch):
    monkeypatch.setattr(matmul, "LARGE", 0)
    cell = GATED[name](24, 32)
    cell.compiled = compiled
    with matmul.reduced_precision("cpu", "bfloat16"):
        ys, after = cell(torch.randn(6, 5, 24))
        product = matmul.product_with(cell.weight_hh, cell.weight_hh.new_zeros(len(cell.weight_hh)), 5)
        assert isinstance(product, matmul.Packed) and product.rounding
    assert {t.dtype for t in (ys, *after)} == {torch.float32}
    ys.sum().backward()
    assert all(p.grad is None or p.grad.dtype == torch.float32 for p in cell.parameters())


@pytest.mark.parametrize("shape", [(200, 256), (768, 200)])
def test_a_large_product_has_the_gradients_of_a_plain_one(shape):
    weight, bias = torch.randn(shape, requires_grad=True), torch.randn(shape[0], requires_grad=True)
    xs = torch.randn(160, 5, shape[1], requires_grad=True)
    results = []
    for multiply in (matmul.linear, nn.functional.linear):
        ys = multiply(xs, weight, bias)
        results.append([ys, *torch.autograd.grad(ys.sin().sum(), (xs, weight, bias))])
    torch.testing.assert_close(*results, rtol=1e-3, atol=1e-2)


class Leaky(GatedCell):
    gates = 1

    def __init__(self, input_size, hidden_size):
        super().__init__(input_size, hidden_size)
        self.rate = 0.5

    def activate(self, wx, rh, state):
        h = torch.lerp(state[0], torch.tanh(wx + rh), self.rate)
        return h, (h,)


class Hesitant(Leaky):
    def activate(self, wx, rh, state):
        return super().activate(wx, rh, state) if wx.sum().item() > -1e9 else (state[0], state)


class Keeper(Leaky):
    """A tensor that is no parameter."""

    def __init__(self, input_size, hidden_size):
        super().__init__(input_size, hidden_size)
        self.scale = torch.full((hidden_size,), 0.3, dtype=torch.double)

    def activate(self, wx, rh, state):
        return super().activate(wx * self.scale, rh, state)


class Frugal(Leaky):
    """What goes in comes out again, as itself and as a view; R is used by the gates too."""

    states = 3

    def activate(self, wx, rh, state):
        both = torch.tanh(torch.cat([wx + rh, state[1] + self.weight_hh.sum(0)], dim=-1))
        h, other = both.chunk(2, dim=-1)
        return h, (h, other, state[2])


def test_an_attribute_that_changes_is_seen():
    cell = make(Leaky)
    xs, state = inputs(cell, 4, 2)
    for cell.rate in (0.5, 0.1):
        assert_is_the_loop(cell, xs, state)


@pytest.mark.parametrize("kind", [Hesitant, Keeper])
def test_what_cannot_be_traced_runs_step_by_step(kind):
    cell = make(kind)
    xs, state = inputs(cell, 4, 2)
    assert taken_apart(cell, xs, state) is None
    assert_is_the_loop(cell, xs, state)


def test_results_may_be_arguments_views_and_the_same_twice():
    cell = make(Frugal)
    xs, state = inputs(cell, 4, 2)
    assert_is_the_loop(cell, xs, state)


def test_frozen_parameters_stay_so():
    cell = make(WRITTEN["Peephole"])
    cell.peep.requires_grad_(False)
    xs, state = inputs(cell, 4, 2)
    ys, _ = cell(xs, state)
    ys.sum().backward()
    assert cell.peep.grad is None and cell.weight_hh.grad is not None


def test_an_output_that_was_changed_in_place_has_no_gradient():
    cell = make(CELLS["gru"])
    ys, _ = cell(inputs(cell, 4, 2)[0])
    ys.zero_()
    with pytest.raises(RuntimeError, match="inplace"):
        ys.sum().backward()


def test_without_a_compiler_it_says_so(monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler")
    cell = make(Leaky, 5, 6)
    cell.compiled = True
    with pytest.raises(TextgenError, match=r"no C\+\+ compiler"):
        cell(inputs(cell, 2, 2)[0])


# --- training ---


TEXT = "the cat sat on the mat. the dog sat on the log. " * 3
TINY = {
    "cell": "gru", "tokenizer": "char", "hidden_size": 5, "embedding_size": 4, "num_layers": 1, "batch_size": 3,
    "seq_length": 8, "max_steps": 5, "learning_rate": 0.02, "weight_drop": 0.2, "eval_steps": 5, "save_steps": 1,
    "threads": 1, "device": "cpu", "save_total_limit": 5, "compile": True,
}  # fmt: skip


@pytest.fixture
def begin(monkeypatch, tmp_path):
    monkeypatch.setattr(filesystem, "system", Quick())
    (tmp_path / "text.txt").write_text(TEXT)

    def begin(name, **options):
        given = {**TINY, "output_dir": str(tmp_path / name), **options}
        return start([str(tmp_path / "text.txt")], options_for(given), time.monotonic())

    return begin


def finish(session):
    for _ in session.events():
        pass
    return session.run.load(TINY["max_steps"]).weights


@needs_compiler
def test_a_compiled_run_that_was_stopped_ends_with_the_same_bits(begin):
    whole = finish(begin("whole"))
    stopped = begin("stopped")
    for event in stopped.events():
        stopped.trainer.stop = event.step == 2
    engine._traces.clear()  # as in another process
    resumed = resume(stopped.run.folder, {})
    assert resumed.options.compile and all(cell.compiled for cell in resumed.trainer.model.stack.layers)
    again = finish(resumed)
    assert whole.keys() == again.keys() and all(torch.equal(whole[name], again[name]) for name in whole)
    with pytest.raises(UsageError, match="compile=False cannot change"):
        resume(stopped.run.folder, {"compile": False})


def test_a_compiled_run_needs_a_compiler_to_begin_and_to_go_on(begin, monkeypatch):
    def lose_the_compiler():
        monkeypatch.setenv("CXX", "no-such-compiler")

    if engine.compiler():
        folder = begin("run").run.folder
        lose_the_compiler()
        with pytest.raises(TextgenError, match=r"this run compiles its cells.*no C\+\+ compiler"):
            resume(folder, {})
    lose_the_compiler()
    with pytest.raises(TextgenError, match=r"no C\+\+ compiler"):
        begin("other")
    assert begin("third", compile=None).options.compile is False


def test_a_compiler_that_does_not_work_is_named_and_training_goes_on(begin, monkeypatch):
    def fail(*_, **__):
        raise RuntimeError("no space left on device")

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the first import of Inductor uses what torch deprecates
        monkeypatch.setattr("torch._inductor.compile_fx.compile_fx_inner", fail)
    monkeypatch.setattr(engine, "compiler", lambda: "g++")
    monkeypatch.setattr("textgen.training.planner.compiler", lambda: "g++")
    session = begin("run", compile=None, hidden_size=9, max_steps=10**9)
    assert session.options.compile is False
    [warning] = [each for each in session.warnings if "compiler" in each]
    assert warning.startswith(
        "The C++ compiler does not work: gru trains, but up to a third slower; a cell could not be"
    )


class Text:
    """What the planner asks of a corpus of a million characters."""

    training_tokens, held_out_tokens, characters_per_token, most_epochs = 10**6, 10**4, 1.0, None
    tokens_per_step = LanguageData.tokens_per_step
    regularization, most_parameters = TaskData.regularization, TaskData.most_parameters

    def with_defaults(self, options):
        return replace(options, batch_size=options.batch_size or 16, seq_length=options.seq_length or 64)

    def config(self, options, hidden_size):
        return model_config(options, "char", 60, hidden_size)


LEARNED = Text()


class Slow:
    """A machine on which a step takes so long, compiled or not, and in bfloat16 a part of it."""

    def __init__(self, seconds, compiled_seconds=None, rounded=None):
        self.seconds, self.compiled_seconds, self.rounded = seconds, compiled_seconds, rounded

    def parameters(self, config):
        return 10**6

    def can_compile(self, config):
        return self.compiled_seconds is not None

    def can_round(self):
        return self.rounded is not None

    def step_seconds(self, config, options, seconds, compiled=False, dtype="float32"):
        return (self.compiled_seconds if compiled else self.seconds) * (1 if dtype == "float32" else self.rounded or 1)


@pytest.mark.parametrize(("machine", "minutes", "given", "compiled"), [
    (Slow(1.0, 0.8), 5, None, True),
    (Slow(1.0, 0.8), 5, False, False),
    (Slow(1.0, 0.8), 1, None, False),
    (Slow(1.0, 0.8), 1, True, True),
    (Slow(1.0, 0.99), 5, None, False),
    (Slow(1.0), 5, None, False),
])  # fmt: skip
def test_the_plan_compiles_where_it_pays_within_the_run(machine, minutes, given, compiled):
    options = TrainOptions(hidden_size=64, minutes=minutes, compile=given)
    planned, _, forecast = plan(options, LEARNED, machine, time.monotonic() + 60 * minutes)
    assert planned.compile is compiled
    assert forecast.step_seconds == (machine.compiled_seconds if compiled else machine.seconds)


class Broken(Slow):
    """A machine on which compiled steps fail."""

    fault: TextgenError = CompilerError("a cell could not be compiled here.")

    def step_seconds(self, config, options, seconds, compiled=False, dtype="float32"):
        if compiled:
            raise self.fault
        return self.seconds


@pytest.mark.parametrize("length", [{"minutes": 5}, {"max_steps": 100_000}])
def test_the_plan_does_without_a_compiler_that_does_not_work(length):
    deadline = time.monotonic() + 300
    planned, _, forecast = plan(TrainOptions(hidden_size=64, **length), LEARNED, Broken(1.0, 0.8), deadline)
    assert planned.compile is False and forecast.compiler_fault == "a cell could not be compiled here."
    if "minutes" in length:
        with pytest.raises(TextgenError, match="could not be compiled"):
            plan(TrainOptions(hidden_size=64, compile=True, **length), LEARNED, Broken(1.0, 0.8), deadline)


@pytest.mark.parametrize("length", [{"minutes": 5}, {"max_steps": 100_000}])
def test_what_else_fails_while_a_compiled_step_is_measured_is_no_fault_of_the_compiler(length):
    machine = Broken(1.0, 0.8)
    machine.fault = TextgenError("out of memory.")
    with pytest.raises(TextgenError, match="out of memory"):
        plan(TrainOptions(hidden_size=64, **length), LEARNED, machine, time.monotonic() + 300)


@pytest.mark.parametrize(("rounded", "given", "chosen"), [
    (0.6, None, "bfloat16"), (0.95, None, "float32"), (1.8, None, "float32"), (None, None, "float32"),
    (0.6, "float32", "float32"), (1.8, "bfloat16", "bfloat16"), (None, "bfloat16", "bfloat16"),
])  # fmt: skip
@pytest.mark.parametrize("hidden_size", [64, None])
def test_the_plan_multiplies_in_bfloat16_where_that_is_measured_to_pay(hidden_size, rounded, given, chosen):
    options, machine = TrainOptions(hidden_size=hidden_size, minutes=5, dtype=given), Slow(1.0, 0.8, rounded)
    planned, _, forecast = plan(options, LEARNED, machine, time.monotonic() + 300)
    assert planned.dtype == chosen
    assert forecast.step_seconds == machine.step_seconds(None, None, 0, compiled=True, dtype=chosen)
    steps, _, _ = plan(replace(options, minutes=None, max_steps=5), LEARNED, machine, time.monotonic())
    assert steps.dtype == (given or "float32")


@pytest.mark.parametrize(("steps", "compiled"), [(10, False), (100_000, True)])
def test_a_long_run_of_so_many_steps_is_compiled(steps, compiled):
    options = TrainOptions(hidden_size=64, max_steps=steps)
    planned, _, _ = plan(options, LEARNED, Slow(1.0, 0.8), time.monotonic())
    assert planned.compile is compiled

"""Laws of tracing: what is stored of a step computes what the step computes, or the step is refused with the reason."""

import copy
import json
import math
import subprocess
import sys

import numpy as np
import pytest
import torch
from torch import nn
from zoo import CELLS

from textgen import tracing
from textgen.cells import Cell, GatedCell
from textgen.generation.language_model import load
from textgen.model import STEP, ModelConfig
from textgen.model.stack import build_model
from textgen.model.weights import TorchStepper, model_tensors
from textgen.runtime import NumpyStepper
from textgen.runtime.graph import StepGraph
from textgen.tracing import trace
from textgen.tracing.operations import Untraceable
from textgen.training.start import train

VARIANTS = [
    {"num_layers": 1, "hidden_size": 6, "embedding_size": 6},
    {"num_layers": 2, "hidden_size": 8, "embedding_size": 6, "tie_word_embeddings": True},
    {"num_layers": 3, "hidden_size": 6, "embedding_size": 6, "residual": True, "layer_norm": True},
]


def made(cell, vocab_size=11, **sizes):
    """A model whose weights are large enough to show a mistake."""
    model = build_model(ModelConfig(vocab_size, **(sizes or VARIANTS[1])), cell).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) / 3)
    return model


def numpy_stepper(model, graph=None):
    weights = {name: tensor.detach().numpy() for name, tensor in model_tensors(model).items()}
    return NumpyStepper(graph or trace(model), weights)


def hold_to_torch(model, stepper, batch, steps=6):
    """Both take the same steps, each from torch's state, so that no recurrence amplifies what kernels round. Then numpy
    takes the same steps by itself, one by one and all at once."""
    theirs, ids = TorchStepper(model), np.random.default_rng(batch).integers(0, model.input_size, (batch, steps))
    ids, exactly = ids.astype(np.int32), copy.deepcopy(model).double().eval()
    nearby, noise = copy.deepcopy(exactly), torch.Generator().manual_seed(batch)
    with torch.no_grad():
        for weight in nearby.parameters():
            weight *= 1 + 2.0**-23 * torch.randn(weight.shape, generator=noise, dtype=torch.float64)
    before = after = theirs.initial_state(batch)
    for mine, wanted in zip(stepper.initial_state(batch), theirs.arrays(before), strict=True):
        close(mine, wanted, wanted)
    for column in ids.T:
        logits, after = theirs.step(column, before)
        ours, found = stepper.step(column, tuple(theirs.arrays(before)))
        with torch.no_grad():
            wide = tuple(part.double() if part.is_floating_point() else part for part in before)
            (exact, exact_after), (near, near_after) = (
                m.step(torch.from_numpy(column), wide) for m in (exactly, nearby)
            )
        assert ours.dtype == np.float32
        close(ours, exact.numpy(), near.numpy())
        for mine, wanted, *true in zip(
            stepper.arrays(found), theirs.arrays(after), exact_after, near_after, strict=True
        ):
            assert (mine.dtype, mine.shape) == (wanted.dtype, wanted.shape)
            close(mine, *(part.numpy() for part in true))
        close(ours, logits, logits + float((near - exact).abs().max()))
        before = after
    found = stepper.initial_state(batch)
    for column in ids.T:
        ours, found = stepper.step(column, found)
    whole, end = stepper.forward(ids, stepper.initial_state(batch))
    for mine, wanted in zip([whole, *end], [ours, *found], strict=True):
        close(mine, wanted, wanted)


def close(mine, wanted, near):
    """Whether a result is the wanted one to the fifth digit. `near` is the result of weights that differ in their last
    bit: where that matters, as in a norm of nearly equal numbers, it is what any rounding may do."""
    apart = np.abs(np.asarray(near, np.float64) - wanted).max(initial=0)
    np.testing.assert_allclose(mine, wanted, rtol=0, atol=4 * apart + 1e-5 * max(1, np.abs(wanted).max(initial=0)))


@pytest.mark.parametrize("sizes", VARIANTS, ids=["one layer", "two, tied", "three, residual"])
@pytest.mark.parametrize("name", CELLS)
def test_a_stored_step_computes_what_the_step_computes(name, sizes):
    model = made(CELLS[name], **sizes)
    stepper = numpy_stepper(model)
    for batch in (1, 3, 64):
        hold_to_torch(model, stepper, batch)


class Powers(Cell):
    """h(t) = (a(t) ** b(t)) h(t-1) + x(t) / 2 ** h(t-1) ** 2, where a and b depend on x(t)."""

    def __init__(self, input_size, hidden_size):
        super().__init__(input_size, hidden_size)
        self.base, self.power, self.value = (nn.Linear(input_size, hidden_size) for _ in range(3))

    def step(self, x, state):
        a, b, h = torch.sigmoid(self.base(x)), torch.sigmoid(self.power(x)), state[0]
        h = a**b * h + self.value(x) / torch.pow(2, h**2)
        return h, (h,)


def test_powers_of_tensors_can_be_stored():
    model = made(Powers)
    hold_to_torch(model, numpy_stepper(model), 3)


@pytest.mark.parametrize("name", CELLS)
def test_what_is_stored_hangs_on_no_weight_and_reads_back(name):
    first, second = (trace(made(CELLS[name])).to_json() for _ in range(2))
    assert first == second
    assert StepGraph.from_json(json.loads(json.dumps(first))).to_json() == first
    assert len(json.dumps(first)) < 30_000


def test_tracing_leaves_no_trace(recwarn, capfd):
    model = made(CELLS["lstm"]).train()
    before, noise = {n: t.clone() for n, t in model.state_dict().items()}, torch.get_rng_state()
    trace(model)
    assert model.training and torch.is_grad_enabled() and torch.equal(noise, torch.get_rng_state())
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())
    assert not recwarn.list and capfd.readouterr() == ("", "")


def test_tracing_does_not_wait_for_the_compiler():
    program = (
        "import sys; from textgen import plugins; from textgen.model import ModelConfig;"
        "from textgen.model.stack import build_model; from textgen.tracing import trace;"
        "trace(build_model(ModelConfig(9, embedding_size=4, hidden_size=4), plugins.cell('gru')));"
        "sys.exit('torch._dynamo' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


# --- cells that do unusual things ---


class Unusual(Cell):
    """One state; a subclass says what becomes of the input x and the state h, both (B, H)."""

    def __init__(self, input_size, hidden_size):
        super().__init__(input_size, hidden_size)
        self.enter = nn.Linear(input_size, hidden_size)
        self.mix = nn.Linear(hidden_size, hidden_size)

    def step(self, x, state):
        h = torch.tanh(self.become(self.enter(x), *state))
        return h, (h,)


def unusual(become, **parts):
    return type("It", (Unusual,), {"become": lambda self, x, h: become(self, x, h), **parts})


def in_place(self, x, h):
    y = torch.zeros_like(h)
    y[:, :2] = x[:, :2]
    y[:, 3] += 1
    y.add_(h).mul_(0.5)
    return torch.relu_(y) + nn.functional.silu(x, inplace=False)


def in_heads(self, x, h):
    a, b = (t.view(len(t), 2, -1) for t in (x, h))
    scores = torch.einsum("bik,bjk->bij", a, b)
    scores = scores.masked_fill(torch.ones(2, 2, dtype=torch.bool).triu(1), float("-inf"))
    return (scores.softmax(-1) @ b).transpose(1, 2).reshape(len(x), -1)


def with_many_functions(self, x, h):
    y = nn.functional.softplus(x) - nn.functional.gelu(h) + nn.functional.elu(x) * nn.functional.leaky_relu(h)
    y = y + nn.functional.hardtanh(x, -0.5, 0.5) + nn.functional.gelu(h, approximate="tanh") + nn.functional.mish(x)
    y = y + torch.logsumexp(h, -1, keepdim=True) + h.std(-1, keepdim=True) + nn.functional.hardsigmoid(x)
    y = y + torch.rsqrt(h.square().mean(-1, keepdim=True) + 1e-3) * (x.abs() + 1) ** 1.5 + (2 - x).clamp(min=-1, max=1)
    return y / 5 + torch.addcdiv(x, h, 2 + x * x, value=0.3) + torch.where(x > h, x, -h.exp().log1p()) + x.sign()


def with_shapes(self, x, h):
    top, rest = h.split([1, h.shape[1] - 1], dim=1)
    y = torch.cat([rest, top], 1).flip(1) + x[:, torch.arange(x.shape[1] - 1, -1, -1)] + h.roll(1, -1)
    y = (
        y
        + torch.stack(x.unbind(1)[::-1], 1)
        + h[:, ::2].repeat(1, 2)
        + x.narrow(1, 0, 1)
        + x.max(1, keepdim=True).values
    )
    return y.unflatten(1, (2, -1)).permute(0, 2, 1).flatten(1) + h.cumsum(-1) / 3 + x.amin(1, keepdim=True)


def with_types(self, x, h):
    sign = (x > 0) & ~(h > 0.1)
    count = sign.sum(-1, keepdim=True)
    return x * sign + count / 3 + (h > 0).float() + torch.tensor(0.25) + count.float().sqrt() + x * (count == 1)


def with_norms(self, x, h):
    y = nn.functional.group_norm(x.unsqueeze(-1), 2).squeeze(-1) + nn.functional.rms_norm(h + 1, h.shape[-1:])
    return y + nn.functional.layer_norm(x, x.shape[-1:]) + nn.functional.normalize(h + 0.1, dim=-1)


def with_a_hidden_table(self, x, h):
    return x + h @ self.table + self.mix(h)


class Wrapped(Cell):
    """torch's own cell inside."""

    states = 2

    def __init__(self, input_size, hidden_size):
        super().__init__(input_size, hidden_size)
        self.inner = nn.LSTMCell(input_size, hidden_size)

    def step(self, x, state):
        h, c = self.inner(x, state)
        return h, (h, c)


class Begins(GatedCell):
    """A state that is learned, one that is not zero, and one that counts."""

    gates = 1
    states = 3

    def __init__(self, input_size, hidden_size):
        super().__init__(input_size, hidden_size)
        self.first = nn.Parameter(torch.randn(hidden_size))

    def initial_state(self, batch_size):
        h = torch.tanh(self.first).expand(batch_size, -1)
        steps = torch.full((batch_size, 1), 3, dtype=torch.int64)
        return h, torch.full((batch_size, 2, 3), -0.5), steps

    def activate(self, wx, rh, state):
        _, slow, steps = state
        h = torch.tanh(wx + rh + slow.sum((1, 2)).unsqueeze(1) / (steps + 1))
        return h, (h, slow * 0.9 + h[:, :3].unsqueeze(1), steps + 1)


class Delayed(Cell):
    """States that are others' of a step before, one that never changes, and outputs from before the step."""

    states = 4

    def __init__(self, input_size, hidden_size):
        super().__init__(input_size, hidden_size)
        self.enter, self.leave = nn.Linear(input_size, hidden_size), nn.Linear(3 * hidden_size, hidden_size)

    def initial_state(self, batch_size):
        return (*super().initial_state(batch_size)[:3], torch.full((batch_size, self.hidden_size), 0.7))

    def step(self, x, state):
        one, two, own, always = state
        own = torch.tanh(own * always + two)
        return self.leave(torch.cat([two, own, self.enter(x)], -1)), (self.enter(x), one, own, always)


UNUSUAL = {
    **{f.__name__: unusual(f) for f in (in_place, in_heads, with_many_functions, with_shapes, with_types, with_norms)},
    "Wrapped": Wrapped,
    "Begins": Begins,
    "Delayed": Delayed,
}


class Hidden(Unusual):
    """A table that no state dict holds."""

    become = with_a_hidden_table

    def __init__(self, input_size, hidden_size):
        super().__init__(input_size, hidden_size)
        self.register_buffer("table", torch.eye(hidden_size).roll(1, 0) * 0.5, persistent=False)


@pytest.mark.parametrize("cell", [*UNUSUAL.values(), Hidden], ids=[*UNUSUAL, "Hidden"])
def test_unusual_cells_are_stored_too(cell):
    model = made(cell)
    stepper = numpy_stepper(model)
    for batch in (1, 3, 64):
        hold_to_torch(model, stepper, batch)


# --- cells that cannot be stored ---

REFUSED = {
    "sort": (lambda self, x, h: x + h.sort(-1).values, "sort"),
    "a number of a tensor": (lambda self, x, h: x * h.sum().item(), "_local_scalar_dense"),
    "a branch on values": (lambda self, x, h: x + h if h.sum() > 0 else x, "_local_scalar_dense"),
    "noise": (lambda self, x, h: x + torch.rand_like(h), "random numbers"),
    "another type": (lambda self, x, h: (x.double() + h.double()).float(), "float64"),
    "a branch on the batch": (lambda self, x, h: x + h if len(x) == 3 else x - h, "different operations"),
    "a branch on a batch of one": (lambda self, x, h: x + h if len(x) == 1 else x - h, "something else"),
    "a number of the batch": (lambda self, x, h: x + h / len(x), "different operations"),
    "rows of others": (lambda self, x, h: x + h[:1], "inner axis"),
    "a size that is no multiple": (lambda self, x, h: x + h * torch.zeros(len(x) + 1, h.shape[1])[0], "a size of it"),
    "a sum over the batch": (lambda self, x, h: x + h.sum(0, keepdim=True), "inner axes"),
    "a huge constant": (lambda self, x, h: x + (torch.arange(70_000.0) * h[:, :1]).amax(1, keepdim=True), "constant"),
    "an error": (lambda self, x, h: x + h.nonsense, "AttributeError"),
    "changes its state": (lambda self, x, h: h.add_(x), "in place"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_stored_is_refused_with_the_reason(name):
    become, reason = REFUSED[name]
    with pytest.raises(Untraceable, match=reason) as caught:
        trace(made(unusual(become)))
    assert str(caught.value).endswith(".") and "\n" not in str(caught.value)


def test_a_trace_that_computes_something_else_is_refused(monkeypatch):
    seen = tracing._traced

    def changed(model):
        content = seen(model)
        next(node for node in content["step"]["nodes"] if node["op"] == "tanh")["op"] = "sigmoid"
        return content

    monkeypatch.setattr(tracing, "_traced", changed)
    with pytest.raises(Untraceable, match="something else"):
        trace(made(CELLS["gru"]))


def test_a_model_in_another_type_is_refused():
    with pytest.raises(Untraceable, match="float64"):
        trace(made(CELLS["gru"]).double())


# --- training ---


def test_training_stores_the_step(tmp_path):
    text = tmp_path / "fox.txt"
    text.write_text("Once upon a time there was a fox, and it was a good fox.\n" * 100)
    sizes = {"hidden_size": 8, "embedding_size": 8, "num_layers": 1, "max_steps": 2, "batch_size": 2, "seq_length": 16}
    folder = train(text, cell="gru", output_dir=str(tmp_path / "run"), tokenizer="char", **sizes)
    assert isinstance(load(folder).stepper, NumpyStepper) and isinstance(load(folder, "torch").stepper, TorchStepper)
    graph = StepGraph.from_json(json.loads((folder / STEP).read_bytes()))
    assert graph.logits.shape == (-1, load(folder).config.vocab_size)


def test_training_goes_on_where_the_step_cannot_be_stored(monkeypatch):
    def refuse(model):
        raise Untraceable("it uses magic.")

    monkeypatch.setattr(tracing, "trace", refuse)
    content, warnings = tracing.stored_step(made(CELLS["gru"]), "gru")
    assert content == {} and warnings == [
        "models of cell 'gru' will need torch, since numpy cannot run them: it uses magic."
    ]


def test_erf_and_gelu_are_near_enough():
    from textgen.runtime.ops import erf

    x = np.linspace(-6, 6, 2001).astype(np.float32)
    np.testing.assert_allclose(erf(x), [math.erf(v) for v in x], atol=2e-7)

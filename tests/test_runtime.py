"""Laws of the runtime: its numbers are torch's, states are values, folders that lie are refused, no torch is needed."""

import copy
import json
import math
import os
import random
import subprocess
import sys
import threading
from dataclasses import replace

import numpy as np
import pytest
import torch
from zoo import CELLS, sharpen

import textgen
from textgen import storage
from textgen.cli import main
from textgen.data.tokenizers import CharTokenizer
from textgen.errors import TextgenError, UsageError
from textgen.evaluation.compression import compress, decompress
from textgen.generation import SampleOptions
from textgen.generation.generate import complete
from textgen.generation.language_model import load
from textgen.generation.sampling import log_softmax
from textgen.generation.session import Session
from textgen.generation.streams import Streams
from textgen.model import CONFIG, GENERATION, STEP, WEIGHTS, ModelConfig
from textgen.model.stack import build_model
from textgen.model.weights import TorchStepper, model_tensors
from textgen.runtime import NumpyStepper
from textgen.runtime import plan as planning
from textgen.runtime.graph import StepGraph
from textgen.runtime.ops import OPERATIONS
from textgen.runtime.plan import lower
from textgen.storage import FORMAT_VERSION, DamagedError, filesystem
from textgen.tracing import stored_step, trace
from textgen.training.runs import Run

TOKENIZER = CharTokenizer("\n abcdefgh")
SIZES = {"embedding_size": 12, "hidden_size": 16, "num_layers": 2}


def made(cell="lstm", **sizes):
    torch.manual_seed(1)
    config = ModelConfig(TOKENIZER.vocab_size, cell=cell, **{**SIZES, **sizes})
    return config, sharpen(build_model(config, CELLS[cell]).eval())


def saved(folder, config, model):
    habits = {"begin": [0], "suppress_tokens": [1]}
    contents = {
        CONFIG: filesystem.to_json(config.to_json()),
        GENERATION: filesystem.to_json(habits),
        **TOKENIZER.files(),
    }
    step, warnings = stored_step(model, config.cell)
    assert not warnings
    Run.create(folder, {**contents, **step}).publish(model)
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return saved(tmp_path_factory.mktemp("models") / "lstm", *made())


@pytest.fixture
def own_folder(tmp_path):
    return saved(tmp_path / "model", *made())


@pytest.fixture(scope="module")
def both(folder):
    return load(folder), load(folder, "torch")


def stepper_of(cell="lstm", **sizes):
    _, model = made(cell, **sizes)
    return NumpyStepper(trace(model), {name: tensor.detach().numpy() for name, tensor in model_tensors(model).items()})


GROWTH = 32
"""How much a difference in a model's state may grow, in later states and logits, before the model forgets it."""


def rounding(values):
    """The most by which two correct computations of these float32 values may differ, however many steps led there.

    A step rounds by a few eps, which later steps amplify by GROWTH at most and then forget.
    """
    return GROWTH * 4 * np.finfo(np.float32).eps * max(1.0, float(np.abs(values).max()))


@pytest.mark.parametrize("cell", CELLS)
def test_a_difference_in_rounding_stays_small(cell):
    """The models of these tests are not chaotic, so what two backends compute can be compared on any machine."""
    model = made(cell)[1].double()
    noise = torch.Generator().manual_seed(0)
    ids = torch.randint(TOKENIZER.vocab_size, (200, 8), generator=noise)
    with torch.no_grad():
        _, state = model(ids[:10])
        sizes = [1e-7 * max(1.0, float(part.abs().max())) for part in state]
        near = tuple(p + s * (1 - 2 * torch.rand(p.shape, generator=noise)) for p, s in zip(state, sizes, strict=True))
        for row in ids:
            (logits, state), (others, near) = model.step(row, state), model.step(row, near)
            pairs = zip([logits, *state], [others, *near], strict=True)
            apart = max(float((one - other).abs().max()) for one, other in pairs)
            assert apart < GROWTH * max(sizes)
    assert apart < 0.1 * max(sizes)


# --- one model, two backends ---


def test_the_backend_is_chosen(folder):
    assert isinstance(load(folder).stepper, NumpyStepper)
    assert isinstance(load(folder, "numpy").stepper, NumpyStepper)
    assert isinstance(load(folder, "torch").stepper, TorchStepper)
    with pytest.raises(UsageError, match="auto, numpy, torch or int8, not 'jax'"):
        load(folder, "jax")


def test_a_folder_without_a_stored_step_is_run_by_torch(own_folder):
    (own_folder / STEP).unlink()
    manifest = storage.read_manifest(own_folder)
    del manifest["files"][STEP]
    (own_folder / storage.MANIFEST).write_bytes(storage.seal(manifest))
    assert isinstance(load(own_folder).stepper, TorchStepper)
    with pytest.raises(TextgenError, match=r"holds no step.json") as caught:
        load(own_folder, "numpy")
    assert "backend=torch" in caught.value.hint


@pytest.mark.parametrize("cell", ["gru", "lstm", "Mgu"])
def test_greedy_texts_are_the_same_for_two_thousand_symbols(cell, tmp_path):
    config, model = made(cell)
    numpy = load(saved(tmp_path / "model", config, model))
    torch_ = replace(numpy, stepper=TorchStepper(model))
    options = {"greedy": True, "max_new_tokens": 2000, "ignore_eos": True}
    assert textgen.generate(numpy, "abc", **options) == textgen.generate(torch_, "abc", **options)


@pytest.mark.parametrize("options", [{}, {"num_beams": 3}, {"top_p": 0.8, "temperature": 1.3}], ids=str)
def test_texts_are_the_same(both, options):
    numpy, torch_ = both
    chosen = {**options, "max_new_tokens": 80} | ({} if options.get("num_beams") else {"seed": 5})
    assert textgen.generate(numpy, "abc", **chosen) == textgen.generate(torch_, "abc", **chosen)


def test_scores_are_the_same(both):
    text = "abc hgf\n" * 300
    for lanes in (1, 16):
        numpy, torch_ = (textgen.evaluate(model, text, lanes=lanes) for model in both)
        assert numpy.tokens == torch_.tokens and math.isclose(numpy.nats, torch_.nats, rel_tol=1e-6)


def test_states_go_from_one_backend_to_the_other(both, tmp_path):
    for writer, reader in (both, both[::-1]):
        session = Session.begin(writer, "ab", seed=3)
        _, session = session.write(max_new_tokens=20)
        session.save(tmp_path / "state")
        moved = Session.load(reader, tmp_path / "state")
        assert moved.write(max_new_tokens=60)[0] == session.write(max_new_tokens=60)[0]


def test_what_is_compressed_comes_back(both):
    data = b"abc hgf\n" * 50 + bytes(range(256))
    for model in both:
        assert decompress(model, compress(model, data)) == data


# --- rows and sequences ---


def test_few_samples_are_bit_for_bit_their_single_runs(both):
    options = {"max_new_tokens": 30, "ignore_eos": True, "logprobs": 1}
    for k, completion in enumerate(complete(both[0], ["abc"] * 8, SampleOptions(seed=9, **options))):
        assert [completion] == complete(both[0], ["abc"], SampleOptions(seed=9 + k, **options))


@pytest.mark.parametrize("cell", CELLS)
def test_what_neighbours_hold_never_matters(cell):
    stepper, noise = stepper_of(cell), np.random.default_rng(0)
    ids = noise.integers(0, TOKENIZER.vocab_size, (5, 16))
    results = []
    for _ in range(2):
        ids[:, 1:] = noise.integers(0, TOKENIZER.vocab_size, (5, 15))
        state = stepper.initial_state(16)
        for row in ids:
            logits, state = stepper.step(row, state)
        results.append([part[0] for part in (logits, *state)])
    assert all(np.array_equal(one, other) for one, other in zip(*results, strict=True))


@pytest.mark.parametrize("cell", CELLS)
def test_a_sequence_is_its_steps(cell, monkeypatch):
    stepper, noise = stepper_of(cell), np.random.default_rng(0)
    assert stepper._sequence.possible
    ids, targets = noise.integers(0, TOKENIZER.vocab_size, (2, 3, 40))
    start = state = stepper.step(ids[:, 0], stepper.initial_state(3))[1]
    wanted = np.empty(ids.shape)
    for t in range(40):
        logits, state = stepper.step(ids[:, t], state)
        wanted[:, t] = log_softmax(logits)[np.arange(3), targets[:, t]]
    for pieces in (256, 30, 1):
        monkeypatch.setattr("textgen.runtime.sequence.MIN_ROWS", pieces)
        monkeypatch.setattr("textgen.runtime.sequence.MAX_CHUNK_ELEMENTS", 1)
        scores, end = stepper.score(ids, targets, start)
        np.testing.assert_allclose(scores, wanted, rtol=0, atol=rounding(wanted))
        last, after = stepper.forward(ids, start)
        for ours, theirs in zip([last, *after, *end], [logits, *state, *state], strict=True):
            np.testing.assert_allclose(ours, theirs, rtol=0, atol=rounding(theirs))


def test_layers_run_one_after_the_other_over_a_sequence():
    """Of a stack of LSTMs only R·h and the gates are looped; W·x and the logits are one product each."""
    loops = [stage for stage in stepper_of()._sequence._stages if hasattr(stage, "leaves")]
    assert [[call.op for call in loop._execution._calls].count("product") for loop in loops] == [1, 1]
    assert [call.op for call in stepper_of()._sequence._readout._calls].count("product") == 1


@pytest.mark.parametrize("cell", CELLS)
def test_a_state_is_a_value(cell):
    stepper = stepper_of(cell)
    ids = np.arange(6).reshape(3, 2) % TOKENIZER.vocab_size
    _, state = stepper.step(ids[:, 0], stepper.initial_state(3))
    before = copy.deepcopy(state)
    first = stepper.step(ids[:, 1], state)
    stepper.forward(ids, state)
    stepper.score(ids, ids, state)
    again = stepper.step(ids[:, 1], state)
    assert all(np.array_equal(a, b) for a, b in zip(state, before, strict=True))
    for one, other in zip([first[0], *first[1]], [again[0], *again[1]], strict=True):
        assert np.array_equal(one, other) and not np.shares_memory(one, other)


@pytest.mark.parametrize("beyond", [float("inf"), float("nan")])
def test_weights_that_are_no_numbers_give_scores_that_are_none_and_no_warning(beyond):
    """A warning would open the library's own source, for a model that anyone may have written."""
    _, model = made()
    graph, weights = trace(model), {name: tensor.detach().numpy() for name, tensor in model_tensors(model).items()}
    weights["readout.linear.bias"] = np.full_like(weights["readout.linear.bias"], beyond)
    stepper, ids = NumpyStepper(graph, weights), np.ones((2, 3), np.int32)
    scores, _ = stepper.score(ids, ids, stepper.initial_state(2))
    assert np.isnan(scores).all()


def test_rows_are_chosen_and_joined():
    stepper = stepper_of("Projected")
    _, state = stepper.step(np.arange(4), stepper.initial_state(4))
    apart = [stepper.select(state, np.array([row])) for row in (2, 0, 2)]
    for joined, chosen in zip(stepper.concat(apart), stepper.select(state, np.array([2, 0, 2])), strict=True):
        assert np.array_equal(joined, chosen)


def test_several_threads_may_step_at_once():
    stepper, ids = stepper_of(), np.arange(3)
    wanted, results = stepper.step(ids, stepper.initial_state(3))[0], []

    def work():
        results.extend(stepper.step(ids, stepper.initial_state(3))[0] for _ in range(200))

    workers = [threading.Thread(target=work) for _ in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert len(results) == 800 and all(np.array_equal(result, wanted) for result in results)


# --- what is done beforehand ---


@pytest.mark.parametrize("cell", CELLS)
def test_what_is_done_beforehand_changes_nothing(cell, monkeypatch):
    ids = np.array([1, 4, 2])
    quick = stepper_of(cell)
    for rewriting in ("_fold", "_leave_unexpanded", "_join_constants", "_slice_later", "_transpose_weights"):
        monkeypatch.setattr(planning, rewriting, lambda plan: None)
    monkeypatch.setattr(planning, "_tabulate", lambda plan: None)
    plain = stepper_of(cell)
    assert len(plain._step._calls) >= len(quick._step._calls)
    (ours, after), (theirs, wanted) = (s.step(ids, s.initial_state(3)) for s in (quick, plain))
    for one, other in zip([ours, *after], [theirs, *wanted], strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5)


def test_what_hangs_on_the_symbol_alone_is_looked_up():
    few = [call.op for call in stepper_of()._step._calls]
    assert few.count("product") == 4 and few[0] == "embedding"  # of five; the first layer's W·x is in the table
    assert few.count("sigmoid") == 2


def test_what_the_weights_were_read_into_is_let_go(both):
    steppers = both[0].stepper._step, both[0].stepper._initial
    held = [array for execution in steppers for array in execution._initial if isinstance(array, np.ndarray)]
    assert held and all(array.base is None for array in held)


# --- operations ---

TORCH = {
    **{name: getattr(torch, name) for name in
       ("tanh", "exp", "expm1", "log", "log1p", "sqrt", "reciprocal", "sin", "cos", "floor", "ceil", "relu", "sigmoid",
        "erf", "negative", "absolute", "sign", "add", "subtract", "multiply", "divide", "maximum", "minimum", "power",
        "less", "less_equal", "greater", "greater_equal", "not_equal", "where", "lerp", "logical_not", "logical_and",
        "logical_or", "logical_xor") if hasattr(torch, name)},
    "remainder": torch.remainder, "floor_divide": torch.floor_divide,
    "equal": torch.eq, "power": torch.pow, "log_sigmoid": torch.nn.functional.logsigmoid,
}  # fmt: skip


@pytest.mark.parametrize("name", TORCH)
def test_a_pointwise_operation_is_torchs(name):
    extremes = [0.0, 1e-20, 1e-4, 0.5, 1, 3, 20, 88, 100, 1e20]
    x = np.array([*extremes, *(-v for v in extremes), np.inf, -np.inf], dtype=np.float32)
    operation = OPERATIONS[name]
    operands = [np.roll(x, 3 * place) for place in range(len(operation.inputs))]
    operands = [o > 0 if letter == "b" else o for o, letter in zip(operands, operation.inputs, strict=True)]
    if name == "power":
        operands = [np.abs(operands[0]), np.clip(operands[1], -2, 2)]
    if name in ("sin", "cos", "lerp"):
        operands = [np.clip(o, -100, 100) for o in operands]
    with np.errstate(all="ignore"):
        ours = operation.run(*operands)
    theirs = TORCH[name](*map(torch.from_numpy, operands)).numpy()
    assert ours.dtype == theirs.dtype
    np.testing.assert_allclose(ours, theirs, rtol=3e-6, atol=2e-7 if name in ("erf", "sin", "cos") else 1e-37)


def test_every_pointwise_operation_is_compared():
    assert {name for name, operation in OPERATIONS.items() if operation.scalars} == set(TORCH)


# --- a step.json that lies ---


def content_of(cell="gru", **sizes):
    return trace(made(cell, **sizes)[1]).to_json()


def node_of(content, op):
    return next(node for node in content["step"]["nodes"] if node["op"] == op)


LIES = {
    "another format": (lambda c: c.update(format="pickle"), "not a stored step"),
    "no version": (lambda c: c.update(version="1"), "not a stored step"),
    "an unknown operation": (lambda c: node_of(c, "tanh").update(op="os.system"), "an unknown operation: 'os.system'"),
    "an operation that is a list": (lambda c: node_of(c, "tanh").update(op=["tanh"]), r"operation: \['tanh'\]"),
    "a shape that lies": (lambda c: node_of(c, "tanh")["is"].__setitem__(1, ["B", 17]), r"not \(2, 17\) as declared"),
    "a type that lies": (lambda c: node_of(c, "tanh")["is"].__setitem__(0, "int64"), "incompatible types"),
    "a reference forward": (lambda c: node_of(c, "tanh").update(inputs=["node.30"]), "not an earlier value"),
    "a reference to itself": (lambda c: c["step"]["nodes"][3].update(inputs=["node.3"]), "not an earlier value"),
    "too many inputs": (lambda c: node_of(c, "tanh").update(inputs=["node.0", "node.0"]), "takes 2 inputs"),
    "too few inputs": (lambda c: node_of(c, "linear").update(inputs=["node.0"]), "takes 1 inputs"),
    "a missing output": (lambda c: c["step"].update(outputs=["node.999"]), "an output of its step program"),
    "one output too few": (lambda c: c["step"]["outputs"].pop(), "than declared"),
    "an axis that is not there": (lambda c: node_of(c, "slice")["options"].update(axis=2), "inner axis"),
    "the batch's axis": (lambda c: node_of(c, "slice")["options"].update(axis=0), "inner axis"),
    "a slice beyond the end": (lambda c: node_of(c, "slice")["options"].update(stop=999), "takes 0:999:1"),
    "an option too many": (lambda c: node_of(c, "slice")["options"].update(code="1"), "must have the options"),
    "no number": (lambda c: node_of(c, "full").update(options={"value": math.nan}), "where a number"),
    "a number too large": (lambda c: node_of(c, "full").update(options={"value": 10**400}), "where a number"),
    "text for a number": (lambda c: node_of(c, "full").update(options={"value": "nan"}), "where a number"),
    "a huge value": (lambda c: node_of(c, "full").update({"is": ["float32", ["B", 1 << 25]]}), "numbers per row"),
    "huge values together": (lambda c: c["initial"]["nodes"].extend([FULL] * 70), "than 67,108,864 numbers per row"),
    "a huge size": (lambda c: node_of(c, "full").update({"is": ["float32", ["B", 10**30]]}), "an invalid size"),
    "a negative size": (lambda c: node_of(c, "full").update({"is": ["float32", ["B", -1]]}), "an invalid size"),
    "a huge constant": (lambda c: c["step"]["constants"].append(CONSTANT), "too long"),
    "huge constants": (lambda c: c["step"]["constants"].extend([SMALL] * 3), "constant numbers"),
    "too many nodes": (lambda c: c["step"].update(nodes=[{}] * 20_001), "too long"),
    "a state of another size": (lambda c: c["state"][0].__setitem__(1, ["B", 9]), "than declared"),
    "a state without rows": (lambda c: c["state"][0].__setitem__(1, [4, 4]), "one row for each row"),
    "a weight of the batch's size": (lambda c: c["weights"].update(w=["float32", ["B"]]), "depends on the batch"),
    "logits of one row": (lambda c: c.update(logits=["float32", [1, 12]]), "one row for each row"),
    "no step": (lambda c: c.pop("step"), "is not a JSON object"),
}  # fmt: skip
FULL = {"op": "full", "inputs": [], "is": ["float32", ["B", 1_000_000]], "options": {"value": 0}}
CONSTANT = {"is": ["float32", [70_000]], "values": [0.0] * 70_000}
SMALL = {"is": ["float32", [30_000]], "values": [0.0] * 30_000}


@pytest.mark.parametrize("name", LIES)
def test_a_lie_is_refused_in_a_sentence(name):
    lie, reason = LIES[name]
    content = content_of("Projected")
    lie(content)
    with pytest.raises(DamagedError, match=reason) as caught:
        StepGraph.from_json(content, "run/step.json")
    assert str(caught.value).startswith("run/step.json is damaged: ") and str(caught.value).endswith(".")


@pytest.mark.parametrize("version", [1, FORMAT_VERSION + 1])
def test_another_format_version_says_so(version):
    says = f"has format version {version}; this textgen reads version {FORMAT_VERSION}"
    with pytest.raises(TextgenError, match=says) as caught:
        StepGraph.from_json({**content_of(), "version": version})
    assert "train again" in caught.value.hint


def test_mutants_are_refused_or_computed():
    """Whatever is changed in a stored step: it is refused as damaged, or gives logits of the right shape."""
    chance, refused, computed = random.Random(0), 0, 0
    parents = [
        (cell, content_of(cell), made(cell)[1])
        for cell in ("Projected", "BlockDiagonal", "slstm", "mlstm")
        if cell in CELLS
    ]
    for number in range(3000):
        _, parent, model = parents[number % len(parents)]
        content = json.loads(json.dumps(parent))
        for _ in range(chance.choice([0, 1, 1, 2])):
            exchange(content, chance)
        for _ in range(chance.choice([0, 0, 1, 3])):
            mutate(content, chance)
        weights = {name: tensor.detach().numpy() for name, tensor in model_tensors(model).items()}
        try:
            graph = StepGraph.from_json(content)
        except TextgenError:
            refused += 1
            continue
        if {name: kind.shape for name, kind in graph.weights.items()} != {n: w.shape for n, w in weights.items()}:
            continue
        stepper = NumpyStepper(graph, weights)
        for batch in (1, 3):
            logits, state = stepper.step(np.zeros(batch, np.int32), stepper.initial_state(batch))
            logits, state = stepper.forward(np.zeros((batch, 3), np.int32), state)
            assert logits.shape == (batch, graph.logits.shape[1])
            assert [part.shape[1:] for part in state] == [kind.shape[1:] for kind in graph.state]
        computed += 1
    assert refused > 1500 and computed > 100


def places_of(value, path=()):
    if isinstance(value, (dict, list)):
        for key, inner in value.items() if isinstance(value, dict) else enumerate(value):
            yield (*path, key)
            yield from places_of(inner, (*path, key))


WORDS = [
    "B",
    "2B",
    "0B",
    "ids",
    "node.0",
    "node.5",
    "state.0",
    "constant.0",
    "float32",
    "int64",
    "bool",
    "inf",
    *OPERATIONS,
]


def mutate(content, chance):
    """Change one place: another value of any kind, one from elsewhere, something more, or nothing at all."""
    places = list(places_of(content))
    *path, key = chance.choice(places)
    holder = content
    for step in path:
        holder = holder[step]
    other = content
    for step in chance.choice(places):
        other = other[step]
    values = [0, 1, -1, 2, 3, 16, 17, 2**31, 1e30, -0.5, True, None, [], {}, "", *chance.sample(WORDS, 4), other]
    what = chance.randrange(8)
    if what == 0 and isinstance(holder, list):
        holder.insert(key, copy.deepcopy(chance.choice(values)))
    elif what == 1:
        del holder[key]
    elif what == 2 and isinstance(holder[key], int):
        holder[key] += chance.choice([-1, 1])
    else:
        holder[key] = copy.deepcopy(chance.choice(values))


def exchange(content, chance):
    """What might go unnoticed: another operation, input or number in a node."""
    program = content[chance.choice(["step", "step", "initial"])]
    number = chance.randrange(len(program["nodes"]))
    node = program["nodes"][number]
    what = chance.choice(["op", "input", "number", "output"])
    if what == "op":
        alike = [name for name, other in OPERATIONS.items() if len(other.inputs) == len(OPERATIONS[node["op"]].inputs)]
        node["op"] = chance.choice(alike)
    elif what == "input" and node["inputs"]:
        names = [f"node.{earlier}" for earlier in range(number)] + ["ids", "state.0", "state.1", 0.5, "inf", 1e38]
        node["inputs"][chance.randrange(len(node["inputs"]))] = chance.choice(names)
    elif what == "number" and node.get("options"):
        node["options"][chance.choice(list(node["options"]))] = chance.choice([0, 1, 2, 0.1, "-inf", [0], [1], True])
    elif what == "output":
        names = [f"node.{earlier}" for earlier in range(len(program["nodes"]))] + ["state.0", "state.1"]
        program["outputs"][chance.randrange(len(program["outputs"]))] = chance.choice(names)


# --- folders that are damaged ---


def rewritten(folder, name, content):
    """Replace a file with its line in the manifest: a lie that no digest shows."""
    filesystem.replace_in_folder(folder, name, content)


def test_a_changed_step_is_damage(own_folder):
    path = own_folder / STEP
    path.write_bytes(path.read_bytes().replace(b"tanh", b"sqrt", 1))
    with pytest.raises(DamagedError, match=r"step.json is damaged: its content does not match"):
        load(own_folder)


@pytest.mark.parametrize("change", ["missing", "extra", "another shape", "another type", "cut", "beyond", "no header"])
def test_weights_that_do_not_fit_the_step_are_damage(own_folder, change):
    content = (own_folder / WEIGHTS).read_bytes()
    size = int.from_bytes(content[:8], "little")
    header, numbers = json.loads(content[8 : 8 + size]), content[8 + size :]
    name = "readout.linear.bias"
    if change == "missing":
        del header[name]
    elif change == "extra":
        header["more"] = header[name]
    elif change == "another shape":
        header[name]["shape"] = [2, 6]
    elif change == "another type":
        header[name]["dtype"] = "I32"
    elif change == "beyond":
        header[name]["data_offsets"] = [place + len(numbers) for place in header[name]["data_offsets"]]
    elif change == "cut":
        numbers = numbers[:-4]
    stored = json.dumps(header).encode()
    data = b"\xff" * 20 if change == "no header" else len(stored).to_bytes(8, "little") + stored + numbers
    rewritten(own_folder, WEIGHTS, data)
    with pytest.raises(DamagedError, match=WEIGHTS):
        load(own_folder, "numpy")


def test_a_step_of_another_vocabulary_is_damage(own_folder):
    tokenizer = CharTokenizer("ab")
    config = {**json.loads((own_folder / CONFIG).read_bytes()), "vocab_size": tokenizer.vocab_size}
    for name, content in {CONFIG: filesystem.to_json(config), **tokenizer.files()}.items():
        rewritten(own_folder, name, content)
    with pytest.raises(DamagedError, match="it computes 12 logits, not 4"):
        load(own_folder)


def test_a_step_of_many_megabytes_is_not_read(own_folder):
    rewritten(own_folder, STEP, b" " * (17 << 20))
    with pytest.raises(DamagedError, match="more than 16,777,216"):
        load(own_folder)


# --- without torch ---

WITHOUT = """
import sys
sys.modules["torch"] = None
from textgen.cli import main
code = main(sys.argv[1:])
heavy = {"torch", "datasets", "rich", "pyarrow", "huggingface_hub", "safetensors", "textgen_cells"} & {
    name for name, module in sys.modules.items() if module is not None
}
sys.exit(f"imported {heavy}" if heavy else code)
"""


@pytest.mark.parametrize("verb", ["sample", "evaluate"])
def test_a_model_is_used_where_neither_torch_nor_its_plugin_is(tmp_path, verb):
    config, model = made("Peephole")
    folder = saved(tmp_path / "model", replace(config, cell="strange", cell_distribution="textgen-strange"), model)
    (tmp_path / "text.txt").write_text("abc hgf\n" * 20)
    given = ["-n", "40", "--seed", "2", "-p", "abc"] if verb == "sample" else [str(tmp_path / "text.txt")]
    program = WITHOUT if verb == "sample" else WITHOUT.replace('"safetensors", ', "")
    done = subprocess.run(
        [sys.executable, "-c", program, verb, "-m", str(folder), *given],
        capture_output=True, text=True, check=False, env=os.environ,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    loaded = replace(load(folder), stepper=TorchStepper(model))
    if verb == "sample":
        assert done.stdout == textgen.generate(loaded, "abc", max_new_tokens=40, seed=2) + "\n"
    else:
        score = textgen.evaluate(loaded, "abc hgf\n" * 20)
        assert done.stdout.startswith(f"{score.nats_per_token:.4f} nats per token")


def test_the_command_takes_either_backend(folder, capfd):
    given = ["sample", "-m", str(folder), "-n", "30", "--seed", "2", "--backend"]
    texts = []
    for backend in ("auto", "numpy", "torch"):
        assert main([*given, backend]) == 0
        texts.append(capfd.readouterr().out)
    assert len(set(texts)) == 1
    assert main([*given, "tensorflow"]) == 2
    assert "--backend must be auto, numpy" in capfd.readouterr().err


# --- texts that are written together ---


def texts_of(streams):
    texts = {}
    while len(streams):
        for piece in streams.step():
            texts[piece.key] = texts.get(piece.key, "") + piece.text
    return texts


@pytest.mark.parametrize("which", [0, 1], ids=["numpy", "torch"])
@pytest.mark.parametrize("exact", [True, False])
def test_streams_write_what_each_writes_alone(both, which, exact):
    model, streams, wanted = both[which], Streams(both[which], exact), {}
    options = [{"seed": k, "max_new_tokens": 5 + 7 * k, "stop": ["hh"] if k % 2 else []} for k in range(6)]
    texts, prompts = {}, ["", "abc", "hgfedcba" * 5, "a", "b", "c"]
    for prompt, each in zip(prompts, options, strict=True):
        key = streams.add(prompt, **each)
        wanted[key] = textgen.generate(model, prompt, **each)
        for piece in streams.step():  # they come one by one
            texts[piece.key] = texts.get(piece.key, "") + piece.text
    for key, text in texts_of(streams).items():
        texts[key] = texts.get(key, "") + text
    assert texts == wanted


def test_streams_come_and_go(both):
    streams = Streams(both[0])
    first, second, third = (streams.add("abc", seed=k, max_new_tokens=30) for k in range(3))
    streams.step()
    streams.remove(second)
    assert len(streams) == 2
    fourth = streams.add("x", seed=7, max_new_tokens=0)
    pieces = streams.step()
    assert [piece.key for piece in pieces] == [first, third, fourth]
    assert pieces[-1].finish_reason == "length" and pieces[-1].text == ""
    wanted = textgen.generate(both[0], "abc", seed=0, max_new_tokens=30)
    assert wanted.startswith(streams.completion(first).text)
    with pytest.raises(KeyError):
        streams.remove(second)
    with pytest.raises(UsageError, match="cannot stream"):
        streams.add("a", num_beams=2)


def test_a_stream_ends_with_its_reason(both):
    streams, reasons = Streams(both[0]), {}
    keys = [streams.add(seed=k, max_new_tokens=200) for k in range(6)]
    while len(streams):
        reasons |= {piece.key: piece.finish_reason for piece in streams.step() if piece.finish_reason}
    wanted = complete(both[0], [""] * 6, SampleOptions(seed=0, max_new_tokens=200))
    assert [reasons[key] for key in keys] == [completion.finish_reason for completion in wanted]


def test_lowering_keeps_no_weight_that_is_not_read():
    _, model = made()
    arrays = {f"weight.{name}": tensor.detach().numpy() for name, tensor in model_tensors(model).items()}
    plan = lower(trace(model).initial, arrays, {})
    assert plan.constants == {} and [call.op for call in plan.calls] == ["full"] * 4

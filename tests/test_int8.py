"""Laws of weights in eight bits: how far off they are, what a folder of them holds, and which lies are refused."""

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from safetensors.numpy import load as tensors_of
from safetensors.numpy import save
from test_runtime import WITHOUT, made, rewritten, saved
from zoo import CELLS

import textgen
from textgen import runtime as stepping
from textgen import storage
from textgen.cli import main
from textgen.errors import TextgenError
from textgen.generation.language_model import load
from textgen.model import STEP, WEIGHTS
from textgen.model.weights import model_tensors
from textgen.runtime import NumpyStepper, quantize
from textgen.runtime import plan as planning
from textgen.runtime.graph import TensorSpec
from textgen.runtime.int8 import SCALE, SMALLEST, Int8Rows, in_int8, suits
from textgen.storage import FORMAT_VERSION, DamagedError, filesystem
from textgen.tracing import trace

WIDE = {"embedding_size": 48, "hidden_size": 64}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return saved(tmp_path_factory.mktemp("models") / "lstm", *made(**WIDE))


@pytest.fixture(scope="module")
def small(folder):
    output = folder.parent / "small"
    quantize(folder, output)
    return output


@pytest.fixture
def own(folder, tmp_path):
    quantize(folder, tmp_path / "own")
    return tmp_path / "own"


def logits_of(stepper, batch=3, length=12):
    ids = np.random.default_rng(0).integers(0, 12, (batch, length)).astype(np.int32)
    return stepper.forward(ids, stepper.initial_state(batch))[0]


def steppers(cell, **sizes):
    """Of one model with random weights: in floats of its rounded weights, and in eight bits."""
    _, model = made(cell, **{**WIDE, **sizes})
    graph, arrays = trace(model), {name: tensor.detach().numpy() for name, tensor in model_tensors(model).items()}
    weights = {n: Int8Rows.of(a, n) if suits(graph.weights[n]) else a for n, a in arrays.items()}
    assert any(isinstance(weight, Int8Rows) for weight in weights.values())
    return NumpyStepper(graph, weights), NumpyStepper(graph, weights, "int8")


# --- rounding ---


@pytest.mark.parametrize("shape", [(5, 7), (2, 3, 40), (4, 1)])
def test_a_number_is_off_by_half_a_step_at_most(shape):
    array = np.random.default_rng(1).standard_normal(shape).astype(np.float32)
    rows = Int8Rows.of(array, "w")
    assert rows.codes.dtype == np.int8 and rows.codes.shape == shape and rows.scales.shape == shape[:-1]
    assert np.abs(rows.codes).max(axis=-1).min() == 127
    assert (np.abs(rows.floats - array) <= rows.scales[..., None] * 0.5001).all()


def test_rows_have_scales_of_their_own_and_zeros_stay():
    array = np.array([[1000, -500], [0.001, 0.0005], [0, 0]], np.float32)
    np.testing.assert_allclose(Int8Rows.of(array, "w").floats, array, rtol=0.01)


def test_what_is_not_finite_is_refused():
    with pytest.raises(TextgenError, match="weight 'w' contains NaN or infinity"):
        Int8Rows.of(np.array([[1, np.inf]], np.float32), "w")


def test_biases_norms_and_small_matrices_stay():
    assert suits(TensorSpec("float32", (64, 64))) and suits(TensorSpec("float32", (2, 64, 32)))
    for shape in ((SMALLEST,), (63, 64)):
        assert not suits(TensorSpec("float32", shape))
    assert not suits(TensorSpec("int64", (64, 64)))


def test_a_table_is_looked_up_as_its_floats():
    rows = Int8Rows.of(np.random.default_rng(2).standard_normal((9, 5)).astype(np.float32), "w")
    for ids in (np.array([0, 8, 3]), np.array([[1], [2]])):
        np.testing.assert_array_equal(rows.take(ids), rows.floats[ids])


# --- a folder ---


def test_a_small_folder_is_a_quarter_and_plain_data(folder, small):
    tensors = tensors_of((folder / WEIGHTS).read_bytes())
    numbers = sum(array.nbytes / (4 if suits(TensorSpec("float32", array.shape)) else 1) for array in tensors.values())
    rows = sum(len(array) for array in tensors.values())
    assert (small / WEIGHTS).stat().st_size < numbers + 4 * rows + 4096
    big, codes = (tensors_of((each / WEIGHTS).read_bytes()) for each in (folder, small))
    for name, array in big.items():
        assert codes[name].shape == array.shape
        if codes[name].dtype == np.int8:
            assert np.abs(codes[name] * codes[name + SCALE][..., None] - array).max() <= codes[name + SCALE].max() / 1.9
        else:
            np.testing.assert_array_equal(codes[name], array)
    storage.verify(small)
    assert json.loads((small / STEP).read_bytes())["version"] == FORMAT_VERSION


def test_floats_of_a_small_folder_need_no_onnxruntime(folder, small, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    floats = logits_of(load(small, "numpy").stepper)
    np.testing.assert_allclose(floats, logits_of(load(folder, "numpy").stepper), atol=1.0)
    for name, backend in ((small, "auto"), (folder, "int8")):
        with pytest.raises(TextgenError, match="onnxruntime, which is not installed") as caught:
            load(name, backend)
        assert "pip install 'textgen-lm[int8]'" in caught.value.hint


def test_torch_says_that_it_cannot(small, tmp_path):
    with pytest.raises(TextgenError, match="has int8 weights, which torch cannot run"):
        load(small, "torch")


def test_what_cannot_be_made_is_said(folder, small, tmp_path):
    with pytest.raises(TextgenError, match="already has int8 weights"):
        quantize(small, tmp_path / "again")
    with pytest.raises(TextgenError, match="exists already"):
        quantize(folder, small)
    assert not (tmp_path / "again").exists()


LIES = {
    "a negative scale": (lambda t: t["readout.linear.weight" + SCALE].__setitem__(0, -1), "negative"),
    "too large or NaN": (lambda t: t["readout.linear.weight" + SCALE].__setitem__(0, np.nan), "too large or NaN"),
    "infinity": (lambda t: t["readout.linear.weight" + SCALE].__setitem__(0, np.inf), "too large"),
    "more than floats hold": (lambda t: t["readout.linear.weight" + SCALE].__setitem__(0, 1e38), "too large"),
    "no scale": (lambda t: t.pop("readout.linear.weight" + SCALE), "only one of them has"),
    "one scale too few": (lambda t: t.update({S: t[S][:-1] for S in ["readout.linear.weight" + SCALE]}), r"not \[12\]"),
    "codes of another shape": (lambda t: t.update(w=t.pop("readout.linear.weight")), "only one of them has"),
    "floats for codes": (lambda t: t.update({n: a.astype(np.float32) for n, a in t.items()}), "of int8"),
    "fewer columns": (lambda t: t.update({N: t[N][:, 1:] for N in ["readout.linear.weight"]}), "of int8"),
}


@pytest.fixture(scope="module")
def words(tmp_path_factory):
    """With a table of symbols that is large enough for eight bits."""
    folder = tmp_path_factory.mktemp("models") / "wide"
    config, model = made(hidden_size=352, num_layers=1)
    quantize(saved(folder, config, model), folder.parent / "small")
    return folder.parent / "small"


@pytest.mark.parametrize("name", LIES)
@pytest.mark.parametrize("backend", ["auto", "numpy"])
def test_lying_weights_are_damage(words, tmp_path, name, backend):
    lie, reason = LIES[name]
    own = tmp_path / "own"
    shutil.copytree(words, own)
    tensors = {key: array.copy() for key, array in tensors_of((own / WEIGHTS).read_bytes()).items()}
    lie(tensors)
    rewritten(own, WEIGHTS, save({key: np.ascontiguousarray(array) for key, array in tensors.items()}))
    with pytest.raises(DamagedError, match=reason) as caught:
        load(own, backend)
    assert WEIGHTS in str(caught.value) and str(caught.value).endswith(".")


@pytest.mark.parametrize("names", [["nothing"], ["readout.linear.bias"], "encoder", [[]], [1], 3, None, "twice"])
def test_a_step_that_lies_of_eight_bits_is_damage(own, names):
    content = json.loads((own / STEP).read_bytes())
    content["int8"] = content["int8"] * 2 if names == "twice" else names
    rewritten(own, STEP, filesystem.to_json(content))
    with pytest.raises(DamagedError, match=STEP):
        load(own)


# --- run by onnxruntime ---


@pytest.fixture(scope="module")
def onnxruntime():
    return pytest.importorskip("onnxruntime")


@pytest.mark.parametrize("cell", CELLS)
def test_eight_bits_are_near_the_floats_of_the_same_weights(onnxruntime, monkeypatch, cell):
    """From the same state, step by step: over many, random weights would drift apart whatever rounds them."""
    monkeypatch.setattr(planning, "MAX_TABLE_ROWS", 0)
    floats, small = steppers(cell)
    state, differ = floats.initial_state(3), False
    for ids in np.random.default_rng(0).integers(0, 12, (6, 3)).astype(np.int32):
        logits, _ = small.step(ids, state)
        expected, state = floats.step(ids, state)
        assert np.abs(logits - expected).max() < 0.1 * max(1, np.abs(expected).max())
        differ |= bool((logits != expected).any())
    assert differ, "nothing was computed in eight bits"


@pytest.mark.parametrize("inputs", [16, 48, 63, 130, 256])
@pytest.mark.parametrize("rows", [1, 2, 17])
def test_a_product_is_near_and_its_rows_know_nothing_of_each_other(onnxruntime, inputs, rows):
    from textgen.runtime.int8 import OnnxProduct

    chance = np.random.default_rng(inputs)
    weight = Int8Rows.of(chance.standard_normal((33, inputs)).astype(np.float32), "w")
    product, bias = OnnxProduct(weight.codes, weight.scales), chance.standard_normal(33).astype(np.float32)
    x = np.tanh(chance.standard_normal((rows, inputs))).astype(np.float32)
    y = product(x, bias)
    assert y.dtype == np.float32 and np.abs(y - (x @ weight.floats.T + bias)).max() < 0.02 * inputs**0.5 * 1.5
    other = np.concatenate([x[:1], 100 * x[1:]])
    np.testing.assert_array_equal(product(other, bias)[0], y[0])
    np.testing.assert_array_equal(product(x[None], bias), y[None])
    assert product(x[:0]).shape == (0, 33)


@pytest.mark.parametrize("most", [0, planning.MAX_TABLE_ROWS])
def test_one_matrix_that_reads_and_writes_symbols_is_looked_up_and_multiplied(onnxruntime, monkeypatch, most):
    monkeypatch.setattr(planning, "MAX_TABLE_ROWS", most)
    plans = []
    monkeypatch.setattr(stepping, "in_int8", lambda weights: watched(in_int8(weights), plans))
    floats, small = (
        logits_of(each, length=1) for each in steppers("gru", embedding_size=352, tie_word_embeddings=True)
    )
    assert np.abs(small - floats).max() < 0.1 * np.abs(floats).max()
    calls = [call.op for call in plans[0].calls if call.op.startswith("int8")]
    assert calls.count("int8 embedding") == (most == 0) and calls.count("int8 linear") >= 4


def watched(rewrite, plans):
    return lambda plan: (rewrite(plan), plans.append(plan))


def test_stored_and_rounded_when_loaded_are_one(onnxruntime, folder, small):
    np.testing.assert_array_equal(logits_of(load(small).stepper), logits_of(load(folder, "int8").stepper))


def test_a_sequence_is_near_its_steps(onnxruntime, small):
    stepper = load(small).stepper
    ids = np.random.default_rng(4).integers(0, 12, (2, 30)).astype(np.int32)
    whole, state = stepper.forward(ids, stepper.initial_state(2))[0], stepper.initial_state(2)
    for column in ids.T:
        logits, state = stepper.step(column, state)
    assert np.abs(whole - logits).max() < 0.05 * np.abs(logits).max()


def test_texts_are_repeatable(onnxruntime, small):
    model = load(small)
    options = {"max_new_tokens": 60, "seed": 3}
    assert textgen.generate(model, "abc", **options) == textgen.generate(load(small), "abc", **options)


def test_the_command_writes_and_reads_small_folders(onnxruntime, folder, tmp_path, capfd):
    assert main(["quantize", str(folder), str(tmp_path / "small")]) == 0
    out, err = capfd.readouterr()
    assert out == f"{tmp_path / 'small'}\n" and "MB (int8)" in err
    texts = []
    for given in ([str(tmp_path / "small")], [str(folder), "--backend", "int8"]):
        assert main(["sample", "-n", "40", "--seed", "2", "--ignore-eos", "-m", *given]) == 0
        texts.append(capfd.readouterr().out)
    assert texts[0] == texts[1] and len(texts[0]) > 20
    assert main(["quantize", str(folder), str(tmp_path / "small")]) == 1
    assert "exists already" in capfd.readouterr().err


@pytest.mark.parametrize("verb", ["sample", "quantize"])
def test_neither_torch_nor_the_plugin_is_needed(onnxruntime, tmp_path, verb):
    config, model = made("Peephole", **WIDE)
    folder = saved(tmp_path / "model", replace(config, cell="strange", cell_distribution="textgen-strange"), model)
    given = ["-m", str(folder), "-n", "40", "--seed", "2", "--backend", "int8"] if verb == "sample" else [
        str(folder), str(tmp_path / "small")]  # fmt: skip
    program = WITHOUT if verb == "sample" else WITHOUT.replace('"safetensors", ', '"onnxruntime", ')
    done = subprocess.run(
        [sys.executable, "-c", program, verb, *given], capture_output=True, text=True, check=False, env=os.environ
    )
    assert done.returncode == 0, done.stderr
    assert len(done.stdout) > 10

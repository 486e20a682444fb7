"""A model's step as an ONNX graph: ids and states in, logits and states out, for any number of rows.

    ids (B,) int64, or inputs (B, features) float32    what is read
    state.0, state.1, ... (B, ...)                     the state before
    logits (B, V) float32                              the outputs
    next_state.0, next_state.1, ... (B, ...)           the state after

The sequence graph reads ids (B, T) and returns logits (B, T, V) and the state at the end: the step in ONNX's Scan.
The metadata `textgen` is a JSON table: the version, and of each state its name, type, shape and what it is at the
beginning (one number, or a row of numbers). That of a classifier also has its labels, pooling and temperature: the
probabilities are the softmax of the pooled logits divided by the temperature, or their sigmoid with `multi_label`.

Every operation of `textgen.runtime.ops` is translated here, and nothing is traced again.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from textgen import __version__
from textgen.errors import needed
from textgen.export.stored import in_dtype
from textgen.runtime import NumpyStepper, Weights
from textgen.runtime.graph import Node, Program, StepGraph, TensorSpec
from textgen.runtime.int8 import Int8Rows
from textgen.runtime.ops import DTYPES, Array, Shape

OPSET, IR_VERSION = 18, 10
"""Read by onnxruntime and onnxruntime-web from 1.18 on."""
METADATA = "textgen"
BATCH, LENGTH = "B", "T"

_SAME = {
    "tanh": "Tanh", "exp": "Exp", "log": "Log", "sqrt": "Sqrt", "reciprocal": "Reciprocal", "sin": "Sin", "cos": "Cos",
    "floor": "Floor", "ceil": "Ceil", "negative": "Neg", "absolute": "Abs", "sign": "Sign", "add": "Add",
    "subtract": "Sub", "multiply": "Mul", "divide": "Div", "power": "Pow", "maximum": "Max", "minimum": "Min",
    "logical_and": "And", "logical_or": "Or", "logical_xor": "Xor", "logical_not": "Not", "relu": "Relu",
    "sigmoid": "Sigmoid", "erf": "Erf", "where": "Where", "matmul": "MatMul",
}  # fmt: skip
"""Operations that ONNX has under another name."""
_COMPARISONS = {"equal": "Equal", "less": "Less", "less_equal": "LessOrEqual", "greater": "Greater",
                "greater_equal": "GreaterOrEqual"}  # fmt: skip
_REDUCTIONS = {"sum": "ReduceSum", "mean": "ReduceMean", "amax": "ReduceMax", "amin": "ReduceMin"}


def onnx(
    graph: StepGraph,
    weights: Weights,
    dtype: str | None = None,
    sequence: bool = False,
    facts: Mapping[str, Any] = {},
) -> bytes:
    """The content of an ONNX file: of the step, or with `sequence` of a whole sequence. `dtype` is how weights are
    stored, float32, float16 or int8, by default as they are; `facts` are added to the metadata. Raises
    TextgenError without the package onnx."""
    with needed("onnx", "exporting to ONNX"):
        from onnx import checker, helper
    builder = _Builder(graph, weights, dtype)
    made = builder.sequence() if sequence else builder.step()
    model = helper.make_model(
        made, producer_name="textgen", producer_version=__version__, ir_version=IR_VERSION,
        opset_imports=[helper.make_opsetid("", OPSET)],
    )  # fmt: skip
    helper.set_model_props(model, {METADATA: json.dumps({**_about(graph, weights), **facts})})
    checker.check_model(model, full_check=True)
    content: bytes = model.SerializeToString(deterministic=True)
    return content


def _about(graph: StepGraph, weights: Weights) -> dict[str, Any]:
    first = NumpyStepper(graph, weights).initial_state(1)
    states = []
    for number, (spec, row) in enumerate(zip(graph.state, first, strict=True)):
        same = not row.size or bool((row == row.flat[0]).all())
        begins = _number(row.flat[0]) if same and row.size else [_number(each) for each in row.reshape(-1)]
        states.append({"name": f"state.{number}", "dtype": spec.dtype, "shape": spec.to_json()[1], "begins": begins})
    return {"version": __version__, "input": graph.input_name, "states": states}


def _number(value: Any) -> Any:
    return str(float(value)) if not math.isfinite(value) else value.item()


def _multiplied(graph: StepGraph) -> set[str]:
    """The weights that are only ever the matrix of a linear map: they are stored as products read them."""
    matrices = {node.inputs[1] for node in graph.step.nodes if node.op == "linear"}
    nodes = [*graph.initial.nodes, *graph.step.nodes]
    used = ((node.op, place, each) for node in nodes for place, each in enumerate(node.inputs))
    others = {each for op, place, each in used if (op, place) != ("linear", 1)}
    return {each for each in matrices - others if isinstance(each, str) and each.startswith("weight.")}


class _Builder:
    """Collects the nodes and initializers of a graph."""

    def __init__(self, graph: StepGraph, weights: Weights, dtype: str | None) -> None:
        from onnx import helper

        self._graph, self._helper = graph, helper
        self._nodes: list[Any] = []
        self._outside = self._nodes
        self._initializers: list[Any] = []
        self._constants: dict[tuple[Any, ...], str] = {}
        self._names: dict[str, str] = {}
        self._specs: dict[str, TensorSpec] = {}
        self._turned: dict[str, str] = {}
        self._made = 0
        self._weights = {f"weight.{name}": weight for name, weight in weights.items()}
        turned = _multiplied(graph)
        for name, weight in self._weights.items():
            self._specs[name] = spec = graph.weights[name.removeprefix("weight.")]
            self._names[name] = self._weight(name, weight, spec, dtype, name in turned)
            if name in turned:
                self._turned[self._names[name]] = self._names[name]

    # --- graphs ---

    def step(self) -> Any:
        """The graph of one time step."""
        inputs = [(self._graph.input_name, self._graph.input), *self._states("state")]
        outputs = [("logits", self._graph.logits), *self._states("next_state")]
        self._run(self._graph.step, dict(inputs), [name for name, _ in outputs])
        before, after = ([self._info(name, spec) for name, spec in each] for each in (inputs, outputs))
        return self._helper.make_graph(self._nodes, "step", before, after, initializer=self._initializers)

    def sequence(self) -> Any:
        """The graph of a whole sequence: the step in a Scan over the second axis."""
        outer, self._nodes = self._nodes, []
        read = self._graph.input
        # The states come first in the body of a Scan, then what is read; so do its outputs.
        inputs = [*self._states("before"), ("read", read)]
        outputs = [*self._states("after"), ("scores", self._graph.logits)]
        given = {f"state.{k}": f"before.{k}" for k in range(len(self._graph.state))} | {self._graph.input_name: "read"}
        ordered = ["scores", *(name for name, _ in outputs[:-1])]
        self._run(self._graph.step, {name: dict(inputs)[own] for name, own in given.items()}, ordered, given)
        takes, gives = ([self._info(name, spec) for name, spec in each] for each in (inputs, outputs))
        body, self._nodes = self._helper.make_graph(self._nodes, "time_step", takes, gives), outer
        names = [name for name, _ in self._states("state")], [name for name, _ in self._states("next_state")]
        self._nodes.append(self._helper.make_node(
            "Scan", [*names[0], self._graph.input_name], [*names[1], "logits"], body=body, num_scan_inputs=1,
            scan_input_axes=[1], scan_output_axes=[1],
        ))  # fmt: skip
        source = self._info(self._graph.input_name, self._graph.input, LENGTH)
        target = self._info("logits", self._graph.logits, LENGTH)
        before, after = (
            [self._info(name, spec) for name, spec in self._states(kind)] for kind in ("state", "next_state")
        )
        return self._helper.make_graph(
            self._nodes, "sequence", [source, *before], [target, *after], initializer=self._initializers
        )

    def _states(self, kind: str) -> list[tuple[str, TensorSpec]]:
        return [(f"{kind}.{number}", spec) for number, spec in enumerate(self._graph.state)]

    def _info(self, name: str, spec: TensorSpec, *more: str) -> Any:
        """An input or output of a graph; `more` axes come after the batch."""
        shape: list[str | int | None] = [BATCH, *more, *spec.shape[1:]]
        return self._helper.make_tensor_value_info(name, self._type(spec.dtype), shape)

    def _type(self, dtype: str) -> int:
        return int(self._helper.np_dtype_to_tensor_dtype(np.dtype(DTYPES[dtype])))

    # --- values ---

    def _run(
        self, program: Program, inputs: Mapping[str, TensorSpec], outputs: Sequence[str], given: Mapping[str, str] = {}
    ) -> None:
        """Add the nodes of a program; its outputs get these names."""
        for name, spec in inputs.items():
            self._names[name], self._specs[name] = given.get(name, name), spec
        for number, constant in enumerate(program.constants):
            self._names[f"constant.{number}"] = self._constant(constant)
            self._specs[f"constant.{number}"] = TensorSpec(str(constant.dtype), constant.shape)
        for number, node in enumerate(program.nodes):
            self._names[f"node.{number}"], self._specs[f"node.{number}"] = self._node(node), node.spec
        for name, output in zip(program.outputs, outputs, strict=True):
            self._nodes.append(self._helper.make_node("Identity", [self._names[name]], [output]))

    def _add(self, op: str, *inputs: str, **attributes: Any) -> str:
        self._made += 1
        name = f"value.{self._made}"
        self._nodes.append(self._helper.make_node(op, list(inputs), [name], **attributes))
        return name

    def _constant(self, array: Array) -> str:
        """The name of an initializer with this content."""
        from onnx import numpy_helper

        key = (str(array.dtype), array.shape, array.tobytes())
        if key not in self._constants:
            self._constants[key] = name = f"constant.{len(self._constants)}"
            self._initializers.append(numpy_helper.from_array(np.ascontiguousarray(array), name))
        return self._constants[key]

    def _integers(self, *numbers: int) -> str:
        return self._constant(np.array(numbers, dtype=np.int64))

    def _stored(self, name: str, array: Array) -> str:
        from onnx import numpy_helper

        self._initializers.append(numpy_helper.from_array(np.ascontiguousarray(array), name))
        return name

    def _weight(self, name: str, weight: Array | Int8Rows, spec: TensorSpec, dtype: str | None, turned: bool) -> str:
        """A weight, stored as asked for, as (K, N) if `turned`; the name of its float32 value."""
        kept = in_dtype(weight, spec, name, dtype)
        if isinstance(kept, Int8Rows):
            # not DequantizeLinear, which onnxruntime fuses with the product, rounding what is multiplied, too
            codes, scales = kept.codes, kept.scales[..., None]
            codes, scales = (codes.T, scales.T) if turned else (codes, scales)
            floats = self._add("Cast", self._stored(name, codes), to=self._type("float32"))
            return self._add("Mul", floats, self._stored(f"{name}.scale", scales))
        stored = self._stored(name, kept.T if turned else kept)
        return self._add("Cast", stored, to=self._type("float32")) if kept.dtype == np.float16 else stored

    def _input(self, node: Node, place: int) -> str:
        """The name of an input of a node; a number becomes a constant."""
        each = node.inputs[place]
        return self._names[each] if isinstance(each, str) else self._constant(np.asarray(each))

    def _spec(self, node: Node, place: int = 0) -> TensorSpec:
        each = node.inputs[place]
        return self._specs[each] if isinstance(each, str) else TensorSpec(str(np.asarray(each).dtype), ())

    # --- operations ---

    def _node(self, node: Node) -> str:
        """Add the nodes of one operation; the name of its result."""
        inputs = [self._input(node, place) for place in range(len(node.inputs))]
        if node.op in _SAME:
            return self._add(_SAME[node.op], *inputs)
        if node.op in _COMPARISONS or node.op == "not_equal":
            return self._comparison(node, inputs)
        if node.op in _REDUCTIONS:
            axes = node.options["axes"]
            return self._add(_REDUCTIONS[node.op], inputs[0], self._integers(*axes), keepdims=int(node.options["keep"]),
                             noop_with_empty_axes=1)  # fmt: skip
        write: Callable[[Node, list[str]], str] = getattr(self, f"_{node.op}")
        return write(node, inputs)

    def _comparison(self, node: Node, inputs: list[str]) -> str:
        if self._spec(node).dtype == "bool" and node.op not in ("equal", "not_equal"):
            inputs = [self._add("Cast", each, to=self._type("int64")) for each in inputs]
        if node.op == "not_equal":
            return self._add("Not", self._add("Equal", *inputs))
        return self._add(_COMPARISONS[node.op], *inputs)

    def _one(self, dtype: str = "float32") -> str:
        return self._constant(np.asarray(1, dtype=DTYPES[dtype]))

    def _expm1(self, node: Node, inputs: list[str]) -> str:
        return self._add("Sub", self._add("Exp", *inputs), self._one())

    def _log1p(self, node: Node, inputs: list[str]) -> str:
        return self._add("Log", self._add("Add", inputs[0], self._one()))

    def _log_sigmoid(self, node: Node, inputs: list[str]) -> str:
        return self._add("Neg", self._add("Softplus", self._add("Neg", inputs[0])))

    def _remainder(self, node: Node, inputs: list[str]) -> str:
        if node.spec.dtype == "int64":
            return self._add("Mod", *inputs)
        whole = self._add("Floor", self._add("Div", *inputs))
        return self._add("Sub", inputs[0], self._add("Mul", whole, inputs[1]))

    def _floor_divide(self, node: Node, inputs: list[str]) -> str:
        if node.spec.dtype == "int64":
            return self._add("Div", self._add("Sub", inputs[0], self._add("Mod", *inputs)), inputs[1])
        return self._add("Floor", self._add("Div", *inputs))

    def _lerp(self, node: Node, inputs: list[str]) -> str:
        start, end, weight = inputs
        return self._add("Add", start, self._add("Mul", self._add("Sub", end, start), weight))

    def _linear(self, node: Node, inputs: list[str]) -> str:
        x, weight, *bias = inputs
        if weight not in self._turned:
            inside = self._nodes
            self._nodes = self._outside if node.inputs[1] in self._weights else inside  # once, not at each time step
            self._turned[weight] = self._add("Transpose", weight, perm=[1, 0])
            self._nodes = inside
        product = self._add("MatMul", x, self._turned[weight])
        return self._add("Add", product, *bias) if bias else product

    def _rows(self, node: Node, places: str, number: int) -> str:
        """Places within an axis of so many; those that a model is given are not checked."""
        if node.inputs[1] == self._graph.input_name:
            return places
        return self._add(
            "Clip", places, self._constant(np.asarray(0, np.int64)), self._constant(np.asarray(number - 1))
        )

    def _embedding(self, node: Node, inputs: list[str]) -> str:
        return self._add("Gather", inputs[0], self._rows(node, inputs[1], self._spec(node).shape[0]), axis=0)

    def _take(self, node: Node, inputs: list[str]) -> str:
        axis = node.options["axis"]
        return self._add("Gather", inputs[0], self._rows(node, inputs[1], self._spec(node).shape[axis]), axis=axis)

    def _layer_norm(self, node: Node, inputs: list[str]) -> str:
        axes = node.options["axes"]
        shape = self._spec(node).shape[len(self._spec(node).shape) - axes :]
        scale = inputs[1:2] or [self._constant(np.ones(shape, np.float32))]
        return self._add("LayerNormalization", inputs[0], *scale, *inputs[2:], axis=-axes, epsilon=node.options["eps"])

    def _softmax(self, node: Node, inputs: list[str]) -> str:
        return self._add("Softmax", inputs[0], axis=node.options["axis"])

    def _log_softmax(self, node: Node, inputs: list[str]) -> str:
        return self._add("LogSoftmax", inputs[0], axis=node.options["axis"])

    def _cumsum(self, node: Node, inputs: list[str]) -> str:
        return self._add("CumSum", inputs[0], self._constant(np.asarray(node.options["axis"], np.int64)))

    def _slice(self, node: Node, inputs: list[str]) -> str:
        wanted = [self._integers(node.options[name]) for name in ("start", "stop", "axis", "step")]
        return self._add("Slice", inputs[0], *wanted)

    def _cat(self, node: Node, inputs: list[str]) -> str:
        return self._add("Concat", *inputs, axis=node.options["axis"])

    def _permute(self, node: Node, inputs: list[str]) -> str:
        return self._add("Transpose", inputs[0], perm=list(node.options["axes"]))

    def _reshape(self, node: Node, inputs: list[str]) -> str:
        return self._add("Reshape", inputs[0], self._shape(node.spec.shape), allowzero=1)

    def _expand(self, node: Node, inputs: list[str]) -> str:
        return self._add("Expand", inputs[0], self._shape(node.spec.shape))

    def _full(self, node: Node, inputs: list[str]) -> str:
        value = np.asarray(node.options["value"]).astype(DTYPES[node.spec.dtype])
        return self._add("Expand", self._constant(value), self._shape(node.spec.shape))

    def _cast(self, node: Node, inputs: list[str]) -> str:
        return self._add("Cast", inputs[0], to=self._type(node.spec.dtype))

    def _shape(self, shape: Shape) -> str:
        """A shape as a tensor; sizes that depend on the batch are computed from what is read."""
        if min(shape, default=0) >= 0:
            return self._integers(*shape)
        batch = self._add("Shape", self._names[self._graph.input_name], start=0, end=1)
        sizes = [self._integers(size) if size >= 0 else batch if size == -1
                 else self._add("Mul", batch, self._integers(-size)) for size in shape]  # fmt: skip
        return self._add("Concat", *sizes, axis=0)


def sequence_name(path: Path) -> str:
    """The name of the sequence graph beside the step's: model.onnx, model-sequence.onnx."""
    return f"{path.stem}-sequence{path.suffix}"

"""Trace a torch model into the stored step that `textgen.runtime` executes without torch.

The step is traced twice, with batches of two sizes. What is the same in both is kept as it is; a size that differs
must be a multiple of the batch size. Nothing is compiled, so that tracing takes a tenth of a second. The graph is
then read like any untrusted file, run, and compared with the model.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from textgen.errors import TextgenError
from textgen.model import STEP
from textgen.model.stack import Model
from textgen.model.weights import model_tensors
from textgen.plugins import PluginError
from textgen.runtime import NumpyStepper
from textgen.runtime.graph import (
    FORMAT,
    MOST_CONSTANTS,
    TOKENS,
    StepGraph,
    TensorSpec,
    input_name,
    stored_constant,
    stored_number,
)
from textgen.runtime.ops import at_batch, stored_shape
from textgen.storage import FORMAT_VERSION
from textgen.tracing import operations, windows
from textgen.tracing.operations import DTYPES, NEW, Given, GraphBuilder, RecordedOp, Untraceable

RULES = operations.RULES | windows.RULES
BATCHES = (3, 5)
"""Two sizes, neither a multiple of the other, and neither 1, which torch treats specially."""
VERIFIED_BATCHES, VERIFIED_STEPS = (1, 4), 3
TOLERANCE = 1e-4


class Recorder(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Records into `graph` what its block does to the tensors that have names."""

    def __init__(self, names: Mapping[str, Tensor]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.graph = GraphBuilder(names)

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """Asked by torch, which would otherwise import its compiler here and waste four seconds."""
        return False

    def record(self, function: Callable[..., Sequence[Tensor]], inputs: Sequence[Tensor]) -> GraphBuilder:
        """Run a function of tensors; returns the graph of its results. In-place changes become new values."""
        with torch.no_grad(), self:
            results = torch.func.functionalize(function)(*inputs)
        self.graph.outputs = [self.graph.name(result) for result in results]
        return self.graph

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        packet = func.overloadpacket.__name__ if func.namespace == "aten" else str(func)
        if torch.Tag.nondeterministic_seeded in func.tags:
            raise Untraceable(f"it draws random numbers ({func}).")
        if packet not in NEW and not any(map(self.graph.knows, tree_leaves([args, kwargs]))):
            return func(*args, **kwargs)
        if func._schema.is_mutable:
            return self._in_place(func, packet.removesuffix("_"), args, kwargs)
        rule = RULES.get(f"{packet}.{func._overloadname}") or RULES.get(packet)
        if rule is None:
            return self._decomposed(func, args, kwargs)
        result = func(*args, **kwargs)
        if packet.startswith("unsafe_"):  # parts that count as independent tensors, and may be changed in place
            result = [part.clone() for part in result]
        names = rule(self.graph, result, _given(func, args, kwargs))
        if names is None:
            raise Untraceable(unsupported(func))
        self.graph.remember(result, names)
        return result

    def _in_place(self, func: Any, packet: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """A change in place inside one of torch's own functions, to a tensor that nobody else sees."""
        target, rule = args[0], RULES.get(packet)
        if rule is None or not self.graph.is_result(target) or "out" in kwargs:
            raise Untraceable(f"it changes a tensor in place ({func}).")
        result = func(*args, **kwargs)
        self.graph.rename(target, rule(self.graph, target, _given(func, args, kwargs)))
        return result

    def _decomposed(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """The result by torch's own decomposition, whose operations are recorded in turn."""
        from torch._decomp import decomposition_table

        with self:
            if func in decomposition_table:
                return decomposition_table[func](*args, **kwargs)
            result = func.decompose(*args, **kwargs)
        if result is NotImplemented:
            raise Untraceable(unsupported(func))
        return result


_REWRITES = {
    "_local_scalar_dense": "it takes a number out of a tensor (_local_scalar_dense: .item(), float(...), an `if` on "
    "values, one_hot); compare with torch.arange and choose with torch.where instead.",
    "nonzero": "it selects by a mask, so its sizes depend on values; choose with torch.where instead.",
    "index": "it selects by a mask, or by several index tensors at once; choose with torch.where, gather or "
    "index_select instead.",
    "as_strided": "it reads memory with custom strides (as_strided); use slices, unfold or reshape instead.",
}


def unsupported(func: Any) -> str:
    """Why an operation cannot be stored and, where known, how to write the step without it."""
    known = _REWRITES.get(func.overloadpacket.__name__)
    return known or f"it uses {func}, which is not supported by the numpy runtime."


def _given(func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Given:
    """The arguments of a call by name."""
    given = {}
    for place, argument in enumerate(func._schema.arguments):
        value = argument.default_value if argument.has_default_value() else None
        given[argument.name] = args[place] if place < len(args) else kwargs.get(argument.name, value)
    return given


def trace(model: Model) -> StepGraph:
    """The stored step of a model, whatever its weights. Raises Untraceable with the reason if it cannot be stored."""
    with _eval_mode(model):
        try:
            graph = StepGraph.from_json(_traced(model))
            _verify(graph, model)
        except Untraceable:
            raise
        except PluginError as error:
            raise Untraceable(str(error)) from error
        except TextgenError as error:
            raise Untraceable(f"its graph cannot be stored: {error}") from error
        except Exception as error:  # from the cell or from torch
            reason = " ".join(str(error).split()).rstrip(".")
            raise Untraceable(f"tracing it raises {type(error).__name__}: {reason:.200}.") from error
    return graph


@contextmanager
def _eval_mode(model: Model) -> Iterator[None]:
    """The model in eval mode, without warnings; restores the mode and torch's random state."""
    training, rng_state = model.training, torch.get_rng_state()
    model.eval()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        model.train(training)
        torch.set_rng_state(rng_state)


def _traced(model: Model) -> dict[str, Any]:
    """The content of step.json."""
    state = model.initial_state(BATCHES[0])
    specs = [_spec(DTYPES.get(t.dtype, str(t.dtype)), (-1, *t.shape[1:])) for t in state]
    return {
        "format": FORMAT,
        "version": FORMAT_VERSION,
        "weights": {name: _spec(_dtype(t), t.shape) for name, t in model_tensors(model).items()},
        **({} if (reads := _input(model)) == TOKENS else {"input": reads.to_json()}),
        "state": specs,
        "logits": _spec("float32", (-1, model.output_size)),
        "initial": _merged(*[_recorded(model, partial(model.initial_state, batch), {}) for batch in BATCHES]),
        "step": _merged(*[_record_step(model, batch) for batch in BATCHES]),
    }


def _dtype(tensor: Tensor) -> str:
    if tensor.dtype not in DTYPES:
        raise Untraceable(f"it has a weight of dtype {str(tensor.dtype).removeprefix('torch.')}.")
    return DTYPES[tensor.dtype]


def _spec(dtype: str, shape: Sequence[int]) -> list[Any]:
    return [dtype, stored_shape(tuple(shape))]


def _recorded(model: Model, function: Callable[..., Sequence[Tensor]], inputs: Mapping[str, Tensor]) -> GraphBuilder:
    """What a function does with these inputs and the model's weights."""
    weights = {f"weight.{name}": tensor for name, tensor in model_tensors(model).items()}
    return Recorder({**weights, **inputs}).record(function, list(inputs.values()))


def _record_step(model: Model, batch: int) -> GraphBuilder:
    def step(given: Tensor, *state: Tensor) -> tuple[Tensor, ...]:
        logits, after = model.step(given, state)
        return (logits, *after)

    with torch.no_grad():
        state = [tensor.detach().clone() for tensor in model.initial_state(batch)]
    reads = _input(model)
    dtype = torch.int64 if reads == TOKENS else torch.float32
    given = torch.zeros(at_batch(reads.shape, batch), dtype=dtype, device=model.readout.linear.weight.device)
    inputs = {input_name(reads): given, **{f"state.{number}": tensor for number, tensor in enumerate(state)}}
    return _recorded(model, step, inputs)


def _input(model: Model) -> TensorSpec:
    """What a step of the model reads."""
    return TOKENS if isinstance(model.encoder, nn.Embedding) else TensorSpec("float32", (-1, model.input_size))


def _merged(one: GraphBuilder, other: GraphBuilder) -> dict[str, Any]:
    """The common program of the graphs at both batch sizes, which may differ only in sizes that are multiples of it."""
    pairs = list(zip(one.ops, other.ops, strict=False))
    equal = [(a.op, a.inputs, a.dtype, a.options) == (b.op, b.inputs, b.dtype, b.options) for a, b in pairs]
    constants = len(one.constants) == len(other.constants) and all(map(torch.equal, one.constants, other.constants))
    if not (all(equal) and constants and len(one.ops) == len(other.ops) and one.outputs == other.outputs):
        raise Untraceable(
            f"it runs different operations with {BATCHES[0]} rows than with {BATCHES[1]}: nothing may depend on the "
            "number of rows (len(x), torch.arange(len(x)), indexed rows); gather and scatter select within each row."
        )
    shapes = [_sizes(a.shape, b.shape) for a, b in pairs]
    used = _used(one.ops, one.outputs)
    names = {f"node.{number}": f"node.{place}" for place, number in enumerate(used)}
    nodes = [
        {
            "op": one.ops[number].op,
            "inputs": [names.get(i, i) if isinstance(i, str) else stored_number(i) for i in one.ops[number].inputs],
            "is": _spec(one.ops[number].dtype, shapes[number]),
            "options": {name: stored_number(value) for name, value in one.ops[number].options.items()},
        }
        for number in used
    ]
    outputs = [names.get(output, output) for output in one.outputs]
    return {"constants": [_constant(t) for t in one.constants], "nodes": nodes, "outputs": outputs}


def _sizes(one: Sequence[int], other: Sequence[int]) -> tuple[int, ...]:
    """A shape with -k for a size of k times the batch."""
    sizes = []
    for size, other_size in zip(one, other, strict=True):
        times, rest = divmod(size, BATCHES[0])
        if size != other_size and (rest or other_size != times * BATCHES[1]):
            raise Untraceable(f"a size of it is {size} with {BATCHES[0]} rows and {other_size} with {BATCHES[1]}.")
        sizes.append(size if size == other_size else -times)
    return tuple(sizes)


def _used(ops: Sequence[RecordedOp], outputs: Sequence[str]) -> list[int]:
    wanted = {output for output in outputs if output.startswith("node.")}
    for number in range(len(ops) - 1, -1, -1):
        if f"node.{number}" in wanted:
            wanted.update(i for i in ops[number].inputs if isinstance(i, str))
    return [number for number in range(len(ops)) if f"node.{number}" in wanted]


def _constant(tensor: Tensor) -> dict[str, Any]:
    if tensor.numel() > MOST_CONSTANTS:
        raise Untraceable(f"it has a constant of {tensor.numel():,} numbers, more than {MOST_CONSTANTS:,}.")
    return stored_constant(tensor.cpu().numpy())


def _verify(graph: StepGraph, model: Model) -> None:
    """Compare the results of a graph with those of the model. Raises Untraceable if they differ."""
    weights = {name: tensor.detach().cpu().numpy() for name, tensor in model_tensors(model).items()}
    stepper = NumpyStepper(graph, weights)
    rng = np.random.default_rng(0)
    for batch in VERIFIED_BATCHES:
        shape = (VERIFIED_STEPS, *at_batch(graph.input.shape, batch))
        tokens = graph.input == TOKENS
        given = rng.integers(0, model.input_size, shape) if tokens else rng.standard_normal(shape, np.float32)
        with torch.inference_mode():
            state, logits = model.initial_state(batch), torch.empty(0)
            for column in torch.from_numpy(given).to(model.readout.linear.weight.device):
                logits, state = model.step(column, state)
        wanted = [tensor.float().cpu().numpy() for tensor in (logits, *state)]
        found = stepper.initial_state(batch)
        for column in given:
            last, found = stepper.step(column, found)
        whole, after = stepper.forward(np.swapaxes(given, 0, 1), stepper.initial_state(batch))
        for ours, theirs in zip([last, *found, whole, *after], wanted * 2, strict=True):
            if np.abs(ours - theirs).max(initial=0) > TOLERANCE * np.abs(theirs).max(initial=1e-2):
                raise Untraceable("the numpy runtime computes something else.")


def stored_step(model: Model, cell: str) -> tuple[dict[str, bytes], list[str]]:
    """The file `step.json` by name, or nothing and a warning that says why."""
    try:
        content = trace(model).to_json()
    except Untraceable as reason:
        return {}, [f"models of cell {cell!r} will need torch, since numpy cannot run them: {reason}"]
    return {STEP: json.dumps(content, allow_nan=False).encode() + b"\n"}, []

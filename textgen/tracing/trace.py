"""A torch model's step and initial state, written down as the graph that `textgen.runtime` runs without torch.

The step is taken twice, with batches of two sizes. What is the same in both is kept as it is; a size that differs must
be a multiple of the batch size. Nothing is compiled, so that tracing takes a tenth of a second. What was written down
is then read as anybody's file would be, run, and compared with the model.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from textgen.errors import TextgenError
from textgen.model import Model
from textgen.plugins import PluginError
from textgen.runtime.graph import FORMAT, IDS, MOST_CONSTANTS, VERSION, StepGraph, stored_constant
from textgen.runtime.nodes import stored_number
from textgen.runtime.shapes import stored_shape
from textgen.runtime.stepper import NumpyStepper
from textgen.tracing.recorder import DTYPES, Record, Recorder, Untraceable
from textgen.weights import model_tensors

BATCHES = (3, 5)
"""Two sizes, neither a multiple of the other, and neither 1, which torch treats in ways of its own."""
PROVEN_BATCHES, PROVEN_STEPS = (1, 4), 3
TOLERANCE = 1e-4


def trace(model: Model) -> StepGraph:
    """The stored step of a model, whatever its weights. Raises Untraceable, which says what is in the way."""
    with _undisturbed(model):
        try:
            graph = StepGraph.from_json(_traced(model))
            _prove(graph, model)
        except Untraceable:
            raise
        except PluginError as error:
            raise Untraceable(str(error)) from error
        except TextgenError as error:
            raise Untraceable(f"what was traced cannot be stored: {error}") from error
        except Exception as error:  # whatever a cell does, or torch says of it
            reason = " ".join(str(error).split()).rstrip(".")
            raise Untraceable(f"tracing it ends with {type(error).__name__}: {reason:.200}.") from error
    return graph


@contextmanager
def _undisturbed(model: Model) -> Iterator[None]:
    """The model in eval mode, no warnings, and torch's noise as it was."""
    training, noise = model.training, torch.get_rng_state()
    model.eval()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        model.train(training)
        torch.set_rng_state(noise)


@dataclass(frozen=True)
class _Seen:
    """What a recorder saw at one batch size."""

    batch: int
    records: list[Record]
    constants: list[Tensor]
    outputs: list[str]


def _traced(model: Model) -> dict[str, Any]:
    """The content of step.json."""
    state = model.initial_state(BATCHES[0])
    kinds = [_kind(DTYPES.get(t.dtype, str(t.dtype)), (-1, *t.shape[1:])) for t in state]
    return {
        "format": FORMAT,
        "version": VERSION,
        "weights": {name: _kind(_dtype(t), t.shape) for name, t in model_tensors(model).items()},
        "state": kinds,
        "logits": _kind("float32", (-1, model.output_size)),
        "initial": _merged(*[_seen_initial(model, batch) for batch in BATCHES]),
        "step": _merged(*[_seen_step(model, batch) for batch in BATCHES]),
    }


def _dtype(tensor: Tensor) -> str:
    if tensor.dtype not in DTYPES:
        raise Untraceable(f"a weight of it is of {str(tensor.dtype).removeprefix('torch.')}.")
    return DTYPES[tensor.dtype]


def _kind(dtype: str, shape: Sequence[int]) -> list[Any]:
    return [dtype, stored_shape(tuple(shape))]


def _named_weights(model: Model) -> dict[str, Tensor]:
    return {f"weight.{name}": tensor for name, tensor in model_tensors(model).items()}


def _seen_initial(model: Model, batch: int) -> _Seen:
    recorder = Recorder(_named_weights(model))
    outputs = recorder.record(lambda: model.initial_state(batch), [])
    return _Seen(batch, recorder.records, recorder.constants, outputs)


def _seen_step(model: Model, batch: int) -> _Seen:
    def step(ids: Tensor, *state: Tensor) -> tuple[Tensor, ...]:
        logits, after = model.step(ids, state)
        return (logits, *after)

    with torch.no_grad():
        state = [tensor.detach().clone() for tensor in model.initial_state(batch)]
    ids = torch.zeros(batch, dtype=torch.int64, device=model.readout.linear.weight.device)
    inputs = {IDS: ids, **{f"state.{number}": tensor for number, tensor in enumerate(state)}}
    recorder = Recorder(_named_weights(model) | inputs)
    outputs = recorder.record(step, list(inputs.values()))
    return _Seen(batch, recorder.records, recorder.constants, outputs)


def _merged(one: _Seen, other: _Seen) -> dict[str, Any]:
    """The program that is the same at both batch sizes but for sizes, which are then multiples of them."""
    pairs = list(zip(one.records, other.records, strict=False))
    alike = [(a.op, a.inputs, a.dtype, a.options) == (b.op, b.inputs, b.dtype, b.options) for a, b in pairs]
    constants = len(one.constants) == len(other.constants) and all(map(torch.equal, one.constants, other.constants))
    if not (all(alike) and constants and len(one.records) == len(other.records) and one.outputs == other.outputs):
        raise Untraceable(
            f"it takes other steps with {one.batch} rows than with {other.batch}: nothing may depend on the number of "
            "rows (len(x), torch.arange(len(x)), rows taken by number); gather and scatter take a place of each row."
        )
    shapes = [_sizes(a.shape, one.batch, b.shape, other.batch) for a, b in pairs]
    kept = _needed(one.records, one.outputs)
    names = {f"node.{number}": f"node.{place}" for place, number in enumerate(kept)}
    nodes = [
        {
            "op": one.records[number].op,
            "inputs": [names.get(i, i) if isinstance(i, str) else stored_number(i) for i in one.records[number].inputs],
            "is": _kind(one.records[number].dtype, shapes[number]),
            "options": {name: stored_number(value) for name, value in one.records[number].options.items()},
        }
        for number in kept
    ]
    outputs = [names.get(output, output) for output in one.outputs]
    return {"constants": [_constant(t) for t in one.constants], "nodes": nodes, "outputs": outputs}


def _sizes(one: Sequence[int], batch: int, other: Sequence[int], other_batch: int) -> tuple[int, ...]:
    """A shape with -k for a size of k times the batch."""
    sizes = []
    for size, other_size in zip(one, other, strict=True):
        times, rest = divmod(size, batch)
        if size != other_size and (rest or other_size != times * other_batch):
            raise Untraceable(f"a size of it is {size} with {batch} rows and {other_size} with {other_batch}.")
        sizes.append(size if size == other_size else -times)
    return tuple(sizes)


def _needed(records: Sequence[Record], outputs: Sequence[str]) -> list[int]:
    wanted = {output for output in outputs if output.startswith("node.")}
    for number in range(len(records) - 1, -1, -1):
        if f"node.{number}" in wanted:
            wanted.update(i for i in records[number].inputs if isinstance(i, str))
    return [number for number in range(len(records)) if f"node.{number}" in wanted]


def _constant(tensor: Tensor) -> dict[str, Any]:
    if tensor.numel() > MOST_CONSTANTS:
        raise Untraceable(f"it has a constant of {tensor.numel():,} numbers, more than {MOST_CONSTANTS:,}.")
    return stored_constant(tensor.cpu().numpy())


def _prove(graph: StepGraph, model: Model) -> None:
    """Hold what was traced to the model, in numbers. Raises Untraceable."""
    weights = {name: tensor.detach().cpu().numpy() for name, tensor in model_tensors(model).items()}
    stepper = NumpyStepper(graph, weights)
    noise = np.random.default_rng(0)
    for batch in PROVEN_BATCHES:
        ids = noise.integers(0, model.input_size, (batch, PROVEN_STEPS))
        with torch.inference_mode():
            state, logits = model.initial_state(batch), torch.empty(0)
            for column in torch.from_numpy(ids.T.copy()).to(model.readout.linear.weight.device):
                logits, state = model.step(column, state)
        wanted = [tensor.float().cpu().numpy() for tensor in (logits, *state)]
        found = stepper.initial_state(batch)
        for column in ids.T:
            last, found = stepper.step(column, found)
        whole, after = stepper.forward(ids, stepper.initial_state(batch))
        for ours, theirs in zip([last, *found, whole, *after], wanted * 2, strict=True):
            if np.abs(ours - theirs).max(initial=0) > TOLERANCE * np.abs(theirs).max(initial=1e-2):
                raise Untraceable("what was traced computes something else.")

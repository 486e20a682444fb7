"""The stored step of a model folder, with the folder's weights, executed without torch.

Weights come from the content of a safetensors file as numpy arrays that share its memory. The format: eight bytes
with the size of a JSON table, the table (each tensor's type, shape and offsets), the numbers. A file may hold float32
weights as float16. `quantize` writes the same model with its matrices in eight bits, a quarter of the size, or with all
weights in sixteen.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from textgen import options, storage, threads
from textgen.errors import TextgenError
from textgen.model import (
    LARGEST_HEADER,
    STEP,
    STORED_TYPES,
    WEIGHTS,
    ModelConfig,
    read_config,
    require_model,
    require_weights,
)
from textgen.runtime.graph import TOKENS, StepGraph, TensorSpec
from textgen.runtime.int8 import SCALE, Int8Rows, in_int8, suits
from textgen.runtime.ops import DTYPES, Array
from textgen.runtime.plan import Execution, lower
from textgen.runtime.sequence import SequencePlan, State
from textgen.storage import DamagedError, filesystem, parse_json

_TYPES = {"float32": "F32", "float16": "F16", "int64": "I64", "bool": "BOOL", "int8": "I8"}
_DTYPES = {**DTYPES, "float16": np.float16, "int8": np.int8}
Weights = Mapping[str, Array | Int8Rows]
LARGEST_LOGITS = 1 << 22
"""Elements of the logits that are in memory at once while a text is scored."""
LARGEST_STEP = 16 << 20
"""The largest `step.json` that is read, in bytes."""
LEFT_OUT = (WEIGHTS, "training_args.json")
"""Files that a quantized copy of a model lacks: its weights are its own, and it is no run that could be resumed."""


class NumpyStepper:
    """A `textgen.model.stepper.TokenStepper` that runs a stored step with numpy. Of a model that reads numbers, inputs
    (B, features) and (B, T, features) take the place of ids (B,) and (B, T).

    A state is a tuple of arrays, (B, ...) each, that are never changed in place. Several threads may step at once.
    """

    def __init__(self, graph: StepGraph, weights: Weights, backend: str = "numpy") -> None:
        """`weights` by name; they are copied. With `backend` 'int8', int8 weights are used as they are, by onnxruntime;
        otherwise they are converted to float32."""
        int8 = {name: weight for name, weight in weights.items() if isinstance(weight, Int8Rows)}
        with np.errstate(all="ignore"):  # NaN and infinity are detected in the logits
            arrays = {f"weight.{name}": w.floats if isinstance(w, Int8Rows) else w for name, w in weights.items()}
        inputs = {graph.input_name: graph.input, **{f"state.{k}": spec for k, spec in enumerate(graph.state)}}
        initial = lower(graph.initial, arrays, {})
        step = lower(graph.step, arrays, inputs, True, in_int8(int8) if backend == "int8" else None)
        self._vocab_size = graph.logits.shape[1]
        self._initial, self._initial_places = Execution(initial, initial.calls), initial.outputs
        self._step, self._inputs, self._outputs = Execution(step, step.calls), [*step.inputs.values()], step.outputs
        self._sequence = SequencePlan(step)

    def initial_state(self, batch_size: int) -> State:
        """The state (B, ...) before the first token."""
        values = self._initial.new_values()
        with np.errstate(all="ignore"):
            self._initial.run(batch_size, values)
        return tuple(values[place] for place in self._initial_places)

    def step(self, ids: Array, state: State) -> tuple[Array, State]:
        """ids (B,) to logits (B, V) and the next state."""
        values = self._step.new_values()
        for place, given in zip(self._inputs, (ids, *state), strict=True):
            values[place] = given
        with threads.few_rows(len(ids)), np.errstate(all="ignore"):
            self._step.run(len(ids), values)
        logits, *after = [values[place] for place in self._outputs]
        return logits, tuple(after)

    def forward(self, ids: Array, state: State) -> tuple[Array, State]:
        """ids (B, T), T >= 1, to the logits after the last of them, (B, V), and the state there."""
        return self._run(ids, state, all_logits=False)

    def outputs(self, ids: Array, state: State) -> tuple[Array, State]:
        """ids (B, T), T >= 1, to the outputs at every time step, (T, B, V), and the state at the end."""
        outputs, state = self._run(ids, state, all_logits=True)
        return outputs.reshape(ids.shape[1], len(ids), -1), state

    def _run(self, ids: Array, state: State, all_logits: bool) -> tuple[Array, State]:
        """The logits of all steps, (T * B, V) step by step, or of the last, (B, V), and the state at the end."""
        if self._sequence.possible:
            with threads.few_rows(len(ids)), np.errstate(all="ignore"):
                return self._sequence.run(ids, state, all_logits)
        steps: list[Array] = []
        for column in np.swapaxes(ids, 0, 1):
            logits, state = self.step(column, state)
            if not all_logits:
                steps.clear()
            steps.append(logits)
        return np.concatenate(steps), state

    def score(self, ids: Array, targets: Array, state: State) -> tuple[npt.NDArray[np.float64], State]:
        """ids and targets (B, T) to the log-probability of each target, (B, T) in nats, and the state at the end."""
        scores = np.empty(ids.shape)
        most = max(1, LARGEST_LOGITS // (len(ids) * self._vocab_size))
        for start in range(0, ids.shape[1], most):
            chunk = slice(start, start + most)
            logits, state = self._run(ids[:, chunk], state, all_logits=True)
            scores[:, chunk] = _logprobs(logits, targets[:, chunk].T.reshape(-1)).reshape(-1, len(ids)).T
        return scores, state

    def arrays(self, state: State) -> list[npt.NDArray[Any]]:
        """A state as arrays, (B, ...) each."""
        return list(state)

    def from_arrays(self, arrays: Sequence[npt.NDArray[Any]]) -> State:
        """The inverse of `arrays`, for one row. Raises TextgenError for arrays that do not fit this model."""
        wanted = [(array.shape, array.dtype) for array in self.initial_state(1)]
        if [(array.shape, array.dtype) for array in arrays] != wanted:
            raise TextgenError(f"a state of this model has {len(wanted)} tensors of other shapes or types.")
        return tuple(array.copy() for array in arrays)

    def select(self, state: State, indices: npt.NDArray[np.intp]) -> State:
        """The state whose row k is row indices[k] of a state."""
        return tuple(part[indices] for part in state)

    def concat(self, states: Sequence[State]) -> State:
        """The state whose rows are those of several states, one after another."""
        return tuple(np.concatenate(parts) for parts in zip(*states, strict=True))


def _logprobs(logits: Array, ids: Array) -> npt.NDArray[np.float64]:
    """The log-probability of each row's id: logits (N, V) and ids (N,) to (N,); NaN where logits are not finite."""
    highest = logits.max(axis=1)
    with np.errstate(all="ignore"):
        totals = np.exp(logits - highest[:, None]).sum(axis=1, dtype=np.float64)
        chosen = logits[np.arange(len(ids)), ids].astype(np.float64)
        result: npt.NDArray[np.float64] = chosen - highest - np.log(totals)
    return result


def read_stepper(folder: Path, manifest: Mapping[str, Any], config: ModelConfig, backend: str = "auto") -> NumpyStepper:
    """A stepper for a committed model folder: 'numpy' computes in float32, 'int8' in int8, 'auto' as stored.

    Raises DamagedError naming the file.
    """
    graph, weights = read_step(folder, manifest, config)
    int8 = backend == "int8" or (backend == "auto" and bool(graph.int8))
    if int8 and not graph.int8:
        weights = {
            name: Int8Rows.of(np.asarray(weight), name) if suits(graph.weights[name]) else weight
            for name, weight in weights.items()
        }
    return NumpyStepper(graph, weights, "int8" if int8 else "numpy")


def read_step(folder: Path, manifest: Mapping[str, Any], config: ModelConfig) -> tuple[StepGraph, Weights]:
    """The stored step and weights of a committed model folder. Raises as `read_stepper`."""
    path = folder / STEP
    graph = StepGraph.from_json(
        storage.parse_json(storage.verified(folder, STEP, manifest, LARGEST_STEP), str(path)), str(path)
    )
    outputs, numbers = config.output_size, TensorSpec("float32", (-1, config.features))
    if graph.logits.shape[1] != outputs:
        raise storage.DamagedError(f"{path} is damaged: it computes {graph.logits.shape[1]:,} logits, not {outputs:,}.")
    if graph.input != (numbers if config.features else TOKENS):
        raise storage.DamagedError(f"{path} is damaged: it reads other inputs than the model.")
    weights_path, specs = str(folder / WEIGHTS), _stored_specs(graph)
    read = read_weights(storage.verified(folder, WEIGHTS, manifest, largest_file(specs)), weights_path, specs)
    int8 = {name: Int8Rows.read(read[name], read.pop(name + SCALE), f"{weights_path}: {name!r}") for name in graph.int8}
    return graph, {**read, **int8}


def _stored_specs(graph: StepGraph) -> dict[str, TensorSpec]:
    """The tensors of the weights file: codes and scales for int8 weights."""
    specs = dict(graph.weights)
    for name in graph.int8:
        shape = graph.weights[name].shape
        specs |= {name: TensorSpec("int8", shape), name + SCALE: TensorSpec("float32", shape[:-1])}
    return specs


def largest_file(wanted: Mapping[str, TensorSpec]) -> int:
    """The largest size in bytes of a file with these tensors; larger files are not read."""
    return LARGEST_HEADER + sum(map(_bytes, wanted.values()))


def read_weights(content: bytes, name: str, wanted: Mapping[str, TensorSpec]) -> dict[str, Array]:
    """The tensors of a file's content. Raises DamagedError with its `name` unless they are the `wanted` ones."""
    size = int.from_bytes(content[:8], "little")
    if not 2 <= size <= len(content) - 8:
        raise DamagedError(f"{name} is damaged: it does not begin like a safetensors file.")
    header = parse_json(content[8 : 8 + size], name)
    header.pop("__metadata__", None)
    begin, found = 8 + size, {}
    for key in [*wanted, *header]:
        if key not in header or key not in wanted:
            raise DamagedError(f"{name} does not fit the stored step: only one of them has {key!r}.")
        spec, entry = wanted[key], header[key]
        stored = _stored(entry, spec)
        place = _place(entry, stored)
        if place is None or begin + place + _bytes(stored) > len(content):
            raise DamagedError(
                f"{name} does not fit the stored step: {key!r} is not {list(spec.shape)} of {spec.dtype}."
            )
        values = np.frombuffer(content, _DTYPES[stored.dtype], math.prod(spec.shape), begin + place)
        found[key] = values.reshape(spec.shape).astype(_DTYPES[spec.dtype], copy=False)
    return found


def _stored(entry: object, spec: TensorSpec) -> TensorSpec:
    """The spec of a tensor as it is stored: float32 may be stored as float16."""
    narrow = spec.dtype == "float32" and isinstance(entry, dict) and entry.get("dtype") == _TYPES["float16"]
    return TensorSpec("float16", spec.shape) if narrow else spec


def _bytes(spec: TensorSpec) -> int:
    return math.prod(spec.shape) * int(np.dtype(_DTYPES[spec.dtype]).itemsize)


def _place(entry: object, spec: TensorSpec) -> int | None:
    """The offset of a tensor, or None if its entry does not match the spec."""
    if not isinstance(entry, dict) or entry.get("dtype") != _TYPES[spec.dtype] or entry.get("shape") != [*spec.shape]:
        return None
    places = entry.get("data_offsets")
    if not isinstance(places, list) or len(places) != 2 or not all(type(place) is int for place in places):
        return None
    begin, end = places
    return begin if 0 <= begin == end - _bytes(spec) else None


def quantize(folder: Path, output: Path, replace_output: bool = False, dtype: str = "int8") -> tuple[int, int]:
    """Write `output`, a copy of model folder `folder` with int8 or float16 weights. Returns both weight files' sizes in
    bytes.

    Raises TextgenError if `folder` has no stored step, is int8 already or is damaged, if a weight is too large for
    float16, and if `output` exists and must not be replaced.
    """
    from safetensors.numpy import save

    options.choice("dtype", dtype, STORED_TYPES)
    require_model(folder)
    manifest = storage.read_manifest(folder)
    require_weights(folder, manifest)
    if STEP not in manifest["files"]:
        raise TextgenError(f"{str(folder)!r} holds no {STEP}; only torch can run it.")
    graph, weights = read_step(folder, manifest, read_config(folder, manifest))
    if graph.int8:
        raise TextgenError(f"{str(folder)!r} already has int8 weights.")
    tensors = {name: np.asarray(weight) for name, weight in weights.items()}
    names = tuple(name for name, spec in graph.weights.items() if suits(spec)) if dtype == "int8" else ()
    for name in names:
        rows = Int8Rows.of(tensors[name], name)
        tensors |= {name: rows.codes, name + SCALE: rows.scales}
    if dtype == "float16":
        tensors = {name: _halved(array, name) for name, array in tensors.items()}
    content = save({name: np.ascontiguousarray(array) for name, array in tensors.items()})
    try:
        with filesystem.new_folder(output, replace_output) as new:
            for name in manifest["files"].keys() - {*LEFT_OUT, STEP}:
                new.write(name, storage.verified(folder, name, manifest))
            new.write(STEP, filesystem.to_json(replace(graph, int8=names).to_json()))
            new.write(WEIGHTS, content)
    except FileExistsError:
        raise TextgenError(f"{str(output)!r} exists already.", hint="choose another name, or remove it.") from None
    return manifest["files"][WEIGHTS]["size"], len(content)


def _halved(array: Array, name: str) -> Array:
    """An array with float32 as float16. Raises TextgenError for a number that float16 cannot hold."""
    if array.dtype != np.float32:
        return array
    with np.errstate(over="ignore"):
        half = array.astype(np.float16)
    if not np.isfinite(half).all():
        raise TextgenError(f"{name!r} holds a number that float16 cannot hold.")
    return half

"""Compile a stored step into a list of numpy calls, and run it at any batch size.

No rewriting changes more than last digits: what depends on weights alone is computed once; what depends on the token
alone is computed once for every token, where there are few; constants are added once; several slices of one value
that go through one function do so together; matrices lie in memory as products read them fastest.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from operator import itemgetter
from typing import Any

import numpy as np

from textgen.runtime.graph import BATCHES, Program, TensorSpec
from textgen.runtime.ops import DTYPES, OPERATIONS, Array, at_batch, part_of, product

MAX_TABLE_ROWS, LARGEST_TABLE = 1024, 1 << 22
"""The largest vocabulary for which values that depend on the token alone are tabulated, and the largest such table."""
MAX_BATCH_SIZES = 256
BoundCalls = list[tuple[Callable[..., Array], tuple[int, ...], int]]
_TOGETHER = ("sigmoid", "tanh")


@dataclass(frozen=True)
class Call:
    """One operation on the list of values: the places of its inputs and of its result."""

    op: str
    sources: tuple[int, ...]
    target: int
    spec: TensorSpec
    options: Mapping[str, Any] = field(default_factory=dict)

    def bound(self, batch: int) -> Callable[..., Array]:
        """The operation as a function of its input arrays, at a batch size."""
        if self.op == "product":
            return np.matmul if len(self.sources) == 2 else product
        if "run" in self.options:
            return self.options["run"]  # type: ignore[no-any-return]
        if self.op == "slice":
            return itemgetter(part_of(**self.options))
        operation, settings = OPERATIONS[self.op], dict(self.options)
        if operation.sized:
            settings["shape"] = at_batch(self.spec.shape, batch)
        if operation.typed:
            settings["dtype"] = DTYPES[self.spec.dtype]
        return partial(operation.run, **settings) if settings else operation.run


@dataclass
class Plan:
    """Calls in order; `constants` are values known in advance; `inputs` and `outputs` are places. The first input is
    what a step reads, the others are its state."""

    calls: list[Call]
    constants: dict[int, Array]
    inputs: dict[str, int]
    outputs: list[int]
    specs: dict[int, TensorSpec]
    places: int

    def place(self, spec: TensorSpec) -> int:
        """Allocate a place."""
        self.specs[self.places] = spec
        self.places += 1
        return self.places - 1

    def dependents(self, places: set[int]) -> set[int]:
        """These places and all that depend on them."""
        found = set(places)
        for call in self.calls:
            if not found.isdisjoint(call.sources):
                found.add(call.target)
        return found

    def needed(self, places: Sequence[int]) -> set[int]:
        """These places and all that they depend on."""
        found = set(places)
        for call in reversed(self.calls):
            if call.target in found:
                found.update(call.sources)
        return found


def lower(
    program: Program,
    arrays: Mapping[str, Array],
    inputs: Mapping[str, TensorSpec],
    tables: bool = False,
    rewrite: Any = None,
) -> Plan:
    """The optimized plan of a program over these arrays (weights by name) and `inputs`.

    `tables` tabulates what depends on the token alone. `rewrite` may change the calls while the plan's matrices are
    still the given arrays.
    """
    plan = Plan([], {}, {}, [], {}, 0)
    places = {}
    for name, spec in inputs.items():
        plan.inputs[name] = places[name] = plan.place(spec)
    constants = {f"constant.{number}": array for number, array in enumerate(program.constants)}
    for name, array in {**arrays, **constants}.items():
        places[name] = _constant(plan, array)
    for number, node in enumerate(program.nodes):
        sources = [places[i] if isinstance(i, str) else _constant(plan, np.asarray(i)) for i in node.inputs]
        target = places[f"node.{number}"] = plan.place(node.spec)
        plan.calls.append(Call(node.op, tuple(sources), target, node.spec, node.options))
    plan.outputs = [places[name] for name in program.outputs]
    _prune(plan)
    with np.errstate(all="ignore"):
        _fold(plan)
        _leave_unexpanded(plan)
        _join_constants(plan)
        _prune(plan)
        _slice_later(plan)
        if tables:
            _tabulate(plan)
    if rewrite is not None:
        rewrite(plan)
    _transpose_weights(plan)
    _prune(plan)
    # share no memory with the weights, so that the buffer they were read into can be freed
    plan.constants = {p: array if array.base is None else array.copy() for p, array in plan.constants.items()}
    return plan


def _constant(plan: Plan, array: Array) -> int:
    place = plan.place(TensorSpec(str(array.dtype), array.shape))
    plan.constants[place] = array
    return place


def _prune(plan: Plan) -> None:
    needed = plan.needed(plan.outputs)
    plan.calls = [call for call in plan.calls if call.target in needed]
    read = {source for call in plan.calls for source in call.sources} | set(plan.outputs)
    plan.constants = {place: array for place, array in plan.constants.items() if place in read}


def _fold(plan: Plan) -> None:
    """Constant folding: compute what depends on weights alone and is the same at every batch size."""
    left = []
    for call in plan.calls:
        if call.spec.fixed and all(source in plan.constants for source in call.sources):
            plan.constants[call.target] = call.bound(1)(*[plan.constants[source] for source in call.sources])
        else:
            left.append(call)
    plan.calls = left


def _leave_unexpanded(plan: Plan) -> None:
    """x + expand(b) -> x + b, where numpy broadcasts b by itself."""
    smaller = {call.target: call.sources[0] for call in plan.calls if call.op == "expand"}
    for number, call in enumerate(plan.calls):
        sources = tuple(smaller.get(place, place) for place in call.sources)
        shapes = [plan.specs[place].shape for place in sources]
        if OPERATIONS[call.op].scalars and all(
            np.broadcast_shapes(*[at_batch(shape, n) for shape in shapes]) == at_batch(call.spec.shape, n)
            for n in BATCHES
        ):
            plan.calls[number] = replace(call, sources=sources)


def _join_constants(plan: Plan) -> None:
    """(x + b) + (y + c) -> (x + y) + (b + c), and x + (y + c) -> (x + c) + y where x depends on the token alone."""
    reads = Counter([*plan.outputs, *(source for call in plan.calls for source in call.sources)])
    by_state = plan.dependents({*[*plan.inputs.values()][1:]})
    sums: dict[int, tuple[int, int]] = {}
    calls = []
    for call in plan.calls:
        x, y = call.sources if call.op == "add" else (-1, -1)
        if y in plan.constants and x not in plan.constants and plan.specs[x] == call.spec and reads[call.target] == 1:
            sums[call.target] = (x, y)
        elif y in sums and plan.specs[x] == plan.specs[y] and x not in by_state and x not in plan.constants:
            between = plan.place(call.spec)
            calls.append(Call("add", (x, sums[y][1]), between, call.spec))
            call = replace(call, sources=(between, sums[y][0]))
        elif x in sums and y in sums and plan.specs[x] == plan.specs[y]:
            total = _constant(plan, plan.constants[sums[x][1]] + plan.constants[sums[y][1]])
            between = plan.place(call.spec)
            calls.append(Call("add", (sums[x][0], sums[y][0]), between, call.spec))
            call = replace(call, sources=(between, total))
        calls.append(call)
    plan.calls = calls


def _slice_later(plan: Plan) -> None:
    """f(x[a:b]), f(x[c:d]) -> y = f(x); y[a:b], y[c:d]. One call on a little more data is faster than several calls."""
    producers, groups = {call.target: call for call in plan.calls}, dict[tuple[int, str], dict[int, Call]]()
    for call in plan.calls:
        cut = producers.get(call.sources[0]) if call.op in _TOGETHER else None
        if cut is not None and cut.op == "slice" and cut.options["axis"] == len(cut.spec.shape) - 1:
            groups.setdefault((cut.sources[0], call.op), {})[call.target] = replace(cut, target=call.target)
    later: dict[int, tuple[Call, tuple[int, str]]] = {}
    for key, cuts in groups.items():
        share = sum(cut.spec.shape[-1] for cut in cuts.values()) / max(1, plan.specs[key[0]].shape[-1])
        if len(cuts) > 1 and share >= 0.5:
            later |= {target: (cut, key) for target, cut in cuts.items()}
    whole: dict[tuple[int, str], int] = {}
    calls = []
    for call in plan.calls:
        if call.target in later:
            cut, key = later[call.target]
            if key not in whole:
                whole[key] = plan.place(plan.specs[key[0]])
                calls.append(Call(call.op, (key[0],), whole[key], plan.specs[key[0]]))
            call = replace(cut, sources=(whole[key],))
        calls.append(call)
    plan.calls = calls


def _tabulate(plan: Plan) -> None:
    """Replace what depends on the token alone by a lookup in a table with one row per token."""
    ids, *others = plan.inputs.values()
    by_id, by_state = plan.dependents({ids}), plan.dependents({*others})
    chain = [call for call in plan.calls if call.target not in by_state]
    read = {source for call in plan.calls if call.target in by_state for source in call.sources} | set(plan.outputs)
    made = [call for call in chain if call.target in read & by_id]
    border = [call for call in made if call.op != "embedding" and call.spec.is_batched]
    rows = [plan.specs[call.sources[0]].shape[0] for call in chain if call.op == "embedding" and call.sources[1] == ids]
    tokens = max(rows, default=0)
    numbers = tokens * sum(call.spec.elements for call in chain)
    if not border or not tokens or tokens > MAX_TABLE_ROWS or numbers > LARGEST_TABLE:
        return
    values = {**plan.constants, ids: np.arange(tokens)}
    for call in chain:
        values[call.target] = call.bound(tokens)(*[values[source] for source in call.sources])
    for call in border:
        table = _constant(plan, values[call.target])
        plan.calls.remove(call)
        plan.calls.insert(0, Call("embedding", (table, ids), call.target, call.spec))


def _transpose_weights(plan: Plan) -> None:
    """Products read a (K, N) matrix from memory nearly twice as fast as its transpose."""
    turned: dict[tuple[int, str], int] = {}
    for number, call in enumerate(plan.calls):
        weight = call.sources[1] if call.op in ("linear", "matmul") else -1
        if weight not in plan.constants:
            continue
        if (weight, call.op) not in turned:
            matrix = plan.constants[weight]
            matrix = np.ascontiguousarray(matrix.T if call.op == "linear" else matrix)
            turned[weight, call.op] = _constant(plan, matrix)
        sources = (call.sources[0], turned[weight, call.op], *call.sources[2:])
        plan.calls[number] = replace(call, op="product", sources=sources)


class Execution:
    """Some calls of a plan, in order, ready to run. Holds no results."""

    def __init__(self, plan: Plan, calls: Sequence[Call]) -> None:
        self._calls = calls
        self._initial: list[Any] = [None] * plan.places
        for place, array in plan.constants.items():
            self._initial[place] = array
        self._bound: dict[int, BoundCalls] = {}

    def new_values(self) -> list[Any]:
        """A list of values by place, with the constants filled in."""
        return self._initial.copy()

    def run(self, batch: int, values: list[Any]) -> None:
        """Run the calls for a batch size and store their results in the list."""
        for function, sources, target in self._bound.get(batch) or self._bind(batch):
            values[target] = function(*[values[source] for source in sources])

    def _bind(self, batch: int) -> BoundCalls:
        if len(self._bound) >= MAX_BATCH_SIZES:
            self._bound = {}
        bound = self._bound[batch] = [(call.bound(batch), call.sources, call.target) for call in self._calls]
        return bound

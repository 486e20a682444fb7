"""Tracing a cell's `activate` into a forward half and a backward half, plain functions outside autograd.

`activate` is traced once for each cell class, its options and its sizes, with the tracer of torch's compilers, into its
operations and those of its gradient. `textgen.recurrence` then calls the halves step by step, which avoids the overhead
of autograd in each step; compiled (`textgen.compiling`), each half is one loop over memory.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn

State = tuple[Tensor, ...]
Half = Callable[[list[Tensor]], Sequence[Tensor]]
Make = Callable[[fx.GraphModule, Sequence[Tensor]], Half]
_INTERNAL = frozenset(vars(nn.Module())) - {"training"}
_MOST_TRACES = 64


class _Untraceable(Exception):
    """This `activate` cannot be expressed as a fixed list of tensor operations."""


@dataclass(frozen=True)
class Halves:
    """Both halves of an `activate`, and the positions of their arguments and results.

    `forward([y, wx, rh, *state, *tensors])` writes y and returns new tensors; `after` and `saved` are the positions of
    the next state and of what the backward half needs, in arguments + results. `backward([drh, dwx, *sums, *saved, dy,
    *dstate])` writes drh and dwx, adds the gradients of tensors to `sums`, and returns new tensors; `before` are the
    positions of the gradients of the previous state (None for those that are zero).
    """

    forward: Half
    backward: Half
    y: torch.Size
    """The shape of the output, (B, O)."""
    after: tuple[int, ...]
    saved: tuple[int, ...]
    before: tuple[int | None, ...]
    uses: tuple[int, ...]
    """The cell's tensors that `activate` uses: `tensors` are these; `sums` are for the positions in `summed`."""
    summed: tuple[int, ...]
    writes: tuple[bool, bool]
    """Whether drh and dwx are written; otherwise they are zero, except that dwx is drh if `shared`."""
    shared: bool


class _Activate(nn.Module):
    """`activate` as the `forward` of a module, so that `functional_call` can replace its tensors."""

    def __init__(self, cell: Any) -> None:
        super().__init__()
        self.cell = cell

    def forward(self, wx: Tensor, rh: Tensor, state: State) -> tuple[Tensor, State]:
        result: tuple[Tensor, State] = self.cell.activate(wx, rh, state)
        return result


_traces: dict[Hashable, Halves | None] = {}


def halves(cell: Any, tensors: dict[str, Tensor], wx: Tensor, state: State, make: Make) -> Halves | None:
    """The halves of this cell's `activate` for inputs like these; `tensors` are its own parameters and buffers.

    Traces are cached. `make` turns a graph into a function for inputs like its examples. None for an `activate` that
    cannot be expressed as a fixed list of tensor operations. Raises what `make` raises.
    """
    inputs = [wx, wx, *state, *tensors.values()]
    key: Hashable = (type(cell).__mro__, *_attributes(cell), *tensors, *_kinds(inputs), make, torch.get_num_threads())
    if key not in _traces:
        if len(_traces) >= _MOST_TRACES:
            _traces.pop(next(iter(_traces)))
        try:
            _traces[key] = _trace_halves(cell, list(tensors), len(state), inputs, make)
        except _Untraceable:
            _traces[key] = None
    return _traces[key]


def _attributes(cell: nn.Module) -> Iterable[Hashable]:
    """What `activate` may depend on besides tensors: all attributes of the cell and its modules."""
    for name, module in cell.named_modules():
        for key, value in vars(module).items():
            if key not in _INTERNAL:
                yield name, key, value if isinstance(value, Hashable) else repr(value)


def _kinds(inputs: Iterable[Tensor]) -> Iterable[Hashable]:
    return ((tensor.shape, tensor.dtype, tensor.device, tensor.requires_grad) for tensor in inputs)


def _trace_halves(cell: nn.Module, names: list[str], states: int, inputs: list[Tensor], make: Make) -> Halves:
    with warnings.catch_warnings(), torch.random.fork_rng(devices=[]):
        warnings.simplefilter("ignore")
        try:
            examples = [
                torch.zeros_like(t).requires_grad_(k < 2 + states or t.requires_grad) for k, t in enumerate(inputs)
            ]
            with torch.enable_grad():
                forward, backward = _trace(_flat(cell, names, states), examples)
        except Exception as error:  # from the author's code or torch's tracer
            raise _Untraceable(str(error).split("\n")[0]) from error
        with torch.no_grad():
            return _arranged(forward, backward, states, [t.detach() for t in examples], make)


def _flat(cell: nn.Module, names: list[str], states: int) -> Callable[..., tuple[Tensor, ...]]:
    """`activate` as a function of tensors only; its results alias neither its inputs nor each other's views."""
    module = _Activate(cell)

    def run(wx: Tensor, rh: Tensor, *rest: Tensor) -> tuple[Tensor, ...]:
        given = {f"cell.{name}": tensor for name, tensor in zip(names, rest[states:], strict=True)}
        y, after = torch.func.functional_call(module, given, (wx, rh, rest[:states]))
        mine = {id(t) for t in (wx, rh, *rest)}
        return tuple(t.clone() if t._is_view() or id(t) in mine else t for t in (y, *after))

    return run


def _trace(function: Callable[..., tuple[Tensor, ...]], inputs: list[Tensor]) -> tuple[fx.GraphModule, fx.GraphModule]:
    """The graphs of a function and of its gradient."""
    from functorch.compile import aot_function, default_partition, make_boxed_func

    graphs: list[fx.GraphModule] = []

    def keep(graph: fx.GraphModule, _: Any) -> Any:
        graphs.append(graph)
        return make_boxed_func(graph.forward)

    def partition(joint: fx.GraphModule, *arguments: Any, **options: Any) -> Any:
        for node in joint.graph.find_nodes(op="call_function", target=torch.ops.aten.alias.default):
            node.replace_all_uses_with(node.args[0])  # otherwise every result is saved twice
            joint.graph.erase_node(node)
        return default_partition(joint, *arguments, **options)

    traced = aot_function(function, fw_compiler=keep, bw_compiler=keep, partition_fn=partition)
    results = traced(*inputs)
    wanted = [tensor for tensor in inputs if tensor.requires_grad]
    torch.autograd.grad(results, wanted, [torch.ones_like(r) for r in results], allow_unused=True)
    forward, backward = graphs
    return forward, backward


def _arranged(
    forward: fx.GraphModule, backward: fx.GraphModule, states: int, inputs: list[Tensor], make: Make
) -> Halves:
    """The graphs as halves: results that are arguments or duplicates become positions and are computed once."""
    own = _arguments(forward)[2 + states :]
    uses = tuple(place for place, node in enumerate(own) if node.users)
    for node in own:
        if not node.users:
            forward.graph.erase_node(node)
    (y, *_), (dwx, drh, *dothers) = _results(forward), _results(backward)
    example = inputs[0].new_empty(y.meta["val"].shape) if y else inputs[0]
    arguments = [example, *inputs[: 2 + states], *(inputs[2 + states + place] for place in uses)]
    places = _rewrite(forward, [y], [])
    run_forward = make(forward, arguments)
    known = [*arguments, *run_forward(list(arguments))]
    after, saved = places[1 : 1 + states], places[1 + states :]

    shared = dwx is drh
    dtensors = [(place, dothers[states + tensor]) for place, tensor in enumerate(uses)]
    summed = tuple(place for place, node in dtensors if node is not None)
    before = _rewrite(backward, [drh, None if shared else dwx], [node for _, node in dtensors if node is not None])
    sums = [torch.zeros_like(arguments[3 + states + place]) for place in summed]
    arguments = [torch.empty_like(inputs[1]), torch.empty_like(inputs[0]), *sums, *(known[place] for place in saved)]
    arguments += [torch.zeros_like(known[place]) for place in (0, *after)]
    return Halves(
        forward=run_forward,
        backward=make(backward, arguments),
        y=example.shape,
        after=after,
        saved=saved,
        before=before[2 : 2 + states],
        uses=uses,
        summed=summed,
        writes=(drh is not None, dwx is not None and not shared),
        shared=shared,
    )


def _arguments(traced: fx.GraphModule) -> list[fx.Node]:
    return list(traced.graph.find_nodes(op="placeholder"))


def _results(traced: fx.GraphModule) -> list[fx.Node | None]:
    results: Any = traced.graph.output_node().args[0]
    return list(results)


def _rewrite(traced: fx.GraphModule, copied: list[fx.Node | None], added: list[fx.Node]) -> tuple[Any, ...]:
    """Give a graph more arguments, in front: each node of `copied` is copied into one, each of `added` is added to one.

    The graph returns its other results, without duplicates. Returns the position of every result in arguments +
    results, None for an absent result.
    """
    graph, results = traced.graph, _results(traced)
    with graph.inserting_before(next(iter(graph.nodes))):
        targets = [graph.placeholder(f"target_{k}") for k in range(len(copied) + len(added))]
    with graph.inserting_before(graph.output_node()):
        for target, node in zip(targets, [*copied, *added], strict=True):
            if node is not None and target in targets[len(copied) :]:
                node = graph.call_function(torch.ops.aten.add.Tensor, (target, node))
            if node is not None:
                graph.call_function(torch.ops.aten.copy_.default, (target, node))
    places = {node: place for place, node in enumerate(_arguments(traced))}
    places |= {node: place for place, node in enumerate([*copied, *added]) if node is not None}
    returned = [node for node in dict.fromkeys(results) if node is not None and node not in places]
    places |= {node: len(_arguments(traced)) + place for place, node in enumerate(returned)}
    graph.output_node().args = (returned,)
    traced.recompile()
    return tuple(None if node is None else places[node] for node in results)


def interpreted(traced: fx.GraphModule, _: Sequence[Tensor]) -> Half:
    """A half that runs torch's operations one by one."""

    def run(arguments: list[Tensor]) -> Sequence[Tensor]:
        results: Sequence[Tensor] = traced.forward(*arguments)
        return results

    return run

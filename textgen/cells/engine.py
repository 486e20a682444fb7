"""How a recurrence runs over time: the fast paths behind `GatedCell` and `LinearCell`.

`activate` is traced once for each cell class, its options and its sizes, into a forward half and a backward half:
plain functions outside autograd, called step by step. Where a C++ compiler is available, torch's own (inductor)
turns each half into one loop over memory; the result is cached on disk.

Everything here works on plain tensors; sequences are time-major, (T, B, D). `tests/test_cells.py` holds each
function equal to the step-by-step loop in outputs, final state and gradients.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import warnings
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.autograd.function import once_differentiable

from textgen.cells.matmul import product_with
from textgen.errors import CompilerError

State = tuple[Tensor, ...]
Half = Callable[[list[Tensor]], Sequence[Tensor]]
Activation = Callable[[Tensor, Tensor, State], tuple[Tensor, State]]
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
    kinds = ((tensor.shape, tensor.dtype, tensor.device, tensor.requires_grad) for tensor in inputs)
    key: Hashable = (type(cell).__mro__, *_attributes(cell), *tensors, *kinds, make, torch.get_num_threads())
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
    return lambda arguments: traced.forward(*arguments)


def looped(
    activate: Activation, multiply: Callable[[Tensor], Tensor], wxs: Tensor, state: State
) -> tuple[Tensor, State]:
    """Run a gated cell over wxs (T, B, n) with T >= 1, step by step; `multiply` is the product with R.

    Returns outputs (T, B, O) and the final state.
    """
    ys = []
    for wx in wxs.unbind(0):
        y, state = activate(wx, multiply(state[0]), state)
        ys.append(y)
    return torch.stack(ys), state


def gated(
    halves: Halves, wxs: Tensor, weight: Tensor | None, bias: Tensor, state: State, tensors: Sequence[Tensor]
) -> tuple[Tensor, State]:
    """The same with the halves of `activate`, which uses `tensors`; R and its bias are as in `product_with`.

    One autograd operation for the whole sequence. Forward: in each step a product with R and the forward half.
    Backward: in each step the backward half and a product with R transposed; then the gradient of R in one product.
    """
    used = [tensors[place] for place in halves.uses]
    ys, *after = _Gated.apply(halves, len(state), wxs, weight, bias, *state, *used)  # type: ignore[no-untyped-call]
    return ys, tuple(after)


class _Gated(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, halves: Halves, states: int, wxs: Tensor, weight: Tensor | None, bias: Tensor, *rest: Tensor
    ) -> tuple[Tensor, ...]:
        state, tensors = [tensor.contiguous() for tensor in rest[:states]], rest[states:]
        product = product_with(weight, bias, wxs.shape[1])
        ys = wxs.new_empty(len(wxs), *halves.y)
        hs, saved = [], []
        for wx, y in zip(wxs.contiguous().unbind(0), ys.unbind(0), strict=True):
            hs.append(state[0])
            known = [y, wx, product.forward(state[0]), *state, *tensors]
            known += halves.forward(list(known))
            state = [known[place] for place in halves.after]
            saved += [known[place] for place in halves.saved]
        ctx.save_for_backward(ys, *hs, *saved)
        ctx.halves, ctx.product, ctx.like, ctx.tensors = halves, product, wxs, tensors
        return ys.detach(), *(tensor.clone() for tensor in state)  # detached: autograd must not see the slices above

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dys: Tensor, *dstate: Tensor) -> tuple[Tensor | None, ...]:
        halves, product = ctx.halves, ctx.product
        ys, *rest = ctx.saved_tensors
        hs, saved, width = rest[: len(ys)], rest[len(ys) :], len(halves.saved)
        drhs = torch.empty_like(ctx.like) if halves.writes[0] else torch.zeros_like(ctx.like)
        dwxs = torch.empty_like(ctx.like) if halves.writes[1] else drhs if halves.shared else torch.zeros_like(ctx.like)
        zeros = [torch.zeros_like(tensor) for tensor in dstate]
        sums = [torch.zeros_like(ctx.tensors[place]) for place in halves.summed]
        gradients = [tensor.contiguous() for tensor in dstate]
        steps = zip(drhs.unbind(0), dwxs.unbind(0), dys.contiguous().unbind(0), strict=True)
        for t, (drh, dwx, dy) in reversed([*enumerate(steps)]):
            known = [drh, dwx, *sums, *saved[t * width : (t + 1) * width], dy, *gradients]
            known += halves.backward(list(known))
            direct = [None if place is None else known[place] for place in halves.before]
            direct[0] = product.backward(drh, direct[0])
            gradients = [zero if d is None else d for zero, d in zip(zeros, direct, strict=True)]
        dweight = product.weight_gradient(drhs.flatten(0, 1), torch.cat(hs)) if ctx.needs_input_grad[3] else None
        dbias = drhs.sum((0, 1)) if ctx.needs_input_grad[4] else None
        dtensors: list[Tensor | None] = [None] * len(ctx.tensors)
        for place, total in zip(halves.summed, sums, strict=True):
            dtensors[place] = total
        return None, None, dwxs, dweight, dbias, *gradients, *dtensors


class _Scan(torch.autograd.Function):
    """h(t) = a(t)·h(t-1) + b(t) and its adjoint; pointwise, in place, with one buffer each."""

    @staticmethod
    def forward(ctx: Any, a: Tensor, b: Tensor, h: Tensor) -> Tensor:
        hs = torch.empty_like(b)
        before = h
        for a_t, b_t, h_t in zip(a, b, hs, strict=True):
            torch.addcmul(b_t, a_t, before, out=h_t)
            before = h_t
        ctx.save_for_backward(a, hs, h)
        return hs

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        a, hs, h = ctx.saved_tensors
        db = torch.empty_like(hs)
        db[-1] = grad[-1]
        for t in range(len(a) - 2, -1, -1):
            torch.addcmul(grad[t], a[t + 1], db[t + 1], out=db[t])
        da = torch.empty_like(a)
        torch.mul(db[0], h, out=da[0])
        torch.mul(db[1:], hs[:-1], out=da[1:])
        return da, db, a[0] * db[0]


def linear_scan(a: Tensor, b: Tensor, h: Tensor) -> Tensor:
    """All h(t) of h(t) = a(t)·h(t-1) + b(t): a, b (T, B, H) with T >= 1, h = h(-1) (B, H); returns (T, B, H)."""
    hs: Tensor = _Scan.apply(a, b, h)  # type: ignore[no-untyped-call]
    return hs


PARALLEL = 32_768
"""Elements from which several threads speed up a half (measured with 16 x 1024 and 32 x 1024)."""


def compiler() -> str | None:
    """The C++ compiler that torch would use, or None."""
    return shutil.which(os.environ.get("CXX") or ("clang++" if sys.platform == "darwin" else "g++"))


def compiler_version() -> str:
    """The C++ compiler's name and version, empty without one."""
    found = compiler()
    if found is None:
        return ""
    asked = subprocess.run([found, "--version"], capture_output=True, text=True, check=False)
    return asked.stdout.partition("\n")[0].strip()


def compiled(graph: fx.GraphModule, examples: Sequence[Tensor]) -> Half:
    """A graph compiled for inputs like these and the current number of threads.

    Raises CompilerError if it cannot be compiled here.
    """
    if compiler() is None:
        raise CompilerError("there is no C++ compiler on this machine.", hint="install g++, or use --no-compile.")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's own modules use what torch deprecates
        import torch._inductor.config
        from torch._inductor.compile_fx import compile_fx_inner
        from torch._inductor.decomposition import select_decomp_table
        from torch.fx.experimental.proxy_tensor import make_fx

    large = max(tensor.numel() for tensor in examples) >= PARALLEL
    settings = {"compile_threads": 1, "fallback_random": True, "cpp.threads": torch.get_num_threads() if large else 1}
    with warnings.catch_warnings(), torch.no_grad(), torch._inductor.config.patch(settings):
        warnings.simplefilter("ignore")
        try:
            simple = make_fx(graph, decomposition_table=select_decomp_table(), tracing_mode="fake")(*examples)
            inputs = [node.meta["val"] for node in simple.graph.find_nodes(op="placeholder")]
            code: Half = compile_fx_inner(simple, inputs, is_inference=True)
            return code
        except Exception as error:
            reason = str(error).strip().split("\n")[0]
            raise CompilerError(
                f"a cell could not be compiled here ({reason}).", hint="--no-compile trains without compiling."
            ) from error

"""Laws about the state, a value that is passed in and returned, and about what is stored and read back."""

from __future__ import annotations

import copy
import json
import math
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from textgen import cells
from textgen.cells import Cell
from textgen.cells.engine import State
from textgen.errors import TextgenError, UsageError
from textgen.model.stack import Model, Readout, Stack
from textgen.testing.law import BOTH, Case, Violation, both, distance, law, named

VOCAB_SIZE = 5
"""Of the model whose step `stored_step` stores."""


@law("A model of the requested sizes could not be built.")
def sizes(case: Case) -> None:
    """The constructor takes (input_size, hidden_size, **options) and makes such a Cell, or raises ValueError."""
    cell = case.cell
    case.require(isinstance(cell, Cell), f"the constructor makes a {type(cell).__name__}, not a textgen.Cell")
    for name in ("input_size", "hidden_size"):
        found, asked = getattr(cell, name), getattr(case.config, name)
        case.require(found == asked, f"{name} is {found!r}, not {asked} as requested")
    found = cell.output_size
    case.require(isinstance(found, int) and found >= 1, f"output_size is {found!r}, not a whole number of at least 1")


@law(
    "Storing, batching and resuming states would fail: they rely on fixed shapes.",
    shapes=((1, 1), (2, 1), (5, 3), (3, 2)),
)
def state_structure(case: Case) -> None:
    """The state is a tuple of tensors, batch first; their number and shapes never change."""
    batch, cell = case.config.batch, case.cell
    start = cell.initial_state(batch)
    well_formed(case, start, start, "initial_state")
    xs = case.sequence()
    with torch.no_grad():
        y, after = cell.step(xs[0], start)
        well_formed(case, after, start, "step")
        expect_shape(case, y, (batch, cell.output_size), "step's output")
        ys, after = cell(xs, start)
    well_formed(case, after, start, "forward")
    expect_shape(case, ys, (case.config.length, batch, cell.output_size), "forward's output")


def well_formed(case: Case, state: State, like: State, origin: str) -> None:
    """Raises Violation unless the state is a tuple of tensors, batch first, shaped as `like`."""
    kind = type(state).__name__
    case.require(isinstance(state, tuple), f"{origin} returns a {kind} as state, not a tuple")
    case.require(len(state) > 0, f"{origin} returns an empty state")
    case.require(len(state) == len(like), f"{origin} returns {len(state)} state tensors, not {len(like)}")
    for k, (tensor, reference) in enumerate(zip(state, like, strict=True)):
        kind = type(tensor).__name__
        case.require(isinstance(tensor, Tensor), f"{origin} returns a {kind} as state[{k}], not a tensor")
        expect_shape(case, tensor, tuple(reference.shape), f"state[{k}] of {origin}")
        first = tensor.shape[:1]
        case.require(first == (case.config.batch,), f"state[{k}] of {origin} is {tuple(tensor.shape)}, not batch first")


def expect_shape(case: Case, tensor: Tensor, shape: tuple[int, ...], what: str) -> None:
    """Raises Violation unless the tensor has this shape."""
    found = tuple(tensor.shape) if isinstance(tensor, Tensor) else type(tensor).__name__
    case.require(found == shape, f"{what} has shape {found}, not {shape}")


@law("Inputs and states that are used again (fork, undo) would have changed: wrong samples, and no error.")
def no_mutation(case: Case) -> None:
    """step and forward change no input, state, parameter or buffer in place."""
    cell, xs = case.cell, case.sequence()
    own = cell.state_dict()
    with unchanged(case, "step", own):
        state = case.state()
    watched = {"xs": xs, **{f"state[{k}]": s for k, s in enumerate(state)}, **own}
    for origin, run in both(cell).items():
        with torch.no_grad(), unchanged(case, origin, watched):
            run(xs, state)
    before = {name: tensor.clone() for name, tensor in watched.items()}
    case.differentiate(xs, state)
    case.same(watched, before, "changed by forward and backward")


@contextmanager
def unchanged(case: Case, origin: str, watched: Mapping[str, Tensor]) -> Iterator[None]:
    """Raise Violation if the block changes one of these tensors, with the line that does it if it is known."""
    before = {name: tensor.clone() for name, tensor in watched.items()}
    with Writes(watched) as writes:
        yield
    for name, (operation, place) in writes.found.items():
        if deviation := distance(watched[name], before[name]):
            raise Violation(f"{origin} changes {name} in place at {place} ({operation})", deviation)
    case.same(watched, before, f"changed by {origin}")


class Writes(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Records writes into the watched tensors: by tensor name, the operation and the line of code."""

    def __init__(self, watched: Mapping[str, Tensor]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.found: dict[str, tuple[str, str]] = {}
        self._watched = {memory(tensor): name for name, tensor in watched.items() if tensor.numel()}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func._schema.is_mutable:
            given = dict(zip((a.name for a in func._schema.arguments), args, strict=False)) | (kwargs or {})
            written = [a.name for a in func._schema.arguments if a.alias_info is not None and a.alias_info.is_write]
            for tensor in [given[name] for name in written if isinstance(given.get(name), Tensor)]:
                name = None if tensor.is_meta else self._watched.get(memory(tensor))
                if name is not None:
                    self.found.setdefault(name, (func.overloadpacket.__name__, calling_line()))
        return func(*args, **(kwargs or {}))


def calling_line() -> str:
    """The innermost line of code outside torch and this module."""
    for frame, line in traceback.walk_stack(None):
        if frame.f_code.co_filename != __file__ and "/torch/" not in Path(frame.f_code.co_filename).as_posix():
            return f"{Path(frame.f_code.co_filename).name}:{line}"
    return "an unknown line"


@law("Part of the model would switch to another precision: slower, larger, or a dtype error.", dtypes=BOTH)
def dtype_preserved(case: Case) -> None:
    """Outputs and state have the dtype of the weights, float32 or float64, whatever torch's default dtype is."""
    cell, dtype = case.cell, case.config.dtype
    before = tuple(s.dtype for s in cell.initial_state(case.config.batch))
    case.require(all(d == dtype or not d.is_floating_point for d in before), f"initial_state is {before}, not {dtype}")
    xs = case.sequence()
    for default in (torch.float32, torch.float64):
        torch.set_default_dtype(default)
        for origin, run in both(cell).items():
            state = tuple(s.to(d) for s, d in zip(cell.initial_state(case.config.batch), before, strict=True))
            with torch.no_grad():
                ys, after = run(xs, state)
            case.require(ys.dtype == dtype, f"{origin} returns {ys.dtype} for {dtype}")
            found = tuple(s.dtype for s in after)[: len(before)]
            case.require(found == before, f"{origin} turns state dtypes {before} into {found}")


@law(
    "Changing one sequence's state would change another's, or every sequence would start differently.",
    shapes=((2, 1), (2, 3)),
)
def initial_state(case: Case) -> None:
    """initial_state is deterministic: each call returns the same values, in new memory."""
    batch, cell = case.config.batch, case.cell
    one, two = cell.initial_state(batch), cell.initial_state(batch)
    first, second = ({f"state[{k}]": s for k, s in enumerate(state)} for state in (one, two))
    case.same(second, first, "a second call of initial_state")
    owned = {memory(s) for s in [*cell.parameters(), *cell.buffers(), *one]}
    for k, tensor in enumerate(two):
        case.require(memory(tensor) not in owned, f"state[{k}] shares memory with the cell or with an earlier call")
    xs = case.sequence()
    case.close(case.run(xs, (), lambda xs, _: cell(xs)), case.run(xs, two), "without a state, against initial_state")


def memory(tensor: Tensor) -> int:
    """Where a tensor's memory begins."""
    return tensor.untyped_storage().data_ptr()


@law("A saved state (fork, undo, start of a window) would change later.")
def no_aliasing(case: Case) -> None:
    """Returned tensors do not alias the cell's memory, and later calls leave them unchanged."""
    cell, xs, state = case.cell, case.sequence(), case.state()
    with torch.no_grad():
        for origin, run in both(cell).items():
            returned = named(*run(xs, tuple(s.clone() for s in state)))
            copies = {name: tensor.clone() for name, tensor in returned.items()}
            for _ in range(2):
                run(case.sequence(), tuple(s.clone() for s in case.state()))
            case.same(returned, copies, f"returned by {origin}, changed by a later call")
            owned = {memory(t) for t in [*cell.parameters(), *cell.buffers()]}
            for name, tensor in returned.items():
                case.require(memory(tensor) not in owned, f"{name} of {origin} shares memory with the cell")


@law("Parallel generations would mix, and resumed training would differ from uninterrupted training.")
def stateless(case: Case) -> None:
    """The cell stores nothing between calls: equal inputs and state give bit-identical results at any time."""
    xs, state = case.sequence(), case.state()
    new = case.build()
    new.load_state_dict(case.cell.state_dict())
    unused = both(new)
    for origin, run in both(case.cell).items():
        first = case.run(xs, state, run)
        case.run(case.sequence(3, case.config.batch + 1), case.state(case.config.batch + 1))
        case.same(case.run(xs, state, run), first, f"{origin} a second time")
        case.same(case.run(xs, state, unused[origin]), first, f"{origin} of a cell that has not run before")
    case.differentiate(xs, state)
    for path, module in case.cell.named_modules():
        for name, value in vars(module).items():
            values = list(value.values()) if isinstance(value, dict) else value
            for each in values if isinstance(values, (list, tuple)) else [values]:
                has_graph = isinstance(each, Tensor) and each.grad_fn is not None
                attribute = ".".join(filter(None, [path, name]))
                case.require(not has_graph, f"{attribute} holds a tensor with its autograd graph")


@law("A saved model could not be rebuilt.")
def options_json(case: Case) -> None:
    """Options are keywords with defaults that JSON can represent; they survive JSON and text, and unknown options are
    refused."""
    kind = type(case.cell)
    try:
        options = cells.describe(kind)
        stored = json.loads(json.dumps({option.name: option.default for option in options}))
        for table in (stored, {name: str(value) for name, value in stored.items()}):
            back = cells.parse(kind, kind.__name__, table)
            case.require(back == stored, f"the defaults {stored} are read back as {back}")
    except UsageError as error:
        case.require(False, f"the defaults are refused: {error}")
    except TextgenError as error:
        case.require(False, str(error))
    make: Callable[..., Cell] = kind
    for option in options:
        for choice in option.choices:
            make(case.config.input_size, case.config.hidden_size, **{option.name: choice})
    try:
        make(case.config.input_size, case.config.hidden_size, no_such_option=1)
    except TypeError:
        return
    case.require(False, "an unknown option is silently accepted")


@law("A saved model would differ from the one that was trained.", dtypes=BOTH)
def save_and_load(case: Case) -> None:
    """A cell that loads the saved weights of another (safetensors, strict) gives bit-identical outputs."""
    from safetensors.torch import load, save

    weights = case.cell.state_dict()
    for name, value in weights.items():
        case.require(isinstance(value, Tensor), f"{name} in state_dict is a {type(value).__name__}, not a tensor")
    stored = save({name: value.detach().clone().contiguous() for name, value in weights.items()})
    other = case.build(case.config.seed + 1)
    other.load_state_dict(load(stored), strict=True)
    xs, state = case.sequence(), case.state()
    case.same(case.run(xs, state, other), case.run(xs, state), "loaded into a cell with another seed")


@law(
    "Models with this cell would need torch and the cell's package for sampling.",
    shapes=((1, 1),),
    dtypes=(torch.float32,),
    one_size=True,
)
def stored_step(case: Case) -> None:
    """The step of a model with this cell can be stored and run by the numpy runtime, with the same results."""
    from textgen.tracing import trace
    from textgen.tracing.operations import Untraceable

    cell = case.cell
    encoder = nn.Embedding(VOCAB_SIZE, cell.input_size)
    try:
        trace(Model(encoder, Stack([cell]), Readout(cell.output_size, VOCAB_SIZE)))
    except Untraceable as reason:
        case.require(False, f"the step cannot be stored: {str(reason).rstrip('.')}")


@law("safetensors could not store them, and the optimizer would update one weight twice.", dtypes=(torch.float32,))
def no_shared_weights(case: Case) -> None:
    """No two parameters or buffers share memory."""
    seen: dict[int, str] = {}
    for name, tensor in case.cell.state_dict(keep_vars=True).items():
        if isinstance(tensor, Tensor) and tensor.numel():
            other = seen.setdefault(memory(tensor), name)
            case.require(other == name, f"{name} shares memory with {other}")


@law("The best model so far, or an average of weights, would change as training goes on.")
def deep_copy(case: Case) -> None:
    """A deep copy gives bit-identical outputs and has its own weights."""
    xs, state = case.sequence(), case.state()
    case.differentiate(xs, state)
    copied, before = copy.deepcopy(case.cell), case.run(xs, state)
    case.same(case.run(xs, state, copied), before, "a deep copy")
    with torch.no_grad():
        for parameter in copied.parameters():
            parameter.zero_()
    case.same(case.run(xs, state), before, "the copy's weights were changed")


@law("A model that trains on a CPU would raise an error on a GPU.")
def device_move(case: Case) -> None:
    """After a move to another device, forward and step run there, and all results are there."""
    cell, xs = case.build().to("meta"), case.sequence().to("meta")
    start = cell.initial_state(case.config.batch)
    for name, run in both(cell).items():
        with torch.no_grad():
            results = named(*run(xs, start))
        here = [what for what, tensor in results.items() if tensor.device != xs.device]
        case.require(not here, f"{name} returns {', '.join(here)} on {case.sequence().device}")


@law("Sizes could not be counted and checked before memory is allocated.")
def meta_device(case: Case) -> None:
    """Built under torch.device('meta'), the cell has weights of the same names, shapes and dtypes, without memory."""
    with torch.device("meta"):
        outline = case.fresh()
    expected = {name: (tuple(t.shape), t.dtype) for name, t in case.cell.state_dict().items()}
    found = {name: (tuple(t.shape), t.dtype) for name, t in outline.state_dict().items()}
    for name in expected.keys() | found.keys():
        there, here = found.get(name), expected.get(name)
        case.require(there == here, f"{name} is {there} on meta, but {here} on the CPU")
    for name, tensor in outline.state_dict().items():
        case.require(tensor.is_meta, f"{name} is on {tensor.device}, although built on meta")


@law("A parameter would not be trained, or be updated twice in a step.")
def parameter_groups(case: Case) -> None:
    """parameter_groups contains every trainable parameter exactly once; its keys are params, decay and rate."""
    names = {id(p): name for name, p in case.cell.named_parameters() if p.requires_grad}
    seen: list[int] = []
    for group in case.cell.parameter_groups():
        unknown = sorted(group.keys() - {"params", "decay", "rate"})
        case.require(not unknown, f"a group has unknown keys: {', '.join(unknown)}")
        for key in group.keys() & {"decay", "rate"}:
            good = isinstance(group[key], (int, float)) and 0 <= group[key] < math.inf
            case.require(good, f"{key} is {group[key]!r}, not a finite number of at least 0")
        seen += [id(p) for p in group["params"] if p.requires_grad]
    for identity, name in names.items():
        case.require(seen.count(identity) == 1, f"{name} is in {seen.count(identity)} groups, not in exactly one")
    case.require(set(seen) <= names.keys(), "a group contains a parameter of something else")

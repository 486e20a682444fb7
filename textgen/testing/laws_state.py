"""Laws about the state and everything given: fixed in shape and type, a value, never changed, never kept."""

from __future__ import annotations

import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from textgen.cell import Cell
from textgen.recurrence import State
from textgen.testing.law import BOTH, law
from textgen.testing.trial import Broken, Trial, both, distance, named


@law(
    meaning="A model of the sizes you ask for could not be built.",
)
def sizes(trial: Trial) -> None:
    """The constructor takes (input_size, hidden_size, **options) and gives a Cell of those sizes, or a ValueError."""
    cell = trial.cell
    trial.require(isinstance(cell, Cell), f"it makes a {type(cell).__name__}, which is no textgen.Cell")
    for name in ("input_size", "hidden_size"):
        found, asked = getattr(cell, name), getattr(trial.case, name)
        trial.require(found == asked, f"{name} is {found!r} where {asked} was asked for")
    found = cell.output_size
    trial.require(isinstance(found, int) and found >= 1, f"output_size is {found!r}, not a whole number of at least 1")


@law(
    meaning="States are stored, stacked, cut into rows and carried over: none of it works if their form changes.",
    shapes=((1, 1), (2, 1), (5, 3), (3, 2)),
)
def state_structure(trial: Trial) -> None:
    """The state is a tuple of tensors, batch first, of the same number and shapes before and after any step."""
    batch, cell = trial.case.batch, trial.cell
    start = cell.initial_state(batch)
    well_formed(trial, start, start, "initial_state")
    xs = trial.sequence()
    with torch.no_grad():
        y, after = cell.step(xs[0], start)
        well_formed(trial, after, start, "step")
        expect_shape(trial, y, (batch, cell.output_size), "step's output")
        ys, after = cell(xs, start)
    well_formed(trial, after, start, "forward")
    expect_shape(trial, ys, (trial.case.length, batch, cell.output_size), "forward's output")


def well_formed(trial: Trial, state: State, like: State, origin: str) -> None:
    """Raises Broken unless the state is a tuple of tensors, batch first, shaped as `like`."""
    kind = type(state).__name__
    trial.require(isinstance(state, tuple), f"{origin} gives a {kind} as state, not a tuple")
    trial.require(len(state) > 0, f"{origin} gives a state of no tensors")
    trial.require(len(state) == len(like), f"{origin} gives {len(state)} state tensors, not {len(like)}")
    for k, (tensor, reference) in enumerate(zip(state, like, strict=True)):
        kind = type(tensor).__name__
        trial.require(isinstance(tensor, Tensor), f"{origin} gives a {kind} as state[{k}], not a tensor")
        expect_shape(trial, tensor, tuple(reference.shape), f"state[{k}] of {origin}")
        first = tensor.shape[:1]
        trial.require(first == (trial.case.batch,), f"state[{k}] of {origin} is {tuple(tensor.shape)}, not batch first")


def expect_shape(trial: Trial, tensor: Tensor, shape: tuple[int, ...], what: str) -> None:
    """Raises Broken unless the tensor has this shape."""
    found = tuple(tensor.shape) if isinstance(tensor, Tensor) else type(tensor).__name__
    trial.require(found == shape, f"{what} has shape {found}, not {shape}")


@law(
    meaning="Half of a model would drift into another precision: slower, larger, or stopped by an error.",
    dtypes=BOTH,
)
def dtype_kept(trial: Trial) -> None:
    """Outputs and state keep the dtype of the weights, float32 or float64, whatever torch's default is."""
    cell, dtype = trial.cell, trial.case.dtype
    before = tuple(s.dtype for s in cell.initial_state(trial.case.batch))
    trial.require(all(d == dtype or not d.is_floating_point for d in before), f"initial_state is {before}, not {dtype}")
    xs = trial.sequence()
    for default in (torch.float32, torch.float64):
        torch.set_default_dtype(default)
        for origin, run in both(cell).items():
            state = tuple(s.to(d) for s, d in zip(cell.initial_state(trial.case.batch), before, strict=True))
            with torch.no_grad():
                ys, after = run(xs, state)
            trial.require(ys.dtype == dtype, f"{origin} gives {ys.dtype} for {dtype}")
            found = tuple(s.dtype for s in after)[: len(before)]
            trial.require(found == before, f"{origin} turns a state of {before} into {found}")


@law(
    meaning="Writing into one text's state would change another's, or every text would start differently.",
    shapes=((2, 1), (2, 3)),
)
def initial_state(trial: Trial) -> None:
    """initial_state draws nothing and shares nothing: each call gives the same values in memory of their own."""
    batch, cell = trial.case.batch, trial.cell
    one, two = cell.initial_state(batch), cell.initial_state(batch)
    same_start = {f"state[{k}]": s for k, s in enumerate(one)}
    trial.same({f"state[{k}]": s for k, s in enumerate(two)}, same_start, "a second call of initial_state")
    owned = {memory(s) for s in [*cell.parameters(), *cell.buffers(), *one]}
    for k, tensor in enumerate(two):
        trial.require(memory(tensor) not in owned, f"state[{k}] shares its memory with the cell or with another call's")
    xs = trial.sequence()
    trial.close(trial.run(xs, (), lambda xs, _: cell(xs)), trial.run(xs, two), "without a state, against initial_state")


def memory(tensor: Tensor) -> int:
    """Where a tensor's memory begins."""
    return tensor.untyped_storage().data_ptr()


@law(
    meaning="What is fed again, forked or undone would have changed: sampling goes wrong in silence.",
)
def nothing_changed(trial: Trial) -> None:
    """Inputs, the state given, parameters and buffers are left as they were, bit for bit."""
    cell, xs = trial.cell, trial.sequence()
    own = cell.state_dict()
    with unchanged(trial, "step", own):
        state = trial.state()
    watched = {"xs": xs, **{f"state[{k}]": s for k, s in enumerate(state)}, **own}
    for origin, run in both(cell).items():
        with torch.no_grad(), unchanged(trial, origin, watched):
            run(xs, state)
    before = {name: tensor.clone() for name, tensor in watched.items()}
    trial.differentiate(xs, state)
    trial.same(watched, before, "changed by forward and backward")


@contextmanager
def unchanged(trial: Trial, origin: str, watched: Mapping[str, Tensor]) -> Iterator[None]:
    """Raise Broken if what is done inside changes one of these tensors, with the line that does it if it is known."""
    before = {name: tensor.clone() for name, tensor in watched.items()}
    with Writes(watched) as writes:
        yield
    for name, (operation, place) in writes.found.items():
        if deviation := distance(watched[name], before[name]):
            raise Broken(f"{origin} changes {name} in place at {place} ({operation})", deviation)
    trial.same(watched, before, f"changed by {origin}")


class Writes(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Records which of the watched tensors are written into: by their names, the operation and the line of code."""

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
    """The line of code that is at work, torch's own and that of this module left out."""
    for frame, line in traceback.walk_stack(None):
        if frame.f_code.co_filename != __file__ and "/torch/" not in Path(frame.f_code.co_filename).as_posix():
            return f"{Path(frame.f_code.co_filename).name}:{line}"
    return "an unknown line"


@law(
    meaning="A kept state (a fork, an undo, a window's start) would change under your hands.",
)
def nothing_shared(trial: Trial) -> None:
    """What the cell has returned stays as it is whatever the cell does next, and is not the cell's own memory."""
    cell, xs, state = trial.cell, trial.sequence(), trial.state()
    with torch.no_grad():
        for origin, run in both(cell).items():
            returned = named(*run(xs, tuple(s.clone() for s in state)))
            kept = {name: tensor.clone() for name, tensor in returned.items()}
            for _ in range(2):
                run(trial.sequence(), tuple(s.clone() for s in trial.state()))
            trial.same(returned, kept, f"returned by {origin}, changed by a later one")
            owned = {memory(t) for t in [*cell.parameters(), *cell.buffers()]}
            for name, tensor in returned.items():
                trial.require(memory(tensor) not in owned, f"{name} of {origin} is memory of the cell's own")


@law(
    meaning="Texts written side by side would mix, and a resumed training would not go on as it stopped.",
)
def keeps_nothing(trial: Trial) -> None:
    """The cell keeps nothing between calls: the same inputs and state give the same bits, whatever ran in between."""
    xs, state = trial.sequence(), trial.state()
    new = trial.build()
    new.load_state_dict(trial.cell.state_dict())
    unused = both(new)
    for origin, run in both(trial.cell).items():
        first = trial.run(xs, state, run)
        trial.run(trial.sequence(3, trial.case.batch + 1), trial.state(trial.case.batch + 1))
        trial.same(trial.run(xs, state, run), first, f"{origin} a second time")
        trial.same(trial.run(xs, state, unused[origin]), first, f"{origin} of a cell that has run nothing before")
    trial.differentiate(xs, state)
    for path, module in trial.cell.named_modules():
        for name, value in vars(module).items():
            held = list(value.values()) if isinstance(value, dict) else value
            for tensor in held if isinstance(held, (list, tuple)) else [held]:
                kept = isinstance(tensor, Tensor) and tensor.grad_fn is not None
                trial.require(not kept, f"{'.'.join(filter(None, [path, name]))} keeps a tensor and all its history")

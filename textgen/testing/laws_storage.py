"""Laws about options and weights: they can be stored, copied and moved."""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from textgen import cell_options
from textgen.cell import Cell
from textgen.errors import TextgenError, UsageError
from textgen.model import Model, Readout, Stack
from textgen.testing.law import BOTH, law
from textgen.testing.laws_state import memory
from textgen.testing.trial import Case, both, named

VOCAB_SIZE = 5


@law("A saved model could not be rebuilt.")
def options_json(case: Case) -> None:
    """Options are keywords with defaults that JSON can represent; they survive JSON and text, and unknown options are
    refused.
    """
    kind = type(case.cell)
    try:
        options = cell_options.describe(kind)
        stored = json.loads(json.dumps({option.name: option.default for option in options}))
        for table in (stored, {name: str(value) for name, value in stored.items()}):
            back = cell_options.parse(kind, kind.__name__, table)
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
    from textgen.tracing.notes import Untraceable
    from textgen.tracing.trace import trace

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

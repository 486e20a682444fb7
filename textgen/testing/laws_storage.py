"""Laws about what a cell is made of: options, weights and memory that can be stored, copied, moved and divided."""

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
from textgen.testing.trial import Trial, both, named

SYMBOLS = 5


@law(
    meaning="A saved model could not be built again.",
)
def options_json(trial: Trial) -> None:
    """Options are keywords with defaults that JSON can hold; they come back from JSON and text, and others are
    refused.
    """
    kind = type(trial.cell)
    try:
        options = cell_options.describe(kind)
        stored = json.loads(json.dumps({option.name: option.default for option in options}))
        for table in (stored, {name: str(value) for name, value in stored.items()}):
            back = cell_options.parse(kind, kind.__name__, table)
            trial.require(back == stored, f"the defaults {stored} come back as {back}")
    except UsageError as error:
        trial.require(False, f"the defaults are refused: {error}")
    except TextgenError as error:
        trial.require(False, str(error))
    make: Callable[..., Cell] = kind
    for option in options:
        for choice in option.choices:
            make(trial.case.input_size, trial.case.hidden_size, **{option.name: choice})
    try:
        make(trial.case.input_size, trial.case.hidden_size, no_such_option=1)
    except TypeError:
        return
    trial.require(False, "an option that does not exist is taken without a word")


@law(
    meaning="A saved model would not be the one that was trained.",
    dtypes=BOTH,
)
def saved_and_loaded(trial: Trial) -> None:
    """Weights written to safetensors and read back, strictly, into another cell give the same outputs, bit for bit."""
    from safetensors.torch import load, save

    weights = trial.cell.state_dict()
    for name, value in weights.items():
        trial.require(isinstance(value, Tensor), f"{name} in state_dict is a {type(value).__name__}, not a tensor")
    stored = save({name: value.detach().clone().contiguous() for name, value in weights.items()})
    other = trial.build(trial.case.seed + 1)
    other.load_state_dict(load(stored), strict=True)
    xs, state = trial.sequence(), trial.state()
    trial.same(trial.run(xs, state, other), trial.run(xs, state), "loaded into a cell of another seed")


@law(
    meaning="Sampling would need torch and the cell's package: a model folder with this cell does not stand alone.",
    shapes=((1, 1),),
    dtypes=(torch.float32,),
    one_size=True,
)
def stored_step(trial: Trial) -> None:
    """A model with this cell can be stored as a step that numpy runs, without torch or the cell's package, and that
    computes the same.
    """
    from textgen.tracing.recorder import Untraceable
    from textgen.tracing.trace import trace

    cell = trial.cell
    encoder = nn.Embedding(SYMBOLS, cell.input_size)
    try:
        trace(Model(encoder, Stack([cell]), Readout(cell.output_size, SYMBOLS)))
    except Untraceable as reason:
        trial.require(False, f"not supported by the numpy runtime: {str(reason).rstrip('.')}")


@law(
    meaning="safetensors refuses to store them, and training would move two weights as one.",
    dtypes=(torch.float32,),
)
def own_storage(trial: Trial) -> None:
    """No two parameters or buffers share memory."""
    seen: dict[int, str] = {}
    for name, tensor in trial.cell.state_dict(keep_vars=True).items():
        if isinstance(tensor, Tensor) and tensor.numel():
            other = seen.setdefault(memory(tensor), name)
            trial.require(other == name, f"{name} shares its memory with {other}")


@law(
    meaning="The best model so far, or an average of weights, would change with the one in training.",
)
def copied(trial: Trial) -> None:
    """A deep copy gives the same outputs, bit for bit, and has weights of its own."""
    xs, state = trial.sequence(), trial.state()
    trial.differentiate(xs, state)
    twin, before = copy.deepcopy(trial.cell), trial.run(xs, state)
    trial.same(trial.run(xs, state, twin), before, "a deep copy")
    with torch.no_grad():
        for parameter in twin.parameters():
            parameter.zero_()
    trial.same(trial.run(xs, state), before, "the copy's weights were changed")


@law(
    meaning="A model would train here and stop with an error on a GPU.",
)
def moves(trial: Trial) -> None:
    """Moved to another device, everything moves: forward and step then run there, and return what is there."""
    cell, xs = trial.build().to("meta"), trial.sequence().to("meta")
    start = cell.initial_state(trial.case.batch)
    for name, run in both(cell).items():
        with torch.no_grad():
            results = named(*run(xs, start))
        here = [what for what, tensor in results.items() if tensor.device != xs.device]
        trial.require(not here, f"{name} leaves {', '.join(here)} behind, on {trial.sequence().device}")


@law(
    meaning="Sizes could not be counted and checked before memory is taken for them.",
)
def built_on_meta(trial: Trial) -> None:
    """Under torch.device('meta') the constructor gives the same weights by name, shape and dtype, without memory."""
    with torch.device("meta"):
        outline = trial.fresh()
    expected = {name: (tuple(t.shape), t.dtype) for name, t in trial.cell.state_dict().items()}
    found = {name: (tuple(t.shape), t.dtype) for name, t in outline.state_dict().items()}
    for name in expected.keys() | found.keys():
        there, here = found.get(name), expected.get(name)
        trial.require(there == here, f"{name} is {there} on meta and {here} elsewhere")
    for name, tensor in outline.state_dict().items():
        trial.require(tensor.is_meta, f"{name} is on {tensor.device} although built on meta")


@law(
    meaning="A weight would not be trained, or be moved twice as far.",
)
def parameter_groups(trial: Trial) -> None:
    """parameter_groups names every trainable parameter once, with the keys params, decay and rate."""
    names = {id(p): name for name, p in trial.cell.named_parameters() if p.requires_grad}
    seen: list[int] = []
    for group in trial.cell.parameter_groups():
        unknown = sorted(group.keys() - {"params", "decay", "rate"})
        trial.require(not unknown, f"a group has the unknown keys {', '.join(unknown)}")
        for key in group.keys() & {"decay", "rate"}:
            good = isinstance(group[key], (int, float)) and 0 <= group[key] < math.inf
            trial.require(good, f"{key} is {group[key]!r}, not a factor of at least 0")
        seen += [id(p) for p in group["params"] if p.requires_grad]
    for identity, name in names.items():
        trial.require(seen.count(identity) == 1, f"{name} is in {seen.count(identity)} groups, not in one")
    trial.require(set(seen) <= names.keys(), "a group holds a parameter that is not the cell's")

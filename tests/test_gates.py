"""Named gates are seen while somebody watches, step by step, and change nothing."""

import doctest

import torch
from zoo import CELLS

from textgen import cells, plugins
from textgen.cells import Cell
from textgen.model.stack import Stack


def test_watching_shows_every_step_of_every_layer_and_ends():
    stack = Stack([plugins.cell("lstm")(3, 4), plugins.cell("gru")(4, 4), CELLS["Mgu"](4, 4)])
    xs = torch.randn(5, 2, 3)
    with cells.watched(stack) as seen:
        watched = Cell.forward(stack, xs)
    assert {layer: set(named) for layer, named in seen.items()} == {
        "layers.0": {"input", "forget", "candidate", "output"},
        "layers.1": {"reset", "update", "candidate"},
    }
    assert all(len(values) == 5 and values[0].shape == (2, 4) for named in seen.values() for values in named.values())
    unwatched = Cell.forward(stack, xs)
    assert torch.equal(watched[0], unwatched[0])
    assert len(seen["layers.0"]["forget"]) == 5


def test_the_example_in_the_docstring_holds():
    assert doctest.testmod(cells).failed == 0

"""One list of cells, over which every law runs: all installed ones, and one of each kind an author may write."""

import sys
import tomllib
from pathlib import Path

import torch
from torch import nn

from textgen import plugins
from textgen.cells import Cell, GatedCell, LinearCell


class Mgu(Cell):
    """A plain Cell: the reset comes before the product, which no GatedCell can do."""

    def __init__(self, input_size, hidden_size):
        super().__init__(input_size, hidden_size)
        self.gate = nn.Linear(input_size + hidden_size, hidden_size)
        self.candidate = nn.Linear(input_size + hidden_size, hidden_size)

    def step(self, x, state):
        (h,) = state
        f = torch.sigmoid(self.gate(torch.cat([x, h], dim=-1)))
        n = torch.tanh(self.candidate(torch.cat([x, f * h], dim=-1)))
        h = torch.lerp(h, n, f)
        return h, (h,)


class Peephole(GatedCell):
    """Parameters of its own inside activate."""

    gates = 4
    states = 2

    def __init__(self, input_size, hidden_size):
        super().__init__(input_size, hidden_size)
        self.peep = nn.Parameter(torch.randn(3, hidden_size) / 4)

    def activate(self, wx, rh, state):
        c = state[1]
        i, f, g, o = (wx + rh).chunk(4, dim=-1)
        i, f = torch.sigmoid(i + self.peep[0] * c), torch.sigmoid(f + self.peep[1] * c)
        c = f * c + i * torch.tanh(g)
        h = torch.sigmoid(o + self.peep[2] * c) * torch.tanh(c)
        return h, (h, c)


class Projected(GatedCell):
    """R multiplies a state narrower than the hidden size; the output is narrower too."""

    gates = 4
    bias = "none"

    def __init__(self, input_size, hidden_size, projection: int = 2):
        self.states = (projection, hidden_size)
        super().__init__(input_size, hidden_size, output_size=projection)
        self.down = nn.Linear(hidden_size, projection, bias=False)

    def activate(self, wx, rh, state):
        i, f, g, o = (wx + rh).chunk(4, dim=-1)
        c = torch.sigmoid(f) * state[1] + torch.sigmoid(i) * torch.tanh(g)
        h = self.down(torch.sigmoid(o) * torch.tanh(c))
        return h, (h, c)


class BlockDiagonal(GatedCell):
    gates = 2
    recurrent = 2

    def activate(self, wx, rh, state):
        f, n = (wx + rh).chunk(2, dim=-1)
        h = torch.lerp(state[0], torch.tanh(n), torch.sigmoid(f))
        return h, (h,)


class Independent(GatedCell):
    """No R at all: each unit sees only itself (IndRNN)."""

    gates = 1
    recurrent = None
    bias = "input"

    def __init__(self, input_size, hidden_size):
        super().__init__(input_size, hidden_size)
        self.own = nn.Parameter(torch.linspace(-0.9, 0.9, hidden_size))

    def activate(self, wx, rh, state):
        h = torch.relu(wx + self.own * state[0])
        return h, (h,)


class LayerNormed(GatedCell):
    gates = 1

    def __init__(self, input_size, hidden_size):
        super().__init__(input_size, hidden_size)
        self.norm = nn.LayerNorm(hidden_size)

    def activate(self, wx, rh, state):
        h = torch.tanh(self.norm(wx + rh))
        return h, (h,)


class MinGru(LinearCell):
    def __init__(self, input_size, hidden_size):
        super().__init__(input_size, hidden_size)
        self.both = nn.Linear(input_size, 2 * hidden_size)

    def coefficients(self, xs):
        z, n = self.both(xs).chunk(2, dim=-1)
        z = torch.sigmoid(z)
        return 1 - z, z * n


class Sru(LinearCell):
    """A readout that looks at the input again, with the sizes equal or not."""

    def __init__(self, input_size, hidden_size):
        super().__init__(input_size, hidden_size)
        self.all = nn.Linear(input_size, 4 * hidden_size)

    def coefficients(self, xs):
        n, f, _, _ = self.all(xs).chunk(4, dim=-1)
        f = torch.sigmoid(f)
        return f, (1 - f) * n

    def readout(self, hs, xs):
        _, _, r, skip = self.all(xs).chunk(4, dim=-1)
        return torch.lerp(skip, torch.tanh(hs), torch.sigmoid(r))


def offers_cells(package):
    points = tomllib.loads((package / "pyproject.toml").read_text())["project"]["entry-points"]["textgen"]
    return any("." not in name for name in points)


PACKAGES = [
    path.parent
    for path in sorted((Path(__file__).parents[1] / "plugins").glob("textgen-*/pyproject.toml"))
    if offers_cells(path.parent)
]
sys.path += map(str, PACKAGES)
WORKED = {name: cell for p in PACKAGES for name, cell in plugins.load_module(p.name.replace("-", "_")).items()}
"""The cells of the worked packages, installed or not; each package runs the conformance suite on its own."""

INSTALLED = {name: plugins.cell(name) for name in plugins.entries()}
WRITTEN = {
    cell.__name__: cell for cell in (Mgu, Peephole, Projected, BlockDiagonal, Independent, LayerNormed, MinGru, Sru)
}
CELLS = INSTALLED | WRITTEN


def sharpen(model):
    """Scale the embedding and the readout of a new model, so that its predictions differ and depend on its input.

    The recurrent weights stay as initialized. Larger ones make the recurrence chaotic: then a difference in rounding,
    which every BLAS is free to make, grows without bound, and two correct machines disagree.
    """
    with torch.no_grad():
        model.encoder.weight.mul_(8)
        model.readout.linear.weight.mul_(8)
    return model

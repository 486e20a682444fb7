"""Converting weights from and to `torch.nn.RNN`, `LSTM` and `GRU`: the same matrices under other names.

Example:
    >>> import torch
    >>> from textgen.model import Stack
    >>> from textgen import plugins
    >>> theirs = torch.nn.GRU(3, 4, num_layers=2)
    >>> gru = plugins.cell("gru")
    >>> ours = Stack([gru(3, 4), gru(4, 4)])
    >>> ours.load_state_dict(from_torch(theirs.state_dict()))
    <All keys matched successfully>
    >>> sorted(to_torch(ours.state_dict())) == sorted(theirs.state_dict())
    True
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from torch import Tensor

_THEIRS = re.compile(r"(weight|bias)_(ih|hh)_l(\d+)")
_OURS = re.compile(r"layers\.(\d+)\.((?:weight|bias)_(?:ih|hh))")


def from_torch(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The state dict of a `Stack` of `rnn`, `lstm` or `gru` cells from that of the corresponding torch module.

    Raises ValueError for a bidirectional or projected module, which have no equivalent here.
    """
    ours = {}
    for name, tensor in state_dict.items():
        match = _THEIRS.fullmatch(name)
        if not match:
            raise ValueError(f"{name!r} has no equivalent in a one-directional stack without projection")
        kind, side, layer = match.groups()
        ours[f"layers.{layer}.{kind}_{side}"] = tensor
    return ours


def to_torch(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The inverse of `from_torch`.

    Raises ValueError for parameters that torch's modules do not have, such as layer norms.
    """
    theirs = {}
    for name, tensor in state_dict.items():
        match = _OURS.fullmatch(name)
        if not match:
            raise ValueError(f"{name!r} has no equivalent in torch.nn.RNN, LSTM or GRU")
        layer, parameter = match.groups()
        theirs[f"{parameter}_l{layer}"] = tensor
    return theirs

"""The kinds of cell, and when to use each."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class CellKind:
    """A kind of cell: its name, the class to subclass, the method to write, and when to use it."""

    name: str
    base: str
    writes: str
    when: str


KINDS = {
    kind.name: kind
    for kind in (
        CellKind(
            "gated",
            "GatedCell",
            "activate(wx, rh, state)",
            "gates are pointwise functions of W·x + R·h (LSTM, GRU, sLSTM)",
        ),
        CellKind(
            "linear",
            "LinearCell",
            "coefficients(xs)",
            "h(t) = a * h(t-1) + b, with a and b from x(t) alone (minGRU, SRU)",
        ),
        CellKind("cell", "Cell", "step(x, state)", "anything else (MGU, Mogrifier, matrix memory)"),
    )
}

"""The kinds of cell that one may write, and when to take which."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Kind:
    """One kind: its name, the class to subclass, what the author writes, and for which cells."""

    name: str
    base: str
    writes: str
    when: str


KINDS = {
    kind.name: kind
    for kind in (
        Kind(
            "gated",
            "GatedCell",
            "activate(wx, rh, state)",
            "gates are pointwise functions of W·x + R·h (LSTM, GRU, sLSTM)",
        ),
        Kind(
            "linear",
            "LinearCell",
            "coefficients(xs)",
            "h(t) = a * h(t-1) + b, with a and b from x(t) alone (minGRU, SRU)",
        ),
        Kind("cell", "Cell", "step(x, state)", "anything else (MGU, Mogrifier, matrix memory)"),
    )
}

"""How a recurrence runs over time: the fast paths behind `GatedCell` and `LinearCell`.

Everything here works on plain tensors. Sequences are time-major, (T, B, D). Each function is held equal to the
step-by-step loop in outputs, final state and gradients by `tests/test_cells.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

State = tuple[Tensor, ...]
Activation = Callable[[Tensor, Tensor, State], tuple[Tensor, State]]

CHUNK = 8
"""Time steps handled by one call of `gated_chunk`; the unit that a compiler is given."""


def recurrent_product(h: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """R·h plus a bias: h (B, P), weight (n, P) or block-diagonal (K, n/K, P/K), bias (B, n); returns (B, n).

    With K blocks, rows of the result are ordered gate by gate, and within a gate block by block, so that a cell
    may `chunk` them into gates whatever K is.
    """
    if weight.dim() == 2:
        return torch.addmm(bias, h, weight.t())
    blocks, rows, width = weight.shape
    parts = torch.matmul(h.view(-1, blocks, 1, width), weight.transpose(1, 2)).squeeze(2)  # (B, K, n/K)
    by_gate = parts.view(len(h), blocks, -1, width).transpose(1, 2)  # (B, gates, K, P/K)
    return bias + by_gate.reshape(len(h), blocks * rows)


class _DeferredBias(torch.autograd.Function):
    """The recurrent bias, repeated over time, whose gradient also carries the gradient of R.

    The loop multiplies by a detached R and adds slice t of this tensor. So the gradient that arrives here is that of
    every recurrent pre-activation, (T, B, n), and one product with the hidden states h(t-1), which the loop leaves
    in `inputs`, gives the gradient of R: one large product after the loop instead of T small ones inside it.
    """

    @staticmethod
    def forward(ctx: Any, weight: Tensor, bias: Tensor, length: int, batch: int, inputs: list[Tensor]) -> Tensor:
        ctx.inputs = inputs
        ctx.weight_shape = weight.shape
        return bias.clone().expand(length, batch, -1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        dweight = dbias = None
        flat = grad.flatten(0, 1)  # (T*B, n)
        if ctx.needs_input_grad[0]:
            hs = torch.cat(ctx.inputs)  # (T*B, P)
            if len(ctx.weight_shape) == 2:
                dweight = flat.t() @ hs
            else:
                blocks, rows, width = ctx.weight_shape
                by_block = flat.view(len(flat), -1, blocks, width).transpose(1, 2).reshape(len(flat), blocks, rows)
                dweight = torch.einsum("bkr,bkw->krw", by_block, hs.view(len(hs), blocks, width))
        if ctx.needs_input_grad[1]:
            dbias = flat.sum(0)
        return dweight, dbias, None, None, None


def gated_chunk(
    activate: Activation, wxs: Tensor, biases: Tensor, weight: Tensor, state: State
) -> tuple[list[Tensor], list[Tensor], State]:
    """A few steps of a gated cell; a pure function of its arguments, and so the place where a compiler comes in.

    wxs and biases are (t, B, n), weight is R without a gradient. Returns the outputs, the hidden states that R
    multiplied, and the state after the last step.
    """
    ys, hs = [], []
    for wx, bias in zip(wxs.unbind(0), biases.unbind(0), strict=True):
        hs.append(state[0])
        y, state = activate(wx, recurrent_product(state[0], weight, bias), state)
        ys.append(y)
    return ys, hs, state


def gated(activate: Activation, wxs: Tensor, weight: Tensor, bias: Tensor, state: State) -> tuple[Tensor, State]:
    """Run a gated cell over wxs (T, B, n) with T >= 1; returns outputs (T, B, O) and the final state."""
    length, batch, _ = wxs.shape
    inputs: list[Tensor] = []
    biases: Tensor = _DeferredBias.apply(weight, bias, length, batch, inputs)  # type: ignore[no-untyped-call]
    frozen = weight.detach()
    ys: list[Tensor] = []
    for chunk_wxs, chunk_biases in zip(torch.split(wxs, CHUNK), torch.split(biases, CHUNK), strict=True):
        chunk_ys, hs, state = gated_chunk(activate, chunk_wxs, chunk_biases, frozen, state)
        ys += chunk_ys
        inputs += [h.detach() for h in hs]
    return torch.stack(ys), state


class _Sweep(torch.autograd.Function):
    """h(t) = a(t)·h(t-1) + b(t), forwards, and its adjoint, backwards; pointwise, in place, one buffer each."""

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


def linear_sweep(a: Tensor, b: Tensor, h: Tensor) -> Tensor:
    """All h(t) of h(t) = a(t)·h(t-1) + b(t): a, b (T, B, H) with T >= 1, h = h(-1) (B, H); returns (T, B, H)."""
    hs: Tensor = _Sweep.apply(a, b, h)  # type: ignore[no-untyped-call]
    return hs

"""Recurrences over time: the fast paths of `GatedCell` and `LinearCell`.

All functions work on plain tensors. Sequences are time-major, (T, B, D). `tests/test_cells.py` checks that each
function equals the loop of `step` in outputs, final state and gradients.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from textgen.activation import Halves
from textgen.activation import State as State
from textgen.products import product_with

Activation = Callable[[Tensor, Tensor, State], tuple[Tensor, State]]


def looped(
    activate: Activation, multiply: Callable[[Tensor], Tensor], wxs: Tensor, state: State
) -> tuple[Tensor, State]:
    """Run a gated cell over wxs (T, B, n) with T >= 1, step by step; `multiply` is the product with R.

    Returns outputs (T, B, O) and the final state.
    """
    ys = []
    for wx in wxs.unbind(0):
        y, state = activate(wx, multiply(state[0]), state)
        ys.append(y)
    return torch.stack(ys), state


def gated(
    halves: Halves, wxs: Tensor, weight: Tensor | None, bias: Tensor, state: State, tensors: Sequence[Tensor]
) -> tuple[Tensor, State]:
    """The same with the halves of `activate`, which uses `tensors`; R and its bias are as in `product_with`.

    One autograd operation for the whole sequence. Forward: in each step a product with R and the forward half.
    Backward: in each step the backward half and a product with R transposed; then the gradient of R in one product.
    """
    used = [tensors[place] for place in halves.uses]
    ys, *after = _Gated.apply(halves, len(state), wxs, weight, bias, *state, *used)  # type: ignore[no-untyped-call]
    return ys, tuple(after)


class _Gated(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, halves: Halves, states: int, wxs: Tensor, weight: Tensor | None, bias: Tensor, *rest: Tensor
    ) -> tuple[Tensor, ...]:
        state, tensors = [tensor.contiguous() for tensor in rest[:states]], rest[states:]
        product = product_with(weight, bias, wxs.shape[1])
        ys = wxs.new_empty(len(wxs), *halves.y)
        hs, saved = [], []
        for wx, y in zip(wxs.contiguous().unbind(0), ys.unbind(0), strict=True):
            hs.append(state[0])
            known = [y, wx, product.forward(state[0]), *state, *tensors]
            known += halves.forward(list(known))
            state = [known[place] for place in halves.after]
            saved += [known[place] for place in halves.saved]
        ctx.save_for_backward(ys, *hs, *saved)
        ctx.halves, ctx.product, ctx.like, ctx.tensors = halves, product, wxs, tensors
        return ys.detach(), *(tensor.clone() for tensor in state)  # detached: autograd must not see the slices above

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dys: Tensor, *dstate: Tensor) -> tuple[Tensor | None, ...]:
        halves, product = ctx.halves, ctx.product
        ys, *rest = ctx.saved_tensors
        hs, saved, width = rest[: len(ys)], rest[len(ys) :], len(halves.saved)
        drhs = torch.empty_like(ctx.like) if halves.writes[0] else torch.zeros_like(ctx.like)
        dwxs = torch.empty_like(ctx.like) if halves.writes[1] else drhs if halves.shared else torch.zeros_like(ctx.like)
        zeros = [torch.zeros_like(tensor) for tensor in dstate]
        sums = [torch.zeros_like(ctx.tensors[place]) for place in halves.summed]
        gradients = [tensor.contiguous() for tensor in dstate]
        steps = zip(drhs.unbind(0), dwxs.unbind(0), dys.contiguous().unbind(0), strict=True)
        for t, (drh, dwx, dy) in reversed([*enumerate(steps)]):
            known = [drh, dwx, *sums, *saved[t * width : (t + 1) * width], dy, *gradients]
            known += halves.backward(list(known))
            direct = [None if place is None else known[place] for place in halves.before]
            direct[0] = product.backward(drh, direct[0])
            gradients = [zero if d is None else d for zero, d in zip(zeros, direct, strict=True)]
        dweight = product.weight_gradient(drhs.flatten(0, 1), torch.cat(hs)) if ctx.needs_input_grad[3] else None
        dbias = drhs.sum((0, 1)) if ctx.needs_input_grad[4] else None
        dtensors: list[Tensor | None] = [None] * len(ctx.tensors)
        for place, total in zip(halves.summed, sums, strict=True):
            dtensors[place] = total
        return None, None, dwxs, dweight, dbias, *gradients, *dtensors


class _Scan(torch.autograd.Function):
    """h(t) = a(t)·h(t-1) + b(t) and its adjoint; pointwise, in place, with one buffer each."""

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


def linear_scan(a: Tensor, b: Tensor, h: Tensor) -> Tensor:
    """All h(t) of h(t) = a(t)·h(t-1) + b(t): a, b (T, B, H) with T >= 1, h = h(-1) (B, H); returns (T, B, H)."""
    hs: Tensor = _Scan.apply(a, b, h)  # type: ignore[no-untyped-call]
    return hs

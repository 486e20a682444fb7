"""Matrix products: W·x over a whole sequence, and R·h in each step with the same R.

Large float32 products on a CPU use oneDNN, the library behind `torch.nn.LSTM`, which is up to 50% faster than the one
behind `torch.mm`. R is converted to its layout once per sequence. Other products, and those of a torch without oneDNN,
are torch's own.

In `reduced_precision` the same products on a CPU round their factors to bfloat16 and return float32: gates, states,
weights and everything else that a cell computes stay float32. Processors with bfloat16 instructions are almost twice
as fast this way.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

LARGE, ROWS = 150_000, 4
"""The matrix size in weights, and the number of rows, from which oneDNN is faster (AMD EPYC, 2026-11)."""


_rounding: ContextVar[bool] = ContextVar("rounding", default=False)


@cache
def has_onednn() -> bool:
    """Whether this torch supports products through oneDNN."""
    try:
        one = torch.ones(1, 1)
        return bool(_onednn(one, torch.ops.mkldnn._reorder_linear_weight(one, 1), one[0]).item() == 2.0)
    except (AttributeError, RuntimeError):
        return False


def _onednn(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    product: Tensor = torch.ops.mkldnn._linear_pointwise.default(x, weight, bias, "none", [], "")
    return product


def _rounded(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """The same with factors and product in bfloat16; the bias is added in float32."""
    product = _onednn(x.bfloat16(), weight if weight.is_mkldnn else weight.bfloat16())
    return product.float() if bias is None else torch.add(bias, product)


@cache
def has_bfloat16() -> bool:
    """Whether oneDNN supports bfloat16 on this processor; with AVX2 alone it may not."""
    try:
        one = torch.ones(1, 1)
        return has_onednn() and bool(_rounded(one, one).item() == 1.0)
    except RuntimeError:
        return False


def _suits_onednn(weight: Tensor, rows: int) -> bool:
    return (
        weight.numel() >= LARGE
        and rows >= ROWS
        and weight.dtype == torch.float32
        and weight.device.type == "cpu"
        and not torch.is_autocast_enabled("cpu")
        and has_onednn()
    )


def rounds(tensor: Tensor) -> bool:
    """Whether products with this tensor use bfloat16 here."""
    if torch.compiler.is_compiling() or not _rounding.get():  # a traced cell cannot read the context variable
        return False
    return tensor.dtype == torch.float32 and tensor.device.type == "cpu" and has_bfloat16()


@contextmanager
def reduced_precision(device: str, dtype: str) -> Iterator[None]:
    """Compute matrix products in `dtype`, "float32" or "bfloat16", within this context. On a CPU this applies to the
    products of this module; on other devices it is torch's autocast."""
    if torch.device(device).type != "cpu":
        with torch.autocast(torch.device(device).type, torch.bfloat16, enabled=dtype == "bfloat16"):
            yield
        return
    before = _rounding.set(dtype == "bfloat16")
    try:
        yield
    finally:
        _rounding.reset(before)


def linear(xs: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """W·x plus a bias: xs (..., I), weight (n, I), bias (n,); returns (..., n). Fast for a sequence (T, B, I)."""
    if xs.dim() == 3 and xs.dtype == torch.float32 and _suits_onednn(weight, xs.shape[0] * xs.shape[1]):
        product: Tensor = _Linear.apply(xs, weight, bias, rounds(weight))  # type: ignore[no-untyped-call]
        return product
    return torch.nn.functional.linear(xs, weight, bias)


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, xs: Tensor, weight: Tensor, bias: Tensor | None, rounding: bool) -> Tensor:
        ctx.save_for_backward(xs, weight)
        ctx.rounding = rounding
        return (_rounded if rounding else _onednn)(xs, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dys: Tensor) -> tuple[Tensor | None, ...]:
        xs, weight = ctx.saved_tensors
        wanted, multiply = ctx.needs_input_grad, _rounded if ctx.rounding else _onednn
        dxs = multiply(dys.contiguous(), weight.t()) if wanted[0] else None
        flat = dys.flatten(0, -2)
        dweight = weight_gradient(flat, xs.flatten(0, -2), ctx.rounding) if wanted[1] else None
        return dxs, dweight, flat.sum(0) if wanted[2] else None, None


def weight_gradient(dys: Tensor, xs: Tensor, rounding: bool = False) -> Tensor:
    """The gradient of W, (n, I), from those of all W·x, (N, n), and all x, (N, I)."""
    if _suits_onednn(dys, xs.shape[1]):
        return _rounded(xs.t(), dys.t()).t() if rounding else _onednn(xs.t(), dys.t()).t()
    return dys.t() @ xs


def recurrent_product(h: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """R·h plus a bias: h (B, P), weight (n, P) or block-diagonal (K, n/K, P/K), bias (B, n) or (n,); returns (B, n).

    With K blocks, the result is ordered by gate, and within a gate by block, so that `chunk` splits it into gates for
    every K.
    """
    if weight.dim() == 2:
        return torch.addmm(bias, h, weight.t())
    blocks, _, width = weight.shape
    parts = torch.matmul(h.reshape(h.shape[0], blocks, width).transpose(0, 1), weight.transpose(1, 2))  # (K, B, n/K)
    by_gate = parts.reshape(blocks, h.shape[0], -1, width).permute(1, 2, 0, 3)  # (B, gates, K, P/K)
    return bias + by_gate.flatten(1)


class Product:
    """The products with a dense R (n, P), by torch's default matrix library."""

    def __init__(self, weight: Tensor, bias: Tensor) -> None:
        self._weight, self._bias = weight, bias

    def forward(self, h: Tensor) -> Tensor:
        """R·h plus the bias, (B, n), of h (B, P)."""
        return recurrent_product(h, self._weight, self._bias)

    def backward(self, drh: Tensor, direct: Tensor | None) -> Tensor | None:
        """The gradient of h, (B, P), or None for zero, from that of R·h, (B, n), and h's direct gradient, if any."""
        return drh @ self._weight if direct is None else torch.addmm(direct, drh, self._weight)

    def weight_gradient(self, drhs: Tensor, hs: Tensor) -> Tensor:
        """The gradient of R from those of all R·h, (N, n), and all h, (N, P)."""
        return weight_gradient(drhs, hs)


class Packed(Product):
    """The same in oneDNN's layouts of R, one for forward and one for backward products; with `rounding`, of factors
    rounded to bfloat16. Results are float32."""

    def __init__(self, weight: Tensor, bias: Tensor, batch: int, rounding: bool) -> None:
        super().__init__(weight, bias)
        lay_out = torch.ops.mkldnn._reorder_linear_weight
        factor, transposed = weight, weight.t()
        if rounding:
            factor = weight.bfloat16()
            transposed = factor.t().contiguous()
        self._forwards: Tensor = lay_out(factor, batch)
        self._backwards: Tensor = lay_out(transposed, batch)
        self.rounding, self._multiply = rounding, _rounded if rounding else _onednn

    def forward(self, h: Tensor) -> Tensor:
        return self._multiply(h, self._forwards, self._bias)

    def backward(self, drh: Tensor, direct: Tensor | None) -> Tensor:
        if direct is None or self.rounding:
            return self._multiply(drh, self._backwards, direct)
        total: Tensor = torch.ops.mkldnn._linear_pointwise.binary(drh, direct, self._backwards, None, "add")
        return total

    def weight_gradient(self, drhs: Tensor, hs: Tensor) -> Tensor:
        return weight_gradient(drhs, hs, self.rounding)


class Blocks(Product):
    """The same with block-diagonal R (K, n/K, P/K)."""

    def backward(self, drh: Tensor, direct: Tensor | None) -> Tensor:
        dh = torch.matmul(self._by_block(drh).transpose(0, 1), self._weight).transpose(0, 1).flatten(1)
        return dh if direct is None else dh + direct

    def weight_gradient(self, drhs: Tensor, hs: Tensor) -> Tensor:
        blocks, _, width = self._weight.shape
        return torch.einsum("bkr,bkw->krw", self._by_block(drhs), hs.view(len(hs), blocks, width))

    def _by_block(self, drh: Tensor) -> Tensor:
        """From (B, n), ordered by gate, to (B, K, n/K), ordered by block."""
        blocks, rows, width = self._weight.shape
        return drh.view(len(drh), -1, blocks, width).transpose(1, 2).reshape(len(drh), blocks, rows)


class Absent(Product):
    """No R: the product is zero, and h has only its direct gradient."""

    def __init__(self, zero: Tensor) -> None:
        super().__init__(zero.new_zeros(0), zero)

    def forward(self, h: Tensor) -> Tensor:
        return self._bias

    def backward(self, drh: Tensor, direct: Tensor | None) -> Tensor | None:
        return direct


def product_with(weight: Tensor | None, bias: Tensor, batch: int, differentiable: bool = False) -> Product:
    """The fastest products with this R and its bias (n,) for `batch` rows; without R, the bias is zeros (B, n).

    With `differentiable`, autograd can differentiate `forward`.
    """
    if weight is None:
        return Absent(bias)
    if weight.dim() == 3:
        return Blocks(weight, bias)
    if not differentiable and _suits_onednn(weight, batch):
        return Packed(weight, bias, batch, rounds(weight))
    return Product(weight, bias)

"""What a plugin author subclasses: `Cell`, and the two kinds that come with speed, `GatedCell` and `LinearCell`.

A cell has two verbs. `step(x, state) -> (y, state)` is the definition: one time step. `forward(xs, state) -> (ys,
state)` is the same thing over a sequence, perhaps faster. Sequences are time-major, (T, B, D), as in `torch.nn.RNN`.
The state is a flat tuple of tensors, batch first: a value that is passed in and returned, never kept on the cell and
never changed in place.

A cell's options are read from the signature of its constructor. What a cell names with `name_gates`, `watched`
collects.
"""

from __future__ import annotations

import inspect
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar, Literal, get_args, get_origin, get_type_hints

import torch
from torch import Tensor, nn

from textgen.cells import engine
from textgen.cells.engine import State
from textgen.cells.matmul import linear, product_with, recurrent_product, rounds
from textgen.errors import TextgenError, UsageError, did_you_mean, origin, text_of


class Cell(nn.Module, ABC):
    """A recurrent cell: write `step`, and training, sampling and saving work.

    The constructor takes `input_size` and `hidden_size`, then the cell's own options, each a keyword with a default
    that JSON can represent (bool, int, float or str). `states` is the number of state tensors, each as wide as the
    hidden size; a cell with other widths sets `self.states` to a tuple of widths, and one with other shapes
    overrides `initial_state`.

    Example:
        >>> import torch
        >>> class Leaky(Cell):
        ...     def __init__(self, input_size, hidden_size, rate: float = 0.5):
        ...         super().__init__(input_size, hidden_size)
        ...         self.rate, self.input = rate, torch.nn.Linear(input_size, hidden_size)
        ...     def step(self, x, state):
        ...         h = torch.lerp(state[0], torch.tanh(self.input(x)), self.rate)
        ...         return h, (h,)
        >>> ys, state = Leaky(3, 4)(torch.zeros(7, 2, 3))
        >>> ys.shape, state[0].shape
        (torch.Size([7, 2, 4]), torch.Size([2, 4]))
    """

    states: int | tuple[int, ...] = 1
    expected_failures: ClassVar[Mapping[str, str]] = {}
    """Laws of `textgen.testing` that this cell cannot satisfy: name and reason."""

    planned_rate: ClassVar[float] = 1.0
    """A factor on the planned learning rate: the best rate for this cell, relative to a GRU."""

    _watcher: Callable[[Mapping[str, Tensor]], None] | None = None

    def __init__(self, input_size: int, hidden_size: int, output_size: int | None = None) -> None:
        super().__init__()
        for name, size in (("input_size", input_size), ("hidden_size", hidden_size)):
            if size < 1:
                raise ValueError(f"{name} must be at least 1, not {size}")
        self.input_size = input_size
        self.hidden_size = hidden_size
        self.output_size = hidden_size if output_size is None else output_size

    @abstractmethod
    def step(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        """One time step: x (B, input_size) and the state before; returns y (B, output_size) and the state after."""

    def forward(self, xs: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        """A whole sequence: xs (T, B, input_size), T >= 0; returns ys (T, B, output_size) and the final state.

        This loop of `step` is the reference for every override: `Cell.forward(cell, xs, state)` still calls it. The
        state defaults to `initial_state`.
        """
        state = self.initial_state(xs.shape[1]) if state is None else state
        ys = []
        for x in xs.unbind(0):
            y, state = self.step(x, state)
            ys.append(y)
        return (torch.stack(ys) if ys else self._no_output(xs)), state

    def initial_state(self, batch_size: int) -> State:
        """The state before the first step: zeros, one (batch_size, width) tensor for each of `states`."""
        like = next(self.parameters(), torch.empty(0))
        return tuple(like.new_zeros(batch_size, width) for width in self.state_widths())

    def state_widths(self) -> tuple[int, ...]:
        """The width of each state tensor, as declared by `states`."""
        return (self.hidden_size,) * self.states if isinstance(self.states, int) else self.states

    def name_gates(self, **gates: Tensor) -> None:
        """Report these values by name to `textgen.cells.watched`; does nothing outside of it."""
        if self._watcher is not None:
            self._watcher(gates)

    def rounds_products(self, xs: Tensor) -> bool:
        """Whether `forward` should make its matrix products with xs in bfloat16, as `--dtype bfloat16` asks on a CPU.

        The engine's own products do so by themselves; this is for a `forward` that calls another kernel.
        """
        return rounds(xs)

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Parameter groups for the optimizer. By default, weight decay applies to matrices and not to vectors.

        A cell that needs another weight decay or learning rate for a parameter returns its own groups, with the keys
        `params`, `decay` (a factor on the weight decay) and `rate` (a factor on the learning rate).
        """
        parameters = list(self.parameters())
        return [
            {"params": [p for p in parameters if p.dim() >= 2], "decay": 1.0, "rate": 1.0},
            {"params": [p for p in parameters if p.dim() < 2], "decay": 0.0, "rate": 1.0},
        ]

    def _no_output(self, xs: Tensor) -> Tensor:
        return xs.new_zeros(0, xs.shape[1], self.output_size)


class GatedCell(Cell):
    """A cell whose gates are pointwise functions of W·x and R·h; the engine does the products.

    The author declares `gates = n` and writes `activate`. The engine owns `weight_ih` (W), `weight_hh` (R) and their
    biases, with torch's names and gate order. It multiplies the whole sequence by W at once and `state[0]` by R in
    each step, and computes the gradient of R in one product after the loop. `activate` is traced once per size and
    per set of attribute values of the cell (`textgen.cells.engine`), so it must depend on nothing else.

    Class attributes: `gates`; `states`, whose first tensor is multiplied by R; `recurrent`: `'dense'`, a number of
    diagonal blocks, or None for no R (then `rh` is zero); `bias`: `'both'`, `'input'` or `'none'`.

    Example:
        >>> class Elman(GatedCell):
        ...     gates = 1
        ...     def activate(self, wx, rh, state):
        ...         h = torch.tanh(wx + rh)
        ...         return h, (h,)
        >>> sum(p.numel() for p in Elman(3, 4).parameters())
        36
    """

    gates: ClassVar[int]
    recurrent: str | int | None = "dense"
    bias: str = "both"

    compiled = False
    """Whether `activate` is compiled for training (`textgen.cells.engine`)."""

    weight_hh: nn.Parameter | None
    bias_ih: nn.Parameter | None
    bias_hh: nn.Parameter | None

    def __init__(self, input_size: int, hidden_size: int, output_size: int | None = None) -> None:
        super().__init__(input_size, hidden_size, output_size)
        rows, width = self.gates * hidden_size, self.state_widths()[0]
        biased = {"both": (True, True), "input": (True, False), "none": (False, False)}
        if self.bias not in biased:
            raise ValueError(f"bias must be one of {', '.join(biased)}, not {self.bias!r}")
        self.weight_ih = nn.Parameter(torch.empty(rows, input_size))
        self.register_parameter("weight_hh", self._recurrent_parameter(rows, width))
        self.register_parameter("bias_ih", nn.Parameter(torch.empty(rows)) if biased[self.bias][0] else None)
        has_recurrent_bias = biased[self.bias][1] and self.weight_hh is not None
        self.register_parameter("bias_hh", nn.Parameter(torch.empty(rows)) if has_recurrent_bias else None)
        self.reset_parameters()

    def _recurrent_parameter(self, rows: int, width: int) -> nn.Parameter | None:
        if self.recurrent is None:
            return None
        if self.recurrent == "dense":
            return nn.Parameter(torch.empty(rows, width))
        blocks = self.recurrent
        if not isinstance(blocks, int) or blocks < 1 or width % blocks or self.hidden_size % blocks:
            raise ValueError(f"recurrent must be 'dense', None or a divisor of {width}, not {blocks!r}")
        return nn.Parameter(torch.empty(blocks, rows // blocks, width // blocks))

    def reset_parameters(self) -> None:
        """W uniform in 1/sqrt(input_size) (Glorot's scale), R orthogonal by gate (Saxe et al. 2014), biases zero."""
        bound = 1 / math.sqrt(self.input_size)
        nn.init.uniform_(self.weight_ih, -bound, bound)
        with torch.no_grad():
            if self.weight_hh is not None:
                blocks = self.weight_hh if self.weight_hh.dim() == 3 else self.weight_hh.unsqueeze(0)
                for block in blocks:
                    for gate in block.chunk(self.gates):
                        nn.init.orthogonal_(gate)
        for bias in (self.bias_ih, self.bias_hh):
            if bias is not None:
                nn.init.zeros_(bias)

    @abstractmethod
    def activate(self, wx: Tensor, rh: Tensor, state: State) -> tuple[Tensor, State]:
        """The gates: wx and rh (B, gates * hidden_size) and the state before; returns y and the state after."""

    def project(self, xs: Tensor) -> Tensor:
        """W·x plus its bias, for one step (B, input_size) or a sequence (T, B, input_size)."""
        return linear(xs, self.weight_ih, self.bias_ih)

    def step(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        wx = self.project(x)
        return self.activate(wx, self._recurrent_term(wx, state[0]), state)

    def _recurrent_term(self, wx: Tensor, h: Tensor) -> Tensor:
        if self.weight_hh is None:
            return torch.zeros_like(wx)
        bias = wx.new_zeros(1, wx.shape[-1]) if self.bias_hh is None else self.bias_hh
        return recurrent_product(h, self.weight_hh, bias.expand_as(wx))

    def forward(
        self, xs: Tensor, state: State | None = None, recurrent_mask: Tensor | None = None
    ) -> tuple[Tensor, State]:
        """As `Cell.forward`, faster. `recurrent_mask`, of R's shape, multiplies R for this sequence (weight-drop)."""
        state = self.initial_state(xs.shape[1]) if state is None else state
        if len(xs) == 0:
            return self._no_output(xs), state
        wxs = self.project(xs)
        weight = self.weight_hh if self.weight_hh is None or recurrent_mask is None else self.weight_hh * recurrent_mask
        bias = torch.zeros_like(wxs[0] if weight is None else wxs[0, 0]) if self.bias_hh is None else self.bias_hh
        tensors = {**dict(self.named_parameters()), **dict(self.named_buffers())}
        halves = self._halves(wxs[0], state, tensors)
        if halves is not None:
            return engine.gated(halves, wxs, weight, bias, state, list(tensors.values()))
        multiply = product_with(weight, bias, len(wxs[0]), differentiable=torch.is_grad_enabled()).forward
        return engine.looped(self.activate, multiply, wxs, state)

    def _halves(self, wx: Tensor, state: State, tensors: dict[str, Tensor]) -> engine.Halves | None:
        """The traced halves of `activate`, for training; None if it must be called as it is, step by step."""
        if not torch.is_grad_enabled() or self._watcher or wx.is_meta or torch.is_autocast_enabled(wx.device.type):
            return None
        make = engine.compiled if self.compiled else engine.interpreted
        return engine.halves(self, tensors, wx, state, make)


class LinearCell(Cell):
    """A cell that is linear in its state: h(t) = a(t)·h(t-1) + b(t), pointwise, where a and b depend on x(t) alone.

    The author writes `coefficients`, and `readout` if the output is not h itself. The engine computes all a and b at
    once, then scans over time.

    Example:
        >>> class Decay(LinearCell):
        ...     def __init__(self, input_size, hidden_size):
        ...         super().__init__(input_size, hidden_size)
        ...         self.gate, self.value = (torch.nn.Linear(input_size, hidden_size) for _ in range(2))
        ...     def coefficients(self, xs):
        ...         keep = torch.sigmoid(self.gate(xs))
        ...         return keep, (1 - keep) * self.value(xs)
        >>> Decay(3, 4)(torch.zeros(5, 2, 3))[0].shape
        torch.Size([5, 2, 4])
    """

    @abstractmethod
    def coefficients(self, xs: Tensor) -> tuple[Tensor, Tensor]:
        """a and b, each (..., hidden_size), for xs (..., input_size); each time step on its own."""

    def readout(self, hs: Tensor, xs: Tensor) -> Tensor:
        """The output (..., output_size) from the new hidden state and the input; h itself unless overridden."""
        return hs

    def step(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        a, b = self.coefficients(x)
        h = a * state[0] + b
        return self.readout(h, x), (h,)

    def forward(self, xs: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        state = self.initial_state(xs.shape[1]) if state is None else state
        if len(xs) == 0:
            return self._no_output(xs), state
        a, b = self.coefficients(xs)
        hs = engine.linear_scan(a, b, state[0])
        return self.readout(hs, xs), (hs[-1],)


Scalar = bool | int | float | str
_TRUE, _FALSE = {"true", "yes", "on", "1"}, {"false", "no", "off", "0"}
_NAMES = {bool: "true or false", int: "a whole number", float: "a finite number", str: "text"}


@dataclass(frozen=True)
class CellOption:
    """One keyword of a cell's constructor after `input_size` and `hidden_size`."""

    name: str
    kind: type
    default: Scalar
    choices: tuple[Scalar, ...] = ()

    def parse(self, value: Scalar) -> Scalar:
        """Convert text or a JSON scalar to this option's type. Raises UsageError with the value and what is allowed."""
        parsed = _parse(value, self.kind)
        if parsed is None or (self.choices and parsed not in self.choices):
            allowed = " or ".join(map(repr, self.choices)) if self.choices else _NAMES[self.kind]
            raise UsageError(f"cell option {self.name} must be {allowed}, not {value!r}.")
        return parsed


def _parse(value: Scalar, kind: type) -> Scalar | None:
    if kind is str:
        return value if isinstance(value, str) else None
    if kind is bool:
        text = str(value).lower()
        return True if text in _TRUE else False if text in _FALSE else None
    if isinstance(value, bool):
        return None
    try:
        number = float(value)
        if kind is int:
            return int(value) if number == int(number) else None
        return number if math.isfinite(number) else None
    except (TypeError, ValueError, OverflowError):
        return None


def describe(cell: type[Cell]) -> list[CellOption]:
    """The options of a cell class. Raises TextgenError for a default that cannot be stored as JSON."""
    if cell.__init__ in (Cell.__init__, GatedCell.__init__):
        return []
    found = []
    try:
        hints = get_type_hints(cell.__init__)
        parameters = inspect.signature(cell.__init__).parameters
    except Exception as error:  # annotations are code of the plugin
        raise TextgenError(
            f"the types in the constructor of {cell.__name__}{origin(cell)} cannot be read: "
            f"{text_of(error) or type(error).__name__}."
        ) from error
    for name, parameter in parameters.items():
        if name in ("self", "input_size", "hidden_size") or parameter.kind in (
            inspect.Parameter.VAR_POSITIONAL,
            inspect.Parameter.VAR_KEYWORD,
        ):
            continue
        default = parameter.default
        if type(default) not in _NAMES or (isinstance(default, float) and not math.isfinite(default)):
            shown = "none" if default is inspect.Parameter.empty else repr(default)
            raise TextgenError(
                f"{cell.__name__}.{name}{origin(cell)} needs a default that is true, false, a finite number or "
                f"text, so that it can be saved with the model; it has {shown}."
            )
        hint = hints.get(name)
        choices = get_args(hint) if get_origin(hint) is Literal else ()
        kind = hint if hint in _NAMES and not choices else type(default)
        found.append(CellOption(name, kind, default, choices))
    return found


def parse(cell: type[Cell], name: str, given: Mapping[str, Scalar]) -> dict[str, Scalar]:
    """All options of the cell: the given ones validated and converted, the others at their defaults.

    Raises UsageError for an unknown option (with a suggestion) or an invalid value.
    """
    known = {option.name: option for option in describe(cell)}
    asked = {key.replace("-", "_"): value for key, value in given.items()}
    for key in asked:
        if key not in known:
            has = f"its options: {', '.join(known)}." if known else "it has none."
            raise UsageError(f"cell {name!r} has no option {key!r}.{did_you_mean(key, known)}", hint=has)
    return {key: option.parse(asked[key]) if key in asked else option.default for key, option in known.items()}


Gates = dict[str, list[Tensor]]
"""The values of each gate by name, one (B, ...) per time step."""


@contextmanager
def watched(module: nn.Module) -> Iterator[dict[str, Gates]]:
    """Collect the gates of every cell in a module (a cell, a stack, a model), by the cell's name in it.

    Call `step` inside, or `Cell.forward(module, xs)`: a fast path need not report its gates step by step.

    Example:
        >>> import torch, textgen
        >>> cell = textgen.plugins.cell("lstm")(3, 4)
        >>> with watched(cell) as seen:
        ...     _ = Cell.forward(cell, torch.zeros(7, 2, 3))
        >>> len(seen[""]["forget"]), seen[""]["forget"][0].shape
        (7, torch.Size([2, 4]))
    """
    seen: dict[str, Gates] = {}
    cells = {name: cell for name, cell in module.named_modules() if isinstance(cell, Cell)}

    def collect(layer: str, gates: Mapping[str, Tensor]) -> None:
        for name, values in gates.items():
            seen.setdefault(layer, {}).setdefault(name, []).append(values.detach())

    for name, cell in cells.items():
        cell._watcher = partial(collect, name)
    try:
        yield seen
    finally:
        for cell in cells.values():
            cell._watcher = None

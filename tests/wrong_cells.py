"""Cells that are wrong on purpose, each in one way, with the laws that have to notice: the conformance kit's own test.

`WRONG` maps each to the laws it breaks, the one meant for it first. `RIGHT` is what they all are otherwise.
"""

import math
import os
import random
import signal
import sys

import numpy
import torch
from torch import nn

from textgen.cells import Cell, GatedCell


class Right(Cell):
    """A leaky tanh cell, with nothing wrong in it."""

    def __init__(self, input_size, hidden_size, rate: float = 0.5):
        super().__init__(input_size, hidden_size)
        self.rate = rate
        self.input = nn.Linear(input_size, hidden_size)
        self.recurrent = nn.Linear(hidden_size, hidden_size)

    def step(self, x, state):
        h = torch.lerp(state[0], torch.tanh(self.input(x) + self.recurrent(state[0])), self.rate)
        return h, (h,)


class NotOfTheSizeAsked(Right):
    def __init__(self, input_size, hidden_size):
        super().__init__(input_size, hidden_size + 1)


class RefusesEverySize(Right):
    def __init__(self, input_size, hidden_size):
        raise ValueError("hidden_size must be a dozen dozens of dozens")


class StumblesWhenBuilt(Right):
    def __init__(self, input_size, hidden_size):
        raise ZeroDivisionError("nothing to divide")


class OptionIsAList(Right):
    def __init__(self, input_size, hidden_size, rates=(0.5,)):
        super().__init__(input_size, hidden_size, rates[0])


class TakesAnyOption(Right):
    def __init__(self, input_size, hidden_size, **options):
        super().__init__(input_size, hidden_size)


class ChangesArity(Right):
    def forward(self, xs, state=None):
        ys, state = super().forward(xs, state[:1] if state else None)
        return ys, (*state, state[0])


class StateIsAList(Right):
    def forward(self, xs, state=None):
        ys, state = super().forward(xs, state)
        return ys, list(state)


class ForgetsItsDtype(Right):
    """Its state drifts to float64, through a constant."""

    def step(self, x, state):
        y, (h,) = super().step(x, (state[0].to(x.dtype),))
        return y, (h * torch.ones(1, dtype=torch.float64, device=h.device),)


class SharedInitialState(Right):
    def __init__(self, input_size, hidden_size):
        super().__init__(input_size, hidden_size)
        self.register_buffer("zero", torch.zeros(1, hidden_size))

    def initial_state(self, batch_size):
        return (self.zero.expand(batch_size, -1),)


class RandomInitialState(Right):
    def initial_state(self, batch_size):
        return tuple(torch.randn_like(s) for s in super().initial_state(batch_size))


class WrongFinalState(Right):
    """The state before the last step, instead of the one after it; wrong only where there are two."""

    def forward(self, xs, state=None):
        ys, after = super().forward(xs, state)
        return ys, (ys[-2],) if len(ys) > 1 else after


class AnotherForward(Right):
    """forward squashes a little more than step does."""

    def forward(self, xs, state=None):
        ys, state = super().forward(xs, state)
        return torch.tanh(ys), state


class RestartsEachWindow(Right):
    def forward(self, xs, state=None):
        return super().forward(xs, tuple(torch.zeros_like(s) for s in state) if state and len(xs) else state)


class SeesTheFuture(Right):
    """Its inputs are made to have no mean over time."""

    def forward(self, xs, state=None):
        return super().forward(xs - xs.mean(0) if len(xs) else xs, state)


class StumblesOnNothing(Right):
    def forward(self, xs, state=None):
        state = self.initial_state(xs.shape[1]) if state is None else state
        ys = []
        for x in xs:
            y, state = self.step(x, state)
            ys.append(y)
        return torch.stack(ys), state


class NeedsContiguousInput(Right):
    def forward(self, xs, state=None):
        return super().forward(xs.view(-1).view(xs.shape), state)


class NeedsContiguousGradient(Right):
    class Same(torch.autograd.Function):
        @staticmethod
        def forward(ctx, ys):
            return ys.clone()

        @staticmethod
        def backward(ctx, grad):
            return grad.view(-1).view(grad.shape)

    def forward(self, xs, state=None):
        ys, state = super().forward(xs, state)
        return self.Same.apply(ys), state


class OtherwiseWithoutGradients(Right):
    def step(self, x, state):
        y, state = super().step(x, state)
        return (y if torch.is_grad_enabled() else y.round(decimals=3)), state


class IgnoresTheMask(GatedCell):
    gates = 1

    def activate(self, wx, rh, state):
        h = torch.tanh(wx + rh)
        return h, (h,)

    def forward(self, xs, state=None, recurrent_mask=None):
        return super().forward(xs, state)


class MixesRows(Right):
    """The mean of the batch is taken away, as a batch norm does."""

    def step(self, x, state):
        y, state = super().step(x, state)
        return y - (y.mean(0) if len(y) > 1 else 0), state


class MixesRowsInTraining(Right):
    def __init__(self, input_size, hidden_size):
        super().__init__(input_size, hidden_size)
        self.norm = nn.BatchNorm1d(hidden_size, affine=False)

    def step(self, x, state):
        y, state = super().step(x, state)
        return self.norm(y), state


class DependsOnPlace(Right):
    """Row after row a little louder."""

    def step(self, x, state):
        y, state = super().step(x, state)
        return y * torch.linspace(1, 1 + 1e-3 * (len(y) - 1), len(y), dtype=y.dtype, device=y.device).unsqueeze(
            -1
        ), state


class WrongGradient(Right):
    """Its output has twice the gradient, in step and in forward alike."""

    class Doubled(torch.autograd.Function):
        @staticmethod
        def forward(ctx, y):
            return y.clone()

        @staticmethod
        def backward(ctx, grad):
            return 2 * grad

    def step(self, x, state):
        y, state = super().step(x, state)
        return self.Doubled.apply(y), state


class ForwardForgetsAGradient(Right):
    """What a fast path for training gets wrong most easily: the bias of a product, treated as a constant."""

    def forward(self, xs, state=None):
        bias = self.recurrent.bias
        state = self.initial_state(xs.shape[1]) if state is None else state
        ys = []
        for x in xs:
            pre = self.input(x) + nn.functional.linear(state[0], self.recurrent.weight, bias.detach())
            state = (torch.lerp(state[0], torch.tanh(pre), self.rate),)
            ys.append(state[0])
        return (torch.stack(ys) if ys else self._no_output(xs)), state


class NoGradientThroughTime(Right):
    def step(self, x, state):
        return super().step(x, tuple(s.detach() for s in state))


class ClipsGradientsByLength(Right):
    """The gradient shrinks with the length of the window that it came through."""

    class Shrunk(torch.autograd.Function):
        @staticmethod
        def forward(ctx, xs):
            ctx.length = len(xs)
            return xs.clone()

        @staticmethod
        def backward(ctx, grad):
            return grad / ctx.length

    def forward(self, xs, state=None):
        return super().forward(self.Shrunk.apply(xs) if len(xs) else xs, state)


class RemembersPastADetach(Right):
    """The state's history is kept on the side, so that a detached state is not the end of it."""

    def __init__(self, input_size, hidden_size):
        super().__init__(input_size, hidden_size)
        self.seen = {}

    def forward(self, xs, state=None):
        if state is not None and len(xs):
            earlier = self.seen.get(state[0].data_ptr()) if state[0].device.type == "cpu" else None
            if earlier is not None and earlier.grad_fn is not None and not state[0].requires_grad:
                state = (earlier,)
        ys, state = super().forward(xs, state)
        self.seen[state[0].data_ptr()] = state[0]
        return ys, state


class UnusedParameter(Right):
    def __init__(self, input_size, hidden_size):
        super().__init__(input_size, hidden_size)
        self.spare = nn.Parameter(torch.ones(hidden_size))


class NoMemory(Right):
    def step(self, x, state):
        h = torch.tanh(self.input(x)) + 0 * self.recurrent(state[0])
        return h, (h,)


class ChangesItsState(Right):
    """Without gradients it saves memory, and writes into what it was given."""

    def step(self, x, state):
        y, after = super().step(x, state)
        if not torch.is_grad_enabled():
            state[0].zero_()
        return y.clone(), after


class ChangesItsInput(Right):
    def step(self, x, state):
        y, after = super().step(x.clone(), state)
        if not torch.is_grad_enabled():
            x.zero_()
        return y, after


class CountsInABuffer(Right):
    def __init__(self, input_size, hidden_size):
        super().__init__(input_size, hidden_size)
        self.register_buffer("steps", torch.zeros(()))

    def step(self, x, state):
        with torch.no_grad():
            self.steps += 1
        return super().step(x, state)


class ReturnsTheSameBuffer(Right):
    """Without gradients, every state is written into one and the same place."""

    def step(self, x, state):
        y, (h,) = super().step(x, state)
        if torch.is_grad_enabled():
            return y, (h,)
        place = self.__dict__.setdefault("places", {}).setdefault(h.shape, torch.empty_like(h))
        if place.device != h.device:
            return y, (h,)
        return y, (place.copy_(h),)


class KeepsStateOnItself(Right):
    """What comes out depends on how often it was called."""

    def forward(self, xs, state=None):
        self.calls = getattr(self, "calls", 0) + 1
        ys, state = super().forward(xs, state)
        return ys * (1 + 1e-3 * (self.calls - 1)), state


class KeepsItsHistory(Right):
    def step(self, x, state):
        y, state = super().step(x, state)
        self.last = y
        return y, state


class DrawsFromNumpy(Right):
    def __init__(self, input_size, hidden_size):
        super().__init__(input_size, hidden_size)
        with torch.no_grad():
            self.input.weight.copy_(torch.from_numpy(numpy.random.randn(hidden_size, input_size)))


class DrawsFromPython(Right):
    def step(self, x, state):
        random.random()
        return super().step(x, state)


class NoisyInEval(Right):
    def step(self, x, state):
        y, state = super().step(x, state)
        return nn.functional.dropout(y, 0.3), state


class Loud(Right):
    def step(self, x, state):
        sys.stdout.write("step\n")
        return super().step(x, state)


def doing(name, harm):
    """A cell that, when it is built, does something to the program around it."""

    def build(self, input_size, hidden_size):
        Right.__init__(self, input_size, hidden_size)
        harm()

    return type(name, (Right,), {"__init__": build})


HARMFUL = {
    doing("SetsTheDtype", lambda: torch.set_default_dtype(torch.float16)): "no_side_effects reproducible stored_step",
    doing("SetsTheThreads", lambda: torch.set_num_threads(torch.get_num_threads() + 1)): "no_side_effects",
    doing("TakesOneThread", lambda: torch.set_num_threads(1)): "no_side_effects",
    doing("SwitchesGradientsOff", lambda: torch.set_grad_enabled(False)): "no_side_effects all_parameters_used "
    "no_mutation stateless",
    doing("ChangesTheFolder", lambda: os.chdir("/")): "no_side_effects",
    doing("ChangesTheEnvironment", lambda: os.environ.update(A_CELL_WAS_HERE="1")): "no_side_effects",
    doing("HandlesSignals", lambda: signal.signal(signal.SIGUSR1, signal.SIG_IGN)): "no_side_effects",
}


class LosesATensor(Right):
    """A tensor that is neither parameter nor buffer: it is not saved, and not moved."""

    def __init__(self, input_size, hidden_size):
        super().__init__(input_size, hidden_size)
        self.scale = 1 + torch.rand(hidden_size)

    def step(self, x, state):
        return super().step(x, (state[0] * self.scale.to(x.dtype),))


class LeavesATensorBehind(Right):
    """Always the same, so that saving loses nothing; but it stays where it was made."""

    def step(self, x, state):
        return super().step(x, (state[0] * torch.ones(self.hidden_size, dtype=x.dtype, device="cpu"),))


class SharesWeights(Right):
    """Two parameters in one memory."""

    def __init__(self, input_size, hidden_size):
        super().__init__(input_size, hidden_size)
        both = torch.rand(2, hidden_size)
        self.gain, self.shift = nn.Parameter(both[0]), nn.Parameter(both[1])

    def step(self, x, state):
        y, state = super().step(x, state)
        return y * self.gain + self.shift, state


class CannotBeCopied(Right):
    def __deepcopy__(self, memo):
        return self


class LooksAtItsWeights(Right):
    """Its constructor needs values, which a cell on `meta` does not have."""

    def __init__(self, input_size, hidden_size):
        super().__init__(input_size, hidden_size)
        with torch.no_grad():
            self.input.weight.mul_(1 / (1 + self.input.weight.abs().max().item()))


class ForgetsAGroup(Right):
    def parameter_groups(self):
        return [{"params": list(self.input.parameters()), "decay": 1.0, "rate": 1.0}]


class Explodes(Right):
    """A linear state that doubles: overflows after some hundred steps, and is fine in every short test."""

    def step(self, x, state):
        h = state[0] * 2 + torch.tanh(self.input(x) + self.recurrent(torch.tanh(state[0])))
        return torch.tanh(h), (h,)


class NoGradientAtZero(Right):
    """The norm of an input has no slope where the input is zero, and its gradient there is NaN."""

    def __init__(self, input_size, hidden_size):
        super().__init__(input_size, hidden_size)
        self.gain = nn.Parameter(torch.ones(input_size))

    def step(self, x, state):
        y, state = super().step(x, state)
        return y + torch.sqrt((self.gain * x).square().sum(-1, keepdim=True)), state


class Sorts(Right):
    """A sum over sorted units: nothing that numpy could run from a stored step."""

    def step(self, x, state):
        y, state = super().step(x, state)
        return y.sort(-1).values.flip(-1), state


SHED, ATTIC = [], {"rows": torch.zeros(0)}


class Leaks(Right):
    """Each step leaves something behind, out of sight."""

    def step(self, x, state):
        SHED.append(float(len(SHED)))
        return super().step(x, state)


class LeaksTensors(Right):
    """One tensor, ever longer, out of sight."""

    def step(self, x, state):
        ATTIC["rows"] = torch.cat([ATTIC["rows"], torch.zeros(8)])
        return super().step(x, state)


class EverSlower(Right):
    """Looks back at all its steps, to no effect."""

    steps = 0

    def step(self, x, state):
        self.steps += 1
        torch.zeros(self.steps).sum()
        return super().step(x, state)


class BranchesOnValues(Right):
    """What no compiler can follow: Python decides by a number in a tensor."""

    def step(self, x, state):
        y, state = super().step(x, state)
        if y.device.type == "cpu" and math.isnan(y.detach().sum().item()):
            raise ValueError("not a number")
        return y, state


class FixedBatch(Right):
    """An export of it would work for one number of rows alone."""

    def step(self, x, state):
        y, state = super().step(x, state)
        return y.view(len(y), -1), state


WRONG = {
    NotOfTheSizeAsked: "sizes",
    RefusesEverySize: "sizes",
    StumblesWhenBuilt: "sizes",
    OptionIsAList: "options_json",
    TakesAnyOption: "options_json",
    ChangesArity: "state_structure",
    StateIsAList: "state_structure",
    ForgetsItsDtype: "dtype_preserved stored_step",
    SharedInitialState: "initial_state",
    RandomInitialState: "initial_state stored_step",
    AnotherForward: "forward_matches_step gradients_match_step",
    WrongFinalState: "forward_matches_step split_sequence gradients_match_step split_gradients",
    RestartsEachWindow: "split_sequence forward_matches_step gradients_match_step split_gradients gradient_flow",
    SeesTheFuture: "causality forward_matches_step split_sequence gradients_match_step split_gradients",
    StumblesOnNothing: "empty_sequence",
    NeedsContiguousInput: "memory_layouts",
    NeedsContiguousGradient: "memory_layouts",
    OtherwiseWithoutGradients: "no_grad gradcheck stored_step",
    IgnoresTheMask: "recurrent_mask",
    MixesRows: "rows_independent batch_invariance stored_step",
    MixesRowsInTraining: "rows_independent stored_step",
    DependsOnPlace: "batch_invariance stored_step",
    ForwardForgetsAGradient: "gradients_match_step gradcheck all_parameters_used",
    WrongGradient: "gradcheck stored_step",
    ClipsGradientsByLength: "split_gradients gradients_match_step gradcheck",
    RemembersPastADetach: "detach stateless deep_copy",
    NoGradientThroughTime: "gradient_flow gradcheck",
    NoMemory: "gradient_flow all_parameters_used",
    UnusedParameter: "all_parameters_used",
    ChangesItsState: "no_mutation stored_step",
    ChangesItsInput: "no_mutation",
    CountsInABuffer: "no_mutation stored_step",
    ReturnsTheSameBuffer: "no_aliasing",
    KeepsItsHistory: "stateless deep_copy",
    KeepsStateOnItself: "stateless initial_state split_sequence causality memory_layouts no_grad rows_independent "
    "batch_invariance gradcheck split_gradients detach reproducible deterministic_eval deep_copy",
    DrawsFromNumpy: "reproducible",
    DrawsFromPython: "reproducible",
    NoisyInEval: "deterministic_eval memory_layouts batch_invariance detach stored_step",
    Loud: "no_side_effects",
    **HARMFUL,
    LosesATensor: "save_and_load device_move",
    Sorts: "stored_step",
    SharesWeights: "no_shared_weights",
    CannotBeCopied: "deep_copy",
    LeavesATensorBehind: "device_move",
    LooksAtItsWeights: "meta_device",
    ForgetsAGroup: "parameter_groups",
    Explodes: "finite",
    NoGradientAtZero: "finite",
    Leaks: "constant_memory",
    LeaksTensors: "constant_memory stored_step",
    EverSlower: "constant_time stored_step",
    BranchesOnValues: "compiles exports",
    FixedBatch: "exports",
}
"""Each wrong cell with the laws that it breaks, the one that it is meant for first, and no others."""

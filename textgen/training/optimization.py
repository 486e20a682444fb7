"""Optimizers, learning-rate schedules and weight averaging."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from textgen.model import Model
from textgen.sealed import DamagedError
from textgen.settings import TrainOptions
from textgen.weights import is_like


def schedule(options: TrainOptions, step: int, reductions: int = 0) -> float:
    """The learning rate of a step (from 0): linear warmup, then the schedule `lr_scheduler`.

    cosine decays along half a cosine to a fiftieth; constant stays; plateau divides by 4 for each of `reductions`, the
    evaluations without improvement.
    """
    assert options.learning_rate is not None and options.max_steps is not None and options.warmup_steps is not None
    if step < options.warmup_steps:
        return options.learning_rate * (step + 1) / (options.warmup_steps + 1)
    if options.lr_scheduler == "constant":
        return options.learning_rate
    if options.lr_scheduler == "plateau":
        return options.learning_rate / 4.0**reductions
    done = (step - options.warmup_steps) / max(1, options.max_steps - options.warmup_steps)
    return options.learning_rate * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * min(1.0, done))))


def make_optimizer(model: Model, options: TrainOptions) -> torch.optim.Optimizer:
    """The optimizer, with the parameter groups of the cells: AdamW (Loshchilov and Hutter 2019), fused, or stochastic
    gradient descent with momentum."""
    groups = [
        {"params": group["params"], "weight_decay": options.weight_decay * group["decay"], "rate": group["rate"]}
        for group in model.parameter_groups()
        if group["params"]
    ]
    if options.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=0.0, momentum=options.momentum)
    return torch.optim.AdamW(groups, lr=0.0, betas=(0.9, 0.99), fused=True)


def named_optimizer_state(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """The optimizer's tensors as 'parameter/kind', so that their order does not matter."""
    return {
        f"{name}/{kind}": value
        for name, parameter in model.named_parameters()
        for kind, value in optimizer.state[parameter].items()
        if isinstance(value, Tensor)
    }


def load_optimizer_state(
    model: nn.Module, optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor], name: str
) -> None:
    """The inverse of `named_optimizer_state`. Raises DamagedError naming the file and the first tensor of the wrong
    shape: 'step' is a scalar, all others have the shape of their parameter."""
    parameters = dict(model.named_parameters())
    states: dict[str, dict[str, Tensor]] = {owner: {} for owner in parameters}
    for key, tensor in tensors.items():
        owner, _, kind = key.rpartition("/")
        if owner not in parameters or not is_like(tensor, torch.empty(()) if kind == "step" else parameters[owner]):
            raise DamagedError(
                f"{name} does not fit its configuration: {key!r} is {list(tensor.shape)} of {tensor.dtype}."
            )
        states[owner][kind] = tensor.to(parameters[owner].device)
    for owner, state in states.items():
        optimizer.state[parameters[owner]] = state


class WeightAverage:
    """An exponential moving average of the weights, which often predicts better than the last weights (Polyak and
    Juditsky 1992).

    The decay is lower in the first steps, so that the initial weights are forgotten.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self._decay = decay
        self.tensors: dict[str, Tensor] = {name: p.detach().clone() for name, p in model.named_parameters()}

    @torch.no_grad()
    def update(self, model: nn.Module, step: int) -> None:
        """Add the weights after a step (counted from 1)."""
        decay = min(self._decay, (1 + step) / (10 + step))
        for name, parameter in model.named_parameters():
            self.tensors[name].lerp_(parameter, 1 - decay)

    def load(self, tensors: Mapping[str, Tensor], name: str) -> None:
        """Restore a stored average. Raises DamagedError naming the file if it does not fit this model."""
        for key, tensor in self.tensors.items():
            if key not in tensors or tensors[key].shape != tensor.shape:
                raise DamagedError(f"{name} does not fit its configuration: the average of {key!r} is missing.")
            tensor.copy_(tensors[key])

    @contextmanager
    def applied(self, model: nn.Module) -> Iterator[None]:
        """Use the averaged weights within a block; the model's own are restored afterwards."""
        own = {name: p.detach().clone() for name, p in model.named_parameters()}
        _set(model, self.tensors)
        try:
            yield
        finally:
            _set(model, own)


@torch.no_grad()
def _set(model: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    for name, parameter in model.named_parameters():
        parameter.copy_(tensors[name])

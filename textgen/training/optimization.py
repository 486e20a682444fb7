"""Optimizers, learning-rate schedules, weight averaging, and one training step: forward, backward, update."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from textgen.cells.engine import State
from textgen.distributed import ALONE, World, parts
from textgen.model.stack import DropoutRates, Model, seed_noise
from textgen.model.weights import is_like, model_tensors
from textgen.storage import DamagedError
from textgen.tasks import TrainOptions, planned
from textgen.tasks.objective import Objective
from textgen.tasks.regularization import Regularization
from textgen.training import guards
from textgen.training.distributed import WindowLoss, average, gathering, replicated


@dataclass(frozen=True)
class Part:
    """Steps `start` to `end` (exclusive) of a run, and their learning-rate schedule. Extending a run adds a part."""

    start: int
    end: int
    learning_rate: float
    warmup_steps: int

    def rate(self, scheduler: str, step: int, reductions: int = 0) -> float:
        """The learning rate of a step of the run (from 0): linear warmup, then the schedule `scheduler`.

        cosine decays along half a cosine to a fiftieth; constant stays; plateau divides by 4 for each of `reductions`,
        the evaluations without improvement.
        """
        step -= self.start
        if step < self.warmup_steps:
            return self.learning_rate * (step + 1) / (self.warmup_steps + 1)
        if scheduler == "constant":
            return self.learning_rate
        if scheduler == "plateau":
            return self.learning_rate / 4.0**reductions
        done = (step - self.warmup_steps) / max(1, self.end - self.start - self.warmup_steps)
        return self.learning_rate * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * min(1.0, done))))


def parts_of(options: TrainOptions, arguments: Mapping[str, Any] | None = None) -> list[Part]:
    """The parts of a run with these planned options, at least one; `arguments` are those stored in its folder."""
    if arguments and arguments.get("parts"):
        return [Part(**part) for part in arguments["parts"]]
    return [Part(0, planned(options.max_steps), planned(options.learning_rate), planned(options.warmup_steps))]


def rate_at(parts: Sequence[Part], scheduler: str, step: int, reductions: int) -> float:
    """The learning rate of a step (from 0), by the schedule of the part that contains it."""
    part = next((part for part in reversed(parts) if part.start <= step), parts[0])
    return part.rate(scheduler, step, reductions)


def next_part(parts: Sequence[Part], scheduler: str, step: int, end: int, finished: bool, reductions: int) -> Part:
    """The part that extends a run from a step to `end`.

    After a finished part the learning rate starts again from that part's peak, with a new warmup. Within a part it
    continues from its current value. Schedules that do not decay keep their rate.
    """
    last = parts[-1]
    if scheduler != "cosine":
        return Part(step, end, last.learning_rate, 0)
    if finished:
        return Part(step, end, last.learning_rate, min(200, (end - step) // 20))
    left = last.start + last.warmup_steps - step
    if left > 0:
        return Part(step, end, last.learning_rate, min(left, end - step))
    return Part(step, end, rate_at(parts, scheduler, step, reductions), 0)


def make_optimizer(model: Model, options: TrainOptions) -> torch.optim.Optimizer:
    """The optimizer, with the parameter groups of the cells: AdamW (Loshchilov and Hutter 2019), fused, or stochastic
    gradient descent with momentum. With `layer_decay`, each layer learns at a share of the rate of the layer above it
    (Howard and Ruder 2018)."""
    found = model.parameter_groups()
    top, fall = max(group["layer"] for group in found), options.layer_decay or 1.0
    decay = Regularization.weight_decay if options.weight_decay is None else options.weight_decay
    groups = [
        {
            "params": group["params"],
            "weight_decay": decay * group["decay"],
            "rate": group["rate"] * fall ** (top - group["layer"]),
        }
        for group in found
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


class NotFiniteError(ArithmeticError):
    """The loss or a gradient is NaN or infinite; the message says which. No weight has changed."""


class Update:
    """Everything that a training step changes: the model, the optimizer, the average of the weights, and the hidden
    state carried from one window to the next.

    In a job of several processes, `state` is that of the lanes of this one, and all other tensors are the same in all
    of them: with `sync_every` above 1, only after `synchronize`. `votes` are numbers that each process adds to each
    step, and `sums` their sums over all processes.
    """

    def __init__(
        self,
        objective: Objective,
        model: Model,
        options: TrainOptions,
        device: str = "cpu",
        world: World = ALONE,
        votes: Callable[[], Sequence[float]] = tuple,
    ) -> None:
        self.objective = objective
        self.options = options
        self.world = world
        self.device = torch.device(device)
        self.model = model.to(self.device)
        self.local_steps = options.sync_every if world.size > 1 else 1
        loss = WindowLoss(objective, self.model, options.dtype or "float32")
        self._loss = replicated(loss, world, self.device) if self.local_steps == 1 else loss
        self._votes: Callable[[], Sequence[float]] = votes
        self.sums = [0.0 for _ in votes()]
        self.optimizer = make_optimizer(self.model, options)
        self.rates = DropoutRates(options.dropout or 0.0, options.embedding_dropout or 0.0, options.weight_drop or 0.0)
        self.average = WeightAverage(self.model, options.average_weights) if options.average_weights else None
        self.state: State = ()
        self.finite_loss: float | None = None

    def take(self, step: int, learning_rate: float) -> tuple[float, float]:
        """Train on the window of a step. Returns the loss and the gradient norm before clipping. Raises NotFiniteError
        without changing any weight, TextgenError if another process does not take part."""
        seed_noise(self.device, self.options.seed, step)
        inputs, targets = (tensor.to(self.device) for tensor in self.objective.window(step))
        lanes = self.world.lanes(inputs.shape[1])
        if lanes.start:  # lanes of other processes get other noise
            seed_noise(self.device, self.options.seed, step, lanes.start)
        initial = self.model.initial_state(lanes.stop - lanes.start)
        self.state = self.objective.window_state(step, initial, self.state, lanes)
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate * group["rate"]
        with self.world.communicating(step + 1):
            loss, state = self._backward(step, inputs, targets, lanes)
        parameters = [p for p in self.model.parameters() if p.grad is not None]
        norm = torch.nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
        if fault := guards.not_finite(self.model, loss, norm):
            raise NotFiniteError(fault)
        self.finite_loss = loss.item()
        torch.nn.utils.clip_grads_with_norm_(parameters, self.options.max_grad_norm, norm)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.state = state
        if self.average:
            self.average.update(self.model, step + 1)
        if self.is_local and (step + 1) % self.local_steps == 0:
            self.synchronize(step + 1)
        return loss.item(), norm.item()

    @property
    def is_local(self) -> bool:
        """Whether each process trains weights of its own between two averages."""
        return self.local_steps > 1

    def synchronize(self, step: int) -> None:
        """Average everything that processes have changed on their own, so that it is the same in all of them."""
        if not self.is_local:
            return
        lanes = self.world.lanes(planned(self.options.batch_size))
        weight = (lanes.stop - lanes.start) / planned(self.options.batch_size)
        with self.world.communicating(step):
            average((each for each in self.tensors().values() if each.dim()), self.world, weight)
            self.sums = self.world.total(torch.tensor(self._votes(), dtype=torch.float64))().tolist()

    def tensors(self) -> dict[str, Tensor]:
        """Every tensor that a step changes in place, by name."""
        average = {f"average/{name}": tensor for name, tensor in self.average.tensors.items()} if self.average else {}
        return model_tensors(self.model) | named_optimizer_state(self.model, self.optimizer) | average

    def _backward(self, step: int, inputs: Tensor, targets: Tensor, lanes: slice) -> tuple[Tensor, State]:
        """The mean loss of a window, and the state of some lanes after it; adds the gradients to the parameters.

        With gradient accumulation these lanes are computed in parts, one after another; the sum of their gradients is
        that of all of them. With local steps the loss and the gradients are those of these lanes alone.
        """
        options, own = self.options, range(inputs.shape[1])[lanes]
        candidates, targets = self.objective.candidates(step, targets)
        whole = self.objective.share(targets, lanes) or 1.0 if self.is_local else 1.0
        pieces = [(start, end) for start, end in parts(len(own), options.gradient_accumulation_steps) if end > start]
        losses, states = [], []
        total: Callable[[], Tensor] | None = None
        for start, end in pieces:
            part, last = slice(own.start + start, own.start + end), end == len(own)
            dropout = self.rates.window(options.seed, step, (inputs.shape[1], part))
            state = tuple(tensor[start:end] for tensor in self.state)
            share = self.objective.share(targets, part) / whole
            with gathering(self._loss, last):
                loss, after = self._loss(inputs[:, part], targets[:, part], state, dropout, candidates, share)
                losses.append(loss.detach())
                total = self._summing(torch.stack(losses).sum()) if last else None
                loss.backward()
            states.append(after)
        assert total is not None
        return total(), tuple(torch.cat(parts) for parts in zip(*states, strict=True))

    def take_sums(self) -> list[float]:
        """The sums of the votes since they were last taken."""
        sums, self.sums = self.sums, [0.0 for _ in self.sums]
        return sums

    def _summing(self, loss: Tensor) -> Callable[[], Tensor]:
        """Begin to sum the loss and the votes over all processes, while gradients are computed."""
        if self.world.size == 1 or self.is_local:
            return lambda: loss
        total = self.world.total(torch.tensor([loss.item(), *self._votes()], dtype=torch.float64))

        def summed() -> Tensor:
            numbers = total()
            self.sums = numbers[1:].tolist()
            return numbers[0]

        return summed

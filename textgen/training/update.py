"""One training step: forward over a window, backward, and a weight update. The trainer runs it and the plan times it,
so they agree."""

from __future__ import annotations

import torch
from torch import Tensor

from textgen.dropout import DropoutRates, seed_noise
from textgen.model import Model
from textgen.products import reduced_precision
from textgen.recurrence import State
from textgen.settings import TrainOptions
from textgen.tasks.objective import Objective
from textgen.text.lanes import parts
from textgen.training import soundness
from textgen.training.optimization import WeightAverage, make_optimizer, named_optimizer_state
from textgen.weights import model_tensors


class NotFiniteError(ArithmeticError):
    """The loss or a gradient is NaN or infinite; the message says which. No weight has changed."""


class Update:
    """Everything that a training step changes: the model, the optimizer, the average of the weights, and the hidden
    state carried from one window to the next."""

    def __init__(self, objective: Objective, model: Model, options: TrainOptions, device: str = "cpu") -> None:
        self.objective = objective
        self.options = options
        self.device = torch.device(device)
        self.model = model.to(self.device)
        self.optimizer = make_optimizer(self.model, options)
        self.rates = DropoutRates(options.dropout or 0.0, options.embedding_dropout, options.weight_drop)
        self.average = WeightAverage(self.model, options.average_weights) if options.average_weights else None
        self.state: State = ()
        self.finite_loss: float | None = None

    def take(self, step: int, learning_rate: float) -> tuple[float, float]:
        """Train on the window of a step. Returns the loss and the gradient norm before clipping. Raises NotFiniteError
        without changing any weight."""
        seed_noise(self.device, self.options.seed, step)
        inputs, targets = (tensor.to(self.device) for tensor in self.objective.window(step))
        self.state = self.objective.carried(step, self.model.initial_state(inputs.shape[1]), self.state)
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate * group["rate"]
        loss, state = self._backward(step, inputs, targets)
        parameters = [p for p in self.model.parameters() if p.grad is not None]
        norm = torch.nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
        if fault := soundness.not_finite(self.model, loss, norm):
            raise NotFiniteError(fault)
        self.finite_loss = loss.item()
        torch.nn.utils.clip_grads_with_norm_(parameters, self.options.max_grad_norm, norm)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.state = state
        if self.average:
            self.average.update(self.model, step + 1)
        return loss.item(), norm.item()

    def tensors(self) -> dict[str, Tensor]:
        """Every tensor that a step changes in place, by name."""
        average = {f"average/{name}": tensor for name, tensor in self.average.tensors.items()} if self.average else {}
        return model_tensors(self.model) | named_optimizer_state(self.model, self.optimizer) | average

    def _backward(self, step: int, inputs: Tensor, targets: Tensor) -> tuple[Tensor, State]:
        """The mean loss of a window and the state after it; adds the gradients to the parameters.

        With gradient accumulation the lanes are computed in parts, one after another; the sum of their gradients is
        that of the whole batch.
        """
        batch, options = inputs.shape[1], self.options
        candidates, targets = self.objective.candidates(step, targets)
        losses, states = [], []
        for start, end in parts(batch, options.gradient_accumulation_steps):
            lanes = slice(start, end)
            dropout = self.rates.window(options.seed, step, (batch, lanes))
            with reduced_precision(self.device.type, options.dtype or "float32"):
                outputs, state = self.model(inputs[:, lanes], tuple(t[lanes] for t in self.state), dropout, candidates)
                loss = self.objective.loss(outputs, targets[:, lanes]) * self.objective.share(targets, lanes)
            loss.backward()  # type: ignore[no-untyped-call]
            losses.append(loss.detach())
            states.append([t.detach().to(before.dtype) for t, before in zip(state, self.state, strict=True)])
        return torch.stack(losses).sum(), tuple(torch.cat(parts) for parts in zip(*states, strict=True))

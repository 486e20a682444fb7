"""The loss of a window as a module, so that `DistributedDataParallel` sums its gradients over all processes; and local
stochastic gradient descent, which averages weights every few steps instead (Stich 2019).

Each process computes its own lanes of every batch. Losses are weighted by their share of the whole batch's targets, so
the sum of the gradients is that of one process, however the lanes are divided.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed import GradBucket  # type: ignore[attr-defined]
from torch.nn.parallel import DistributedDataParallel

from textgen.cells.engine import State
from textgen.cells.matmul import reduced_precision
from textgen.distributed import World
from textgen.model.stack import Candidates, Dropout, Model
from textgen.tasks.objective import Objective


class WindowLoss(nn.Module):
    """The loss of some lanes of a window, times their share of the whole batch, and the state after them."""

    def __init__(self, objective: Objective, model: Model, dtype: str) -> None:
        super().__init__()
        self.model = model
        self._objective, self._dtype = objective, dtype

    def forward(
        self,
        inputs: Tensor,
        targets: Tensor,
        state: State,
        dropout: Dropout | None,
        candidates: Candidates | None,
        share: float,
    ) -> tuple[Tensor, State]:
        with reduced_precision(inputs.device.type, self._dtype):
            outputs, after = self.model(inputs, state, dropout, candidates)
            loss = self._objective.loss(outputs, targets) * share
        return loss, tuple(t.detach().to(before.dtype) for t, before in zip(after, state, strict=True))


class Wire:
    """What training sends: the number of bytes and messages of this process, and a delay that a benchmark may add to
    each message, in seconds."""

    def __init__(self) -> None:
        self.bytes = self.messages = 0
        self.delay = 0.0

    def send(self, numbers: Tensor) -> Any:
        """Begin to sum a tensor over all processes."""
        self.bytes, self.messages = self.bytes + numbers.nbytes, self.messages + 1
        if self.delay:
            time.sleep(self.delay)
        return dist.all_reduce(numbers, async_op=True)


WIRE = Wire()


def _summed(wire: Wire, bucket: GradBucket) -> torch.futures.Future[Tensor]:
    """Sum the gradients of a bucket. PyTorch's own hook takes the mean, which is right for equal shares only."""
    future: torch.futures.Future[Any] = wire.send(bucket.buffer()).get_future()
    return future.then(lambda done: done.value()[0])


def replicated(loss: WindowLoss, world: World, device: torch.device) -> nn.Module:
    """The module, with gradients summed over all processes after `backward`.

    With `find_unused_parameters` PyTorch keeps the buckets of gradients as they are. It would otherwise form them anew
    after the first step, and three processes or more would add in another order in a run that was resumed.
    """
    if world.size == 1:
        return loss
    own = [device] if device.type == "cuda" else None
    parallel = DistributedDataParallel(loss, device_ids=own, find_unused_parameters=True)
    # a lambda, since PyTorch compares annotations with types, and here they are text
    parallel.register_comm_hook(WIRE, lambda wire, bucket: _summed(wire, bucket))
    return parallel


def gathering(loss: nn.Module, last: bool) -> AbstractContextManager[None]:
    """A block in which gradients are only added up, unless they are the last of a step."""
    parallel = isinstance(loss, DistributedDataParallel) and not last
    return loss.no_sync() if parallel else nullcontext()  # type: ignore[operator]


@torch.no_grad()
def average(tensors: Iterable[Tensor], world: World, weight: float) -> None:
    """Replace tensors by their weighted mean over all processes, whose weights sum to 1."""
    for kind in _by_dtype(tensors):
        flat = torch.cat([tensor.flatten() for tensor in kind]) * weight
        WIRE.send(flat).wait()
        for tensor, mean in zip(kind, torch.split(flat, [tensor.numel() for tensor in kind]), strict=True):
            tensor.copy_(mean.view_as(tensor))


def _by_dtype(tensors: Iterable[Tensor]) -> list[list[Tensor]]:
    groups: dict[torch.dtype, list[Tensor]] = {}
    for tensor in tensors:
        groups.setdefault(tensor.dtype, []).append(tensor)
    return list(groups.values())

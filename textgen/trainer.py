"""Training: truncated backpropagation through time over contiguous lanes, the state carried from window to window.

`Trainer.run` does the work and yields what happens; it prints nothing. Each step is a function of the options, the
step number, the weights and the carried state, so a run that was stopped and resumed ends with the same bits as one
that was not.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass

import torch
from torch import Tensor

from textgen.checkpoint import (
    WEIGHTS,
    Checkpoint,
    Run,
    load_optimizer_state,
    load_tensors,
    model_tensors,
    named_optimizer_state,
)
from textgen.dropout import DropoutRates, keyed_seed
from textgen.errors import TextgenError
from textgen.evaluate import Score
from textgen.model import Model
from textgen.recurrence import State
from textgen.settings import TrainOptions
from textgen.tasks import Task


@dataclass(frozen=True)
class Tick:
    """One step done."""

    step: int
    loss: float


@dataclass(frozen=True)
class Logged:
    """A line of metrics: means since the last one."""

    step: int
    epoch: float
    loss: float
    grad_norm: float
    learning_rate: float
    tokens_per_second: float


@dataclass(frozen=True)
class Evaluated:
    """A score on what is held out; `best` if no earlier one was better."""

    step: int
    score: Score
    best: bool
    final: bool = False


@dataclass(frozen=True)
class Saved:
    """A checkpoint is on disk."""

    step: int


@dataclass(frozen=True)
class Ended:
    """The end of a run, or of this sitting: 'done', 'early stopping', 'interrupted' or 'time'."""

    step: int
    reason: str
    seconds: float


Event = Tick | Logged | Evaluated | Saved | Ended


@dataclass
class Progress:
    """The counters that a checkpoint stores beside the tensors."""

    step: int = 0
    best_loss: float | None = None
    best_step: int | None = None
    worse_evaluations: int = 0
    loss_sum: float = 0.0
    norm_sum: float = 0.0
    summed: int = 0


def schedule(options: TrainOptions, step: int) -> float:
    """The learning rate of a step (from 0): a linear rise, then constant or half a cosine down to a fiftieth."""
    assert options.learning_rate is not None and options.max_steps is not None and options.warmup_steps is not None
    if step < options.warmup_steps:
        return options.learning_rate * (step + 1) / (options.warmup_steps + 1)
    if options.lr_scheduler == "constant":
        return options.learning_rate
    done = (step - options.warmup_steps) / max(1, options.max_steps - options.warmup_steps)
    return options.learning_rate * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * min(1.0, done))))


def make_optimizer(model: Model, options: TrainOptions) -> torch.optim.Optimizer:
    """AdamW (Loshchilov and Hutter 2019) over the groups that the cells ask for, one fused kernel a step."""
    groups = [
        {"params": group["params"], "weight_decay": options.weight_decay * group["decay"], "rate": group["rate"]}
        for group in model.parameter_groups()
        if group["params"]
    ]
    return torch.optim.AdamW(groups, lr=0.0, betas=(0.9, 0.99), fused=True)


class Trainer:
    """Trains a model in a run folder. `stop` may be set at any time; the run ends, saved, after the step at hand."""

    def __init__(self, run: Run, task: Task, model: Model, options: TrainOptions, device: str = "cpu") -> None:
        self.run_folder = run
        self.task = task
        self.options = options
        self.device = torch.device(device)
        self.model = model.to(self.device)
        self.optimizer = make_optimizer(self.model, options)
        self.rates = DropoutRates(options.dropout or 0.0, options.embedding_dropout, options.weight_drop)
        self.progress = Progress()
        self.carry: State = ()
        self.stop = False

    def resume(self, checkpoint: Checkpoint) -> None:
        """Go back to the moment of a checkpoint."""
        load_tensors(self.model, checkpoint.weights, f"checkpoint-{checkpoint.step}")
        load_optimizer_state(self.model, self.optimizer, checkpoint.optimizer)
        self.carry = tuple(tensor.to(self.device) for tensor in checkpoint.carry)
        known = {name: checkpoint.state.get(name, default) for name, default in asdict(Progress()).items()}
        self.progress = Progress(**known)

    def run(self) -> Iterator[Event]:
        """Train to the end of the plan, or until stopped; yields what happens as it happens."""
        options, progress = self.options, self.progress
        assert options.max_steps and options.logging_steps and options.eval_steps and options.save_steps
        began = time.monotonic()
        busy, busy_steps = 0.0, 0
        reason = ""
        while progress.step < options.max_steps:
            step_began = time.monotonic()
            loss, norm = self._step(progress.step)
            busy, busy_steps = busy + time.monotonic() - step_began, busy_steps + 1
            progress.step += 1
            progress.loss_sum, progress.norm_sum = progress.loss_sum + loss, progress.norm_sum + norm
            progress.summed += 1
            yield Tick(progress.step, loss)
            last = progress.step == options.max_steps
            if progress.step % options.logging_steps == 0 or last:
                yield self._log(busy_steps / busy)
                busy, busy_steps = 0.0, 0
            if progress.step % options.eval_steps == 0 and not last:
                yield from self._evaluate(quick=True)
            reason = self._reason_to_end(time.monotonic() - began)
            if last or reason or progress.step % options.save_steps == 0:
                yield Saved(self._save())
            if reason:
                break
        if reason in ("", "early stopping"):
            yield from self._finish()
        yield Ended(progress.step, reason or "done", time.monotonic() - began)

    def _reason_to_end(self, seconds: float) -> str:
        options = self.options
        if options.early_stopping_patience and self.progress.worse_evaluations >= options.early_stopping_patience:
            return "early stopping"
        if self.stop:
            return "interrupted"
        return "time" if options.max_time is not None and seconds >= 60 * options.max_time else ""

    def _step(self, step: int) -> tuple[float, float]:
        """One window: forward, backward, update. Returns the loss and the length of the gradient."""
        torch.manual_seed(keyed_seed(self.options.seed, step))  # for cells that draw noise of their own
        inputs, targets = (tensor.to(self.device) for tensor in self.task.window(step))
        if self.task.starts_epoch(step) or not self.carry:
            self.carry = self.model.initial_state(inputs.shape[1])
        rate = schedule(self.options, step)
        for group in self.optimizer.param_groups:
            group["lr"] = rate * group["rate"]
        outputs, carry = self.model(inputs, self.carry, self.rates.window(self.options.seed, step))
        loss: Tensor = self.task.loss(outputs, targets)
        loss.backward()  # type: ignore[no-untyped-call]
        norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.options.max_grad_norm)
        self._refuse_nonsense(step + 1, loss, norm)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.carry = tuple(tensor.detach() for tensor in carry)
        return loss.item(), norm.item()

    def _refuse_nonsense(self, step: int, loss: Tensor, norm: Tensor) -> None:
        """Raise TextgenError before an update that would make the weights NaN."""
        if torch.isfinite(loss) and torch.isfinite(norm):
            return
        bad = [n for n, p in self.model.named_parameters() if p.grad is not None and not p.grad.isfinite().all()]
        kept = self.run_folder.checkpoints()
        where = f"the gradient of {bad[0]}" if bad and torch.isfinite(loss) else "the loss"
        whole = f"checkpoint-{kept[-1]} is whole" if kept else "nothing is saved yet"
        raise TextgenError(
            f"{where} is not finite at step {step:,} (learning rate {schedule(self.options, step - 1):.2g}).",
            hint=f"nothing was changed by this step; {whole}; a lower --learning-rate may help.",
        )

    def _log(self, steps_per_second: float) -> Logged:
        progress, options = self.progress, self.options
        assert options.batch_size and options.seq_length
        event = Logged(
            step=progress.step,
            epoch=progress.step / self.task.steps_per_epoch,
            loss=progress.loss_sum / progress.summed,
            grad_norm=progress.norm_sum / progress.summed,
            learning_rate=schedule(options, progress.step - 1),
            tokens_per_second=steps_per_second * options.batch_size * options.seq_length,
        )
        progress.loss_sum, progress.norm_sum, progress.summed = 0.0, 0.0, 0
        self.run_folder.log(asdict(event))
        return event

    def _evaluate(self, quick: bool) -> Iterator[Evaluated]:
        score = self.task.evaluate(self.model, quick)
        if score is None:
            return
        progress = self.progress
        if not math.isfinite(score.nats):
            raise TextgenError(f"the held-out loss is not finite at step {progress.step:,}.")
        best = progress.best_loss is None or score.nats_per_token < progress.best_loss
        if best:
            progress.best_loss, progress.best_step, progress.worse_evaluations = (
                score.nats_per_token,
                progress.step,
                0,
            )
            self.run_folder.publish(self.model)
        else:
            progress.worse_evaluations += 1
        yield self._scored(score, best, final=False)

    def _scored(self, score: Score, best: bool, final: bool) -> Evaluated:
        figures = {f"eval_{name}": value for name, value in score.to_json().items()}
        self.run_folder.log({"step": self.progress.step, "eval_loss": score.nats_per_token, "final": final, **figures})
        return Evaluated(self.progress.step, score, best, final)

    def _save(self) -> int:
        """Commit a checkpoint; without a held-out part, or before the first evaluation, its weights are the model."""
        step = self.progress.step
        checkpoint = Checkpoint(
            step,
            model_tensors(self.model),
            named_optimizer_state(self.model, self.optimizer),
            self.carry,
            {"global_step": step, "epoch": step / self.task.steps_per_epoch, **asdict(self.progress)},
        )
        self.run_folder.save(checkpoint, self.options.save_total_limit)
        if self.progress.best_step is None:
            self.run_folder.publish(self.model)
        return step

    def _finish(self) -> Iterator[Evaluated]:
        """Score the last weights as the others were, then the best of all on everything that is held out."""
        yield from self._evaluate(quick=True)
        if self.progress.best_step not in (None, self.progress.step):
            load_tensors(self.model, self.run_folder.best_weights(), WEIGHTS)
        score = self.task.evaluate(self.model, quick=False)
        if score is not None:
            yield self._scored(score, best=False, final=True)

"""The training loop: truncated backpropagation through time, evaluations and checkpoints, as a stream of events.

Each step is a function of the options, the step number, the weights and the hidden state, so a run that was stopped and
resumed gives the same bits as one that was not.

In a job of several processes all of them run the same loop. Rank 0 evaluates, writes every file and decides; the others
get what it decided.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass
from typing import Any

from torch import Tensor

from textgen.distributed import ALONE, World
from textgen.errors import TextgenError
from textgen.evaluation import Metrics
from textgen.model import WEIGHTS
from textgen.model.stack import Model
from textgen.model.weights import load_tensors, model_tensors
from textgen.tasks import TrainOptions, planned
from textgen.tasks.objective import Objective
from textgen.training import Counters, Ended, Evaluated, Event, Logged, Saved, Tick, guards
from textgen.training.guards import repeated
from textgen.training.optimization import (
    NotFiniteError,
    Part,
    Update,
    load_optimizer_state,
    named_optimizer_state,
    parts_of,
    rate_at,
)
from textgen.training.runs import OPTIMIZER, Checkpoint, Run


@dataclass(frozen=True)
class SharedMetrics:
    """What rank 0 tells the other processes about its metrics."""

    loss: float
    criterion: float

    def to_json(self) -> dict[str, Any]:
        """No metrics: rank 0 records them."""
        return {}

    def shown(self) -> dict[str, str]:
        """No metrics: rank 0 shows them."""
        return {}


class Trainer:
    """Trains a model in a run folder. Set `stop` at any time to end and save the run after the current step."""

    def __init__(
        self,
        run: Run,
        objective: Objective,
        model: Model,
        options: TrainOptions,
        device: str = "cpu",
        world: World = ALONE,
    ) -> None:
        self.run_folder = run
        self.objective = objective
        self.options = options
        self.world = world
        self.stop = False
        self._began = time.monotonic()
        self.update = Update(objective, model, options, device, world, self._votes)
        self.model = self.update.model
        self.progress = Counters()
        self.parts: Sequence[Part] = parts_of(options)

    def resume(self, checkpoint: Checkpoint) -> None:
        """Restore the state of a checkpoint."""
        folder = f"checkpoint-{checkpoint.step}"
        load_tensors(self.model, checkpoint.weights, f"{folder}/{WEIGHTS}")
        load_optimizer_state(self.model, self.update.optimizer, checkpoint.optimizer, f"{folder}/{OPTIMIZER}")
        if self.update.average:
            self.update.average.load(checkpoint.average, f"{folder}/{OPTIMIZER}")
        lanes = self.world.lanes(len(checkpoint.hidden[0])) if checkpoint.hidden else slice(None)
        self.update.state = tuple(tensor[lanes].to(self.update.device) for tensor in checkpoint.hidden)
        known = {name: checkpoint.state.get(name, default) for name, default in asdict(Counters()).items()}
        self.progress = Counters(**known)

    def follow(self, parts: Sequence[Part]) -> None:
        """Follow the schedules of these parts. At the start of an extension, earlier evaluations no longer count toward
        early stopping."""
        self.parts = parts
        if len(parts) > 1 and self.progress.step == parts[-1].start:
            self.progress.worse_evaluations = 0

    @property
    def finished(self) -> bool:
        """Whether all planned steps are done, or the run has stopped early."""
        return self.progress.step >= self.parts[-1].end or self._is_stopping_early()

    def run(self) -> Iterator[Event]:
        """Train to the end of the plan, or until stopped; yields events."""
        options, progress, end = self.options, self.progress, self.parts[-1].end
        logging_steps, eval_steps = planned(options.logging_steps), planned(options.eval_steps)
        save_steps, began = planned(options.save_steps), time.monotonic()
        self._began, busy, busy_steps = began, 0.0, 0
        reason = "early stopping" if self._is_stopping_early() else ""
        if progress.step == 0 and self.objective.starts_as and self.options.init_from is None:
            yield from self._evaluate()
        while progress.step < end and not reason:
            step_began = time.monotonic()
            with guards.enough_memory(self.model, options):
                loss, norm = self._checked_step(progress.step)
            busy, busy_steps = busy + time.monotonic() - step_began, busy_steps + 1
            progress.step += 1
            progress.loss_sum, progress.norm_sum = progress.loss_sum + loss, progress.norm_sum + norm
            progress.summed += 1
            yield Tick(progress.step, loss)
            last = progress.step == end
            if progress.step % logging_steps == 0 or last:
                yield self._log(busy_steps / max(busy, 1e-9))
                busy, busy_steps = 0.0, 0
            evaluates, saves = progress.step % eval_steps == 0 or last, progress.step % save_steps == 0 or last
            if evaluates or saves:
                self.update.synchronize(progress.step)
            if evaluates:
                yield from self._evaluate()
            reason = self._reason_to_end()
            if reason or saves:
                yield Saved(self._save())
        if reason in ("", "early stopping"):
            yield from self._finish()
        yield Ended(progress.step, reason or "done", time.monotonic() - began)

    def _is_stopping_early(self) -> bool:
        patience = self.options.early_stopping_patience
        return patience is not None and self.progress.worse_evaluations >= patience

    def _votes(self) -> tuple[float, float]:
        """Whether this process asks to end the run: because it is asked to, and because the time is up."""
        seconds, limit = time.monotonic() - self._began, self.options.max_time
        return float(self.stop or self.world.orphaned), float(limit is not None and seconds >= 60 * limit)

    def _reason_to_end(self) -> str:
        """Why the run ends after this step, if it does. Several processes all end, if one of them asked in the step."""
        if self._is_stopping_early():
            return "early stopping"
        asked, late = self._votes() if self.world.size == 1 else self.update.take_sums()
        return "interrupted" if asked else "time" if late else ""

    def _checked_step(self, step: int) -> tuple[float, float]:
        """One step; every `verify_steps` steps it is run twice and must give the same bits."""
        every, state, results = self.options.verify_steps, self.update.state, []
        if not every or (step + 1) % every:
            return self._step(step)

        def take() -> dict[str, Tensor]:
            self.update.state = state
            results.append(self._step(step))
            return self.update.tensors() | {f"state/{k}": tensor for k, tensor in enumerate(self.update.state)}

        repeated(step + 1, take, self.update.tensors())
        return results[-1]

    def _step(self, step: int) -> tuple[float, float]:
        """One update. Returns the loss and the norm of the gradient."""
        try:
            return self.update.take(step, self._learning_rate(step))
        except NotFiniteError as fault:
            raise self._error(step + 1, str(fault)) from None

    def _learning_rate(self, step: int) -> float:
        return rate_at(self.parts, self.options.lr_scheduler, step, self.progress.reductions)

    def _published_weights(self) -> AbstractContextManager[None]:
        """The model with the weights to evaluate and publish: the averaged ones, if weights are averaged."""
        return self.update.average.applied(self.model) if self.update.average else nullcontext()

    def _error(self, step: int, fault: str) -> TextgenError:
        """The error for a step that is not finite."""
        good, _ = self.run_folder.latest()
        rate = self._learning_rate(step - 1)
        return guards.stopped(fault, step, rate, self.update.finite_loss, good.step if good else None)

    def _check_weights(self) -> None:
        """Raise TextgenError instead of saving weights that are not finite."""
        if fault := guards.weights_not_finite(self.model):
            raise self._error(self.progress.step, fault)

    def _log(self, steps_per_second: float) -> Logged:
        progress = self.progress
        event = Logged(
            step=progress.step,
            epoch=progress.step / self.objective.steps_per_epoch,
            loss=progress.loss_sum / progress.summed,
            grad_norm=progress.norm_sum / progress.summed,
            learning_rate=self._learning_rate(progress.step - 1),
            tokens_per_second=steps_per_second * self.objective.tokens_per_step,
        )
        progress.loss_sum, progress.norm_sum, progress.summed = 0.0, 0.0, 0
        self.run_folder.log(asdict(event))
        return event

    def _evaluate(self) -> Iterator[Evaluated]:
        with self._published_weights():
            metrics = self._metrics(quick=True)
            judged = None if metrics is None else self._judged(metrics)
        if judged is not None:
            yield judged

    def _metrics(self, quick: bool) -> Metrics | None:
        """The metrics on the held-out part, in rank 0; in the others what they need to know of them."""
        found: list[Metrics] = []

        def measured() -> dict[str, float] | None:
            if (metrics := self.objective.evaluate(self.model, quick)) is None:
                return None
            found.append(metrics)
            return asdict(SharedMetrics(metrics.loss, metrics.criterion))

        shared = self.world.share(measured)
        return found[0] if found else shared and SharedMetrics(**shared)

    def _judged(self, metrics: Metrics) -> Evaluated:
        """Publish the model if these metrics are the best so far, else count an evaluation without improvement. A model
        worse than a uniform guess is never the best."""
        progress = self.progress
        if not math.isfinite(metrics.loss):
            raise self._error(progress.step, "the held-out loss")
        guessing = self.objective.guessing_loss
        diverged = guessing is not None and metrics.loss > guessing + guards.UNSURE
        best = not diverged and (progress.best_loss is None or metrics.criterion < progress.best_loss)
        if best:
            progress.best_loss, progress.best_step = metrics.criterion, progress.step
            progress.worse_evaluations = 0
            self._check_weights()
            self.run_folder.publish(self.model)
            self._accompany(metrics)
        else:
            progress.worse_evaluations += 1
            progress.reductions += 1
        return self._scored(metrics, best, final=False)

    def _scored(self, metrics: Metrics, best: bool, final: bool) -> Evaluated:
        named = {f"eval_{name}": value for name, value in metrics.to_json().items()}
        self.run_folder.log({"step": self.progress.step, "eval_loss": metrics.loss, "final": final, **named})
        return Evaluated(self.progress.step, metrics, best, final)

    def _save(self) -> int:
        """Commit a checkpoint; without a held-out part, or before the first evaluation, also publish its weights."""
        self._check_weights()
        step = self.progress.step
        with self.world.communicating(step):
            hidden = tuple(self.world.gathered(each, planned(self.options.batch_size)) for each in self.update.state)
        checkpoint = Checkpoint(
            step,
            model_tensors(self.model),
            named_optimizer_state(self.model, self.update.optimizer),
            hidden,
            {"global_step": step, "epoch": step / self.objective.steps_per_epoch, **asdict(self.progress)},
            self.update.average.tensors if self.update.average else {},
        )

        def write() -> None:
            self.run_folder.save(checkpoint, self.options.save_total_limit)
            if self.progress.best_step is None:
                with self._published_weights():
                    self.run_folder.publish(self.model)

        self.world.share(write)
        return step

    def _finish(self) -> Iterator[Evaluated]:
        """Evaluate the best weights on the whole held-out part."""
        if self.progress.best_step is not None and self.world.leads:
            load_tensors(self.model, self.run_folder.best_weights(), WEIGHTS)
        metrics = self._metrics(quick=False)
        if metrics is not None:
            if self.progress.best_step is not None:
                self._accompany(metrics)
            yield self._scored(metrics, best=False, final=True)

    def _accompany(self, metrics: Metrics) -> None:
        """Store what follows from the held-out metrics of the published weights."""
        if self.world.leads:
            self.run_folder.accompany(self.objective.files(metrics))

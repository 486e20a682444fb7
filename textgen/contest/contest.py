"""Running a comparison: tune the learning rate of every cell, then train every cell with every seed. Resumable.

The cells take turns, so that a machine that slows down slows all of them. Each run is an ordinary training run in its
own folder; its result is saved before the next run starts.
"""

from __future__ import annotations

import time
from collections.abc import Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast

from textgen import files, sealed
from textgen.contest import rates, record
from textgen.contest.events import (
    ComparisonEvent,
    ComparisonStopped,
    InTraining,
    RateChosen,
    RateTried,
    RunEnded,
    TrainingStarted,
)
from textgen.contest.measures import PeakMemory, RunTiming, sample_speed, train_speed
from textgen.contest.planning import reason
from textgen.contest.record import Candidate, ComparisonRecord, RunResult
from textgen.scoring.metrics import Metrics
from textgen.tasks.language.options import LanguageOptions
from textgen.text.store import TokenStore
from textgen.training.checkpoint import ARGUMENTS
from textgen.training.events import Ended, Evaluated, Event, Saved
from textgen.training.train import Training, resume, start


class _StopRequested(Exception):
    """The current training was stopped on request."""


@dataclass
class Comparison:
    """A comparison, ready to start or continue. Set `stop` at any time: it saves and ends after the current step."""

    folder: Path
    record: ComparisonRecord
    store: TokenStore
    warnings: Sequence[str] = ()
    stop: bool = False

    def events(self) -> Iterator[ComparisonEvent]:
        """Run what is left, with the folder locked; yields what happens."""
        with files.lock(self.folder):
            files.clean(self.folder)
            try:
                yield from self._tune()
                yield from self._run_seeds()
            except _StopRequested:
                yield ComparisonStopped()

    def seconds_left(self) -> float:
        """The estimated seconds until the end; tuning may need more trials than are counted here."""
        left = 0.0
        for candidate in self.record.running:
            seconds, steps = candidate.expected_seconds or 0.0, candidate.plan.max_steps or 1
            left += seconds * sum(seed not in candidate.runs for seed in self.record.seeds)
            if candidate.rate is None:
                trials = max(1, rates.fewest(self._given) - len(candidate.tried))
                left += trials * (candidate.step_seconds or 0.0) * rates.trial_steps(steps)
        return left

    @property
    def _given(self) -> list[float]:
        return list(self.record.request["learning_rates"])

    def _tune(self) -> Iterator[ComparisonEvent]:
        """Trials, one per cell in turn, until every cell has its learning rate."""
        while undecided := [candidate for candidate in self.record.running if candidate.rate is None]:
            for candidate in undecided:
                rate = rates.next_rate(candidate.plan.learning_rate or 0.0, candidate.tried, self._given)
                if rate is not None:
                    yield from self._try(candidate, rate)
                    continue
                candidate.rate = self._given[0] if len(self._given) == 1 else rates.best(candidate.tried)
                if candidate.rate is None:
                    candidate.failed = "its training failed at every learning rate that was tried."
                record.save(self.folder, self.record)
                yield RateChosen(candidate.name, candidate.rate)

    def _try(self, candidate: Candidate, rate: float) -> Iterator[ComparisonEvent]:
        """A short run at one learning rate, with a seed that no run has; only its loss is kept."""
        folder, steps = (
            self.folder / f"{candidate.slug}-rate-{rate:g}",
            rates.trial_steps(candidate.plan.max_steps or 1),
        )
        options = replace(
            candidate.plan,
            learning_rate=rate,
            max_steps=steps,
            warmup_steps=self.record.request.get("warmup_steps"),
            logging_steps=None,
            eval_steps=steps,
            save_steps=max(1, steps // 4),
            seed=self.record.seeds[-1] + 1,
        )
        yield TrainingStarted(candidate.name, options.seed, rate, trial=True)
        score = yield from self._train(folder, options, trial=True)
        candidate.tried[rate] = loss = None if isinstance(score, str) else score.loss
        record.save(self.folder, self.record)
        if folder.exists():
            files.remove_folder(folder)
        yield RateTried(candidate.name, rate, loss)

    def _run_seeds(self) -> Iterator[ComparisonEvent]:
        """The runs, one per cell in turn."""
        for seed in self.record.seeds:
            for candidate in self.record.running:
                if seed not in candidate.runs:
                    yield from self._run(candidate, seed)

    def _run(self, candidate: Candidate, seed: int) -> Iterator[ComparisonEvent]:
        folder = candidate.run_folder(self.folder, seed)
        assert candidate.rate is not None
        yield TrainingStarted(candidate.name, seed, candidate.rate, trial=False)
        score = yield from self._train(folder, replace(candidate.plan, learning_rate=candidate.rate, seed=seed))
        result = RunResult(failed=score) if isinstance(score, str) else _measured(folder, score)
        candidate.runs[seed] = result
        record.save(self.folder, self.record)
        yield RunEnded(candidate.name, seed, result)

    def _train(
        self, folder: Path, options: LanguageOptions, trial: bool = False
    ) -> Generator[ComparisonEvent, None, Metrics | str]:
        """Start or resume a training run; returns its score, or why it failed. A trial ends with its first evaluation.

        Every exception counts as a failure of this cell, except for errors of the disk.
        """
        score = None
        try:
            session = self._session(folder, options)
            with closing(_events(session) if trial else _timed(session)) as events:
                for event in events:
                    yield InTraining(event, options.max_steps or 1)
                    session.trainer.stop = self.stop
                    if isinstance(event, Evaluated) and (trial or event.final):
                        score = event.score
                    if score and trial:
                        break
        except (OSError, sealed.DamagedError):
            raise
        except Exception as error:
            return reason(error)
        if score is None:
            raise _StopRequested
        return score

    def _session(self, folder: Path, options: LanguageOptions) -> Training:
        if (folder / ARGUMENTS).exists():
            return resume(folder, {})
        options = replace(options, output_dir=str(folder))
        return start([str(self.store.folder)], options, time.monotonic())


def _events(session: Training) -> Generator[Event, None, None]:
    """The events of a training run, as a generator that can be closed early."""
    return cast(Generator[Event, None, None], session.events())


def _timed(session: Training) -> Generator[Event, None, None]:
    """The events of a training run; its timing is saved with every checkpoint."""
    folder, step = session.run.folder, session.trainer.progress.step
    timing = RunTiming.read(folder)
    memory = PeakMemory(str(session.trainer.update.device))
    timing.evaluated = {at: seconds for at, seconds in timing.evaluated.items() if at <= step}
    before, earlier_peak, began = timing.seconds, timing.peak_bytes or 0, time.monotonic()
    with closing(_events(session)) as events:
        for event in events:
            timing.seconds = before + time.monotonic() - began
            if isinstance(event, Evaluated) and not event.final:
                timing.evaluated[event.step] = timing.seconds
            if isinstance(event, (Saved, Ended)):
                peak = memory.read()
                timing.peak_bytes = None if peak is None else max(peak, earlier_peak)
                timing.save(folder)
            yield event


def _measured(folder: Path, score: Metrics) -> RunResult:
    """The result of a finished run."""
    timing, metrics = RunTiming.read(folder), score.to_json()
    return RunResult(
        bits_per_byte=metrics["bits_per_byte"],
        nats_per_token=metrics["nats_per_token"],
        seconds=timing.seconds,
        train_speed=train_speed(folder),
        sample_speed=sample_speed(folder),
        peak_bytes=timing.peak_bytes,
    )

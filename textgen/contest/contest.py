"""The schedule of a contest: learning rates tried, then seed by seed a run of every cell; resumable at any moment.

Runs of different cells take turns, so that a machine that slows down slows all of them. Each is an ordinary training
in a folder of its own; what came out is written down before the next begins.
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
from textgen.contest.events import Began, Chosen, ContestEvent, Inside, Ran, Stopped, Tried
from textgen.contest.measures import Clock, PeakMemory, sample_speed, train_speed
from textgen.contest.planning import reason
from textgen.contest.record import Entrant, Outcome, Record
from textgen.scoring.metrics import Metrics
from textgen.settings import TrainOptions
from textgen.text.store import TokenStore
from textgen.training.checkpoint import ARGUMENTS
from textgen.training.events import Ended, Evaluated, Event, Saved
from textgen.training.train import Session, resume, start


@dataclass
class _Result:
    """How a training ended: with its last score, or with a failure, or (neither) because it was stopped."""

    score: Metrics | None = None
    failed: str | None = None


@dataclass
class Contest:
    """A contest about to run or to go on. `stop` may be set at any time: it ends, saved, after the step at hand."""

    folder: Path
    record: Record
    store: TokenStore
    warnings: Sequence[str] = ()
    stop: bool = False

    def events(self) -> Iterator[ContestEvent]:
        """Run what is not done yet, alone in the contest's folder; yields what happens."""
        with files.lock(self.folder):
            files.clean(self.folder)
            finished = (yield from self._try_rates()) and (yield from self._run_seeds())
            if not finished:
                yield Stopped()

    def seconds_left(self) -> float:
        """The seconds that what is not done yet is expected to take; more trials may be called for than are counted."""
        left = 0.0
        for entrant in self.record.running:
            seconds, steps = entrant.expected_seconds or 0.0, entrant.plan.max_steps or 1
            left += seconds * sum(seed not in entrant.runs for seed in self.record.seeds)
            if entrant.rate is None:
                trials = max(1, rates.fewest(self._given) - len(entrant.tried))
                left += trials * (entrant.step_seconds or 0.0) * rates.trial_steps(steps)
        return left

    @property
    def _given(self) -> list[float]:
        return list(self.record.asked["learning_rates"])

    def _try_rates(self) -> Generator[ContestEvent, None, bool]:
        """Trials, one of each cell in turn, until every cell has its rate; returns False if stopped."""
        while undecided := [entrant for entrant in self.record.running if entrant.rate is None]:
            for entrant in undecided:
                rate = rates.next_rate(entrant.plan.learning_rate or 0.0, entrant.tried, self._given)
                if rate is None:
                    self._choose(entrant)
                    yield Chosen(entrant.name, entrant.rate)
                elif not (yield from self._try(entrant, rate)):
                    return False
        return True

    def _choose(self, entrant: Entrant) -> None:
        entrant.rate = self._given[0] if len(self._given) == 1 else rates.best(entrant.tried)
        if entrant.rate is None:
            entrant.failed = "its training failed at every learning rate that was tried."
        record.save(self.folder, self.record)

    def _try(self, entrant: Entrant, rate: float) -> Generator[ContestEvent, None, bool]:
        """A short run at one rate, from a seed that no run of the contest has; only its loss is kept."""
        folder = self.folder / f"{entrant.slug}-rate-{rate:g}"
        options = self._trial_options(entrant, rate)
        yield Began(entrant.name, options.seed, rate, trial=True)
        result = yield from self._train(folder, options, trial=True)
        if result.score is None and result.failed is None:
            return False
        loss = result.score.loss if result.score else None
        entrant.tried[rate] = loss
        record.save(self.folder, self.record)
        if folder.exists():
            files.remove_folder(folder)
        yield Tried(entrant.name, rate, loss)
        return True

    def _trial_options(self, entrant: Entrant, rate: float) -> TrainOptions:
        steps = rates.trial_steps(entrant.plan.max_steps or 1)
        return replace(
            entrant.plan,
            learning_rate=rate,
            max_steps=steps,
            warmup_steps=self.record.asked.get("warmup_steps"),
            logging_steps=None,
            eval_steps=steps,
            save_steps=max(1, steps // 4),
            seed=self.record.seeds[-1] + 1,
        )

    def _run_seeds(self) -> Generator[ContestEvent, None, bool]:
        """The runs, one of each cell in turn; returns False if stopped."""
        for seed in self.record.seeds:
            for entrant in self.record.running:
                if seed not in entrant.runs and not (yield from self._run(entrant, seed)):
                    return False
        return True

    def _run(self, entrant: Entrant, seed: int) -> Generator[ContestEvent, None, bool]:
        folder = run_folder(self.folder, entrant, seed)
        assert entrant.rate is not None
        yield Began(entrant.name, seed, entrant.rate, trial=False)
        result = yield from self._train(folder, replace(entrant.plan, learning_rate=entrant.rate, seed=seed))
        if result.score is None and result.failed is None:
            return False
        entrant.runs[seed] = _outcome(folder, result)
        record.save(self.folder, self.record)
        yield Ran(entrant.name, seed, entrant.runs[seed])
        return True

    def _train(
        self, folder: Path, options: TrainOptions, trial: bool = False
    ) -> Generator[ContestEvent, None, _Result]:
        """Train in a folder, or go on there. A trial ends with its first look at what is held out.

        Whatever fails inside is the failure of this cell, but for what is wrong with the disk.
        """
        result = _Result()
        try:
            session = self._session(folder, options)
            with closing(_closable(session) if trial else _timed(session)) as events:
                for event in events:
                    yield Inside(event, options.max_steps or 1)
                    session.trainer.stop = self.stop
                    if isinstance(event, Evaluated) and (trial or event.final):
                        result.score = event.score
                    if result.score and trial:
                        break
        except (OSError, sealed.DamagedError):
            raise
        except Exception as error:
            result.failed = reason(error)
        return result

    def _session(self, folder: Path, options: TrainOptions) -> Session:
        if (folder / ARGUMENTS).exists():
            return resume(folder, {})
        options = replace(options, output_dir=str(folder))
        return start([str(self.store.folder)], options, time.monotonic())


def _closable(session: Session) -> Generator[Event, None, None]:
    """The events of a training, which may be left early."""
    return cast(Generator[Event, None, None], session.events())


def _timed(session: Session) -> Generator[Event, None, None]:
    """The events of a training, its clock kept with every checkpoint."""
    folder, step = session.run.folder, session.trainer.progress.step
    clock = Clock.read(folder)
    memory = PeakMemory(str(session.trainer.update.device))
    clock.evaluated = {at: seconds for at, seconds in clock.evaluated.items() if at <= step}
    before, earlier_peak, began = clock.seconds, clock.peak_bytes or 0, time.monotonic()
    with closing(_closable(session)) as events:
        for event in events:
            clock.seconds = before + time.monotonic() - began
            if isinstance(event, Evaluated) and not event.final:
                clock.evaluated[event.step] = clock.seconds
            if isinstance(event, (Saved, Ended)):
                peak = memory.read()
                clock.peak_bytes = None if peak is None else max(peak, earlier_peak)
                clock.save(folder)
            yield event


def _outcome(folder: Path, result: _Result) -> Outcome:
    """The figures of a run that is done."""
    if result.score is None:
        return Outcome(failed=result.failed)
    clock, figures = Clock.read(folder), result.score.to_json()
    return Outcome(
        bits_per_byte=figures["bits_per_byte"],
        nats_per_token=figures["nats_per_token"],
        seconds=clock.seconds,
        train_speed=train_speed(folder),
        sample_speed=sample_speed(folder),
        peak_bytes=clock.peak_bytes,
    )


def run_folder(folder: Path, entrant: Entrant, seed: int) -> Path:
    """Where a cell's run from a seed is, in the folder of its contest."""
    return folder / f"{entrant.slug}-seed{seed}"

"""Run a comparison: tune learning rates, then train every cell with every seed; resumable at any time.

Learning rates are tried first, on a small grid around the planned one that grows while the best is at its edge. Then
runs of different cells take turns, so that a machine that slows down affects all cells alike. Each run is an ordinary
training in a folder of its own; its results are recorded before the next one begins.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass, fields, replace
from itertools import zip_longest
from pathlib import Path
from typing import Any

from textgen import storage
from textgen.compare import CompareOptions, ComparisonRequest, make_request, results
from textgen.compare.planning import Planner, reason, require_both_parts
from textgen.compare.results import (
    COMPARISON,
    Candidate,
    CellResult,
    ComparisonRecord,
    PeakMemory,
    RunResult,
    RunTiming,
    ranked,
    record_from,
    sample_speed,
    train_speed,
)
from textgen.data.parquet_table import corpora
from textgen.data.recipes import Progress
from textgen.data.store import TokenStore, no_progress
from textgen.distributed import ALONE, World, alone, world
from textgen.errors import TextgenError, UsageError
from textgen.evaluation import Metrics
from textgen.options import from_mapping, named
from textgen.storage import ARGUMENTS, TOKENS, filesystem
from textgen.tasks import planned
from textgen.tasks.language.data import stored_corpus
from textgen.tasks.language.options import LanguageOptions
from textgen.training import Ended, Evaluated, Event, Saved
from textgen.training.runs import RUNS, changes, next_folder, versions
from textgen.training.start import Training, resume, start

FACTORS = (1.0, 2.0, 0.5)
MOST = 7
"""The maximum number of rates tried per cell."""

SHARE = 0.2
"""The length of a trial, as a fraction of a run."""

FEWEST_STEPS = 200
"""Trials are never shorter than this, unless the run is: short trials favour high rates."""

Losses = Mapping[float, float | None]
"""The held-out loss at the end of the trial of each rate, None where it failed."""


@dataclass(frozen=True)
class TrainingStarted:
    """A trial of a learning rate, or a run with this seed, has started or resumed."""

    name: str
    seed: int
    rate: float
    trial: bool


@dataclass(frozen=True)
class InTraining:
    """An event of the current trial or run, which has this many steps."""

    event: Event
    steps: int


@dataclass(frozen=True)
class RateTried:
    """A learning rate was tried; the loss is None if the trial failed."""

    name: str
    rate: float
    loss: float | None


@dataclass(frozen=True)
class RateChosen:
    """The learning rate of a cell is decided; None if every trial failed."""

    name: str
    rate: float | None


@dataclass(frozen=True)
class RunEnded:
    """A run is done, or has failed."""

    name: str
    seed: int
    result: RunResult


@dataclass(frozen=True)
class ComparisonStopped:
    """The comparison was asked to stop, and everything needed to continue is saved."""


ComparisonEvent = TrainingStarted | InTraining | RateTried | RateChosen | RunEnded | ComparisonStopped


def trial_steps(steps: int) -> int:
    """The number of steps of a trial, from that of a run."""
    return min(steps, max(FEWEST_STEPS, round(SHARE * steps)))


def fewest(given: Sequence[float] = ()) -> int:
    """The minimum number of trials per cell."""
    return len(FACTORS) if not given else len(given) if len(given) > 1 else 0


def next_rate(around: float, tried: Losses, given: Sequence[float] = ()) -> float | None:
    """The rate to try next; None when the search is over.

    If no rates are given, the grid around the planned rate is extended by factors of two on the side of the best one.

    Example:
        >>> next_rate(0.01, {0.01: 1.3, 0.02: 1.2, 0.005: 1.5})
        0.04
    """
    if given:
        return next((rate for rate in given if rate not in tried), None) if len(given) > 1 else None
    for rate in (_rounded(around * factor) for factor in FACTORS):
        if rate not in tried:
            return rate
    found = best(tried)
    if len(tried) >= MOST:
        return None
    if found is None or found == min(tried):
        return _rounded(min(tried) / 2)
    return _rounded(2 * found) if found == max(tried) else None


def next_rates(around: float, tried: Losses, given: Sequence[float] = ()) -> list[float]:
    """All rates to try next that do not depend on each other's losses; none when the search is over."""
    assumed, rates = dict(tried), list[float]()
    known = given if len(given) > 1 else () if given else [_rounded(around * factor) for factor in FACTORS]
    while (rate := next_rate(around, assumed, given)) in known or (rate is not None and not rates):
        assert rate is not None
        rates.append(rate)
        assumed[rate] = None
    return rates


def best(tried: Losses) -> float | None:
    """The rate with the lowest loss, the lower one of a tie; None if every trial failed."""
    loss, rate = min((math.inf if loss is None else loss, rate) for rate, loss in tried.items())
    return rate if math.isfinite(loss) else None


def _rounded(rate: float) -> float:
    return float(f"{rate:.4g}")


@dataclass(frozen=True)
class _Training:
    """A training to run, whose result is a JSON value, and the function that records its result."""

    run: Callable[[], Generator[ComparisonEvent, None, Any]]
    record: Callable[[Any], ComparisonEvent]


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
    _job: World = ALONE

    def events(self) -> Iterator[ComparisonEvent]:
        """Run what is left, with the folder locked; yields what happens. Several processes divide the trainings: each
        takes the next one when it is free, and all of them get the results."""
        with self._held():
            try:
                yield from self._tune()
                yield from self._run_seeds()
            except _StopRequested:
                yield ComparisonStopped()

    @contextmanager
    def _held(self) -> Iterator[None]:
        """The folder, locked by rank 0."""
        if not self._job.leads:
            self._job.exchange("held")
            yield
            return
        with filesystem.lock(self.folder):
            filesystem.clean(self.folder)
            self._job.exchange("held")
            yield

    def _work(self, trainings: Sequence[_Training]) -> Iterator[ComparisonEvent]:
        """Run some trainings, which this process divides with the others, and record their results in order."""
        if self._job.size == 1:
            for training in trainings:
                yield training.record((yield from training.run()))
            return
        found: dict[str, Any] = {}
        try:
            for number in self._job.claims(len(trainings)):
                with alone():
                    found[str(number)] = yield from trainings[number].run()
        except _StopRequested:
            self._job.ask_to_stop()
        results_of_all = {k: v for found in self._job.exchange(found) for k, v in found.items()}
        for number, training in enumerate(trainings):
            if str(number) in results_of_all:
                yield training.record(results_of_all[str(number)])
        if len(results_of_all) < len(trainings):
            raise _StopRequested

    def seconds_left(self) -> float:
        """The estimated seconds until the end; tuning may need more trials than are counted here."""
        left = 0.0
        for candidate in self.record.running:
            left += (candidate.expected_seconds or 0.0) * sum(seed not in candidate.runs for seed in self.record.seeds)
            if candidate.rate is None:
                trials = max(1, fewest(self._given) - len(candidate.tried))
                left += trials * (candidate.step_seconds or 0.0) * trial_steps(planned(candidate.plan.max_steps))
        return left

    @property
    def _given(self) -> list[float]:
        return list(self.record.request["learning_rates"])

    def _tune(self) -> Iterator[ComparisonEvent]:
        """Trials, one per cell in turn, until every cell has its learning rate."""
        while undecided := [candidate for candidate in self.record.running if candidate.rate is None]:
            trials: list[list[_Training]] = []
            for candidate in undecided:
                rates = next_rates(planned(candidate.plan.learning_rate), candidate.tried, self._given)
                trials.append([self._trial(candidate, rate) for rate in rates])
                if rates:
                    continue
                candidate.rate = self._given[0] if len(self._given) == 1 else best(candidate.tried)
                if candidate.rate is None:
                    candidate.failed = "its training failed at every learning rate that was tried."
                self._save()
                yield RateChosen(candidate.name, candidate.rate)
            in_turn = (each for same in zip_longest(*trials) for each in same if each is not None)
            yield from self._work(list(in_turn))

    def _save(self) -> None:
        if self._job.leads:
            results.save(self.folder, self.record)

    def _trial(self, candidate: Candidate, rate: float) -> _Training:
        """A short run at one learning rate, with a seed that no run has; only its loss is kept."""
        folder = self.folder / f"{candidate.slug}-rate-{rate:g}"
        steps = trial_steps(planned(candidate.plan.max_steps))
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

        def run() -> Generator[ComparisonEvent, None, float | None]:
            yield TrainingStarted(candidate.name, options.seed, rate, trial=True)
            score = yield from self._train(folder, options, trial=True)
            return None if isinstance(score, str) else score.loss

        def record(loss: float | None) -> ComparisonEvent:
            candidate.tried[rate] = loss
            self._save()
            if self._job.leads and folder.exists():
                filesystem.remove_folder(folder)
            return RateTried(candidate.name, rate, loss)

        return _Training(run, record)

    def _run_seeds(self) -> Iterator[ComparisonEvent]:
        """The runs, one per cell in turn."""
        pairs = [(seed, candidate) for seed in self.record.seeds for candidate in self.record.running]
        yield from self._work([self._run(candidate, seed) for seed, candidate in pairs if seed not in candidate.runs])

    def _run(self, candidate: Candidate, seed: int) -> _Training:
        folder, rate = candidate.run_folder(self.folder, seed), planned(candidate.rate)

        def run() -> Generator[ComparisonEvent, None, dict[str, Any]]:
            yield TrainingStarted(candidate.name, seed, rate, trial=False)
            score = yield from self._train(folder, replace(candidate.plan, learning_rate=rate, seed=seed))
            return asdict(RunResult(failed=score) if isinstance(score, str) else _measured(folder, score))

        def record(found: dict[str, Any]) -> ComparisonEvent:
            candidate.runs[seed] = RunResult(**found)
            self._save()
            return RunEnded(candidate.name, seed, candidate.runs[seed])

        return _Training(run, record)

    def _train(
        self, folder: Path, options: LanguageOptions, trial: bool = False
    ) -> Generator[ComparisonEvent, None, Metrics | str]:
        """Start or resume a training run; returns its score, or why it failed. A trial ends with its first evaluation.

        Every exception counts as a failure of this cell, except for errors of the disk.
        """
        score = None
        try:
            session = self._session(folder, options)
            with closing(session.events() if trial else _timed(session)) as events:
                for event in events:
                    yield InTraining(event, planned(options.max_steps))
                    session.trainer.stop = self.stop or self._job.is_asked_to_stop
                    if isinstance(event, Evaluated) and (trial or event.final):
                        score = event.score
                    if score and trial:
                        break
        except (OSError, storage.DamagedError):
            raise
        except Exception as error:
            return reason(error)
        if score is None:
            raise _StopRequested
        return score

    def _session(self, folder: Path, options: LanguageOptions) -> Training:
        if (folder / ARGUMENTS).exists():
            return resume(folder, {})
        return start([str(self.store.folder)], replace(options, output_dir=str(folder)), time.monotonic())


def _timed(session: Training) -> Generator[Event, None, None]:
    """The events of a training run; its timing is saved with every checkpoint."""
    folder, step = session.run.folder, session.trainer.progress.step
    timing = RunTiming.read(folder)
    memory = PeakMemory(str(session.trainer.update.device))
    timing.evaluated = {at: seconds for at, seconds in timing.evaluated.items() if at <= step}
    before, earlier_peak, began = timing.seconds, timing.peak_bytes or 0, time.monotonic()
    with closing(session.events()) as events:
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


def prepare(
    paths: Sequence[str],
    request: ComparisonRequest,
    output_dir: str | None = None,
    progress: Progress = no_progress,
    dry_run: bool = False,
) -> Comparison:
    """A new comparison, planned and committed, or the existing one with the same options on the same text.

    Raises UsageError for a folder with a comparison of other options, naming the first that differs, and whatever
    `textgen.compare.planning` raises. A dry run plans and creates nothing but the tokens.
    """
    root = Path(output_dir).parent if output_dir else RUNS
    job = world()
    store = job.in_turn(lambda: stored_corpus(paths, request.training, root / TOKENS, progress))
    require_both_parts(store)

    def prepared() -> list[Any]:
        with alone():
            return _prepared(paths, request, output_dir, root, store, job.size, dry_run)

    where, content, warnings = job.share(prepared)
    return Comparison(Path(where), record_from(content), store, warnings, _job=job)


def _prepared(
    paths: Sequence[str],
    request: ComparisonRequest,
    output_dir: str | None,
    root: Path,
    store: TokenStore,
    processes: int,
    dry_run: bool,
) -> list[Any]:
    """The folder of a comparison, its record, and warnings."""
    folder = Path(output_dir) if output_dir else _folder(root, paths[0], request, store)
    if (folder / COMPARISON).exists():
        stored = results.load_record(folder)
        _refuse_change(folder, stored, request, store)
        now = {**versions(stored.made_with["threads"]), "processes": processes}
        return [str(folder), asdict(stored), changes({"processes": 1, **stored.made_with}, now)]
    if folder.exists():
        raise TextgenError(
            f"{str(folder)!r} exists already and is not a comparison.", hint=f"name another {named('output_dir')}."
        )
    planned = Planner(request, store).plan(list(paths))
    planned.made_with["processes"] = processes
    if not dry_run:
        results.create(folder, planned)
    return [str(folder), asdict(planned), []]


def _folder(root: Path, path: str, request: ComparisonRequest, store: TokenStore) -> Path:
    """The folder of the newest comparison with this request, else the next free one."""
    free = next_folder(root, "compare", path)
    stem = free.name.rpartition("-")[0]
    numbered = {path.parent.name.rpartition("-")[2]: path.parent for path in root.glob(f"{stem}-*/{COMPARISON}")}
    for number in sorted(filter(str.isdecimal, numbered), key=int, reverse=True):
        folder = numbered[number]
        try:
            stored = results.load_record(folder)
        except TextgenError:
            continue
        if stored.store == store.key and stored.request == request.to_json():
            return folder
    return free


def _refuse_change(folder: Path, stored: ComparisonRecord, request: ComparisonRequest, store: TokenStore) -> None:
    hint = f"name another {named('output_dir')} for another comparison."
    before, now = stored.request, request.to_json()
    for name in [*now, *before]:
        if now.get(name) != before.get(name):
            raise UsageError(
                f"{named(name)} is {_shown(now.get(name))}, but the comparison in {str(folder)!r} has "
                f"{_shown(before.get(name))}.",
                hint=hint,
            )
    if stored.store != store.key:
        raise UsageError(f"the corpus is not that of the comparison in {str(folder)!r}.", hint=hint)


def _shown(value: object) -> str:
    """The value of an option as it is typed."""
    if isinstance(value, dict):
        return _shown([f"{name}={number}" for name, number in value.items() if number is not None])
    if isinstance(value, list):
        return ",".join(map(str, value)) or "none"
    return "the default" if value is None else str(value)


def compare(corpus: Any, **options: Any) -> list[CellResult]:
    """Compare cells on a corpus, given as for `textgen.train`; returns one result per cell, the best first.

    Options are the fields of `textgen.compare.CompareOptions`, and those of
    `textgen.tasks.language.options.LanguageOptions` that apply to every cell alike. If a comparison was interrupted,
    the same call continues it. Raises TextgenError or UsageError in one sentence.

    Example:
        >>> results = compare("notes.txt", cells=["lstm", "gru"], budget=["params=200k", "minutes=1"])  # doctest: +SKIP
        >>> results[0].name, results[0].mean                                                            # doctest: +SKIP
    """
    paths = corpora("corpus", corpus)
    own = {f.name for f in fields(CompareOptions)}
    compared = from_mapping(CompareOptions, {name: value for name, value in options.items() if name in own})
    training = from_mapping(LanguageOptions, {name: value for name, value in options.items() if name not in own})
    comparison = prepare(paths, make_request(compared, training), compared.output_dir)
    for _ in comparison.events():
        pass
    return ranked(comparison.record)

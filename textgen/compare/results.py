"""The record of a comparison in `comparison.json`, its ranked results, and how runs are measured.

The record holds the request, what was decided, and the results so far. It is replaced after every decision and every
run, so that a comparison that was stopped at any time is resumed from it.
"""

from __future__ import annotations

import ctypes
import gc
import math
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from textgen import storage
from textgen.errors import TextgenError
from textgen.generation.generate import generate
from textgen.generation.language_model import load
from textgen.options import from_mapping, named
from textgen.storage import filesystem, metrics
from textgen.tasks import planned
from textgen.tasks.language.options import LanguageOptions
from textgen.threads import one_thread

COMPARISON, TIMING = "comparison.json", "timing.json"
FORMAT_VERSION = 1
CONFIDENCE = 0.95
SHARED = ("embedding_size", "num_layers", "batch_size", "seq_length", "dropout", "optimizer", "lr_scheduler", "threads")

SAMPLED, SAMPLINGS = 100, 5
"""Tokens per sample, and number of samples, for the sampling speed."""


@dataclass(frozen=True)
class RunResult:
    """The metrics of a run, or why it failed.

    `seconds` include evaluations and checkpoints; speeds are in tokens per second; `peak_bytes` is the peak resident
    memory of the process during the run (on a GPU, of its tensors). None where it could not be measured.
    """

    bits_per_byte: float | None = None
    nats_per_token: float | None = None
    seconds: float | None = None
    train_speed: float | None = None
    sample_speed: float | None = None
    peak_bytes: int | None = None
    failed: str | None = None


@dataclass
class Candidate:
    """A cell in the comparison: its plan and its results so far.

    `tried` maps each learning rate that was tried to its loss (None: the trial failed), `runs` each seed to its result.
    `slug` begins the names of its run folders; `failed` says why it is out of the comparison.
    """

    name: str
    slug: str
    cell: str
    cell_options: dict[str, Any] = field(default_factory=dict)
    options: LanguageOptions | None = None
    parameters: int | None = None
    step_seconds: float | None = None
    expected_seconds: float | None = None
    tried: dict[float, float | None] = field(default_factory=dict)
    rate: float | None = None
    failed: str | None = None
    runs: dict[int, RunResult] = field(default_factory=dict)

    @property
    def plan(self) -> LanguageOptions:
        """The options of its runs, apart from seed and learning rate. Only for a cell that can run."""
        return planned(self.options)

    def run_folder(self, comparison: Path, seed: int) -> Path:
        """The folder of its run with a seed."""
        return comparison / f"{self.slug}-seed{seed}"


@dataclass
class ComparisonRecord:
    """The content of `comparison.json`. `request` and `store`, the key of the tokens, identify the comparison."""

    request: dict[str, Any]
    corpus: list[str]
    store: str
    kind: str
    seeds: list[int]
    target_parameters: int
    candidates: list[Candidate]
    made_with: dict[str, Any]

    @property
    def running(self) -> list[Candidate]:
        """The candidates that can run."""
        return [candidate for candidate in self.candidates if candidate.failed is None]

    @property
    def metric(self) -> str:
        """The metric that ranks the cells: bits per byte, except for word tokenizers, which are lossy."""
        return "nats_per_token" if self.kind == "word" else "bits_per_byte"

    @property
    def unit(self) -> str:
        """The unit of the metric."""
        return "nats per word" if self.kind == "word" else "bits per byte"


def _content(record: ComparisonRecord) -> bytes:
    return filesystem.to_json({"format_version": FORMAT_VERSION, **asdict(record)})


def create(folder: Path, record: ComparisonRecord) -> None:
    """Create the folder of a new comparison. Raises TextgenError if it exists."""
    try:
        with filesystem.new_folder(folder) as new:
            new.write(COMPARISON, _content(record))
    except FileExistsError:
        raise TextgenError(f"{str(folder)!r} exists already.", hint=f"name another {named('output_dir')}.") from None


def save(folder: Path, record: ComparisonRecord) -> None:
    """Replace the stored record."""
    filesystem.replace_in_folder(folder, COMPARISON, _content(record))


def load_record(folder: Path) -> ComparisonRecord:
    """Read a stored record. Raises DamagedError for a damaged file, TextgenError for another format version."""
    path = folder / COMPARISON
    content = storage.parse_json(storage.verified(folder, COMPARISON), str(path))
    if content.pop("format_version", None) != FORMAT_VERSION:
        raise TextgenError(f"{path} has another format than {FORMAT_VERSION}.", hint="upgrade textgen-lm.")
    try:
        return record_from(content)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise storage.DamagedError(f"{path} is damaged: {error}.") from None


def record_from(content: Mapping[str, Any]) -> ComparisonRecord:
    """A record from its fields, as JSON has them."""
    return ComparisonRecord(**{**content, "candidates": [_candidate(each) for each in content["candidates"]]})


def _candidate(content: Mapping[str, Any]) -> Candidate:
    read = {
        "options": content["options"] and from_mapping(LanguageOptions, content["options"]),
        "tried": {float(rate): loss for rate, loss in content["tried"].items()},
        "runs": {int(seed): RunResult(**result) for seed, result in content["runs"].items()},
    }
    return Candidate(**{**content, **read})


@dataclass(frozen=True)
class CellResult:
    """The result of one cell: means and medians over its seeds.

    `mean` is the held-out loss in the comparison's metric, `low` and `high` its confidence interval (None with fewer
    than two seeds). `rank` is 1 for the best cell and for all that tie with it, None for a cell without a result. A
    cell with a failed run ranks below those without one, and `note` says why it failed.
    """

    rank: int | None
    name: str
    parameters: int | None
    hidden_size: int | None
    learning_rate: float | None
    mean: float | None
    low: float | None
    high: float | None
    tie: bool
    seeds: int
    train_speed: float | None
    sample_speed: float | None
    peak_bytes: int | None
    seconds: float | None
    note: str | None


def interval(values: Sequence[float]) -> tuple[float, float] | None:
    """The 95 % t-interval of the mean of independent values; None for fewer than two.

    Source: Student 1908, "The probable error of a mean".
    """
    if len(values) < 2:
        return None
    mean, error = statistics.fmean(values), statistics.stdev(values) / math.sqrt(len(values))
    reach = t_quantile((1 + CONFIDENCE) / 2, len(values) - 1) * error
    return mean - reach, mean + reach


def t_quantile(probability: float, freedom: int) -> float:
    """The quantile of Student's t distribution with `freedom` degrees of freedom, for a probability above 1/2."""
    low, high = 0.0, 1.0
    while _t_below(high, freedom) < probability:
        low, high = high, 2 * high
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if _t_below(middle, freedom) < probability else (low, middle)
    return high


def _t_below(t: float, freedom: int) -> float:
    """The CDF of Student's t distribution at t >= 0 (Abramowitz and Stegun 1964, 26.7.3 and 26.7.4)."""
    angle, odd = math.atan(t / math.sqrt(freedom)), freedom % 2
    total, term = 0.0, math.cos(angle) if odd else 1.0
    for power in range(odd, freedom - 1, 2):
        total += term
        term *= math.cos(angle) ** 2 * (power + 1) / (power + 2)
    within = math.sin(angle) * total
    return (1 + (2 / math.pi * (angle + within) if odd else within)) / 2


def ranked(record: ComparisonRecord) -> list[CellResult]:
    """The results so far, the best first: complete ones, then those with failures, then cells without a result."""
    found = [_result(candidate, record) for candidate in record.candidates]
    found.sort(key=lambda result: (result.mean is None, result.note is not None, result.mean or 0.0))
    return [_with_rank(result, number, found[0]) for number, result in enumerate(found, 1)]


def _result(candidate: Candidate, record: ComparisonRecord) -> CellResult:
    whole = [run for run in candidate.runs.values() if run.failed is None]
    failed = [run.failed for run in candidate.runs.values() if run.failed is not None]
    failures = f"{len(failed)} of {len(record.seeds)} runs failed: {failed[0]}" if failed else None
    losses = [getattr(run, record.metric) for run in whole]
    low, high = interval(losses) or (None, None)
    return CellResult(
        rank=None,
        name=candidate.name,
        parameters=candidate.parameters,
        hidden_size=candidate.options.hidden_size if candidate.options else None,
        learning_rate=candidate.rate,
        mean=statistics.fmean(losses) if losses else None,
        low=low,
        high=high,
        tie=False,
        seeds=len(whole),
        train_speed=_median(run.train_speed for run in whole),
        sample_speed=_median(run.sample_speed for run in whole),
        peak_bytes=max((run.peak_bytes for run in whole if run.peak_bytes), default=None),
        seconds=_median(run.seconds for run in whole),
        note=candidate.failed or failures,
    )


def _median(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return statistics.median(known) if known else None


def _with_rank(result: CellResult, number: int, best: CellResult) -> CellResult:
    """The result with its rank: it ties with the best if their intervals overlap or, without intervals, if equal."""
    if result.mean is None or best.mean is None:
        return result
    low, high = result.mean if result.low is None else result.low, best.mean if best.high is None else best.high
    tie = result is not best and result.note is None and low <= high
    return replace(result, rank=1 if tie else number, tie=tie)


def to_json(record: ComparisonRecord) -> dict[str, Any]:
    """The whole comparison: the request, what all cells share, the ranked results, and every single run."""
    plan = next((candidate.options for candidate in record.running), None)
    return {
        "corpus": record.corpus,
        "request": record.request,
        "metric": record.metric,
        "interval": "95 % t-interval of the mean over seeds",
        "target_parameters": record.target_parameters,
        "seeds": record.seeds,
        "shared": {name: getattr(plan, name) for name in SHARED} if plan else {},
        "made_with": record.made_with,
        "results": [asdict(result) for result in ranked(record)],
        "runs": {
            candidate.name: [{"seed": seed, **asdict(run)} for seed, run in candidate.runs.items()]
            for candidate in record.candidates
        },
    }


def table(record: ComparisonRecord) -> str:
    """The ranked results under their headings; below them the failures, and what a tie means."""
    results, unit = ranked(record), "bits/byte" if record.metric == "bits_per_byte" else "nats/word"
    columns: dict[str, Callable[[CellResult], str]] = {
        "": lambda each: "-" if each.rank is None else f"{each.rank}{'=' if each.tie else ''}",
        "cell": lambda each: each.name,
        "parameters": lambda each: _number(each.parameters),
        "hidden": lambda each: _number(each.hidden_size),
        "rate": lambda each: _number(each.learning_rate, ".2g"),
        unit: lambda each: _number(each.mean, ".4f"),
        "95 % interval": lambda each: "-" if each.low is None else f"{each.low:.4f}-{each.high:.4f}",
        "train/s": lambda each: _number(each.train_speed),
        "sample/s": lambda each: _number(each.sample_speed),
        "memory": lambda each: _number(each.peak_bytes and each.peak_bytes / 1e6, ",.0f", " MB"),
        "time": lambda each: _number(each.seconds, ",.0f", " s"),
    }
    notes = [f"{result.name}: {result.note}" for result in results if result.note]
    if (processes := record.made_with.get("processes", 1)) > 1:
        notes.append(f"Speeds and times were measured with {processes} trainings side by side.")
    if any(result.tie for result in results):
        notes.append("1= ties with the best: their intervals overlap.")
    lines = [list(columns), *([shown(result) for shown in columns.values()] for result in results)]
    return "\n".join([*aligned(lines), *notes])


def _number(value: float | None, form: str = ",.0f", unit: str = "") -> str:
    return "-" if value is None else f"{value:{form}}{unit}"


def aligned(lines: Sequence[Sequence[str]]) -> list[str]:
    """Lines of cells as text, each column as wide as it needs to be: the first two aligned left, the others right."""
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return [
        "  ".join(f"{cell:{'<' if k < 2 else '>'}{widths[k]}}" for k, cell in enumerate(line)).rstrip()
        for line in lines
    ]


class PeakMemory:
    """The peak memory since this object was made, in bytes: of the tensors on a GPU, else the resident memory of the
    process (None where it cannot be measured, as outside Linux)."""

    def __init__(self, device: str) -> None:
        self._gpu = device if device.startswith("cuda") else None
        gc.collect()
        if self._gpu:
            torch.cuda.reset_peak_memory_stats(self._gpu)
        self._known = self._gpu is None and _reset_peak()

    def read(self) -> int | None:
        """The peak so far."""
        if self._gpu:
            return torch.cuda.max_memory_allocated(self._gpu)
        lines = Path("/proc/self/status").read_text().splitlines() if self._known else []
        return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:")), None)


def _reset_peak() -> bool:
    """Release freed memory and reset the peak resident memory of this process; returns whether that is possible."""
    if not sys.platform.startswith("linux"):
        return False
    with suppress(AttributeError):  # a C library other than glibc
        ctypes.CDLL(None).malloc_trim(0)  # else what an earlier run has freed would count for this one
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return False
    return True


@dataclass
class RunTiming:
    """The total time of a run, over all sessions, and its peak memory; stored in the run folder.

    `evaluated` maps the step of each evaluation to the seconds until then. If a run is killed, the time since its last
    checkpoint is discarded with its steps.
    """

    seconds: float = 0.0
    peak_bytes: int | None = None
    evaluated: dict[int, float] = field(default_factory=dict)

    @classmethod
    def read(cls, folder: Path) -> RunTiming:
        """The timing of a run folder; zero for a new run."""
        path = folder / TIMING
        if not path.is_file():
            return cls()
        content = storage.read_json(path)
        try:
            evaluated = {int(step): float(seconds) for step, seconds in content["evaluated"].items()}
            return cls(float(content["seconds"]), content["peak_bytes"], evaluated)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise storage.DamagedError(f"{path} is damaged: {error}.") from None

    def save(self, folder: Path) -> None:
        """Replace the stored timing."""
        filesystem.write_file(folder / TIMING, filesystem.to_json(asdict(self)))


def train_speed(folder: Path) -> float | None:
    """Tokens per second in training, without evaluations and checkpoints: the median over the run's log."""
    speeds = [line["tokens_per_second"] for line in metrics(folder) if "tokens_per_second" in line]
    return statistics.median(speeds) if speeds else None


def sample_speed(folder: Path) -> float:
    """Tokens per second of `textgen.generate` for one text in one thread: the median of several, after a warm-up."""
    model = load(folder)
    times = []
    with one_thread():
        for seed in range(SAMPLINGS + 1):
            began = time.perf_counter()
            generate(model, max_new_tokens=SAMPLED, ignore_eos=True, seed=seed)
            times.append(time.perf_counter() - began)
    return SAMPLED / statistics.median(times[1:])

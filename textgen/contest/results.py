"""The results of a comparison: one line per cell, the best first, with confidence intervals; as a table or as JSON."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from textgen.contest.record import Candidate, ComparisonRecord, RunResult

CONFIDENCE = 0.95
SHARED = ("embedding_size", "num_layers", "batch_size", "seq_length", "dropout", "optimizer", "lr_scheduler", "threads")


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
    runs = list(candidate.runs.values())
    whole = [run for run in runs if run.failed is None]
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
        note=candidate.failed or _failures(runs, len(record.seeds)),
    )


def _median(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return statistics.median(known) if known else None


def _failures(runs: Sequence[RunResult], seeds: int) -> str | None:
    failed = [run.failed for run in runs if run.failed is not None]
    return f"{len(failed)} of {seeds} runs failed: {failed[0]}" if failed else None


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

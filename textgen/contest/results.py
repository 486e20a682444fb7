"""What a contest came to: a row a cell, the best first, with an interval over seeds, as a table or as JSON."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from textgen.contest.record import Entrant, Outcome, Record

CONFIDENCE = 0.95
COLUMNS = (
    *("", "cell", "parameters", "hidden", "rate", "{unit}", "95 % interval"),
    *("train/s", "sample/s", "memory", "time"),
)

EQUAL = ("embedding_size", "num_layers", "batch_size", "seq_length", "dropout", "optimizer", "lr_scheduler", "threads")


@dataclass(frozen=True)
class Row:
    """One cell's result: means and medians over its seeds.

    `mean` is the held-out loss in the contest's measure, `low` and `high` its interval (None with fewer than two
    seeds); `place` is 1 for the best and for all that tie with it, None for a cell without a result. A cell of which
    a run failed stands below those of which none did, and `note` says why.
    """

    place: int | None
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
    """The value that Student's t with this many degrees of freedom stays below with this probability (above 1/2)."""
    low, high = 0.0, 1.0
    while _t_below(high, freedom) < probability:
        low, high = high, 2 * high
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if _t_below(middle, freedom) < probability else (low, middle)
    return high


def _t_below(t: float, freedom: int) -> float:
    """The distribution function of Student's t, t >= 0 (Abramowitz and Stegun 1964, 26.7.3 and 26.7.4)."""
    angle, odd = math.atan(t / math.sqrt(freedom)), freedom % 2
    total, term = 0.0, math.cos(angle) if odd else 1.0
    for power in range(odd, freedom - 1, 2):
        total += term
        term *= math.cos(angle) ** 2 * (power + 1) / (power + 2)
    within = math.sin(angle) * total
    return (1 + (2 / math.pi * (angle + within) if odd else within)) / 2


def rows(record: Record) -> list[Row]:
    """The results so far, the best first: whole ones, then those with failures, then those without a result."""
    made = [_row(entrant, record) for entrant in record.entrants]
    made.sort(key=lambda row: (row.mean is None, row.note is not None, row.mean or 0.0))
    return [_placed(row, number, made[0]) for number, row in enumerate(made, 1)]


def _row(entrant: Entrant, record: Record) -> Row:
    outcomes = [entrant.runs[seed] for seed in record.seeds if seed in entrant.runs]
    whole = [outcome for outcome in outcomes if outcome.failed is None]
    losses = [getattr(outcome, record.measure) for outcome in whole]
    reach = interval(losses)
    return Row(
        place=None,
        name=entrant.name,
        parameters=entrant.parameters,
        hidden_size=entrant.options.hidden_size if entrant.options else None,
        learning_rate=entrant.rate,
        mean=statistics.fmean(losses) if losses else None,
        low=reach[0] if reach else None,
        high=reach[1] if reach else None,
        tie=False,
        seeds=len(whole),
        train_speed=_median(outcome.train_speed for outcome in whole),
        sample_speed=_median(outcome.sample_speed for outcome in whole),
        peak_bytes=max((outcome.peak_bytes for outcome in whole if outcome.peak_bytes), default=None),
        seconds=_median(outcome.seconds for outcome in whole),
        note=_note(entrant, outcomes, len(record.seeds)),
    )


def _median(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return statistics.median(known) if known else None


def _note(entrant: Entrant, outcomes: Sequence[Outcome], seeds: int) -> str | None:
    """Why a row is not whole."""
    if entrant.failed is not None:
        return entrant.failed
    failed = [outcome.failed for outcome in outcomes if outcome.failed is not None]
    return f"{len(failed)} of {seeds} runs failed: {failed[0]}" if failed else None


def _placed(row: Row, number: int, best: Row) -> Row:
    """The row with its place; the best one's if their intervals overlap, or (without intervals) their figures agree."""
    if row.mean is None or best.mean is None:
        return row
    low, high = (row.mean if row.low is None else row.low), (best.mean if best.high is None else best.high)
    tie = row is not best and row.note is None and low <= high
    return replace(row, place=1 if tie else number, tie=tie)


def to_json(record: Record) -> dict[str, Any]:
    """The whole result: what was asked, what is equal for all, a table row a cell, and every single run."""
    plan = next((entrant.options for entrant in record.running), None)
    return {
        "corpus": record.corpus,
        "asked": record.asked,
        "measure": record.measure,
        "interval": "95 % t-interval of the mean over seeds",
        "parameters_wanted": record.target,
        "seeds": record.seeds,
        "equal_for_all": {name: getattr(plan, name) for name in EQUAL} if plan else {},
        "made_with": record.made_with,
        "rows": [asdict(row) for row in rows(record)],
        "runs": {
            entrant.name: [{"seed": seed, **asdict(outcome)} for seed, outcome in entrant.runs.items()]
            for entrant in record.entrants
        },
    }


def table(record: Record) -> str:
    """The rows under their headings, and below them what failed, why, and what the columns mean."""
    made = rows(record)
    unit = "bits/byte" if record.measure == "bits_per_byte" else "nats/word"
    lines = [[heading.format(unit=unit) for heading in COLUMNS], *[_cells(row) for row in made]]
    notes = [f"{row.name}: {row.note}" for row in made if row.note]
    if any(row.tie for row in made):
        notes.append("1= ties with the best: their intervals overlap.")
    return "\n".join([*aligned(lines), *notes])


def aligned(lines: Sequence[Sequence[str]]) -> list[str]:
    """Lines of cells as text, each column as wide as it needs to be: the first two to the left, the others right."""
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return [
        "  ".join(
            cell.ljust(width) if number < 2 else cell.rjust(width)
            for number, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    ]


def _cells(row: Row) -> list[str]:
    between = None if row.low is None or row.high is None else f"{row.low:.4f}-{row.high:.4f}"
    return [
        "-" if row.place is None else f"{row.place}=" if row.tie else f"{row.place}",
        row.name,
        _shown(row.parameters, ",.0f"),
        _shown(row.hidden_size, ",.0f"),
        _shown(row.learning_rate, ".2g"),
        _shown(row.mean, ".4f"),
        between or "-",
        _shown(row.train_speed, ",.0f"),
        _shown(row.sample_speed, ",.0f"),
        "-" if row.peak_bytes is None else f"{row.peak_bytes / 1e6:,.0f} MB",
        "-" if row.seconds is None else f"{row.seconds:,.0f} s",
    ]


def _shown(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)

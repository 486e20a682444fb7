"""The plot of a contest: held-out loss against tokens and against seconds, a line a cell with a band over seeds."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from textgen import files
from textgen.contest.contest import run_folder
from textgen.contest.measures import Clock, metrics
from textgen.contest.record import Entrant, Record
from textgen.contest.results import rows
from textgen.plots import to_png

if TYPE_CHECKING:
    from matplotlib.axes import Axes

PLOT = "contest.png"
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
"""Told apart by people of any colour vision (Okabe and Ito 2008), without the yellow that white swallows."""

DASHES: tuple[str | tuple[int, tuple[float, ...]], ...] = ("-", (0, (5, 1.6)), (0, (1.2, 1.2)), (0, (6, 1.5, 1, 1.5)))
INK, FAINT = "#333333", "#DDDDDD"
GAP = 0.045
"""The least distance between two labels, as a part of the height."""

LABEL_AT = 1.05
"""Where labels begin, as a part of the width."""


@dataclass(frozen=True)
class Curve:
    """One cell's losses at each evaluation: the mean over seeds, the lowest and the highest."""

    name: str
    tokens: list[float]
    seconds: list[float]
    mean: list[float]
    low: list[float]
    high: list[float]


def curves(folder: Path, record: Record) -> list[Curve]:
    """The curves of all cells of which a run is done, the best cell first."""
    by_name = {entrant.name: entrant for entrant in record.entrants}
    found = (_curve(folder, by_name[row.name], record) for row in rows(record))
    return [curve for curve in found if curve is not None]


def _curve(folder: Path, entrant: Entrant, record: Record) -> Curve | None:
    """Evaluations of all runs, step by step."""
    runs = [run_folder(folder, entrant, seed) for seed, outcome in entrant.runs.items() if outcome.failed is None]
    if not runs:
        return None
    window = (entrant.plan.batch_size or 1) * (entrant.plan.seq_length or 1)
    name = "eval_loss" if record.measure == "nats_per_token" else f"eval_{record.measure}"
    losses: dict[int, list[float]] = {}
    seconds: dict[int, list[float]] = {}
    for run in runs:
        clock = Clock.read(run)
        for line in metrics(run):
            if name in line and not line["final"] and line["step"] in clock.evaluated:
                losses.setdefault(line["step"], []).append(line[name])
                seconds.setdefault(line["step"], []).append(clock.evaluated[line["step"]])
    steps = sorted(losses)
    return Curve(
        entrant.name,
        [step * window for step in steps],
        [statistics.fmean(seconds[step]) for step in steps],
        [statistics.fmean(losses[step]) for step in steps],
        [min(losses[step]) for step in steps],
        [max(losses[step]) for step in steps],
    )


def draw(folder: Path, record: Record) -> Path | None:
    """Write the plot into the contest's folder; returns its path, None where there is no matplotlib or no run."""
    try:
        from matplotlib.figure import Figure
        from matplotlib.layout_engine import ConstrainedLayoutEngine
        from matplotlib.ticker import EngFormatter
    except ImportError:
        return None
    found = curves(folder, record)
    if not found:
        return None
    unit = "bits per byte" if record.measure == "bits_per_byte" else "nats per word"
    figure = Figure(figsize=(11, 5), dpi=160, layout=ConstrainedLayoutEngine(w_pad=0.12, wspace=0.02))
    left, right = figure.subplots(1, 2, sharey=True)
    _panel(left, found, [curve.tokens for curve in found], "tokens read")
    _panel(right, found, [curve.seconds for curve in found], "seconds, evaluations included")
    left.xaxis.set_major_formatter(EngFormatter(sep="\u2009"))
    left.set_ylabel(f"held-out {unit}", color=INK)
    figure.suptitle(_title(record), x=0.012, ha="left", color=INK, fontsize=11, parse_math=False)
    files.write_file(folder / PLOT, to_png(figure))
    return folder / PLOT


def _title(record: Record) -> str:
    corpus = ", ".join(Path(path).name for path in record.corpus)
    seeds = f"mean of {len(record.seeds)} seeds, from lowest to highest" if len(record.seeds) > 1 else "one seed"
    return f"{corpus} \u00b7 {record.target:,} parameters each \u00b7 {seeds}"


def _panel(axes: Axes, found: Sequence[Curve], across: Sequence[list[float]], label: str) -> None:
    """Lines and bands of all curves, the best on top, and their names at the right, joined to the lines' ends."""
    end = max(xs[-1] for xs in across)
    low, high = _range(found)
    axes.set_xlim(0, end)
    axes.set_ylim(low, high)
    places = spread([curve.mean[-1] for curve in found], GAP * (high - low), low)
    for number, (curve, xs, place) in reversed(list(enumerate(zip(found, across, places, strict=True)))):
        colour, dashes = COLOURS[number % len(COLOURS)], DASHES[number // len(COLOURS) % len(DASHES)]
        axes.fill_between(xs, curve.low, curve.high, color=colour, alpha=0.18, linewidth=0)
        axes.plot(xs, curve.mean, color=colour, linestyle=dashes, linewidth=1.6, solid_capstyle="round")
        axes.plot([xs[-1]], [curve.mean[-1]], "o", color=colour, markersize=3.5, clip_on=False)
        joint = [xs[-1], end, end * LABEL_AT], [curve.mean[-1], curve.mean[-1], place]
        axes.plot(*joint, color=colour, linewidth=0.6, alpha=0.55, clip_on=False)
        axes.text(end * (LABEL_AT + 0.008), place, curve.name, color=colour, va="center", fontsize=9, parse_math=False)
    axes.set_xlabel(label, color=INK)
    axes.grid(axis="y", color=FAINT, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.tick_params(colors=INK, length=0)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set_color(FAINT)


def _range(found: Sequence[Curve]) -> tuple[float, float]:
    """From below the best to where the slowest is after a quarter of its run: the steep beginning is cut off."""
    low = min(min(curve.low) for curve in found)
    high = max(curve.mean[len(curve.mean) // 4] for curve in found)
    margin = 0.04 * (high - low) or 0.01 * low
    return low - margin, high + margin


def spread(wanted: Sequence[float], gap: float, floor: float = -math.inf) -> list[float]:
    """Places for labels as near to those wanted as can be, in the same order, no two nearer than `gap`, none below
    `floor`.

    Neighbours that would touch form a group around the mean of what its members want.
    """
    order = sorted(range(len(wanted)), key=wanted.__getitem__)
    groups: list[list[int]] = []
    for index in order:
        groups.append([index])
        while len(groups) > 1 and _start(groups[-1], wanted, gap) < _end(groups[-2], wanted, gap):
            groups[-2:] = [groups[-2] + groups[-1]]
    places = [0.0] * len(wanted)
    for group in groups:
        first = _start(group, wanted, gap)
        for k, index in enumerate(group):
            places[index] = first + k * gap
    for rank, index in enumerate(order):
        places[index] = max(places[index], floor + rank * gap)
    return places


def _start(group: Sequence[int], wanted: Sequence[float], gap: float) -> float:
    """Where the lowest label of a group goes."""
    return statistics.fmean(wanted[index] for index in group) - gap * (len(group) - 1) / 2


def _end(group: Sequence[int], wanted: Sequence[float], gap: float) -> float:
    """Where the label after a group may go at the lowest."""
    return _start(group, wanted, gap) + gap * len(group)

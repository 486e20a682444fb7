"""The plot of a comparison: held-out loss by tokens and by seconds; one line per cell, with a band over its seeds."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from textgen.compare.results import Candidate, ComparisonRecord, RunTiming, ranked
from textgen.storage import filesystem, metrics
from textgen.storage.outputs import to_png

if TYPE_CHECKING:
    from matplotlib.axes import Axes

PLOT = "comparison.png"
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
"""Distinct with any kind of colour vision (Okabe and Ito 2008); its yellow, too faint on white, is left out."""

DASHES: tuple[str | tuple[int, tuple[float, ...]], ...] = ("-", (0, (5, 1.6)), (0, (1.2, 1.2)), (0, (6, 1.5, 1, 1.5)))
INK, FAINT = "#333333", "#DDDDDD"
GAP = 0.045
"""The minimum distance between two labels, as a fraction of the height."""

LABEL_AT = 1.05
"""Where labels begin, as a fraction of the width."""


@dataclass(frozen=True)
class Curve:
    """One cell's losses at each evaluation: the mean over seeds, the lowest and the highest."""

    name: str
    tokens: list[float]
    seconds: list[float]
    mean: list[float]
    low: list[float]
    high: list[float]


def curves(folder: Path, record: ComparisonRecord) -> list[Curve]:
    """The curves of all cells with a finished run, the best cell first."""
    by_name = {candidate.name: candidate for candidate in record.candidates}
    found = (_curve(folder, by_name[result.name], record.metric) for result in ranked(record))
    return [curve for curve in found if curve is not None]


def _curve(folder: Path, candidate: Candidate, metric: str) -> Curve | None:
    """The evaluations of all runs of a cell."""
    name = "eval_loss" if metric == "nats_per_token" else f"eval_{metric}"
    losses: dict[int, list[float]] = {}
    seconds: dict[int, list[float]] = {}
    for run in (candidate.run_folder(folder, seed) for seed, run in candidate.runs.items() if run.failed is None):
        evaluated = RunTiming.read(run).evaluated
        for line in metrics(run):
            if name in line and not line["final"] and line["step"] in evaluated:
                losses.setdefault(line["step"], []).append(line[name])
                seconds.setdefault(line["step"], []).append(evaluated[line["step"]])
    if not losses:
        return None
    tokens, steps = math.prod(candidate.plan.window), sorted(losses)
    return Curve(
        candidate.name,
        [step * tokens for step in steps],
        [statistics.fmean(seconds[step]) for step in steps],
        [statistics.fmean(losses[step]) for step in steps],
        [min(losses[step]) for step in steps],
        [max(losses[step]) for step in steps],
    )


def draw(folder: Path, record: ComparisonRecord) -> Path | None:
    """Write the plot into the comparison's folder; returns its path, None without matplotlib or finished runs."""
    try:
        from matplotlib.figure import Figure
        from matplotlib.layout_engine import ConstrainedLayoutEngine
        from matplotlib.ticker import EngFormatter
    except ImportError:
        return None
    found = curves(folder, record)
    if not found:
        return None
    figure = Figure(figsize=(11, 5), dpi=160, layout=ConstrainedLayoutEngine(w_pad=0.12, wspace=0.02))
    left, right = figure.subplots(1, 2, sharey=True)
    _panel(left, found, [curve.tokens for curve in found], "tokens read")
    _panel(right, found, [curve.seconds for curve in found], "seconds, evaluations included")
    left.xaxis.set_major_formatter(EngFormatter(sep="\u2009"))
    left.set_ylabel(f"held-out {record.unit}", color=INK)
    figure.suptitle(_title(record), x=0.012, ha="left", color=INK, fontsize=11, parse_math=False)
    filesystem.write_file(folder / PLOT, to_png(figure))
    return folder / PLOT


def _title(record: ComparisonRecord) -> str:
    corpus = ", ".join(Path(path).name for path in record.corpus)
    seeds = f"mean of {len(record.seeds)} seeds, from lowest to highest" if len(record.seeds) > 1 else "one seed"
    return f"{corpus} \u00b7 {record.target_parameters:,} parameters each \u00b7 {seeds}"


def _panel(axes: Axes, found: Sequence[Curve], across: Sequence[list[float]], label: str) -> None:
    """Draw all curves with their bands, the best on top, and their names at the right, linked to the lines' ends."""
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
    """The range from below the best loss to the worst after a quarter of a run: the steep beginning is cut off."""
    low = min(min(curve.low) for curve in found)
    high = max(curve.mean[len(curve.mean) // 4] for curve in found)
    margin = 0.04 * (high - low) or 0.01 * low
    return low - margin, high + margin


def spread(wanted: Sequence[float], gap: float, floor: float = -math.inf) -> list[float]:
    """Positions for labels, as close to those wanted as possible, in the same order, at least `gap` apart, none below
    `floor`.

    Labels that would overlap form a group, centered on the mean of the positions that they want.
    """

    def lowest(group: Sequence[int]) -> float:
        return statistics.fmean(wanted[index] for index in group) - gap * (len(group) - 1) / 2

    order = sorted(range(len(wanted)), key=wanted.__getitem__)
    groups: list[list[int]] = []
    for index in order:
        group = [index]
        while groups and lowest(group) < lowest(groups[-1]) + gap * len(groups[-1]):
            group = groups.pop() + group
        groups.append(group)
    free = [lowest(group) + k * gap for group in groups for k in range(len(group))]
    places = [0.0] * len(wanted)
    for rank, (index, place) in enumerate(zip(order, free, strict=True)):
        places[index] = max(place, floor + rank * gap)
    return places

"""What the trainings of small_corpora.py found: read from its results file, as tables, targets and a plot."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

from targets import Results, shown

from textgen.compare.plot import COLOURS, FAINT, INK
from textgen.formatting import plural, short
from textgen.storage.outputs import to_png

if TYPE_CHECKING:
    from matplotlib.axes import Axes

CHARACTERS, NOTES = "shakespeare-char", "notes"
TITLES = {
    "blake": "Poems by Blake",
    "titles": "Hacker News titles",
    "alice": "Alice in Wonderland",
    "names": "First names",
    "bryant": "Stories by Bryant",
    "stories": "The bundled stories",
    "grimm": "Grimms' tales",
    "shakespeare": "Tiny Shakespeare",
    CHARACTERS: "Tiny Shakespeare, characters",
    NOTES: "A folder of product reviews",
}
"""All corpora, by size."""

MOST_RISE, LAST_THIRD, MOST_OFF = 0.3, 2 / 3, 5.0
"""Targets: by how many percent bits may rise besides the noise; from which share of the steps the best weights come; by
how many percent wall time may differ from the minutes."""


@dataclass(frozen=True)
class Run:
    """One finished training: what identifies it, what it reached, and what the plan was."""

    corpus: str
    minutes: float
    seed: int
    options: str
    commit: str
    bits_per_byte: float
    nats_per_character: float
    ppmd_bits_per_byte: float
    held_out_bytes: int
    corpus_bytes: int
    best_step: int
    steps: int
    ended_early: str | None
    wall_seconds: float
    train_seconds: int | None
    cell: str
    hidden_size: int
    layers: int
    epochs: float
    parameters: int
    dropout: float
    embedding_dropout: float
    weight_drop: float
    weight_decay: float
    average_weights: float
    learning_rate: float
    tokenizer: str
    vocab_size: int
    threads: int
    processor: str
    date: str

    @property
    def loss(self) -> float:
        """What is compared: bits per byte, or nats per character where the corpus is read by characters."""
        return self.nats_per_character if self.corpus == CHARACTERS else self.bits_per_byte

    @property
    def best_at(self) -> float:
        """Where the best weights are, as a share of the steps."""
        return self.best_step / self.steps

    @property
    def off(self) -> float:
        """By how many percent wall time differs from the minutes."""
        return 100 * (self.wall_seconds / (60 * self.minutes) - 1)

    def __str__(self) -> str:
        return f"{self.corpus}, {self.minutes:g} min, seed {self.seed}"


def read_runs(path: Path) -> list[Run]:
    """All runs of a results file, in the order in which they finished; none if there is no such file."""
    return [Run(**json.loads(line)) for line in path.read_text().splitlines()] if path.exists() else []


class Cells:
    """Runs by corpus and minutes, and how much their losses vary with the seed."""

    def __init__(self, runs: Iterable[Run]) -> None:
        last = {(run.corpus, run.minutes, run.seed): run for run in runs}
        self.runs = list(last.values())
        self._of: dict[tuple[str, float], list[Run]] = {}
        for run in self.runs:
            self._of.setdefault((run.corpus, run.minutes), []).append(run)
        several = [cell for cell in self._of.values() if len(cell) > 1]
        freedom = sum(len(cell) - 1 for cell in several)
        squares = sum((len(cell) - 1) * (statistics.stdev(run.loss for run in cell) / mean(cell)) ** 2
                      for cell in several)  # fmt: skip
        self.spread = math.sqrt(squares / freedom) if freedom else 0.0
        """The relative standard deviation over seeds, pooled over all cells that have several."""

    def of(self, corpus: str, minutes: float) -> list[Run]:
        """The runs of a cell, one for each seed."""
        return self._of.get((corpus, minutes), [])

    @property
    def corpora(self) -> list[str]:
        return [name for name in TITLES if any(corpus == name for corpus, _ in self._of)]

    def minutes(self, *corpora: str) -> list[float]:
        """All budgets of these corpora, ascending."""
        return sorted({minutes for corpus, minutes in self._of if corpus in corpora})

    def error(self, cell: Sequence[Run]) -> float:
        """The relative standard error of a mean loss: of its own seeds, or with one seed of the pooled spread."""
        if len(cell) == 1:
            return self.spread
        return statistics.stdev(run.loss for run in cell) / math.sqrt(len(cell)) / mean(cell)


def mean(cell: Sequence[Run]) -> float:
    """The mean loss over seeds."""
    return statistics.fmean(run.loss for run in cell)


def report(cells: Cells, base: Cells) -> str:
    """Tables of all cells, beside those that start from the base, then the targets."""
    runs = cells.runs
    threads, processors = (sorted({str(getattr(run, name)) for run in runs}) for name in ("threads", "processor"))
    small = [name for name in cells.corpora if name != CHARACTERS]
    head = (
        f"{max(run.date for run in runs)}, {', '.join(processors)}, threads {', '.join(threads)}, commit "
        f"{', '.join(dict.fromkeys(run.commit for run in runs))}, {plural(len(runs), 'run')}; standard deviation over "
        f"seeds {100 * cells.spread:.2f} % (pooled)"
    )
    return "\n\n".join(
        [
            head + "".join(f"; {options}" for options in {run.options for run in runs} if options),
            "Bits per byte of the held-out part, mean ± standard error over seeds\n" + _bits(cells, small, base),
            *(f"{title}\n" + _by_minutes(cells, cells.corpora, text) for title, text in DETAILS.items()),
            "\n".join(_targets(cells)),
        ]
    )


def _loss(cell: Sequence[Run], error: float) -> str:
    return f"{mean(cell):.4f}" + (f" ± {error * mean(cell):.4f}" if len(cell) > 1 else "")


DETAILS: dict[str, Callable[[Sequence[Run]], str]] = {
    "Wall time against the minutes asked for (the seed furthest off; * ended early)": lambda cell: (
        f"{max((run.off for run in cell), key=abs):+.1f} %" + _early(cell)
    ),
    "Position of the best weights (the earliest seed; * ended early)": lambda cell: (
        f"{min(run.best_at for run in cell):.0%}" + _early(cell)
    ),
    "Plan (first seed): layers x units, epochs, dropout": lambda cell: (
        f"{cell[0].layers} x {cell[0].hidden_size}, {cell[0].epochs:.1f}, {cell[0].dropout:g}"
    ),
}
"""Further tables: the title, and the text of a cell."""


def _early(cell: Sequence[Run]) -> str:
    return "*" if any(run.ended_early for run in cell) else ""


def _bits(cells: Cells, corpora: Sequence[str], base: Cells) -> str:
    """The losses of all corpora, with PPMd and those from the base; those in nats per character in a table of their own
    below."""
    minutes = cells.minutes(*corpora)
    rows = [["", "bytes", *(f"{each:g} min" for each in minutes), "PPMd", "5 min / PPMd"]]
    of_base = base.minutes(*corpora)
    rows[0] += [f"base, {each:g} min" for each in of_base] + ["base / PPMd"] * bool(of_base)
    for name in corpora:
        found = [cells.of(name, each) for each in minutes]
        any_run, five = next(cell for cell in found if cell)[0], cells.of(name, 5)
        ratio = f"{mean(five) / any_run.ppmd_bits_per_byte:.3f}" if five else ""
        losses = [_loss(cell, cells.error(cell)) if cell else "" for cell in found]
        ppmd = any_run.ppmd_bits_per_byte
        started = [base.of(name, each) for each in of_base]
        best = min((mean(cell) for cell in started if cell), default=None)
        rows.append(
            [
                *(name, short(any_run.corpus_bytes), *losses, f"{ppmd:.4f}", ratio),
                *(_loss(cell, base.error(cell)) if cell else "" for cell in started),
                *(["" if best is None else f"{best / ppmd:.3f}"] if of_base else []),
            ]
        )
    nats = [f"{CHARACTERS}, {minutes:g} min: {_loss(cell, cells.error(cell))} nats per character"
            for minutes in cells.minutes(CHARACTERS) if (cell := cells.of(CHARACTERS, minutes))]  # fmt: skip
    return "\n".join([_aligned(rows) if corpora else "", *nats]).strip("\n")


def _by_minutes(cells: Cells, corpora: Sequence[str], text: Callable[[Sequence[Run]], str]) -> str:
    minutes = cells.minutes(*corpora)
    rows = [[name, *(text(cell) if (cell := cells.of(name, each)) else "" for each in minutes)] for name in corpora]
    return _aligned([["", *(f"{each:g} min" for each in minutes)], *rows])


def _aligned(rows: Sequence[Sequence[str]]) -> str:
    """Rows as a table: the first column to the left, the others to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(cell.rjust(width) if at else cell.ljust(width) for at, (cell, width) in
                  enumerate(zip(row, widths, strict=True))).rstrip()
        for row in rows
    )  # fmt: skip


def _targets(cells: Cells) -> list[str]:
    """What more minutes must give, next to what they gave."""
    results = Results()
    for name in cells.corpora:
        for less, more in pairwise(cells.minutes(name)):
            before, after = cells.of(name, less), cells.of(name, more)
            error = math.hypot(cells.error(before), cells.error(after))
            rise = 100 * (mean(after) / mean(before) - 1)
            most = round(MOST_RISE + 200 * error, 2)
            results.add(f"{name}, {less:g} to {more:g} min: loss rises by", rise, "%", at_most=most)
    early = [run for run in cells.runs if run.best_at < LAST_THIRD and not run.ended_early]
    off = [run for run in cells.runs if abs(run.off) > MOST_OFF and not (run.ended_early and run.off < 0)]
    results.add("best weights before the last third, without an early end", len(early), at_most=0)
    results.add(f"wall time off by more than {MOST_OFF:g} %, without an early end", len(off), at_most=0)
    lines = [shown(row) for row in results.rows]
    lines += [f"  best weights at {run.best_at:.0%}: {run}" for run in early]
    lines += [f"  wall time {run.off:+.1f} %: {run}" for run in off]
    ratios = {name: mean(cell) / cell[0].ppmd_bits_per_byte
              for name in cells.corpora if name != CHARACTERS and (cell := cells.of(name, 5))}  # fmt: skip
    above = [f"{name} {ratio:.3f}" for name, ratio in ratios.items() if ratio >= 1]
    lines.append(f"five minutes are below PPMd on {len(ratios) - len(above)} of {len(ratios)} corpora"
                 + (f"; times PPMd elsewhere: {', '.join(above)}" if above else ""))  # fmt: skip
    return [*lines, *(f"  ended early: {run}: {run.ended_early}" for run in cells.runs if run.ended_early)]


def draw(cells: Cells) -> bytes:
    """A PNG with one panel per corpus: bits per byte over minutes, and PPMd's as a horizontal line."""
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    corpora = [name for name in cells.corpora if name != CHARACTERS]
    across = min(4, len(corpora))
    down = -(-len(corpora) // across)
    layout = ConstrainedLayoutEngine(w_pad=0.06, h_pad=0.06, wspace=0.03, hspace=0.05)
    figure = Figure(figsize=(2.2 * across, 2 * down + 0.5), dpi=200, layout=layout)
    panels = figure.subplots(down, across, squeeze=False).flatten().tolist()
    ticks = cells.minutes(*corpora)
    for number, axes in enumerate(panels):
        if number >= len(corpora):
            axes.set_visible(False)
            continue
        axes.set_xscale("log")
        axes.set_xlim(ticks[0] / 1.3, ticks[-1] * 1.3)
        axes.set_xticks(ticks, [f"{each:g}" for each in ticks])
        axes.set_xticks([], minor=True)
        _panel(axes, cells, corpora[number], named=number == 0)
        if number + across >= len(corpora):
            axes.set_xlabel("minutes", color=INK, fontsize=8, labelpad=2)
    title = "Bits per byte of the held-out part, by minutes of training (lower is better)"
    figure.suptitle(title, x=0.01, ha="left", color=INK, fontsize=10.5)
    return to_png(figure)


def _panel(axes: Axes, cells: Cells, name: str, named: bool) -> None:
    """One corpus: a line through the means, a dot for each seed, and the last value and PPMd's as text."""
    from matplotlib.patheffects import withStroke
    from matplotlib.ticker import MaxNLocator

    minutes = cells.minutes(name)
    found = [cells.of(name, each) for each in minutes]
    means, ppmd = [mean(cell) for cell in found], found[0][0].ppmd_bits_per_byte
    colour, other = COLOURS[0], COLOURS[1]
    low, high = min(*means, ppmd), max(*means, ppmd)
    axes.set_ylim(low - 0.2 * (high - low), high + 0.2 * (high - low))
    axes.axhline(ppmd, color=other, linewidth=1.1, linestyle=(0, (4, 2)), zorder=1)
    axes.plot(minutes, means, color=colour, linewidth=1.8, solid_capstyle="round", zorder=3)
    for each, cell in zip(minutes, found, strict=True):
        if len(cell) > 1:
            axes.plot([each] * len(cell), [run.loss for run in cell], "o", color=colour, markersize=2.6, alpha=0.45,
                      markeredgewidth=0, zorder=2)  # fmt: skip
        axes.plot([each], [mean(cell)], "o", color=colour, markersize=4, markeredgecolor="white", zorder=4)
    halo = [withStroke(linewidth=2.5, foreground="white")]
    beside = {"textcoords": "offset points", "fontsize": 8.5, "zorder": 5, "path_effects": halo}
    (left, right), clear = axes.get_xlim(), ppmd - means[-1] > 0.15 * (high - low)  # the line ends well below
    axes.annotate(f"PPMd {ppmd:.2f}", (right if clear else left, ppmd), (-2, 3) if clear else (2, -3), color=other,
                  ha="right" if clear else "left", va="bottom" if clear else "top", **beside)  # fmt: skip
    up = means[-1] >= ppmd
    axes.annotate(f"{means[-1]:.2f}", (minutes[-1], means[-1]), (0, 5 if up else -5), color=colour, ha="center",
                  va="bottom" if up else "top", fontweight="bold", **beside)  # fmt: skip
    if named:
        axes.annotate("textgen", (minutes[0], means[0]), (7, 2), color=colour, ha="left", va="center", **beside)
    size = short(found[0][0].corpus_bytes)
    axes.set_title(f"{TITLES[name]} · {size}B", loc="left", color=INK, fontsize=9, pad=5)
    axes.yaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 2.5, 5, 10], min_n_ticks=3))
    axes.tick_params(colors=INK, length=0, labelsize=8)
    axes.grid(axis="y", color=FAINT, linewidth=0.6)
    axes.set_axisbelow(True)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set_color(FAINT)

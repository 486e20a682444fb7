"""A table of what is known in advance: the next values of future columns, without those to forecast."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from textgen.data.sources import Source, SourceOptions, no_content, read_rows
from textgen.data.tables import Header, NumberFormat, require_columns
from textgen.errors import TextgenError
from textgen.tasks.forecasting.columns import Columns, TimeCells, parse_times, refuse_duplicates
from textgen.tasks.forecasting.known import Known, known_values
from textgen.tasks.forecasting.reading import Series, TableRows, name_of
from textgen.tasks.forecasting.scaling import Floats
from textgen.tasks.forecasting.times import ROW, Clock, Integers


@dataclass(frozen=True)
class Ahead:
    """The times (M,) of some rows, None if rows are counted, and their values (M, columns)."""

    stamps: Integers | None
    values: Floats

    def after(self, series: Series, clock: Clock) -> Series:
        """A series with these values after its end; values at its own steps are ignored. Raises TextgenError for a time
        between two steps."""
        if self.stamps is None:
            places = len(series) + np.arange(len(self.values))
        else:
            places, rest = np.divmod(self.stamps - series.start, clock.step)
            if np.any(rest):
                time = clock.label(int(self.stamps[np.flatnonzero(rest)[0]]))
                raise TextgenError(f"{time} in the table of future values is not a step of series {series.name!r}.")
        later = places >= len(series)
        if not later.any():
            return series
        length = max(len(series.known), int(places.max()) + 1)
        known = np.full((length, series.known.shape[1]), np.nan)
        known[: len(series.known)] = series.known
        known[places[later], : self.values.shape[1]] = self.values[later]
        return replace(series, known=known)


def read_ahead(
    sources: Sequence[Source],
    columns: Columns,
    known: Sequence[Known],
    reading: SourceOptions,
    clock: Clock,
    decimal: str | None = None,
) -> Mapping[str, Ahead]:
    """The values of future columns in some tables, by the name of each series. Raises TextgenError naming row and
    column of what cannot be read."""
    chosen = replace(columns, targets=(), extras=(), static=())

    def choose(header: Header) -> list[str]:
        require_columns(header.columns, chosen.all(), header.name)
        return chosen.all()

    gathered = TableRows()
    for source in sources:
        gathered.add(read_rows(source, reading, choose), chosen, NumberFormat.of([], decimal))
    if not gathered.where:
        raise no_content(sources, "rows")
    rows = [np.array(group.rows) for group in gathered.groups.values()]
    stamps = None
    if clock.unit != ROW:
        cells = TimeCells(gathered.times, gathered.where, rows, " ".join(chosen.times))
        found = parse_times(cells, None, clock)
        if found.clock.unit != clock.unit:
            raise TextgenError(f"a step of {sources[0].name!r} is not {clock.described()}, as that of the model is.")
        refuse_duplicates(found, cells, [], chosen)
        stamps = found.stamps
    words = {each.column: each.words for each in known}
    ahead: dict[str, Ahead] = {}
    for (key, group), places in zip(gathered.groups.items(), rows, strict=True):
        values = known_values(chosen.future, group.known, words, [gathered.where[place] for place in places])
        for target in columns.targets:
            ahead[name_of(key, target, columns)] = Ahead(None if stamps is None else stamps[places], values)
    return ahead

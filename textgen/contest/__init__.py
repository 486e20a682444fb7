"""A fair contest between cells: the same text, the same number of parameters, the same budget, several seeds."""

from __future__ import annotations

from dataclasses import fields
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from textgen.contest.results import Row


def compare(corpus: Any, **options: Any) -> list[Row]:
    """Compare cells on a corpus, as `textgen.train` takes it; returns a row a cell, the best first.

    Options are the fields of `textgen.contest.settings.ContestOptions`, and those of `textgen.settings.TrainOptions`
    that hold for every cell alike. The same call goes on where it was stopped. Raises TextgenError or UsageError in
    one sentence.

    Example:
        >>> rows = compare("notes.txt", cells=["lstm", "gru"], budget=["params=200k", "minutes=1"])   # doctest: +SKIP
        >>> rows[0].name, rows[0].mean                                                                # doctest: +SKIP
    """
    from textgen.contest.prepare import prepare
    from textgen.contest.results import rows
    from textgen.contest.settings import ContestOptions, request
    from textgen.options import from_mapping
    from textgen.settings import TrainOptions
    from textgen.text.memory import corpora

    paths = corpora("corpus", corpus)
    own = {f.name for f in fields(ContestOptions)}
    contest = from_mapping(ContestOptions, {name: value for name, value in options.items() if name in own})
    training = from_mapping(TrainOptions, {name: value for name, value in options.items() if name not in own})
    prepared = prepare(paths, request(contest, training), contest.output_dir)
    for _ in prepared.events():
        pass
    return rows(prepared.record)

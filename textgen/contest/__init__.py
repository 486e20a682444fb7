"""Compare cells under equal conditions: the same text, number of parameters and budget, over several seeds."""

from __future__ import annotations

from dataclasses import fields
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from textgen.contest.results import CellResult


def compare(corpus: Any, **options: Any) -> list[CellResult]:
    """Compare cells on a corpus, given as for `textgen.train`; returns one result per cell, the best first.

    Options are the fields of `textgen.contest.settings.CompareOptions`, and those of
    `textgen.tasks.language.options.LanguageOptions` that apply to every cell alike. If a comparison was interrupted,
    the same call continues it. Raises TextgenError or UsageError in one sentence.

    Example:
        >>> results = compare("notes.txt", cells=["lstm", "gru"], budget=["params=200k", "minutes=1"])  # doctest: +SKIP
        >>> results[0].name, results[0].mean                                                            # doctest: +SKIP
    """
    from textgen.contest.prepare import prepare
    from textgen.contest.results import ranked
    from textgen.contest.settings import CompareOptions, request
    from textgen.options import from_mapping
    from textgen.tasks.language.options import LanguageOptions
    from textgen.text.memory import corpora

    paths = corpora("corpus", corpus)
    own = {f.name for f in fields(CompareOptions)}
    compared = from_mapping(CompareOptions, {name: value for name, value in options.items() if name in own})
    training = from_mapping(LanguageOptions, {name: value for name, value in options.items() if name not in own})
    comparison = prepare(paths, request(compared, training), compared.output_dir)
    for _ in comparison.events():
        pass
    return ranked(comparison.record)

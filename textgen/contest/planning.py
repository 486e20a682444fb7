"""From what was asked to a contest with everything decided: one text, one size for all, a length for each cell.

Whatever a training would plan is planned by the same code (`textgen.training.train.start`, without creating a run).
A cell that cannot be planned is out, with the reason; the others go on without it.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import cache
from statistics import median_low
from typing import Any

import torch

from textgen import cell_options, plugins, sealed
from textgen.attribution import summary_of
from textgen.cell import Cell
from textgen.contest.record import Entrant, Record
from textgen.contest.settings import Competitor, Request
from textgen.contest.sizes import Count, agree, by_default, nearest, smallest
from textgen.errors import TextgenError, UsageError, showable
from textgen.model import build_model
from textgen.plugins import PluginError
from textgen.settings import DEFAULT_MINUTES, TrainOptions
from textgen.tasks.sizing import QUICK_LOOK, embedding_for, model_config
from textgen.text.lanes import MORE_TEXT
from textgen.text.sources import lasting
from textgen.text.split import TRAIN, VALIDATION
from textgen.text.store import TokenStore
from textgen.training.machine import ThisMachine
from textgen.training.plan import EVALUATION_COST, EVALUATIONS
from textgen.training.provenance import versions
from textgen.training.train import Session, start

SPEED_SECONDS = 1.0
"""How long a cell's speed is measured where it decides nothing but what to expect."""


class Planner:
    """Fills in a contest for the tokens of a store."""

    def __init__(self, request: Request, store: TokenStore) -> None:
        self._request = request
        self._store = store
        self._level = store.tokenizer.level
        self._vocab_size = store.tokenizer.vocab_size
        one_precision = request.training.dtype or "float32"
        self._training = replace(request.training, **_OF_THE_STORE, sample_steps=0, dtype=one_precision)

    def plan(self, corpus: list[str]) -> Record:
        """The whole contest. Raises UsageError for a cell or a budget that cannot be, TextgenError if no cell can."""
        entrants = [_entrant(competitor, slug) for competitor, slug in _named(self._request.competitors)]
        target = self._request.budget.params or self._parameters_of_first(entrants)
        self._fix_sizes(entrants, target)
        self._fix_lengths(entrants)
        self._fix_dropout(entrants)
        seeds = [self._request.first_seed + k for k in range(self._request.seeds)]
        asked, made_with = self._request.to_json(), versions(torch.get_num_threads())
        where = [lasting(path) for path in corpus]
        return Record(asked, where, self._store.key, self._level, seeds, target, entrants, made_with)

    def _start(self, entrant: Entrant, **options: Any) -> Session:
        """What a training of this cell would be; nothing is created."""
        given = {"cell": entrant.cell, "cell_options": entrant.cell_options, **options}
        return start([str(self._store.folder)], replace(self._training, **given), time.monotonic(), dry_run=True)

    def _each(self, entrants: list[Entrant], do: Callable[[Entrant], None]) -> None:
        """Do something for every entrant that is in; one for which it fails is out. Raises TextgenError if all are."""
        for entrant in [entrant for entrant in entrants if entrant.failed is None]:
            try:
                with plugins.blamed():
                    do(entrant)
            except (UsageError, OSError, sealed.DamagedError):
                raise
            except Exception as error:  # whatever is wrong inside a plugin is that cell's failure alone
                entrant.failed = reason(error)
        if all(entrant.failed for entrant in entrants):
            raise TextgenError(f"no cell can run: {entrants[0].name}: {entrants[0].failed}")

    def _parameters_of_first(self, entrants: list[Entrant]) -> int:
        """The size of all where none is given: what a training of the first cell would have."""
        found: list[int] = []
        tokens = self._request.budget.tokens
        length = {"max_steps": 1} if tokens else {"minutes": self._minutes}

        def look(entrant: Entrant) -> None:
            if not found:
                found.append(self._start(entrant, **length).forecast.parameters)

        self._each(entrants, look)
        return found[0]

    @property
    def _minutes(self) -> float:
        return self._request.budget.minutes or DEFAULT_MINUTES

    def _fix_sizes(self, entrants: list[Entrant], target: int) -> None:
        """Hidden sizes at which all models have as many parameters, and the embedding size that they share."""
        counts: dict[str, Count] = {}

        def default_embedding(hidden: int) -> int:
            return self._training.embedding_size or embedding_for(self._level, hidden)

        def look(entrant: Entrant) -> None:
            count = counter(self._training, self._level, self._vocab_size, entrant.cell, entrant.cell_options)
            by_hidden = by_default(count, default_embedding)
            smallest(entrant.name, by_hidden, target)
            nearest(by_hidden, target)
            counts[entrant.name] = count

        self._each(entrants, look)
        sizes, embedding = agree(counts, target, default_embedding)
        self._training = replace(self._training, embedding_size=embedding)
        for entrant in entrants:
            if entrant.name in sizes:
                entrant.parameters = sizes[entrant.name].parameters
                entrant.options = replace(self._training, hidden_size=sizes[entrant.name].hidden)

    def _fix_lengths(self, entrants: list[Entrant]) -> None:
        """Steps, schedule and all else that a training would plan at these sizes, the same for the same cell."""
        planned: dict[Any, Entrant] = {}

        def look(entrant: Entrant) -> None:
            same = (plugins.cell(entrant.cell), tuple(sorted(entrant.cell_options.items())))
            twin = planned.setdefault(same, entrant)
            if twin is entrant:
                self._fix_length(entrant)
            elif twin.failed:
                entrant.failed = twin.failed
            else:
                entrant.options = replace(twin.plan, cell=entrant.cell)
                entrant.step_seconds, entrant.expected_seconds = twin.step_seconds, twin.expected_seconds

        self._each(entrants, look)

    def _fix_length(self, entrant: Entrant) -> None:
        size, tokens = entrant.plan.hidden_size, self._request.budget.tokens
        if tokens:
            window = self._start(entrant, hidden_size=size, max_steps=1).options
            assert window.batch_size and window.seq_length
            steps = max(1, round(tokens / (window.batch_size * window.seq_length)))
            session = self._start(entrant, hidden_size=size, max_steps=steps)
        else:
            session = self._start(entrant, hidden_size=size, minutes=self._minutes)
        options = replace(session.options, minutes=None)
        assert options.batch_size and options.seq_length and options.max_steps
        seconds = session.forecast.step_seconds
        if seconds is None:
            machine = ThisMachine(session.data, str(session.trainer.update.device))
            seconds = machine.step_seconds(session.config, options, SPEED_SECONDS, dtype=options.dtype or "float32")
        held_out = len(self._store.model_tokens(VALIDATION))
        looked_at = held_out + EVALUATIONS * min(held_out, QUICK_LOOK)
        evaluating = EVALUATION_COST * looked_at / (options.batch_size * options.seq_length)
        entrant.options, entrant.step_seconds = options, seconds
        entrant.expected_seconds = seconds * (options.max_steps + evaluating)

    def _fix_dropout(self, entrants: list[Entrant]) -> None:
        """One rate for all, where it is planned: the median of what the cells would be given by their epochs."""
        running = [entrant for entrant in entrants if entrant.failed is None]
        if self._training.dropout is None:
            dropout = median_low(entrant.plan.dropout or 0.0 for entrant in running)
            for entrant in running:
                entrant.options = replace(entrant.plan, dropout=dropout)


_OF_THE_STORE: dict[str, Any] = {
    name: getattr(TrainOptions(), name)
    for name in (
        "tokenizer",
        "vocab_size",
        "encoding",
        "document_separator",
        "text_column",
        "validation_file",
        "validation_split",
    )
}
"""Options that went into the tokens and are not repeated by the runs that read them."""


def counter(training: TrainOptions, level: str, vocab_size: int, cell: str, options: Mapping[str, Any]) -> Count:
    """Counts the parameters of models with this cell and these options without making them: their tensors have
    shapes and no content."""
    kind = plugins.cell(cell)

    def make(input_size: int, hidden_size: int) -> Cell:
        return plugins.make(kind, cell, input_size, hidden_size, options)

    @cache
    def count(hidden: int, embedding: int) -> int | None:
        asked = replace(training, cell=cell, embedding_size=embedding)
        try:
            with torch.device("meta"):
                model = build_model(model_config(asked, level, vocab_size, hidden), make)
        except PluginError:
            raise
        except ValueError:
            return None
        return sum(parameter.numel() for parameter in model.parameters())

    return count


def refuse_nothing_to_judge(store: TokenStore) -> None:
    """Raise TextgenError for a store that holds too little out, or has nothing to train on."""
    if len(store.model_tokens(VALIDATION)) < 2:
        raise TextgenError("nothing is held out of this corpus, so that cells cannot be compared on it.",
                           hint="a longer text, --validation-file, or a --validation-split above 0.")  # fmt: skip
    if len(store.model_tokens(TRAIN)) < 2:
        raise TextgenError("the training part has no tokens to train on.", hint=MORE_TEXT)


def reason(error: Exception) -> str:
    """What went wrong, as a sentence in one line."""
    said = str(error) if isinstance(error, TextgenError) else showable(summary_of(error))
    return said if said.endswith((".", "?")) else f"{said}."


def _entrant(competitor: Competitor, slug: str) -> Entrant:
    """An entrant, out already if its plugin is broken. Raises UsageError for a cell or option that does not exist."""
    entrant = Entrant(competitor.name, slug, competitor.cell, dict(competitor.options))
    try:
        cell = plugins.cell(competitor.cell)
    except PluginError as error:
        entrant.failed = reason(error)
        return entrant
    entrant.cell_options = dict(cell_options.parse(cell, competitor.cell, competitor.options))
    return entrant


def _named(competitors: list[Competitor]) -> list[tuple[Competitor, str]]:
    """Each competitor with a name for its folders, no two the same."""
    slugs: list[str] = []
    for competitor in competitors:
        stem = slug = re.sub(r"[^A-Za-z0-9_.-]+", "-", competitor.name).strip("-.") or "cell"
        number = 2
        while slug in slugs:
            slug, number = f"{stem}-{number}", number + 1
        slugs.append(slug)
    return list(zip(competitors, slugs, strict=True))

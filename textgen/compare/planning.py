"""Plan a comparison: equal parameter counts, and the number of steps of each cell.

Every run is planned by the code that plans any training. A cell that cannot be planned is excluded, with the reason.

Sizes are whole numbers, so small models come in coarse steps. Multiples of 16, 8, 4 and 2 are tried before odd sizes:
they are faster, and a cell whose number of heads divides its size keeps that number. Where steps are too coarse, the
embedding size, which is the same for all cells, is adjusted a little.
"""

from __future__ import annotations

import math
import re
import time
from bisect import bisect_right
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from functools import cache
from statistics import median_low
from typing import Any, cast

import torch

from textgen import cells, plugins, storage
from textgen.cells import Cell
from textgen.compare import CellSpec, ComparisonRequest
from textgen.compare.results import Candidate, ComparisonRecord
from textgen.data import CorpusOptions
from textgen.data.recipes import TRAIN, VALIDATION
from textgen.data.sources import lasting
from textgen.data.store import MORE_TEXT, TokenStore
from textgen.errors import TextgenError, UsageError, showable, summary_of
from textgen.model import LARGEST
from textgen.model.stack import build_model
from textgen.options import named
from textgen.plugins import PluginError
from textgen.tasks import DEFAULT_MINUTES, planned
from textgen.tasks.language.options import LanguageOptions
from textgen.tasks.sizes import embedding_for, model_config
from textgen.training.planner import ThisMachine, steps_evaluating
from textgen.training.runs import versions
from textgen.training.start import Training, start

Count = Callable[[int, int], int | None]
"""The parameters of a model by (hidden size, embedding size); None where its cell refuses them."""

CountAt = Callable[[int], int | None]
"""The same by hidden size alone."""

NEAR = 0.01
"""The relative distance from the budget that is close enough: then any two models agree within 2 %."""

SPEED_SECONDS = 1.0
"""How long a cell's speed is measured if only the time estimate depends on it."""

_OF_THE_STORE: dict[str, Any] = {f.name: f.default for f in fields(CorpusOptions)}
"""Options that the token store depends on; the runs, which read that store, leave them at their defaults."""

EMBEDDINGS_TRIED = 64
SKIPPED = 256
"""How many consecutive sizes a cell may refuse before the search fails."""


def counter(training: LanguageOptions, kind: str, vocab_size: int, cell: str, options: Mapping[str, Any]) -> Count:
    """A function that counts the parameters of models with this cell and these options, on torch's meta device."""
    cell_class = plugins.cell(cell)

    def make(input_size: int, hidden_size: int) -> Cell:
        return plugins.make(cell_class, cell, input_size, hidden_size, options)

    @cache
    def count(hidden: int, embedding: int) -> int | None:
        asked = replace(training, cell=cell, embedding_size=embedding)
        try:
            with torch.device("meta"):
                model = build_model(model_config(asked, kind, vocab_size, hidden), make)
        except PluginError:
            raise
        except ValueError:
            return None
        return sum(parameter.numel() for parameter in model.parameters())

    return count


def by_default(count: Count, default_embedding: Callable[[int], int]) -> CountAt:
    """The parameters by hidden size, if the embedding size is a function of it."""
    return lambda hidden: count(hidden, default_embedding(hidden))


@dataclass(frozen=True)
class Size:
    """A hidden size, and the parameters of the whole model with it."""

    hidden: int
    parameters: int

    def distance(self, target: int) -> float:
        """The relative distance from the budget."""
        return abs(self.parameters - target) / target


def nearest(count: CountAt, target: int, guess: int = 64) -> Size:
    """The size whose parameters are nearest to the target, on the coarsest lattice that is close enough.

    Raises ValueError for a cell that refuses too many consecutive sizes.
    """
    best = _nearest_multiple(count, 16, target, guess)
    for lattice in (8, 4, 2, 1):
        if best.distance(target) <= NEAR:
            break
        size = _nearest_multiple(count, lattice, target, best.hidden)
        best = min(best, size, key=lambda each: each.distance(target))
    return best


def _nearest_multiple(count: CountAt, lattice: int, target: int, guess: int) -> Size:
    """The best multiple of `lattice`, by galloping away from a guess and then bisecting."""
    known: dict[int, Size] = {}
    most = LARGEST["hidden_size"] // lattice

    def at_least(multiple: int) -> Size:
        if multiple not in known:
            known[multiple] = _first_accepted(count, multiple, most, lattice)
        return known[multiple]

    low, width = max(1, min(most - 1, guess // lattice)), 1
    high = low + 1
    while low > 1 and at_least(low).parameters > target:
        low, high, width = max(1, low - width), low, 2 * width
    while high < most and at_least(high).parameters <= target:
        low, high, width = high, min(most, high + width), 2 * width
    high = bisect_right(range(high), target, lo=low + 1, key=lambda multiple: at_least(multiple).parameters)
    return min((at_least(high - 1), at_least(high)), key=lambda size: (size.distance(target), size.hidden))


def _first_accepted(count: CountAt, multiple: int, most: int, lattice: int) -> Size:
    last = min(most, multiple + SKIPPED)
    for candidate in range(multiple, last + 1):
        parameters = count(candidate * lattice)
        if parameters is not None:
            return Size(candidate * lattice, parameters)
    raise ValueError(f"it accepts no hidden size from {multiple * lattice:,} to {last * lattice:,}")


def require_smallest(name: str, count: CountAt, target: int) -> None:
    """Raise UsageError if even the smallest size of a cell exceeds the budget."""
    least = _first_accepted(count, 1, LARGEST["hidden_size"], 1)
    if least.parameters > target and least.distance(target) > NEAR:
        raise UsageError(
            f"{named('budget')} params={target} is too small: {name!r} has {least.parameters:,} parameters at its "
            "smallest size."
        )


def agree(
    counts: Mapping[str, Count], target: int, default_embedding: Callable[[int], int]
) -> tuple[dict[str, Size], int]:
    """A size for every cell, and one embedding size for all: the median of the cells' defaults, or one near it with
    which every cell is close to the target.

    Raises ValueError for a cell that refuses too many consecutive sizes.
    """
    alone = {name: nearest(by_default(count, default_embedding), target) for name, count in counts.items()}
    middle = median_low(default_embedding(size.hidden) for size in alone.values())
    fixed = default_embedding(1) == default_embedding(LARGEST["hidden_size"])
    best = max(size.distance(target) for size in alone.values()) if fixed else math.inf
    found = alone, middle
    around = range(max(1, middle - EMBEDDINGS_TRIED // 2), middle + EMBEDDINGS_TRIED // 2 + 1)
    for embedding in () if fixed else sorted(around, key=lambda size: abs(size - middle)):
        sizes = _closer(counts, target, embedding, alone, best)
        if sizes is not None:
            best, found = max(size.distance(target) for size in sizes.values()), (sizes, embedding)
        if best <= NEAR:
            break
    return found


def _closer(
    counts: Mapping[str, Count], target: int, embedding: int, guesses: Mapping[str, Size], best: float
) -> dict[str, Size] | None:
    """The sizes with this embedding size if all are closer to the target than `best`, else None."""
    sizes: dict[str, Size] = {}
    for name, count in sorted(counts.items(), key=lambda each: guesses[each[0]].hidden):  # the coarsest steps first
        sizes[name] = nearest(by_default(count, lambda _: embedding), target, guesses[name].hidden)
        if sizes[name].distance(target) >= best:
            return None
    return sizes


class Planner:
    """Plans a comparison on the tokens of a store."""

    def __init__(self, request: ComparisonRequest, store: TokenStore) -> None:
        self._request = request
        self._store = store
        self._kind = store.tokenizer.kind
        self._vocab_size = store.tokenizer.vocab_size
        one_precision = request.training.dtype or "float32"
        self._training = replace(request.training, **_OF_THE_STORE, sample_steps=0, dtype=one_precision)

    def plan(self, corpus: list[str]) -> ComparisonRecord:
        """The planned comparison. Raises UsageError for an unknown cell or a budget that is too small, TextgenError if
        no cell can run."""
        candidates = _candidates(self._request.cells)
        target = self._request.budget.params or self._default_parameters(candidates)
        self._fix_sizes(candidates, target)
        self._fix_lengths(candidates)
        self._fix_dropout(candidates)
        seeds = [self._request.first_seed + k for k in range(self._request.seeds)]
        asked, made_with = self._request.to_json(), versions(torch.get_num_threads())
        where = [lasting(path) for path in corpus]
        return ComparisonRecord(asked, where, self._store.key, self._kind, seeds, target, candidates, made_with)

    def _start(self, candidate: Candidate, **options: Any) -> Training:
        """A training session of this cell, as a dry run."""
        given = {"cell": candidate.cell, "cell_options": candidate.cell_options, **options}
        return start([str(self._store.folder)], replace(self._training, **given), time.monotonic(), dry_run=True)

    def _default_parameters(self, candidates: list[Candidate]) -> int:
        """The target size if the budget has none: what training would plan for the first cell that can run."""
        length = {"max_steps": 1} if self._request.budget.tokens else {"minutes": self._minutes}
        for candidate in candidates:
            if candidate.failed is None:
                with _failing(candidate):
                    return self._start(candidate, **length).estimate.parameters
        raise _none_can_run(candidates)

    @property
    def _minutes(self) -> float:
        return self._request.budget.minutes or DEFAULT_MINUTES

    def _fix_sizes(self, candidates: list[Candidate], target: int) -> None:
        """Choose hidden sizes that give all models the same number of parameters, and one embedding size for all."""
        counts: dict[str, Count] = {}

        def default_embedding(hidden: int) -> int:
            return self._training.embedding_size or embedding_for(self._kind, hidden)

        for candidate in _running(candidates):
            with _failing(candidate):
                count = counter(self._training, self._kind, self._vocab_size, candidate.cell, candidate.cell_options)
                by_hidden = by_default(count, default_embedding)
                require_smallest(candidate.name, by_hidden, target)
                nearest(by_hidden, target)
                counts[candidate.name] = count
        running = _running(candidates)
        sizes, embedding = agree(counts, target, default_embedding)
        self._training = replace(self._training, embedding_size=embedding)
        for candidate in running:
            candidate.parameters = sizes[candidate.name].parameters
            candidate.options = replace(self._training, hidden_size=sizes[candidate.name].hidden)

    def _fix_lengths(self, candidates: list[Candidate]) -> None:
        """Plan steps, schedule and the rest for these sizes. The same cell under two names gets the same plan."""
        first: dict[Any, Candidate] = {}
        for candidate in _running(candidates):
            with _failing(candidate):
                same = (plugins.cell(candidate.cell), tuple(sorted(candidate.cell_options.items())))
                twin = first.setdefault(same, candidate)
                if twin is candidate:
                    self._fix_length(candidate)
                elif twin.failed:
                    candidate.failed = twin.failed
                else:
                    candidate.options = replace(twin.plan, cell=candidate.cell)
                    candidate.step_seconds, candidate.expected_seconds = twin.step_seconds, twin.expected_seconds

    def _fix_length(self, candidate: Candidate) -> None:
        size, tokens = candidate.plan.hidden_size, self._request.budget.tokens
        if tokens:
            batch_size, seq_length = self._start(candidate, hidden_size=size, max_steps=1).options.window
            steps = max(1, round(tokens / (batch_size * seq_length)))
            session = self._start(candidate, hidden_size=size, max_steps=steps)
        else:
            session = self._start(candidate, hidden_size=size, minutes=self._minutes)
        options = replace(cast(LanguageOptions, session.options), minutes=None)
        seconds = session.estimate.step_seconds
        if seconds is None:
            machine = ThisMachine(session.data, str(session.trainer.update.device))
            seconds = machine.step_seconds(session.config, options, SPEED_SECONDS, dtype=planned(options.dtype))
        evaluating = steps_evaluating(len(self._store.model_tokens(VALIDATION)), math.prod(options.window))
        candidate.options, candidate.step_seconds = options, seconds
        candidate.expected_seconds = seconds * (planned(options.max_steps) + evaluating)

    def _fix_dropout(self, candidates: list[Candidate]) -> None:
        """Choose one dropout rate for all, unless it is given: the median of the rates planned for each cell."""
        running = _running(candidates)
        if self._training.dropout is None:
            dropout = median_low(planned(candidate.plan.dropout) for candidate in running)
            for candidate in running:
                candidate.options = replace(candidate.plan, dropout=dropout)


def require_both_parts(store: TokenStore) -> None:
    """Raise TextgenError for a store without held-out tokens, or without tokens to train on."""
    if len(store.model_tokens(VALIDATION)) < 2:
        raise TextgenError(
            "nothing is held out of this corpus, so cells cannot be compared on it.",
            hint=f"a longer text, {named('validation_file')}, or {named('validation_split')} above 0.",
        )
    if len(store.model_tokens(TRAIN)) < 2:
        raise TextgenError("the training part has no tokens to train on.", hint=MORE_TEXT)


def reason(error: Exception) -> str:
    """The error as a sentence on one line."""
    said = str(error) if isinstance(error, TextgenError) else showable(summary_of(error))
    return said if said.endswith((".", "?")) else f"{said}."


def _running(candidates: list[Candidate]) -> list[Candidate]:
    """The candidates that have not failed. Raises TextgenError if all have."""
    running = [candidate for candidate in candidates if candidate.failed is None]
    if not running:
        raise _none_can_run(candidates)
    return running


def _none_can_run(candidates: list[Candidate]) -> TextgenError:
    return TextgenError(f"no cell can run: {candidates[0].name}: {candidates[0].failed}")


@contextmanager
def _failing(candidate: Candidate) -> Iterator[None]:
    """Let an exception exclude this candidate only, unless the request or the disk is at fault."""
    try:
        with plugins.blamed():
            yield
    except (UsageError, OSError, storage.DamagedError):
        raise
    except Exception as error:  # a plugin may raise anything
        candidate.failed = reason(error)


def _candidates(specs: Sequence[CellSpec]) -> list[Candidate]:
    """A candidate for each spec, marked as failed if its plugin is broken. Raises UsageError for an unknown cell or
    cell option."""
    found: list[Candidate] = []
    for spec in specs:
        slug = re.sub(r"[^A-Za-z0-9_.-]+", "-", spec.name).strip("-.") or "cell"
        while any(slug == each.slug for each in found):
            slug += "-2"
        found.append(Candidate(spec.name, slug, spec.cell, dict(spec.options)))
        try:
            found[-1].cell_options = dict(cells.parse(plugins.cell(spec.cell), spec.cell, spec.options))
        except PluginError as error:
            found[-1].failed = reason(error)
    return found

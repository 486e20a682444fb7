"""The options of a comparison of cells, and the short notations for cells, budgets and learning rates."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, cast

from textgen.errors import UsageError, did_you_mean
from textgen.options import changed, check, named, option
from textgen.tasks import DEFAULT_MINUTES
from textgen.tasks.language.options import LanguageOptions
from textgen.training import check_training

DECIDED = (
    *("cell", "cell_options", "init_from", "size", "hidden_size", "minutes", "epochs", "max_steps", "max_time"),
    *("learning_rate", "early_stopping_patience", "sample_steps", "report_to", "seed"),
    *("output_dir", "overwrite_output_dir"),
    "task",
)
"""Training options that a comparison sets itself. All others apply to every cell alike."""

_NUMBER = re.compile(r"(\d[\d,_]*(?:\.\d+)?)([kmg]?)", re.IGNORECASE)
_UNITS = {"": 1, "k": 1_000, "m": 1_000_000, "g": 1_000_000_000}
_LARGEST = {"params": 10**11, "tokens": 10**13}


@dataclass(frozen=True)
class CompareOptions:
    """Which cells are compared, with what budget, and with how many seeds."""

    cells: list[str] = option(
        ["rnn", "lstm", "gru"],
        "The cells, separated by commas; a cell's options follow colons, as in mlstm:heads=2.",
        metavar="NAMES",
        default_text="rnn,lstm,gru",
        section="Comparison",
    )
    budget: list[str] = option(
        [],
        "Budget of each run: params=1M, and tokens=2M or minutes=3; may be repeated.",
        metavar="NAME=NUMBER",
        default_text=f"the size that train plans for the first cell, minutes={DEFAULT_MINUTES:g}",
    )
    seeds: int = option(3, "Number of runs per cell, each with a different seed.", low=1, high=1000)
    first_seed: int = option(1, "Seed of the first run of each cell; the others count up from it.", low=0, high=2**62)
    learning_rates: list[Any] = option(
        [],
        "Learning rates to try, separated by commas; a single one is used without trying others.",
        metavar="RATES",
        default_text="0.5, 1 and 2 times the planned one, and further while the best is at an edge",
    )
    output_dir: str | None = option(
        None, "Folder of the comparison.", metavar="DIR", default_text="runs/compare-CORPUS-N"
    )


@dataclass(frozen=True)
class CellSpec:
    """A cell with its options, and its name in the comparison: the notation as it was given."""

    name: str
    cell: str
    options: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Budget:
    """The budget of each run; what is None is planned."""

    params: int | None = None
    tokens: int | None = None
    minutes: float | None = None


@dataclass(frozen=True)
class ComparisonRequest:
    """A comparison as requested, parsed and checked."""

    cells: list[CellSpec]
    budget: Budget
    seeds: int
    first_seed: int
    learning_rates: list[float]
    training: LanguageOptions

    def to_json(self) -> dict[str, Any]:
        """What identifies a comparison, by the names of the options."""
        own = {
            "cells": [cell.name for cell in self.cells],
            "budget": asdict(self.budget),
            "seeds": self.seeds,
            "first_seed": self.first_seed,
            "learning_rates": self.learning_rates,
        }
        return {**own, **changed(self.training)}


def make_request(compared: CompareOptions, training: LanguageOptions) -> ComparisonRequest:
    """Parse and check the options. Raises UsageError."""
    check(compared)
    for name in DECIDED:
        if name in changed(training):
            raise UsageError(
                f"{named(name)} is set by the comparison itself.", hint=f"sizes follow from {named('budget')}."
            )
    check_training(training)
    if training.validation_split == 0 and not training.validation_file:
        raise UsageError(f"{named('validation_split', 0)} holds nothing out, so cells cannot be compared.")
    return ComparisonRequest(
        cells(compared.cells),
        budget(compared.budget),
        compared.seeds,
        compared.first_seed,
        learning_rates(compared.learning_rates),
        training,
    )


def cells(typed: Sequence[str]) -> list[CellSpec]:
    """Cells from 'lstm,mlstm:heads=2'. Raises UsageError for fewer than two, a duplicate, and invalid notation.

    Example:
        >>> cells(["lstm,mlstm:heads=2"])[1]
        CellSpec(name='mlstm:heads=2', cell='mlstm', options={'heads': '2'})
    """
    names = [name.strip() for part in typed for name in part.split(",") if name.strip()]
    if not names:
        raise UsageError(f"{named('cells')} names no cell.", hint="textgen cells lists them.")
    if len(names) == 1:
        other = "gru" if names[0].startswith("lstm") else "lstm"
        raise UsageError(
            f"{named('cells')} names only {names[0]!r}; a comparison needs at least two cells.",
            hint=f"{named('cells', f'{names[0]},{other}')}, or train a single one: textgen train.",
        )
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice:
        raise UsageError(f"{named('cells')} names {twice!r} twice.")
    return [_cell_spec(name) for name in names]


def _cell_spec(name: str) -> CellSpec:
    cell, *pairs = name.split(":")
    options: dict[str, str] = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        key = key.strip().replace("-", "_")
        if not cell or not key or not equals or key in options:
            raise UsageError(f"{named('cells')} {name!r} must be NAME or NAME:OPTION=VALUE:OPTION=VALUE.")
        options[key] = value.strip()
    return CellSpec(name, cell, options)


def budget(typed: Sequence[str]) -> Budget:
    """A budget from 'params=1M', 'tokens=2M', 'minutes=3'. Raises UsageError for an unknown name or invalid number.

    Example:
        >>> budget(["params=1.5M,tokens=20k"])
        Budget(params=1500000, tokens=20000, minutes=None)
    """
    found: dict[str, float] = {}
    for pair in (pair for part in typed for pair in re.split(r",\s*(?=[^\W\d])", part)):
        name, _, number = (part.strip() for part in pair.partition("="))
        if name not in ("params", "tokens", "minutes"):
            near = did_you_mean(name, ("params", "tokens", "minutes"))
            raise UsageError(f"{named('budget')} must be params=N, tokens=N or minutes=X, not {pair!r}.{near}")
        if name in found:
            raise UsageError(f"{named('budget')} {name} is given twice.")
        found[name] = _minutes(number) if name == "minutes" else _quantity(name, number)
    if "tokens" in found and "minutes" in found:
        raise UsageError(
            f"{named('budget')} tokens and {named('budget')} minutes exclude each other; give one of them."
        )
    return Budget(**cast(dict[str, Any], found))


def _quantity(name: str, typed: str) -> int:
    match = _NUMBER.fullmatch(typed)
    number = float(re.sub("[,_]", "", match[1])) * _UNITS[match[2].lower()] if match else 0
    if not 1 <= number <= _LARGEST[name]:
        raise UsageError(f"{named('budget')} {name} must be a number such as 200k or 1.5M, not {typed!r}.")
    return round(number)


def _minutes(typed: str) -> float:
    number = _float(typed)
    if not 0 < number <= 100_000:
        raise UsageError(f"{named('budget')} minutes must be a number above 0 and at most 100,000, not {typed!r}.")
    return number


def learning_rates(typed: Sequence[Any]) -> list[float]:
    """The distinct rates in '0.001,0.002' or a list of numbers, in ascending order. Raises UsageError."""
    rates = set()
    for one in (one for part in typed for one in (part.split(",") if isinstance(part, str) else [part])):
        rate = _float(one)
        if isinstance(one, bool) or not 0 < rate <= 100:
            raise UsageError(f"{named('learning_rates')} must be numbers above 0 and at most 100, not {one!r}.")
        rates.add(rate)
    return sorted(rates)


def _float(value: Any) -> float:
    """The number, or NaN for anything else."""
    try:
        return float(value)
    except (TypeError, ValueError):
        return math.nan

"""A cell's own options: read from its constructor's signature, validated, and parsed from text."""

from __future__ import annotations

import inspect
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, get_args, get_origin, get_type_hints

from textgen.attribution import origin, text_of
from textgen.errors import TextgenError, UsageError, did_you_mean

if TYPE_CHECKING:
    from textgen.cell import Cell

Scalar = bool | int | float | str
_TRUE, _FALSE = {"true", "yes", "on", "1"}, {"false", "no", "off", "0"}


@dataclass(frozen=True)
class CellOption:
    """One keyword of a cell's constructor after `input_size` and `hidden_size`."""

    name: str
    kind: type
    default: Scalar
    choices: tuple[Scalar, ...] = ()

    def parse(self, value: Scalar) -> Scalar:
        """Convert text or a JSON scalar to this option's type. Raises UsageError with the value and what is allowed."""
        parsed = _parse(value, self.kind)
        if parsed is None or (self.choices and parsed not in self.choices):
            allowed = " or ".join(map(repr, self.choices)) if self.choices else _NAMES[self.kind]
            raise UsageError(f"cell option {self.name} must be {allowed}, not {value!r}.")
        return parsed


_NAMES = {bool: "true or false", int: "a whole number", float: "a finite number", str: "text"}


def _parse(value: Scalar, kind: type) -> Scalar | None:
    if kind is str:
        return value if isinstance(value, str) else None
    if kind is bool:
        text = str(value).lower()
        return True if text in _TRUE else False if text in _FALSE else None
    if isinstance(value, bool):
        return None
    try:
        number = float(value)
        if kind is int:
            return int(value) if number == int(number) else None
        return number if math.isfinite(number) else None
    except (TypeError, ValueError, OverflowError):
        return None


def describe(cell: type[Cell]) -> list[CellOption]:
    """The options of a cell class. Raises TextgenError for a default that cannot be stored as JSON."""
    from textgen.cell import Cell, GatedCell

    if cell.__init__ in (Cell.__init__, GatedCell.__init__):
        return []
    found = []
    try:
        hints = get_type_hints(cell.__init__)
        parameters = inspect.signature(cell.__init__).parameters
    except Exception as error:  # annotations are code of the plugin
        raise TextgenError(
            f"the types in the constructor of {cell.__name__}{origin(cell)} cannot be read: "
            f"{text_of(error) or type(error).__name__}."
        ) from error
    for name, parameter in parameters.items():
        if name in ("self", "input_size", "hidden_size") or parameter.kind in (
            inspect.Parameter.VAR_POSITIONAL,
            inspect.Parameter.VAR_KEYWORD,
        ):
            continue
        if not _storable(parameter.default):
            raise TextgenError(
                f"{cell.__name__}.{name}{origin(cell)} needs a default that is true, false, a finite number or "
                f"text, so that it can be saved with the model; it has {_shown(parameter.default)}."
            )
        hint = hints.get(name)
        choices = get_args(hint) if get_origin(hint) is Literal else ()
        kind = hint if hint in _NAMES and not choices else type(parameter.default)
        found.append(CellOption(name, kind, parameter.default, choices))
    return found


def _storable(default: object) -> bool:
    return type(default) in _NAMES and not (isinstance(default, float) and not math.isfinite(default))


def _shown(default: object) -> str:
    return "none" if default is inspect.Parameter.empty else repr(default)


def parse(cell: type[Cell], name: str, given: Mapping[str, Scalar]) -> dict[str, Scalar]:
    """All options of the cell: the given ones validated and converted, the others at their defaults.

    Raises UsageError for an unknown option (with a suggestion) or an invalid value.
    """
    known = {option.name: option for option in describe(cell)}
    asked = {key.replace("-", "_"): value for key, value in given.items()}
    for key in asked:
        if key not in known:
            has = f"its options: {', '.join(known)}." if known else "it has none."
            raise UsageError(f"cell {name!r} has no option {key!r}.{did_you_mean(key, known)}", hint=has)
    return {key: option.parse(asked[key]) if key in asked else option.default for key, option in known.items()}

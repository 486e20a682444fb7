"""Options declared once: a dataclass field with its help and limits, from which the command line is made.

`check` holds values to their declaration, whether they come from the command line, from Python or from a file. It is
exact about types: 2.7 is no count and NaN is no rate.
"""

from __future__ import annotations

import math
import os
import types
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, Field, dataclass, field, fields, replace
from functools import cache
from typing import Any, Union, get_args, get_origin, get_type_hints

from textgen.errors import UsageError, did_you_mean
from textgen.parameters import displayed, named
from textgen.parameters import flag as flag

_NOUNS: dict[type, str] = {
    int: "a whole number",
    float: "a number",
    str: "text",
    bool: "true or false",
    list: "a list",
    dict: "a table",
}


@dataclass(frozen=True)
class Declaration:
    """What a field may hold and how the command line presents it."""

    help: str
    low: float | None = None
    high: float | None = None
    above: float | None = None
    choices: tuple[str, ...] = ()
    also: tuple[str, ...] = ()
    metavar: str | None = None
    default_text: str | None = None
    section: str | None = None
    """The heading under which this option and those after it stand in the help."""
    per_call: bool = False
    """Whether only a call sets it, and no default that is stored with a model."""
    no: str | None = None
    """What negates this flag, as in `lines` for --whole-files/--lines; by default the name with no-; empty for a flag
    that nothing negates."""
    writes: Any = None
    """The kind of file that this option names for output (`textgen.outputs.Kind`)."""
    cycle: bool = False
    """Whether several values, at least two, may stand for one: they take turns."""


def option(default: Any, help: str, **limits: Any) -> Any:
    """A dataclass field with a declaration; `limits` are the fields of `Declaration`."""
    metadata = {"declaration": Declaration(help, **limits)}
    if isinstance(default, (dict, list)):
        return field(default_factory=default.copy, metadata=metadata)
    return field(default=default, metadata=metadata)


def declared(options: type) -> list[tuple[Field[Any], Declaration]]:
    """The declared fields of an options class, in order."""
    return [(f, f.metadata["declaration"]) for f in fields(options) if "declaration" in f.metadata]


def value_type(options: type, name: str) -> tuple[type, bool]:
    """The plain type of a field (int, float, str, bool, list, dict) and whether None is allowed."""
    hint = _hints(options)[name]
    parts = get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)
    plain = next(part for part in parts if part is not type(None))
    return get_origin(plain) or plain, type(None) in parts


def holds_texts(options: type, name: str) -> bool:
    """Whether a field is a list of texts."""
    return bool(_hints(options)[name] == list[str])


@cache
def _hints(options: type) -> dict[str, Any]:
    return get_type_hints(options)


def check(options: Any) -> None:
    """Hold every field to its declaration. Raises UsageError with the option, what is allowed, and the value."""
    for declared_field, declaration in declared(type(options)):
        value = getattr(options, declared_field.name)
        kind, optional = value_type(type(options), declared_field.name)
        if not (value is None and optional):
            check_value(named(declared_field.name), value, kind, declaration)
            if kind is list and holds_texts(type(options), declared_field.name):
                _check_texts(named(declared_field.name), value)


def _check_texts(name: str, value: Sequence[Any]) -> None:
    for each in value:
        if not isinstance(each, str):
            raise UsageError(f"{name} must be a list of texts, but holds {displayed(each)}.")


def check_value(name: str, value: Any, kind: type, declaration: Declaration) -> Any:
    """The value, in its declared type. Raises UsageError if it has another type or lies outside the limits."""
    if declaration.cycle and isinstance(value, list) and len(value) > 1:
        one = replace(declaration, cycle=False)
        return [check_value(name, each, kind, one) for each in value]
    wrong = UsageError(f"{name} must be {allowed(kind, declaration)}, not {displayed(value)}.")
    value = _as_float(value) if kind is float and type(value) is int else value
    if not isinstance(value, kind) or (kind is not bool and isinstance(value, bool)):
        raise wrong
    if isinstance(value, str) and declaration.choices and value not in declaration.choices:
        raise UsageError(f"{wrong}{did_you_mean(value, declaration.choices)}")
    if isinstance(value, (int, float)) and not isinstance(value, bool) and not _inside(value, declaration):
        raise wrong
    return value


def _as_float(value: int) -> float:
    try:
        return float(value)
    except OverflowError:
        return math.inf


def _inside(value: float, declaration: Declaration) -> bool:
    low, high, above = declaration.low, declaration.high, declaration.above
    return (
        (isinstance(value, int) or math.isfinite(value))
        and (low is None or value >= low)
        and (high is None or value <= high)
        and (above is None or value > above)
    )


def allowed(kind: type, declaration: Declaration) -> str:
    """What a value may be, in words: 'a whole number from 1 to 64'."""
    if declaration.choices:
        return " or ".join([", ".join(declaration.choices[:-1]), declaration.choices[-1]]).removeprefix(" or ")
    noun = _NOUNS.get(kind, kind.__name__)
    low, high, above = (_shown(v) for v in (declaration.low, declaration.high, declaration.above))
    if above is not None:
        return f"{noun} above {above}" + (f" and at most {high}" if high is not None else "")
    if low is not None and high is not None:
        return f"{noun} from {low} to {high}"
    return noun + (f" of at least {low}" if low is not None else f" of at most {high}" if high is not None else "")


def _shown(limit: float | None) -> str | None:
    return None if limit is None else f"{limit:,}"


def from_mapping(options: type, given: Mapping[str, Any]) -> Any:
    """An options object from names and values, checked. Values may be of kinds that mean the same: a path or a tuple, a
    number or an array of numpy. Raises UsageError for an unknown name, with a suggestion."""
    known = [f.name for f in fields(options)]
    for name in given:
        if name not in known:
            raise UsageError(f"there is no option {name!r}.{did_you_mean(name, known)}")
    made = options(**{name: plain(value) for name, value in given.items()})
    check(made)
    return made


def plain(value: Any) -> Any:
    """A value as the command line would give it: a path as text, numbers and arrays of numpy and torch as Python's own,
    and a subclass of text or of a number as what it is a subclass of."""
    if isinstance(value, os.PathLike):
        return os.fsdecode(value)
    if isinstance(value, bool) or value is None:
        return value
    if isinstance(value, str):
        return str.__str__(value)
    if isinstance(value, (int, float)):
        return int(value) if isinstance(value, int) else float(value)
    if hasattr(value, "dtype") and hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, Mapping):
        return {plain(key): plain(each) for key, each in value.items()}
    return (
        [plain(each) for each in value] if isinstance(value, (list, tuple, Sequence)) and not _bytes(value) else value
    )


def _bytes(value: Any) -> bool:
    return isinstance(value, (bytes, bytearray, memoryview))


def changed(options: Any) -> dict[str, Any]:
    """The fields that differ from their defaults, by name."""
    return {f.name: getattr(options, f.name) for f in fields(options) if getattr(options, f.name) != default(f)}


def default(declared_field: Field[Any]) -> Any:
    """The default value of a field."""
    if declared_field.default_factory is not MISSING:
        return declared_field.default_factory()
    return declared_field.default

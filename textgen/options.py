"""Options declared once: dataclass fields with help and limits, from which the command line is made.

`check` compares values with their declarations, whether they come from the command line, from Python or from a file.
It is exact about types: 2.7 is not an integer, and NaN is not a number. The functions at the end check the arguments
of Python functions in the same way. Messages name parameters as Python does, `max_steps=3`; within `spelled_as`, they
are spelled as flags, `--max-steps 3`.
"""

from __future__ import annotations

import math
import os
import types
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import MISSING, Field, dataclass, field, fields, replace
from functools import cache
from pathlib import Path
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

from textgen.errors import UsageError, did_you_mean

Spelling = Callable[[str, str | None], str]
"""From a parameter's name, and its value if that is to be shown, to what a message says."""


def as_python(name: str, value: str | None) -> str:
    """`max_steps`, or `max_steps=3`."""
    return name if value is None else f"{name}={value}"


def as_flags(name: str, value: str | None) -> str:
    """`--max-steps`, or `--max-steps 3`."""
    spelled = "-o" if name == "cell_options" else flag(name)
    return spelled if value is None else f"{spelled} {value}"


def flag(name: str) -> str:
    """A parameter's name as the command line spells it."""
    return "--" + name.replace("_", "-")


_spelling: ContextVar[Spelling] = ContextVar("spelling", default=as_python)


def named(name: str, value: object = None) -> str:
    """A parameter, with its value if one is given, as whoever called spells it."""
    return _spelling.get()(name, None if value is None else str(value))


def displayed(value: object) -> str:
    """A wrong value as a message shows it: plain ones as they are typed, others by their kind."""
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) > 10**1000:
        return "a number of more than 1,000 digits"
    if value is None or isinstance(value, (bool, int, float, str, bytes, list, tuple, dict, set, os.PathLike)):
        return repr(value)
    kind = type(value).__name__
    return f"{'an' if kind[0] in 'AEIOUaeiou' else 'a'} {kind}"


@contextmanager
def spelled_as(spelling: Spelling) -> Iterator[None]:
    """Spell parameters in this way within the context."""
    before = _spelling.set(spelling)
    try:
        yield
    finally:
        _spelling.reset(before)


BYTES = (bytes, bytearray, memoryview)
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
    """The kind of file that this option names for output (`textgen.storage.filesystem.Kind`)."""
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


@cache
def _hints(options: type) -> dict[str, Any]:
    return get_type_hints(options)


def check(options: Any) -> None:
    """Check every field against its declaration. Raises UsageError with the option, what is allowed, and the value."""
    declaring: type = type(options)
    for declared_field, declaration in declared(declaring):
        name, value = declared_field.name, getattr(options, declared_field.name)
        kind, optional = value_type(declaring, name)
        if value is None and optional:
            continue
        check_value(named(name), value, kind, declaration)
        if _hints(declaring)[name] == list[str]:
            for each in value:
                if not isinstance(each, str):
                    raise UsageError(f"{named(name)} must be a list of texts, but holds {displayed(each)}.")


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
    limits = (declaration.low, declaration.high, declaration.above)
    low, high, above = (None if limit is None else f"{limit:,}" for limit in limits)
    if above is not None:
        return f"{noun} above {above}" + (f" and at most {high}" if high is not None else "")
    if low is not None and high is not None:
        return f"{noun} from {low} to {high}"
    return noun + (f" of at least {low}" if low is not None else f" of at most {high}" if high is not None else "")


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
    return [plain(each) for each in value] if isinstance(value, Sequence) and not isinstance(value, BYTES) else value


def changed(options: Any) -> dict[str, Any]:
    """The fields that differ from their defaults, by name."""
    return {f.name: getattr(options, f.name) for f in fields(options) if getattr(options, f.name) != default(f)}


def default(declared_field: Field[Any]) -> Any:
    """The default value of a field."""
    if declared_field.default_factory is not MISSING:
        return declared_field.default_factory()
    return declared_field.default


Model = TypeVar("Model")


def whole_number(name: str, value: Any, low: int, high: int) -> int:
    """A whole number within limits. Raises UsageError."""
    found: int = check_value(named(name), plain(value), int, Declaration("", low=low, high=high))
    return found


def number(name: str, value: Any, above: float, high: float) -> float:
    """A finite number above one limit and at most another. Raises UsageError."""
    found: float = check_value(named(name), plain(value), float, Declaration("", above=above, high=high))
    return found


def share(name: str, value: Any) -> float:
    """A number from 0 to 1. Raises UsageError."""
    found: float = check_value(named(name), plain(value), float, Declaration("", low=0, high=1))
    return found


def choice(name: str, value: Any, choices: tuple[str, ...]) -> str:
    """One of several words. Raises UsageError."""
    found: str = check_value(named(name), plain(value), str, Declaration("", choices=choices))
    return found


def boolean(name: str, value: Any) -> bool:
    """True or false. Raises UsageError."""
    found: bool = check_value(named(name), plain(value), bool, Declaration(""))
    return found


def text(name: str, value: Any) -> str:
    """Text. Raises UsageError for anything else, bytes included."""
    if not isinstance(value, str):
        raise UsageError(f"{named(name)} must be text, not {displayed(value)}.")
    return str.__str__(value)


def utf8(name: str, value: Any) -> bytes:
    """Text, as UTF-8. Raises UsageError for anything else, and for half a character."""
    found = text(name, value)
    try:
        return found.encode()
    except UnicodeEncodeError as error:
        bad = ord(found[error.start])
        raise UsageError(f"{named(name)} must be UTF-8 text, but holds half a character (U+{bad:04X}).") from None


def content(name: str, value: Any, expected: str = "bytes") -> bytes:
    """Bytes, in any of the forms that Python has for them. Raises UsageError, with what is expected, for anything else,
    text included."""
    if not isinstance(value, BYTES):
        raise UsageError(f"{named(name)} must be {expected}, not {displayed(value)}.")
    return bytes(value)


def optional_text(name: str, value: Any) -> str | None:
    """Text or None. Raises UsageError."""
    return None if value is None else text(name, plain(value))


def path(name: str, value: Any) -> Path:
    """The path of a file or folder. Raises UsageError for anything else, and for what no path can hold."""
    if not isinstance(value, (str, os.PathLike)):
        raise UsageError(f"{named(name)} must be a path, not {displayed(value)}.")
    found = plain(value)
    if not found or "\0" in found:
        raise UsageError(f"{named(name)} must be a path, not {found!r}.")
    return Path(found)


def writer(value: Model) -> Model:
    """A model that writes text. Raises UsageError for anything else; for a model of another task with its methods."""
    if hasattr(value, "encode_prompt") and hasattr(value, "stepper"):
        return value
    uses = {"classify": 'classifier.classify(["..."])', "predict": "forecaster.predict(TABLE)"}
    use = next((use for method, use in uses.items() if hasattr(value, method)), None)
    if use is not None:
        raise UsageError(
            f"{named('model')} must be a model that writes text, not a {type(value).__name__}.",
            hint=f"{use} and .evaluate(TABLE) use that.",
        )
    is_path = isinstance(value, (str, os.PathLike))
    hint = "textgen.load(FOLDER) gives one." if is_path or value is None else None
    raise UsageError(
        f"{named('model')} must be a model that textgen.load has opened, not {displayed(value)}.", hint=hint
    )

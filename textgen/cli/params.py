"""Command-line options made from the declarations of `textgen.settings`, so that each option is written once."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import Field, fields
from typing import Any, TypeVar

import click
from click.core import ParameterSource

from textgen.config import BACKENDS
from textgen.errors import UsageError
from textgen.options import Declaration, check_value, declared, default, flag, value_type

Command = TypeVar("Command", bound=Callable[..., Any])
_THOUSANDS = re.compile(r"[+-]?\d{1,3}(,\d{3})+")


class Value(click.ParamType[Any]):
    """A number or text held to its declaration; 2.7 is no count, and NaN is no number."""

    def __init__(self, kind: type, declaration: Declaration) -> None:
        self.name = declaration.metavar or {int: "N", float: "X", str: "TEXT"}.get(kind, "VALUE")
        self.kind = kind
        self.declaration = declaration

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        shown = next((name for name in param.opts if name.startswith("--")), self.name) if param else self.name
        return check_value(shown, self._number(value), self.kind, self.declaration)

    def _number(self, typed: Any) -> Any:
        """What was typed as a finite number, if it is one and a number is wanted."""
        if not isinstance(typed, str) or self.kind is str:
            return typed
        if self.declaration.cycle and "," in typed:
            return [self._one_number(part) for part in typed.split(",")]
        return self._one_number(typed)

    def _one_number(self, typed: str) -> Any:
        try:
            number = self.kind(typed.replace(",", "") if _THOUSANDS.fullmatch(typed) else typed)
        except ValueError:
            return typed
        return typed if self.kind is float and not math.isfinite(number) else number

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[Any]:
        return [click.shell_completion.CompletionItem(c) for c in self.declaration.choices if c.startswith(incomplete)]


def whole_number(low: int, high: int) -> Value:
    """The type of a whole number from `low` to `high`."""
    return Value(int, Declaration("", low=low, high=high))


def backend_option(command: Command) -> Command:
    """A decorator that gives a command the choice of what runs the model."""
    choice = Value(str, Declaration("", choices=BACKENDS, metavar="NAME"))
    help = "Backend: numpy, torch, int8 (faster, rounded), or auto (numpy if possible).  [default: auto]"
    return click.option("--backend", type=choice, default="auto", help=help)(command)


def options_of(settings: type, leave_out: tuple[str, ...] = (), first: str = "") -> Callable[[Command], Command]:
    """A decorator that gives a command every declared option of a settings class, None where it is not given.

    `first` says what comes before the default of the class, such as "the model's own".
    """

    def decorate(command: Command) -> Command:
        for declared_field, declaration in reversed(declared(settings)):
            if declared_field.name not in leave_out:
                command = _click_option(settings, declared_field, declaration, first)(command)
        return command

    return decorate


def _click_option(
    settings: type, declared_field: Field[Any], declaration: Declaration, first: str
) -> Callable[[Command], Command]:
    kind, _ = value_type(settings, declared_field.name)
    name = flag(declared_field.name)
    text = f"{declaration.help}  [{_default_text(declared_field, declaration, first)}]"
    if kind is bool:
        spelling = "/".join([name, "--no-" + name.removeprefix("--")])
        return click.option(declared_field.name, spelling, *declaration.also, default=None, help=text)
    return click.option(
        declared_field.name,
        name,
        *declaration.also,
        type=Value(str if kind in (list, dict) else kind, declaration),
        multiple=kind in (list, dict),
        default=None,
        metavar="|".join(declaration.choices) or declaration.metavar,
        help=text,
    )


def _default_text(declared_field: Field[Any], declaration: Declaration, first: str) -> str:
    value = default(declared_field)
    shown = {True: "yes", False: "no"}.get(value, value) if isinstance(value, bool) else value
    text = declaration.default_text or ("none" if shown in (None, [], {}) else shown)
    return f"default: {first}, else {text}" if first and not declaration.per_call else f"default: {text}"


def given(settings: type, values: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that were named, by field name."""
    names = {f.name for f in fields(settings)}
    named = {name: value for name, value in values.items() if name in names and value not in (None, ())}
    return {
        name: (numbers_of(flag(name), value) if value_type(settings, name)[0] is dict else list(value))
        if isinstance(value, tuple)
        else value
        for name, value in named.items()
    }


def is_typed(name: str) -> bool:
    """Whether an option of this command stands on the command line, not in a settings file or the environment."""
    return click.get_current_context().get_parameter_source(name) is ParameterSource.COMMANDLINE


def numbers_of(name: str, typed: tuple[str, ...]) -> dict[str, float]:
    """The table of a repeated option NAME=NUMBER, divided at the last sign. Raises UsageError with what was typed."""
    table: dict[str, float] = {}
    for pair in typed:
        key, _, number = pair.rpartition("=")
        try:
            value = float(number)
        except ValueError:
            value = math.nan
        if not key or not math.isfinite(value):
            raise UsageError(f"{name} must be NAME=NUMBER, such as 'e=-5', not {pair!r}.")
        if key in table:
            raise UsageError(f"{name} {key!r} is given twice.")
        table[key] = value
    return table


def cell_options_of(pairs: tuple[tuple[str, str], ...]) -> dict[str, str]:
    """The pairs of a repeated -o KEY VALUE. Raises UsageError for a key given twice."""
    table: dict[str, str] = {}
    for typed, value in pairs:
        key = typed.replace("-", "_")
        if key in table:
            raise UsageError(f"cell option {key!r} is given twice.")
        table[key] = value
    return table


def refuse_of_another_task(task: str, asked: Mapping[str, Any], own: Mapping[str, tuple[str, ...]]) -> None:
    """Raise UsageError for an option that was given and that models for this task do not have."""
    for name, value in asked.items():
        if name in own and task not in own[name] and value not in (None, False):
            raise UsageError(f"{flag(name)} goes with a model for --task {' or '.join(own[name])}, not for {task}.")

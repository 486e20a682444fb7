"""Command-line options made from the declarations of `textgen.settings`, so that each option is written once."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import Field, fields
from typing import Any, TypeVar

import click
from click.core import ParameterSource

from textgen.config import BACKENDS
from textgen.errors import UsageError
from textgen.options import Declaration, check_value, declared, default, flag, value_type
from textgen.screen import say

Command = TypeVar("Command", bound=Callable[..., Any])
_THOUSANDS = re.compile(r"[+-]?\d{1,3}(,\d{3})+")


class Value(click.ParamType[Any]):
    """A number or text checked against its declaration; 2.7 is not an integer, and NaN is not a number."""

    def __init__(self, kind: type, declaration: Declaration) -> None:
        self.name = declaration.metavar or {int: "N", float: "X", str: "TEXT"}.get(kind, "VALUE")
        self.kind = kind
        self.declaration = declaration

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        shown = next((name for name in param.opts if name.startswith("--")), self.name) if param else self.name
        return check_value(shown, self._number(value), self.kind, self.declaration)

    def _number(self, typed: Any) -> Any:
        """The typed text as a finite number, if it is one and a number is expected."""
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
    """A decorator that adds the option `--backend`."""
    choice = Value(str, Declaration("", choices=BACKENDS, metavar="NAME"))
    help = "Backend: numpy, torch, int8 (faster, rounded), or auto (numpy if possible).  [default: auto]"
    return click.option("--backend", type=choice, default="auto", help=help)(command)


def options_of(*settings: type, leave_out: tuple[str, ...] = (), first: str = "") -> Callable[[Command], Command]:
    """A decorator that gives a command every declared option of some settings classes, None where it is not given; of
    a name that several declare, the first counts.

    `first` says what comes before the default of the class, such as "the model's own".
    """
    found: dict[str, Callable[[Any], Any]] = {}
    for one in settings:
        for declared_field, declaration in declared(one):
            if declared_field.name not in (*leave_out, *found):
                found[declared_field.name] = _click_option(one, declared_field, declaration, first)

    def decorate(command: Command) -> Command:
        for add in reversed(found.values()):
            command = add(command)
        return command

    return decorate


def _click_option(
    settings: type, declared_field: Field[Any], declaration: Declaration, first: str
) -> Callable[[Command], Command]:
    kind, _ = value_type(settings, declared_field.name)
    name = flag(declared_field.name)
    text = f"{declaration.help}  [{_default_text(declared_field, declaration, first)}]"
    if kind is bool:
        no = name.removeprefix("--") if declaration.no is None else declaration.no
        spelling = name if no == "" else f"{name}/--{'no-' if declaration.no is None else ''}{no}"
        return click.option(declared_field.name, spelling, *declaration.also, is_flag=True, default=None, help=text)
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
    """The given settings, by field name."""
    names = {f.name for f in fields(settings)}
    named = {name: value for name, value in values.items() if name in names and value not in (None, ())}
    return {
        name: (numbers_of(flag(name), value) if value_type(settings, name)[0] is dict else list(value))
        if isinstance(value, tuple)
        else value
        for name, value in named.items()
    }


def is_typed(name: str) -> bool:
    """Whether an option is given on the command line, not in a config file or the environment."""
    return click.get_current_context().get_parameter_source(name) is ParameterSource.COMMANDLINE


def numbers_of(name: str, typed: tuple[str, ...]) -> dict[str, float]:
    """The values of a repeated option NAME=NUMBER, split at the last `=`. Raises UsageError naming the typed text."""
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


def refuse_of_another_task(given: Mapping[str, Any], own: type, task: str, others: Mapping[str, type]) -> None:
    """Raise UsageError for an option that does not apply to models of a task: `own` is the task's option class,
    `others` are those of every task, by name."""
    known = {f.name for f in fields(own)}
    for name, value in given.items():
        if name not in known and value not in (None, (), False):
            theirs = [other for other, settings in others.items() if name in {f.name for f in fields(settings)}]
            raise UsageError(f"{flag(name)} goes with a model for --task {' or '.join(theirs)}, not for {task}.")


@contextmanager
def encodings_said(shown: bool = True) -> Iterator[None]:
    """Report at the end which encodings `--encoding auto` detected in this block."""
    from textgen.text.detection import choosing

    with choosing() as choices:
        yield
    for phrase in choices.described() if shown else ():
        say(phrase)


@contextmanager
def reading_said(sentence: str | None) -> Iterator[None]:
    """Report at the end, unless the block fails, which reading options came from training."""
    yield
    if sentence is not None:
        say(sentence)

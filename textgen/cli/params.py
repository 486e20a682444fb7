"""Command-line options made from the declarations of `textgen.settings`, so that each option is written once."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import Field, fields
from typing import Any, TypeVar

import click
from click.core import ParameterSource

from textgen.errors import UsageError
from textgen.options import Declaration, allowed, check_value, declared, default, flag, value_type

Command = TypeVar("Command", bound=Callable[..., Any])


class Value(click.ParamType[Any]):
    """A number or text held to its declaration; 2.7 is no count, and NaN is no number."""

    def __init__(self, kind: type, declaration: Declaration) -> None:
        self.name = declaration.metavar or {int: "N", float: "X", str: "TEXT"}.get(kind, "VALUE")
        self.kind = kind
        self.declaration = declaration

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        shown = max(param.opts, key=len) if param else self.name
        if isinstance(value, str) and self.kind is not str:
            try:
                value = self.kind(value.replace(",", "") if self.kind is int else value)
            except ValueError:
                raise UsageError(f"{shown} must be {allowed(self.kind, self.declaration)}, not {value!r}.") from None
        return check_value(shown, value, self.kind, self.declaration)

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[Any]:
        return [click.shell_completion.CompletionItem(c) for c in self.declaration.choices if c.startswith(incomplete)]


def options_of(settings: type, leave_out: tuple[str, ...] = ()) -> Callable[[Command], Command]:
    """A decorator that gives a command every declared option of a settings class, None where it is not given."""

    def decorate(command: Command) -> Command:
        for declared_field, declaration in reversed(declared(settings)):
            if declared_field.name not in leave_out:
                command = _click_option(settings, declared_field, declaration)(command)
        return command

    return decorate


def _click_option(settings: type, declared_field: Field[Any], declaration: Declaration) -> Callable[[Command], Command]:
    kind, _ = value_type(settings, declared_field.name)
    name = flag(declared_field.name)
    text = f"{declaration.help}  [{_default_text(declared_field, declaration)}]"
    if kind is bool:
        spelling = "/".join([name, "--no-" + name.removeprefix("--")])
        return click.option(declared_field.name, spelling, *declaration.also, default=None, help=text)
    return click.option(
        declared_field.name,
        name,
        *declaration.also,
        type=Value(str if kind is list else kind, declaration),
        multiple=kind is list,
        default=None,
        metavar="|".join(declaration.choices) or declaration.metavar,
        help=text,
    )


def _default_text(declared_field: Field[Any], declaration: Declaration) -> str:
    if declaration.default_text:
        return f"default: {declaration.default_text}"
    value = default(declared_field)
    shown = {True: "yes", False: "no"}.get(value, value) if isinstance(value, bool) else value
    return f"default: {'none' if shown in (None, [], {}) else shown}"


def given(settings: type, values: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that were named, by field name."""
    names = {f.name for f in fields(settings)}
    named = {name: value for name, value in values.items() if name in names and value not in (None, ())}
    return {name: list(value) if isinstance(value, tuple) else value for name, value in named.items()}


def named_on_command_line(ctx: click.Context, name: str) -> bool:
    """Whether an option was typed, as against left at its default."""
    return ctx.get_parameter_source(name) not in (None, ParameterSource.DEFAULT, ParameterSource.DEFAULT_MAP)


def cell_options_of(pairs: tuple[tuple[str, str], ...]) -> dict[str, str]:
    """The pairs of a repeated -o KEY VALUE. Raises UsageError for a key given twice."""
    table: dict[str, str] = {}
    for key, value in pairs:
        if key in table:
            raise UsageError(f"cell option {key!r} is given twice.")
        table[key] = value
    return table

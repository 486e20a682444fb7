"""Options of commands, made from their declarations; help in two layers; config files; hints about typing errors.

`-h` shows the options that most people need, `--help-all` every option by section. A config file in TOML has one table
per command, with keys spelled as the long options; the `training_args.json` of a run works, too.
"""

from __future__ import annotations

import json
import math
import os
import re
import shlex
import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import Field, fields, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeVar

import click
from click.core import ParameterSource
from click.exceptions import MissingParameter, NoSuchCommand

from textgen.data.recipes import PREFIX
from textgen.data.sources import find_sources, refuse_missing
from textgen.errors import TextgenError, UsageError, did_you_mean
from textgen.model import BACKENDS
from textgen.options import Declaration, check_value, declared, default, flag, value_type
from textgen.storage import ARGUMENTS, MANIFEST
from textgen.storage.outputs import OutputFile, OutputKind

LOCAL = "textgen.toml"


def defaults_from(path: str | None, group: click.Group, ctx: click.Context) -> dict[str, Any]:
    """The default values per command from a file, or from ./textgen.toml. Raises UsageError for unknown keys.

    Only the table of the current command is read, so that no other command is imported.
    """
    file = Path(path) if path else Path(LOCAL)
    if path is None and not file.is_file():
        return {}
    tables = _read(file)
    commands = group.list_commands(ctx)
    for name, table in tables.items():
        if name not in commands:
            raise UsageError(f"{file}: unknown command {name!r}.{did_you_mean(name, commands)}")
        if not isinstance(table, dict):
            raise UsageError(f"{file}: {name!r} must be a table of options, not {table!r}.")
    current = ctx.invoked_subcommand
    command = group.get_command(ctx, current) if current in tables else None
    return {current: _by_parameter(tables[current], command, str(file))} if current and command else {}


def _read(file: Path) -> dict[str, Any]:
    try:
        text = file.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise UsageError(f"config file {str(file)!r} does not exist.") from None
    except (OSError, UnicodeDecodeError) as error:
        raise TextgenError(f"config file {str(file)!r} cannot be read: {error}.") from None
    try:
        if file.suffix == ".json":
            return {"train": _arguments_of_a_run(json.loads(text))}
        return tomllib.loads(text)
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise TextgenError(f"config file {str(file)!r} is invalid: {error}.") from None


def _arguments_of_a_run(content: Mapping[str, Any]) -> dict[str, Any]:
    """The options stored with a run, with its steps instead of the minutes or epochs they were planned from."""
    left_out = {"minutes", "epochs", "output_dir", "overwrite_output_dir", "cell_options"}
    options = {k: v for k, v in content["options"].items() if k not in left_out and v is not None}
    return {**options, "cell-options": content["options"]["cell_options"]}


def _by_parameter(table: Mapping[str, Any], command: click.Command, file: str) -> dict[str, Any]:
    """A table's values by parameter name; the options of the cell are in a table `cell-options`."""
    known = {_plain(spelling): p.name for p in command.params for spelling in (*p.opts, p.name or "")}
    values: dict[str, Any] = {}
    for key, value in table.items():
        name = _plain(key)
        if isinstance(value, dict) and name == "cell_options":
            values["cell_options"] = [(option, str(content)) for option, content in value.items()]
            continue
        if name not in known or known[name] is None:
            raise UsageError(f"{file}: {command.name} has no option {key!r}.{did_you_mean(name, known)}")
        values[str(known[name])] = value
    return values


def _plain(spelling: str) -> str:
    return spelling.lstrip("-").replace("-", "_")


GENERAL = "Options"
"""The section of options without one of their own."""

EXTRA = f"{__name__}.extra"
"""Where a command's context holds the class of its extra options."""


Extra = Callable[[click.Context, Sequence[str]], type | None]
"""From the context and the arguments of a command to a class of options that it takes besides its own, or None."""


def layered(
    common: Sequence[str],
    *settings: type,
    extra: Extra | None = None,
    sections: Mapping[str, Sequence[str]] = MappingProxyType({}),
) -> type[click.Command]:
    """A command class. `common` names the parameters that `-h` shows, most important first, or all if it is empty;
    `--help-all` adds the others and every alias, by section. Settings classes declare their sections; `sections` adds
    some by their names. `extra` finds further options by what is typed."""
    section_of = _sections(settings)
    section_of |= {name: section for section, names in sections.items() for name in names}

    def show_everything(ctx: click.Context, parameter: click.Parameter, asked: bool) -> None:
        if asked and not ctx.resilient_parsing:
            ctx.meta[__name__] = True
            click.echo(ctx.get_help(), color=ctx.color)
            ctx.exit()

    help_all = click.Option(
        ["--help-all"], is_flag=True, is_eager=True, expose_value=False, callback=show_everything,
        help="Show every option, by section and with aliases.",
    )  # fmt: skip

    class Layered(click.Command):
        def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
            if extra and (found := extra(ctx, args)):
                ctx.meta[EXTRA] = found
            return super().parse_args(ctx, args)

        def get_params(self, ctx: click.Context) -> list[click.Parameter]:
            own = super().get_params(ctx)
            return [*own, *_further(ctx, [each.name or "" for each in own]), help_all]

        def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
            options = [each for each in self.get_params(ctx) if isinstance(each, click.Option)]
            if ctx.meta.get(__name__) or not common:
                further = _sections([ctx.meta[EXTRA]]) if EXTRA in ctx.meta else {}
                _write(formatter, ctx, options, further | section_of)
                return
            with formatter.section("Most used options"):
                rows = [_short(option, ctx) for name in common for option in options if option.name == name]
                shown = ("-h, --help", "Show this message and exit.")
                formatter.write_dl([*rows, shown, ("--help-all", f"Show all {len(options)} options, by section.")])

    return Layered


def _further(ctx: click.Context, known: Sequence[str]) -> list[click.Parameter]:
    """The extra options of a command line, but for those that the command has."""
    if EXTRA not in ctx.meta:
        return []

    def holder() -> None: ...

    options_of(ctx.meta[EXTRA], leave_out=tuple(known))(holder)
    return list(reversed(getattr(holder, "__click_params__", [])))


def _sections(settings: Sequence[type]) -> dict[str, str]:
    """The section of each declared option, by name, in the order of the declarations; `GENERAL` for an option that
    several classes declare in different sections."""
    found: dict[str, str] = {}
    section = GENERAL
    for field, declaration in (each for one in settings for each in declared(one)):
        section = declaration.section or section
        found[field.name] = section if found.get(field.name, section) == section else GENERAL
    return found


def _write(
    formatter: click.HelpFormatter, ctx: click.Context, options: Sequence[click.Option], section_of: dict[str, str]
) -> None:
    rows: dict[str, list[tuple[str, str]]] = {name: [] for name in [GENERAL, *section_of.values()]}
    for option in options:
        if record := option.get_help_record(ctx):
            rows[section_of.get(option.name or "", GENERAL)].append(record)
    for name, records in rows.items():
        if records:
            with formatter.section(name):
                formatter.write_dl(records)


def _short(option: click.Option, ctx: click.Context) -> tuple[str, str]:
    """An option's help row with its short spelling and its main long one, without aliases."""
    spellings, text = option.get_help_record(ctx) or ("", "")
    letters = [each for each in option.opts if not each.startswith("--")][:1]
    words = [each for each in option.opts if each.startswith("--")][:1]
    negative = [each for each in option.secondary_opts if each.startswith("--")][:1]
    metavar = "" if option.is_flag or not spellings else f" {option.make_metavar(ctx)}"
    named = " / ".join([", ".join([*letters, *words]), *negative])
    return named + metavar, text


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


model_option = click.option(
    "-m", "--model", metavar="DIR", help="The model folder.  [default: $TEXTGEN_MODEL, or the latest run]"
)
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
threads_option = click.option(
    "--threads", type=whole_number(1, 1024), help="Number of CPU threads.  [default: all cores]"
)
quiet_option = click.option("-q", "--quiet", is_flag=True, help="Print errors only.")
backend_option = click.option(
    "--backend",
    type=Value(str, Declaration("", choices=BACKENDS)),
    metavar="|".join(BACKENDS),
    default="auto",
    help="Backend: numpy, torch, int8 (faster, rounded), or auto (numpy if possible).  [default: auto]",
)


def options_of(
    *settings: type, leave_out: tuple[str, ...] = (), first: str = "", remembered: Sequence[str] = ()
) -> Callable[[Command], Command]:
    """A decorator that gives a command every declared option of some settings classes, None where it is not given; of
    a name that several declare, the first counts.

    `first` says what comes before the default of the class, such as "the model's own"; the default of the options that
    `remembered` names is their value in training.
    """
    found: dict[str, Callable[[Any], Any]] = {}
    for one in settings:
        for declared_field, declaration in declared(one):
            if declared_field.name in remembered:
                declaration = replace(declaration, default_text="as in training")
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


STDOUT = "-"
"""The name of standard output where a file is expected."""


def overwrite_option(*also: str) -> Callable[[Command], Command]:
    """A decorator that lets a command replace existing outputs: with `--overwrite-output-dir` a folder, else a file."""
    help = (
        "Replace an existing folder that textgen wrote. Inputs are never replaced."
        if "--overwrite-output-dir" in also
        else "Replace an existing file even if this command did not write it. Inputs are never replaced."
    )
    return click.option("--overwrite", *also, "overwrite", is_flag=True, help=help)


def output_file(
    name: str, option: str, kind: OutputKind, inputs: Sequence[str | os.PathLike[str] | None], overwrite: bool
) -> OutputFile:
    """The file that an option names, if it may be written. `inputs` are what the command reads besides its config file.

    Call it before any work. Raises as `OutputFile` does.
    """
    return OutputFile(Path(name), option, kind, tuple(read_by_command(inputs)), overwrite)


def read_by_command(inputs: Sequence[str | os.PathLike[str] | None]) -> Iterator[Path]:
    """Inputs with folders and patterns resolved to files, and the config file of the current command."""
    context = click.get_current_context(silent=True)
    config = context and context.find_root().params.get("config")
    for each in (*inputs, config or LOCAL):
        if each is None or str(each).startswith(PREFIX):
            continue
        path = Path(each)
        if str(each) == STDOUT or path.is_file() or (path / MANIFEST).is_file():
            yield path
            continue
        try:
            yield from (source.path for source in find_sources([str(each)]))
        except TextgenError:  # reported when the input is read
            yield path


_EXTRA = re.compile(r"Got unexpected extra arguments? \((.*)\)$", re.DOTALL)


def explained(error: click.ClickException) -> tuple[str, str | None]:
    """The message of a click error, and a hint on what to type."""
    message, context = error.format_message(), getattr(error, "ctx", None)
    if context is None:
        return message, None
    command = context.command_path
    usage = " ".join(context.command.collect_usage_pieces(context)[1:])
    spellings = {each for parameter in context.command.get_params(context) for each in parameter.opts}
    listed = "commands" if isinstance(context.command, click.Group) else "options"
    listing = f"{command} {'--help-all' if '--help-all' in spellings else '--help'} lists all {listed}."
    if found := _EXTRA.match(message):
        message = f"{command} does not take {found[1]!r}."
        if command == "textgen sample":
            return message, _prompt_of(found[1])
        return message, f"{f'{command} {usage}'.strip()}; {listing}"
    if isinstance(error, NoSuchCommand):
        return message, _instead_of_command(command, error.command_name) or listing
    if isinstance(error, MissingParameter) and usage:
        return message, f"{command} {usage}; {listing}"
    return message, listing


def _prompt_of(words: str) -> str:
    """What was meant by `textgen sample WORDS`."""
    if _is_model(words):
        return f"textgen sample -m {shlex.quote(words)}"
    if Path(words).is_file():
        return f"textgen sample --file {shlex.quote(words)}"
    return f"textgen sample --prompt {quoted(words)}"


def _instead_of_command(command: str, name: str) -> str | None:
    """What was meant by an unknown command, if that is clear."""
    if command == "textgen runs" and _is_model(name):
        return f"textgen runs show {shlex.quote(name)}"
    if command == "textgen cells":
        from textgen import plugins

        return f"textgen cells show {name}" if name in plugins.entries() else None
    if command != "textgen":
        return None
    if _is_model(name):
        return f"textgen sample -m {shlex.quote(name)}"
    from textgen.data import recipes

    if Path(name).exists() or name in recipes.names():
        return f"textgen train {shlex.quote(name)}"
    return f"textgen sample --prompt {quoted(name)}" if " " in name.strip() else None


def check_corpus(verb: str, corpus: Sequence[str]) -> None:
    """Raise UsageError for a missing file, and for a model folder, whose README would be read as text."""
    for name in corpus:
        if not _is_run(Path(name)):
            continue
        path = shlex.quote(name)
        instead = {
            "train": f"--resume {path} continues that run, --init-from {path} starts from its weights.",
            "compare": "name the text to train on.",
            "tokenize": "name the text to tokenize.",
        }
        raise UsageError(
            f"{name!r} is a model folder, not a {'table or text' if verb == 'predict' else 'corpus'}.",
            hint=instead.get(
                verb, shlex.join(["textgen", verb, "-m", name, *(each for each in corpus if each != name)])
            ),
        )
    refuse_missing(corpus)


def quoted(text: str) -> str:
    """A text in quotation marks for the command line."""
    return f'"{text}"' if not re.search(r'["\\$`!]', text) else shlex.quote(text)


def _is_model(name: str) -> bool:
    return any(_is_run(folder) for folder in (Path(name), Path("runs") / name))


def _is_run(folder: Path) -> bool:
    return (folder / MANIFEST).is_file() and ((folder / ARGUMENTS).is_file() or (folder / "config.json").is_file())

"""Help in two layers: `-h` shows the options that most people need, `--help-all` shows every option by section."""

from __future__ import annotations

from collections.abc import Sequence

import click

from textgen.options import declared

REST = "Options"
"""The section of options that no settings class declares."""


def layered(common: Sequence[str], *settings: type) -> type[click.Command]:
    """A command class. `common` names the parameters that `-h` shows, most important first; `--help-all` adds the
    others, under the sections that the settings classes declare, and every alias."""
    sections = _sections(settings)

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
        def get_params(self, ctx: click.Context) -> list[click.Parameter]:
            return [*super().get_params(ctx), help_all]

        def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
            options = [each for each in self.get_params(ctx) if isinstance(each, click.Option)]
            if ctx.meta.get(__name__):
                _write(formatter, ctx, options, sections)
                return
            by_name = {option.name: option for option in options}
            with formatter.section("Most used options"):
                rows = [_short(by_name[name], ctx) for name in common]
                shown = ("-h, --help", "Show this message and exit.")
                formatter.write_dl([*rows, shown, ("--help-all", f"Show all {len(options)} options, by section.")])

    return Layered


def _sections(settings: Sequence[type]) -> dict[str, str]:
    """The section of each declared option, by name, in the order of the declarations."""
    found: dict[str, str] = {}
    section = REST
    for field, declaration in (each for one in settings for each in declared(one)):
        section = declaration.section or section
        found.setdefault(field.name, section)
    return found


def _write(
    formatter: click.HelpFormatter, ctx: click.Context, options: Sequence[click.Option], sections: dict[str, str]
) -> None:
    rows: dict[str, list[tuple[str, str]]] = {name: [] for name in [*dict.fromkeys(sections.values()), REST]}
    for option in options:
        record = option.get_help_record(ctx)
        if record is not None:
            rows[sections.get(option.name or "", REST)].append(record)
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

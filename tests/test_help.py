"""Help in two layers: `-h` is short, `--help-all` is whole."""

import re

import click
import pytest

from textgen.cli import COMMANDS, group, main

LAYERED = ("train", "sample", "compare", "evaluate")
MOST = 20
"""Options that a command may have before its help must come in two layers, and that a short help may show."""


def spellings(capsys, *arguments):
    """The options that a help text lists, a line each, as they are spelled there."""
    assert main(arguments) == 0
    rows = re.findall(r"^  (-.*?)(?:  .*)?$", capsys.readouterr().out, flags=re.M)
    return [re.findall(r"(?<!\S)--?[\w-]+", row) for row in rows]


def options(verb):
    command = group.get_command(click.Context(group), verb)
    context = click.Context(command, parent=click.Context(group, **group.context_settings))
    return [each for each in command.get_params(context) if isinstance(each, click.Option)]


@pytest.mark.parametrize("verb", COMMANDS)
def test_no_help_is_long(verb, capsys):
    assert 1 <= len(spellings(capsys, verb, "-h")) <= MOST


@pytest.mark.parametrize("verb", LAYERED)
def test_help_all_shows_every_spelling_of_every_option(verb, capsys):
    assert len(options(verb)) > MOST
    shown = {each for row in spellings(capsys, verb, "--help-all") for each in row}
    assert shown == {each for option in options(verb) for each in (*option.opts, *option.secondary_opts)}


@pytest.mark.parametrize("verb", LAYERED)
def test_short_help_shows_known_options_without_aliases(verb, capsys):
    main_names = {
        next(o for o in option.opts if o.startswith("--")) for option in options(verb) if "-o" not in option.opts
    }
    for row in spellings(capsys, verb, "-h"):
        assert next(each for each in row if each.startswith("--") and not each.startswith("--no-")) in main_names
        assert len(row) <= 3


@pytest.mark.parametrize("verb", LAYERED)
def test_an_unknown_option_is_answered_by_the_whole_help(verb, capsys):
    assert main([verb, "--no-such-option"]) == 2
    assert f"textgen {verb} --help-all lists all options." in capsys.readouterr().err

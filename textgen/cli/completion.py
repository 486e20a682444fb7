"""textgen completion: a script for the shell's tab key."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class

from textgen.screen import Output

SHELLS = ("bash", "zsh", "fish")


@click.command("completion")
@click.argument("shell", metavar="SHELL", type=click.Choice(SHELLS))
def command(shell: str) -> None:
    """Print a completion script for SHELL.

    \b
    bash: eval "$(textgen completion bash)"  in ~/.bashrc
    """
    from textgen.cli import group

    kind = get_completion_class(shell)
    assert kind is not None
    Output().write(kind(group, {}, "textgen", "_TEXTGEN_COMPLETE").source() + "\n")

"""The names of a cell, its class, its module and its package, from what the user typed."""

from __future__ import annotations

import keyword
import re
import unicodedata
from dataclasses import dataclass
from importlib import metadata, util

from textgen import plugins
from textgen.errors import UsageError

LONGEST = 60
_PREFIX = re.compile("textgen[-_](?=.)", re.IGNORECASE)
_FORM = re.compile(r"[A-Za-z][A-Za-z0-9]*([-_][A-Za-z0-9]+)*")
_ENDINGS = {"cell": "Cell", "lstm": "LSTM", "gru": "GRU", "rnn": "RNN"}
_USED_IN_MODULE = {"State", "Tensor"}


@dataclass(frozen=True)
class Names:
    """The names in a package: `my-cell`, `MyCell`, `textgen_my_cell`, `textgen-my-cell`."""

    cell: str
    class_name: str

    @property
    def module(self) -> str:
        return f"textgen_{self.cell.replace('-', '_')}"

    @property
    def distribution(self) -> str:
        return f"textgen-{self.cell}"


def names_from(typed: str) -> Names:
    """All names from one; the class keeps its capitals. Raises UsageError, with a suggestion, for an invalid name.

    Example:
        >>> names_from("mingru")
        Names(cell='mingru', class_name='MinGRU')
        >>> names_from("textgen-fast_weights").module
        'textgen_fast_weights'
    """
    name = _PREFIX.sub("", typed, count=1)
    if not _FORM.fullmatch(name) or len(name) > LONGEST:
        raise UsageError(
            f"the name of a cell is at most {LONGEST} letters and digits, a letter first, with single hyphens between "
            f"words; not {typed!r}.",
            hint=f"textgen plugins new {_suggestion(name)}",
        )
    words = re.split("[-_]", name)
    class_name = "".join(_capitalised(word) for word in words)
    if keyword.iskeyword(class_name) or class_name in _USED_IN_MODULE:
        class_name += "Cell"
    return Names("-".join(words).lower(), class_name)


def _capitalised(word: str) -> str:
    """A word of a class name: a capital first, and LSTM, GRU and RNN in capitals."""
    ending = next((end for end in _ENDINGS if word.endswith(end)), "")
    stem = word.removesuffix(ending)
    return stem[:1].upper() + stem[1:] + _ENDINGS.get(ending, "")


def _suggestion(name: str) -> str:
    plain = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode().lower()
    suggestion = "-".join(re.findall("[a-z0-9]+", plain)) or "my-cell"
    if not suggestion[0].isalpha():
        suggestion = f"cell-{suggestion}"
    return suggestion[:LONGEST].rstrip("-")


def refuse_taken(names: Names) -> None:
    """Raises UsageError if a cell, package or module with this name is installed, and names it."""
    owner = _owner(names)
    if owner is not None:
        hint = f"choose another, such as: textgen plugins new my-{names.cell}"
        if owner.startswith(f"{names.distribution} ") and names.distribution != plugins.OWN_DISTRIBUTION:
            hint += f"; or remove it: pip uninstall {names.distribution}"
        raise UsageError(f"the name {names.cell!r} is taken by {owner}.", hint=hint)


def _owner(names: Names) -> str | None:
    for name, claims in plugins.entries().items():
        if name.lower().replace("_", "-") == names.cell:
            return " and ".join(f"{entry.distribution} {entry.version}" for entry in claims)
    try:
        return f"{names.distribution} {metadata.version(names.distribution)}"
    except metadata.PackageNotFoundError:
        module = util.find_spec(names.module)
        return None if module is None else f"module {names.module} ({module.origin})"

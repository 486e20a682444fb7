"""A new plugin package, written from templates: it installs, trains and passes its tests as written.

The package is created whole or not at all.
"""

from __future__ import annotations

import json
import keyword
import re
import secrets
import shutil
import unicodedata
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import date
from importlib import metadata, resources, util
from pathlib import Path
from string import Template

from textgen import __version__, plugins
from textgen.errors import TextgenError, UsageError
from textgen.options import check, named, option
from textgen.storage import filesystem

LONGEST = 60
_PREFIX = re.compile("textgen[-_](?=.)", re.IGNORECASE)
_FORM = re.compile(r"[A-Za-z][A-Za-z0-9]*([-_][A-Za-z0-9]+)*")
_ENDINGS = {"cell": "Cell", "lstm": "LSTM", "gru": "GRU", "rnn": "RNN"}
_USED_IN_MODULE = {"State", "Tensor"}
ELSEWHERE = "--output-dir DIR chooses another folder."
LICENSES = {"mit": "MIT", "apache-2.0": "Apache-2.0", "bsd-3-clause": "BSD-3-Clause", "cc0": "CC0-1.0", "none": ""}
"""The choices, and their SPDX identifiers."""


@dataclass(frozen=True)
class CellKind:
    """A kind of cell: its name, the class to subclass, the method to write, and when to use it."""

    name: str
    base: str
    writes: str
    when: str


CELL_KINDS = {
    kind.name: kind
    for kind in (
        CellKind(
            "gated",
            "GatedCell",
            "activate(wx, rh, state)",
            "gates are pointwise functions of W·x + R·h (LSTM, GRU, sLSTM)",
        ),
        CellKind(
            "linear",
            "LinearCell",
            "coefficients(xs)",
            "h(t) = a * h(t-1) + b, with a and b from x(t) alone (minGRU, SRU)",
        ),
        CellKind("cell", "Cell", "step(x, state)", "anything else (MGU, Mogrifier, matrix memory)"),
    )
}


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


@dataclass(frozen=True)
class ScaffoldOptions:
    """The options of `textgen plugins new`."""

    kind: str = option("gated", "The kind of cell; --list explains them.", choices=tuple(CELL_KINDS))
    output_dir: str | None = option(None, "The folder to write.", metavar="DIR", default_text="textgen-NAME")
    license: str = option("mit", "License of the package; with none, nobody else may use it.", choices=tuple(LICENSES))
    author: str | None = option(
        None,
        "Author: 'Ada Lovelace' or 'Ada Lovelace <ada@example.org>'.",
        metavar="NAME",
        default_text="The textgen-NAME authors",
    )


@dataclass(frozen=True)
class Package:
    """A new package: its folder and files."""

    names: Names
    kind: CellKind
    folder: Path
    files: tuple[str, ...]


def create(name: str, options: ScaffoldOptions) -> Package:
    """Write a publishable package with a working cell of that name, its tests, README and license.

    Raises UsageError for a name that is invalid or taken, TextgenError if the folder exists or cannot be written.
    """
    check(options)
    names = names_from(name)
    refuse_taken(names)
    folder = Path(names.distribution if options.output_dir is None else options.output_dir)
    if folder.exists() or folder.is_symlink():
        raise TextgenError(f"{str(folder)!r} exists already.", hint=ELSEWHERE)
    above = next(parent for parent in folder.absolute().parents if parent.exists())
    if not above.is_dir():
        raise TextgenError(f"{str(above)!r} is not a folder.", hint=ELSEWHERE)
    content = contents(names, options, date.today().year)
    try:
        _write(folder, content)
    except OSError as error:
        raise TextgenError(f"{str(folder)!r} cannot be written: {error.strerror}.", hint=ELSEWHERE) from error
    return Package(names, CELL_KINDS[options.kind], folder, tuple(content))


def contents(names: Names, options: ScaffoldOptions, year: int) -> dict[str, bytes]:
    """The files of a package by path. Raises UsageError for an invalid author."""
    author = f"The {names.distribution} authors" if options.author is None else options.author
    if not author.isprintable() or not author.strip():
        raise UsageError(f"{named('author')} must be a name on one line, not {author!r}.")
    holder, mail = _name_and_mail(author)
    spdx = LICENSES[options.license]
    values = {
        "cell": names.cell,
        "class_name": names.class_name,
        "module": names.module,
        "distribution": names.distribution,
        "textgen_version": __version__,
        "year": str(year),
        "holder": holder,
        "author": f"{{ name = {_toml(holder)}{f', email = {_toml(mail)}' if mail else ''} }}",
        "licence": f'license = "{spdx}"\nlicense-files = ["LICENSE"]\n' if spdx else "",
    }
    templates = {
        f"{names.module}.py": f"{options.kind}.py",
        f"tests/test_{names.cell.replace('-', '_')}.py": "test.py",
        "pyproject.toml": "pyproject.toml",
        "README.md": "README.md",
        ".gitignore": "gitignore",
        **({"LICENSE": f"licenses/{options.license}"} if spdx else {}),
    }
    source = resources.files("textgen.scaffold").joinpath("templates")
    texts = {path: source.joinpath(f"{name}.txt").read_text("utf-8") for path, name in templates.items()}
    return {path: Template(text).substitute(values).encode() for path, text in texts.items()}


def _name_and_mail(author: str) -> tuple[str, str]:
    """Split 'Ada <ada@example.org>'; the address is empty if there is only a name."""
    parts = re.fullmatch(r"(.*\S)\s*<([^<>\s]+@[^<>\s]+)>", author.strip())
    return (parts[1], parts[2]) if parts else (author.strip(), "")


def _toml(text: str) -> str:
    """A TOML string; for printable text, a JSON string is one."""
    return json.dumps(text, ensure_ascii=False)


def _write(folder: Path, content: Mapping[str, bytes]) -> None:
    """Write to a temporary folder and rename it; after an error, remove everything."""
    absent = [parent for parent in folder.absolute().parents if not parent.exists()]
    temporary = folder.with_name(f".{folder.name}.tmp-{secrets.token_hex(4)}")
    try:
        for path, data in content.items():
            filesystem.make_parents((temporary / path).parent)
            filesystem.write_file(temporary / path, data)
        filesystem.system.rename(temporary, folder)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        for parent in absent:
            with suppress(OSError):
                parent.rmdir()
        raise

"""Writing a plugin package from templates, completely or not at all."""

from __future__ import annotations

import json
import re
import secrets
import shutil
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import date
from importlib import resources
from pathlib import Path
from string import Template

from textgen import __version__, files
from textgen.errors import TextgenError, UsageError
from textgen.options import check
from textgen.scaffold.kinds import KINDS, CellKind
from textgen.scaffold.names import Names, names_from, refuse_taken
from textgen.scaffold.settings import LICENSES, ScaffoldOptions

ELSEWHERE = "--output-dir DIR chooses another folder."


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
    return Package(names, KINDS[options.kind], folder, tuple(content))


def contents(names: Names, options: ScaffoldOptions, year: int) -> dict[str, bytes]:
    """The files of a package by path. Raises UsageError for an invalid author."""
    author = f"The {names.distribution} authors" if options.author is None else options.author
    if not author.isprintable() or not author.strip():
        raise UsageError(f"--author must be a name on one line, not {author!r}.")
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
    return {path: _filled(template, values) for path, template in templates.items()}


def _filled(template: str, values: Mapping[str, str]) -> bytes:
    text = resources.files("textgen.scaffold").joinpath("templates", f"{template}.txt").read_text("utf-8")
    return Template(text).substitute(values).encode()


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
            files.make_parents((temporary / path).parent)
            files.write_file(temporary / path, data)
        files.system.rename(temporary, folder)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        for parent in absent:
            with suppress(OSError):
                parent.rmdir()
        raise

"""Entry points of installed packages, read from their metadata without importing anything.

Metadata is untrusted text, of any content. Reading it raises nothing; what is wrong with an entry point is kept as its
`problem`.
"""

from __future__ import annotations

import ast
import os
import platform
import re
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from email.message import Message
from email.parser import HeaderParser
from importlib import metadata, util
from pathlib import Path
from typing import TYPE_CHECKING

from textgen.errors import showable

if TYPE_CHECKING:
    from packaging.requirements import Requirement

GROUP = "textgen"
OWN_DISTRIBUTION = "textgen-lm"


@dataclass(frozen=True)
class Kind:
    """Something that packages can offer: what one is called, and the hook that registers it."""

    name: str
    noun: str

    @property
    def hook(self) -> str:
        """The hook that a module implements to offer it."""
        return f"register_{self.name}"


KINDS = {
    kind.name: kind
    for kind in (Kind("cells", "cell"), Kind("tasks", "task"), Kind("models", "model"), Kind("commands", "command"))
}
CELLS = "cells"
"""The kind of an entry point with a bare name; all others are named KIND.NAME."""
_VALUE = re.compile(r"(?P<module>[\w.]*)\s*(:\s*[\w.]+\s*)?(\[.*\]\s*)?")
"""The value of an entry point: a module, then perhaps an attribute and extras, neither of which is used."""
_LONGEST_VALUE = 80


@dataclass(frozen=True)
class Entry:
    """One entry point: a name, the module that registers it, and the package that brought both.

    `problem` says what is wrong with the entry point itself, if anything. `requires` holds the package's requirements
    as its metadata has them, `requires_python` the versions of Python that it supports, `about` its one-line summary.
    """

    name: str
    module: str
    distribution: str
    version: str
    problem: str = ""
    requires: tuple[str, ...] = ()
    requires_python: str = ""
    kind: str = CELLS
    about: str = ""

    def __str__(self) -> str:
        return f"plugin {showable(self.name)!r} ({self.package})"

    @property
    def package(self) -> str:
        """The package and its version."""
        return f"{self.distribution} {self.version}"

    @property
    def noun(self) -> str:
        """What the entry point offers: a cell, a task, a model or a command."""
        return KINDS[self.kind].noun

    @property
    def summary(self) -> str:
        """The first line of the module's docstring, read from its source without importing it."""
        if self.problem:
            return ""
        try:
            path = _source(self.module)
            docstring = ast.get_docstring(ast.parse(path.read_bytes())) if path else None
        except Exception:  # a source of any content, found by any import hook
            docstring = None
        return showable(docstring.strip().splitlines()[0]) if docstring and docstring.strip() else ""

    @property
    def refusal(self) -> str:
        """Why this plugin cannot be used, as far as metadata tells; empty if nothing speaks against it."""
        return self.problem or next((said for said, fatal in self._unmet() if fatal), "")

    @property
    def notice(self) -> str:
        """Requirements on other packages that are not met. The plugin may work all the same."""
        return "; ".join(said for said, fatal in self._unmet() if not fatal)

    def _unmet(self) -> Iterator[tuple[str, bool]]:
        """Each requirement that is not met, and whether the plugin must not be used for it."""
        if self.requires_python and not _within(platform.python_version(), self.requires_python):
            yield f"it requires Python {self.requires_python}, and this is Python {platform.python_version()}", True
        for requirement in _requirements(self.requires):
            said = _missing(requirement)
            if said:
                yield f"it requires {said}", normal(requirement.name) == OWN_DISTRIBUTION


def _requirements(lines: Iterable[str]) -> Iterator[Requirement]:
    """The requirements that apply here. A line that cannot be read says nothing."""
    from packaging.requirements import Requirement

    for line in lines:
        try:
            requirement = Requirement(line)
            applies = requirement.marker is None or requirement.marker.evaluate({"extra": ""})
        except Exception:  # text of any content
            continue
        if applies:
            yield requirement


def _missing(requirement: Requirement) -> str:
    """What is not met about a requirement: 'numpy<2, and 2.4.6 is installed'. Empty if it is met."""
    try:
        installed = metadata.version(requirement.name)
    except Exception:  # not installed, or installed without a readable version
        return f"{requirement.name}{requirement.specifier}, which is not installed"
    if _within(installed, str(requirement.specifier)):
        return ""
    return f"{requirement.name}{requirement.specifier}, and {requirement.name} {installed} is installed"


def _within(version: str, specifier: str) -> bool:
    """Whether a version satisfies a specifier; true where either cannot be read."""
    from packaging.specifiers import SpecifierSet

    try:
        return SpecifierSet(specifier).contains(version, prereleases=True)
    except Exception:  # text of any content
        return True


def _source(module: str) -> Path | None:
    """The source file of a module, found without importing it or its parents."""
    top, *rest = module.split(".")
    spec = util.find_spec(top)
    if spec is None or spec.origin is None:
        return None
    path = Path(spec.origin)
    if not rest:
        return path
    below = path.parent.joinpath(*rest)
    return next((p for p in (below.with_suffix(".py"), below / "__init__.py") if p.is_file()), None)


_read: dict[str, tuple[object, tuple[Entry, ...]]] = {}
"""The entry points read last, with the state of the folders in which they were found."""


def installed_entries() -> tuple[Entry, ...]:
    """Every entry point of the group. Of a package found twice the first counts, which is the one that is imported.

    They are read again only when the path or one of its folders has changed since, as installing a package does.
    """
    state = _state_of_path()
    if _read.get(GROUP, (None,))[0] != state:
        _read[GROUP] = state, tuple(_entries())
    return _read[GROUP][1]


def read_again() -> None:
    """Read the metadata anew when it is asked for next."""
    _read.clear()


def _state_of_path() -> object:
    """What changes when packages can be found in other places, or when one is installed or removed."""
    folders: list[object] = []
    for entry in sys.path:
        try:
            found = os.stat(entry or ".")  # noqa: PTH116 - an entry of the path may be anything
            folders.append((str(entry), found.st_dev, found.st_ino, found.st_mtime_ns))
        except (OSError, ValueError, TypeError):
            folders.append(str(entry))
    return [id(finder) for finder in sys.meta_path], folders


def _entries() -> Iterator[Entry]:
    """Read the metadata of every installed package."""
    seen: set[str] = set()
    for distribution in metadata.distributions():
        points = _points(_text(distribution, "entry_points.txt"))
        if not points:
            continue
        about = HeaderParser().parsestr(_text(distribution, "METADATA") or _text(distribution, "PKG-INFO"))
        name, version = _package(distribution, about)
        if normal(name) in seen:
            continue
        seen.add(normal(name))
        requires = tuple(_one_line(line) for line in about.get_all("Requires-Dist", []))
        python, summary = _one_line(about.get("Requires-Python", "")), _one_line(about.get("Summary", ""))
        for point, values in points.items():
            kind, offered = _kind_of(point)
            module, problem = _examined(point, values, offered, kind)
            yield Entry(offered, module, name, version, problem, requires, python, kind, summary)


def _kind_of(point: str) -> tuple[str, str]:
    """The kind and the name that an entry point offers: `tasks.sort` is task `sort`, `lstm` is a cell."""
    kind, dot, name = point.partition(".")
    return (kind, name) if dot and kind in KINDS and kind != CELLS else (CELLS, point)


def normal(package: str) -> str:
    """A package's name as package indexes compare it (PEP 503)."""
    return re.sub(r"[-_.]+", "-", package).lower()


def _text(distribution: metadata.Distribution, name: str) -> str:
    """A file of a distribution's metadata; empty if there is none. Bytes that are not UTF-8 are replaced."""
    try:
        return distribution.read_text(name) or ""
    except UnicodeDecodeError as error:
        return error.object.decode("utf-8", "replace")
    except Exception:  # whatever a finder of packages may raise
        return ""


def _points(text: str) -> dict[str, list[str]]:
    """The names in the group's section of entry_points.txt, each with its different values. A line without '=' has the
    value ''."""
    found: dict[str, list[str]] = {}
    section = ""
    for line in (line.strip() for line in text.removeprefix("\ufeff").splitlines()):
        if line.startswith("[") and line.endswith("]"):
            section = line[1:-1].strip()
        elif line and not line.startswith(("#", ";")) and section == GROUP:
            name, _, value = (part.strip() for part in line.partition("="))
            values = found.setdefault(name, [])
            values += [value] if value not in values else []
    return found


def _examined(point: str, values: list[str], offered: str, kind: str) -> tuple[str, str]:
    """The module that an entry point names, and what is wrong with the entry point."""
    if len(values) > 1:
        return "", f"it has {len(values)} entry points named {_short(point)}: {_short(values[0])}, {_short(values[1])}"
    match = _VALUE.fullmatch(values[0])
    module = match["module"] if match else ""
    if not all(part.isidentifier() for part in module.split(".")):
        return "", f"its entry point {_short(point)} is {_short(values[0])}, which is not the name of a module"
    if not offered or not offered.isprintable():
        noun = KINDS[kind].noun
        return module, f"its entry point for {module} is named {_short(point)}, which cannot be the name of a {noun}"
    if kind == CELLS and "." in offered:
        kinds = ", ".join(f"{name}." for name in KINDS if name != CELLS)
        return (
            module,
            f"its entry point {_short(point)} begins with none of {kinds} and cells have no dot in their name",
        )
    return module, ""


def _short(text: str) -> str:
    """Text in quotes, cut if it is long."""
    return repr(text if len(text) <= _LONGEST_VALUE else f"{text[:_LONGEST_VALUE]}...")


def _package(distribution: metadata.Distribution, about: Message) -> tuple[str, str]:
    """A distribution's name and version; where its metadata has none, those of its folder."""
    folder = Path(str(getattr(distribution, "_path", ""))).name
    stem, _, version = re.sub(r"\.(dist-info|egg-info)$", "", folder).partition("-")
    name = _one_line(about.get("Name", "")) or showable(stem) or "a package without a name"
    return name, _one_line(about.get("Version", "")) or showable(version) or "?"


def _one_line(value: object) -> str:
    return showable(" ".join(str(value).split()))

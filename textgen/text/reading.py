"""How a model reads text: as in training, which `config.json` records, unless options override it."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Self

from textgen import arguments, sealed
from textgen.errors import UsageError
from textgen.parameters import flag, named
from textgen.text import decoding, hub, recipes
from textgen.text.archives import opened
from textgen.text.sources import SourceOptions, find_sources, table_form
from textgen.text.tables import form_of

COLUMNS = ("text_column", "label_column", "prompt_column", "completion_column")
OF_TABLES = (*COLUMNS, "delimiter")
"""Settings that apply only to tables."""


def _checked(name: str, value: Any) -> Any:
    """A setting that was asked for. Raises UsageError if its type is wrong."""
    return arguments.flag(name, value) if name == "whole_files" else arguments.text(name, value)


@dataclass(frozen=True)
class Reading:
    """The settings for reading. `trained` names those that come from training; to override a document separator with
    none, ask for an empty one."""

    encoding: str | None = None
    document_separator: str | None = None
    text_column: str | None = None
    label_column: str | None = None
    prompt_column: str | None = None
    completion_column: str | None = None
    whole_files: bool | None = None
    delimiter: str | None = None
    trained: frozenset[str] = frozenset()

    @classmethod
    def of(cls, record: Mapping[str, Any], asked: Mapping[str, Any]) -> Self:
        """The settings that were asked for, and for the others those that a model remembers (`record`). Raises
        UsageError for an unknown or invalid setting, DamagedError for an invalid record."""
        known = {each.name for each in fields(cls)} - {"trained"}
        unknown = next((name for name in asked if name not in known), None)
        if unknown is not None:
            raise UsageError(f"unknown reading option {unknown!r}.", hint=f"options: {', '.join(sorted(known))}.")
        given = {name: _checked(name, value) for name, value in asked.items() if value is not None}
        kept = {name: record[name] for name in known & record.keys() - given.keys()}
        for name, value in kept.items():
            if type(value) is not (bool if name == "whole_files" else str):
                raise sealed.DamagedError(f"config.json is damaged: the reading option {name} cannot be {value!r}.")
        reading = cls(**{**kept, **given, "trained": frozenset(kept)})
        reading.options  # noqa: B018 - raises for invalid values
        return reading

    def asked(self, name: str) -> Any:
        """A setting if it was asked for, else None."""
        return None if name in self.trained else getattr(self, name)

    @property
    def options(self) -> SourceOptions:
        """How files are read. A byte-order mark overrides an encoding from training."""
        separator, first = self.document_separator or None, "encoding" in self.trained
        return SourceOptions(
            self.encoding, separator, text_column=self.text_column, delimiter=self.delimiter, from_training=first
        )

    def said(self, sources: Sequence[str]) -> str | None:
        """A sentence about the settings from training that apply to these inputs; None if there are none. A recipe
        has its own settings."""
        tables = any(path.startswith(hub.PREFIX) or form_of(path) or Path(path).is_dir() for path in sources)
        names = [each.name for each in fields(self) if each.name in self.trained]
        shown = [name for name in names if tables or name not in OF_TABLES]
        if not sources or not shown or recipes.find(sources):
            return None
        typed = [self._typed(name) for name in shown]
        return f"Read as in training: {' '.join(typed)} (options given here override that)."

    def _typed(self, name: str) -> str:
        value = getattr(self, name)
        return flag(name) if value is True else f"{flag(name)} {shlex.quote(str(value))}"

    @contextmanager
    def explained(self) -> Iterator[None]:
        """Add to an error about a missing column that its name comes from training."""
        try:
            yield
        except UsageError as error:
            names = [name for name in COLUMNS if name in self.trained and getattr(self, name) == error.column]
            name = next(iter([*names, *self.trained & {"delimiter"}]), None)
            if error.column is None or name is None:
                raise
            message = f"{error} The model was trained with {named(name, getattr(self, name))}."
            wanted = "gives that of this table" if name == "delimiter" else "names the column of this table"
            raise UsageError(message, hint=f"{named(name, 'X')} {wanted}.") from None

    def lines(self, paths: Sequence[str]) -> Iterator[tuple[str, str]]:
        """Every line of some plain files, without its end, after where it is ("line 7 of 'notes.txt'"); an empty one
        after each file. Raises as `find_sources`, and as `decoded`."""
        for source in find_sources(paths):
            with opened(source.path, source.name) as stream:
                text = self.decoded(stream.read(), source.name)
            for number, line in enumerate([*re.split("\r\n?|\n", text), ""], 1):
                yield f"line {number} of {source.name!r}", line

    def decoded(self, data: bytes, name: str) -> str:
        """A short text from bytes, read like a file. Raises TextgenError naming the byte that is not text."""
        from textgen.text.detection import chosen

        known, found = self.options, self.encoding == decoding.AUTO
        encoding = chosen(Path(name), name, lambda: [data]) if found else self.encoding
        how = decoding.Decoding(encoding, found, known.from_training)
        return b"".join(decoding.to_utf8([data], data[: decoding.HEAD_BYTES], name, how)).decode()


def record_of(paths: Sequence[str], options: Any) -> dict[str, Any]:
    """The reading options of a training run on these paths, as `config.json` records them."""
    if len(paths) == 1 and (Path(paths[0]) / sealed.MANIFEST).is_file():
        record: dict[str, Any] = sealed.read_manifest(Path(paths[0])).get("reading", {})
        return record
    recipe = recipes.find(paths)
    options = recipe.fill(options) if recipe else options
    names = [each.name for each in fields(Reading) if each.name not in ("whole_files", "trained")]
    return {name: value for name in names if (value := getattr(options, name, None))}


def reads_whole_files(paths: Sequence[str]) -> bool:
    """Whether every text is a file, so that there are no tables."""
    if any(path == "-" or path.startswith(hub.PREFIX) for path in paths):
        return False
    return not any(table_form(source) for source in find_sources(paths))

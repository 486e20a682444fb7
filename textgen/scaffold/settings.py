"""The options of a new plugin package."""

from __future__ import annotations

from dataclasses import dataclass

from textgen.options import option
from textgen.scaffold.kinds import KINDS

LICENSES = {"mit": "MIT", "apache-2.0": "Apache-2.0", "bsd-3-clause": "BSD-3-Clause", "cc0": "CC0-1.0", "none": ""}
"""The choices, and their SPDX identifiers."""


@dataclass(frozen=True)
class ScaffoldOptions:
    """The options of `textgen plugins new`."""

    kind: str = option("gated", "The kind of cell; --list explains them.", choices=tuple(KINDS))
    output_dir: str | None = option(None, "The folder to write.", metavar="DIR", default_text="textgen-NAME")
    license: str = option("mit", "License of the package; with none, nobody else may use it.", choices=tuple(LICENSES))
    author: str | None = option(
        None,
        "Author: 'Ada Lovelace' or 'Ada Lovelace <ada@example.org>'.",
        metavar="NAME",
        default_text="The textgen-NAME authors",
    )

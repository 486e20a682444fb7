"""Which files and folders a command may write, and what kinds of output there are.

A file that the command reads is never replaced. Any other file is replaced only if it is empty, if its content shows
that it is an earlier output of the same kind, or if `overwrite` is set. A pipe, a terminal or a device is written to
as it is.
"""

from __future__ import annotations

import json
import os
import sys
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

from textgen.errors import TextgenError, UsageError
from textgen.storage import MANIFEST, read_manifest
from textgen.storage.filesystem import UNFINISHED, descriptor_of, naming, write_output

if TYPE_CHECKING:
    from matplotlib.figure import Figure

HEAD_BYTES = 4096
STATE_FORMAT = "textgen state"  # the format that the header of a state file names
_PNG = b"\x89PNG\r\n\x1a\n"
_STATE_HEADER = f'{{"__metadata__":{{"about":"{{\\"format\\": \\"{STATE_FORMAT}\\"'.encode()

_FORECAST_COLUMNS = ["series", "time", "forecast"]


@dataclass(frozen=True)
class OutputKind:
    """A kind of output: what messages call it, and whether a file that begins with these `HEAD_BYTES` is one."""

    noun: str
    matches: Callable[[bytes], bool]


def _is_forecasts(head: bytes) -> bool:
    """Whether the first line is the csv header of a table of forecasts, or one of its rows as a JSON object."""
    line = head.splitlines()[0]
    if line.startswith(b"{"):
        with suppress(ValueError):
            row = json.loads(line)
            return isinstance(row, dict) and list(row)[:3] == _FORECAST_COLUMNS
    return line.decode(errors="replace").split(",")[:3] == _FORECAST_COLUMNS


PLOT = OutputKind("a plot drawn by textgen", lambda head: head.startswith(_PNG) and b"Software\0textgen" in head)
STATE = OutputKind("a saved state", lambda head: head[8:].startswith(_STATE_HEADER))
ARCHIVE = OutputKind(
    "a compressed archive", lambda head: head.startswith(b"\xd7g") and head[2:3] in b"\x01\x41\x81\xc1"
)
FORECASTS = OutputKind("a table of forecasts", _is_forecasts)
EXPLANATIONS = OutputKind(
    "a page of explained predictions", lambda head: b'<meta name="generator" content="textgen explain">' in head
)
PAGE = OutputKind("an exported page", lambda head: b'<meta name="generator" content="textgen export">' in head)
GRAPH = OutputKind("an exported graph", lambda head: b"\x12\x07textgen" in head[:16])
ANYTHING = OutputKind("", lambda head: False)
"""Output that cannot be recognized by its content: an existing file never counts as an earlier output."""


@dataclass(frozen=True)
class OutputFile:
    """A file that an option names for output. `inputs` are the files and folders that the command reads; in such a
    folder, an earlier output of the same kind is not an input.

    Raises UsageError for an input, a folder, or a path in a folder that does not exist, and TextgenError for an
    existing file that must stay.
    """

    path: Path
    option: str
    kind: OutputKind
    inputs: tuple[Path, ...] = ()
    overwrite: bool = False

    def __post_init__(self) -> None:
        self.check()

    def check(self) -> None:
        """Raise, as the constructor does, for what exists now."""
        if descriptor_of(self.path) is not None:
            return
        name = str(self.path)
        with naming(self.path):
            if self.path.is_dir():
                raise UsageError(f"{name!r} is a folder, not a file.")
            if not self.path.resolve().parent.is_dir():
                raise UsageError(f"the folder of {name!r} does not exist.", hint=f"mkdir -p {self.path.parent}")
            if not self.path.is_file():
                return
            with self.path.open("rb") as file:
                head = file.read(HEAD_BYTES)
            is_earlier = not head or self.kind.matches(head)
            status = self.path.stat()
            inputs = [each for each in self.inputs if not (is_earlier and each.is_dir())]
            if any(os.path.samestat(status, read) for each in inputs for read in _statuses(each)):
                raise UsageError(
                    f"{name!r} is an input of this command and is never replaced.",
                    hint=f"choose another file for {self.option}.",
                )
        if not is_earlier and not self.overwrite:
            is_other = f" and is not {self.kind.noun}" if self.kind.noun else ""
            raise TextgenError(
                f"{name!r} exists already{is_other}.",
                hint=f"--overwrite replaces it, or choose another file for {self.option}.",
            )

    def write(self, content: bytes) -> None:
        """Write the file, completely or not at all, if that is still allowed."""
        self.check()
        write_output(self.path, content)


def check_folder(
    folder: Path,
    option: str,
    noun: str,
    is_ours: Callable[[Mapping[str, Any]], bool],
    inputs: Sequence[Path],
    overwrite: bool,
) -> None:
    """Raise TextgenError or UsageError if a folder must not be written: an existing one is replaced only with
    `overwrite`, and only if textgen wrote everything in it and it holds no input.

    `noun` is what messages call such a folder, `is_ours` recognizes one by its manifest.
    """
    name = str(folder)
    if not os.path.lexists(folder):
        return
    if not overwrite:
        raise TextgenError(f"{name!r} exists already.", hint=f"choose another {option}, or add --overwrite.")
    if any(os.path.samestat(ours, read) for ours in _statuses(folder) for each in inputs for read in _statuses(each)):
        raise UsageError(f"{name!r} holds an input of this command and is never replaced.",
                         hint=f"choose another {option}.")  # fmt: skip
    is_sealed = (folder / MANIFEST).is_file() and not folder.is_symlink()
    manifest = read_manifest(folder) if is_sealed else {}
    if not manifest or not is_ours(manifest):
        raise TextgenError(f"{name!r} is not {noun} and is not replaced.", hint=f"choose another {option}.")
    names = {path.name for path in folder.iterdir()} - {*manifest["files"], MANIFEST}
    if strange := sorted(each for each in names if not UNFINISHED.fullmatch(each)):
        raise TextgenError(f"{name!r} holds {strange[0]!r}, which textgen did not write, and is not replaced.",
                           hint=f"move {strange[0]} away, or choose another {option}.")  # fmt: skip


def refuse_same(outputs: Mapping[str, str | None]) -> None:
    """Raise UsageError if two options name the same output file."""
    seen: dict[Path, str] = {}
    for option, name in outputs.items():
        if name is None or name == "-" or descriptor_of(Path(name)) is not None:
            continue
        path = Path(name).resolve()
        if path in seen and (path.is_file() or not path.exists()):
            raise UsageError(f"{seen[path]} and {option} name the same file, {name!r}.")
        seen[path] = option


def _statuses(given: Path) -> Iterable[os.stat_result]:
    """The status of an input file, or of every file in an input folder; '-' is standard input."""
    if str(given) == "-":
        with suppress(OSError, ValueError, AttributeError):
            yield os.fstat(sys.stdin.fileno())
        return
    for path in [given, *(given.rglob("*") if given.is_dir() else ())]:
        with suppress(OSError):
            yield path.stat()


def to_png(figure: Figure) -> bytes:
    """A matplotlib figure as the content of a PNG file."""
    content = BytesIO()
    with warnings.catch_warnings():  # about characters that the font lacks
        warnings.simplefilter("ignore")
        figure.savefig(content, format="png", metadata={"Software": "textgen"})
    return content.getvalue()

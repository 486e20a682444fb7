"""Errors that a user can fix: one sentence and a hint; missing packages; the code that an exception comes from.

Untrusted text in messages is escaped, so that no control character reaches a terminal.
"""

from __future__ import annotations

import re
import traceback
import unicodedata
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from itertools import takewhile
from pathlib import Path

_TYPED = {"n": "\n", "t": "\t", "r": "\r", "0": "\0", "\\": "\\"}

_TEXT_FORMATS = frozenset(
    "\u00ad\u061c\u06dd\u070f\u0890\u0891\u08e2\u200b\u200c\u200d\u200e\u200f\u2060\U000110bd\U000110cd"
    "\u0600\u0601\u0602\u0603\u0604\u0605"
)
"""Format characters (Cf) that occur in normal text: joiners, direction marks, soft hyphens, Arabic and Kaithi signs.
Direction overrides and embeddings, which can disguise a line, are not among them."""

_BLACK_FLAG, _CANCEL_TAG = "\U0001f3f4", "\U000e007f"
_TAGS = frozenset(map(chr, (*range(0xE0030, 0xE003A), *range(0xE0061, 0xE007B))))
_MOST_TAGS = 6
"""The maximum length of a region code, such as gbeng, in a flag."""


def unescape(typed: str) -> str:
    r"""Replace `\n`, `\t`, `\r`, `\0` and `\\` in an option's value; any other backslash stays."""
    return re.sub(r"\\([ntr0\\])", lambda escape: _TYPED[escape[1]], typed)


class Escaper:
    """Escapes characters that could move the cursor or reorder a line, as in `\\x1b`.

    Text may come in pieces; a region's flag (a black flag, then invisible tag characters) may be split anywhere.
    """

    def __init__(self) -> None:
        self._tags: int | None = None
        """The number of tag characters since a black flag; None elsewhere."""

    def __call__(self, text: str) -> str:
        """The next piece, escaped."""
        return "".join(self._escaped(character) for character in text)

    def _escaped(self, character: str) -> str:
        tags, self._tags = self._tags, None
        if character == _BLACK_FLAG:
            self._tags = 0
        elif tags is not None and tags < _MOST_TAGS and character in _TAGS:
            self._tags = tags + 1
        elif (tags and character == _CANCEL_TAG) or character in "\n\t" or character in _TEXT_FORMATS:
            return character
        elif unicodedata.category(character) in ("Cc", "Cf"):
            return escape(character)
        return character


def escape(character: str) -> str:
    """A character as Python writes it in a string literal: x1b, u202e or U000e0067, after a backslash."""
    code = ord(character)
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def visible(text: str) -> str:
    """A whole text, escaped."""
    return Escaper()(text)


def on_one_line(text: str) -> str:
    """The text with all nonprintable characters escaped, line ends included; spaces of any width stay."""
    return "".join(
        character
        if character.isprintable() or unicodedata.category(character) in ("Zs", "Cf")
        else ascii(character)[1:-1]
        for character in visible(text)
    )


LONGEST_BEGIN, LONGEST_END = 1200, 300
"""Characters of a message that are shown of a longer one: what a file holds may be of any length."""

TYPO_EDITS, TYPO_SHARE = 3, 0.33
"""A typo is at most this many edits, and at most this fraction of the longer name."""


class TextgenError(ValueError):
    """An error in one sentence that names the value; `hint`, if any, says what to do.

    Both are safe to print: control characters are escaped, and a very long message is shortened.
    """

    exit_code = 1

    def __init__(self, message: str, hint: str | None = None) -> None:
        super().__init__(showable(message))
        self.hint = None if hint is None else showable(hint)


class UsageError(TextgenError):
    """The request itself is wrong: an unknown name, options that exclude each other."""

    exit_code = 2
    column: str | None = None
    """The missing column, if that is what is wrong."""


class CompilerError(TextgenError):
    """The C++ compiler is missing or does not work; a run without one is slower, and otherwise the same."""


class TextgenWarning(UserWarning):
    """Something that the user should know about the data; the command line prints it as a warning."""


class TextgenNote(TextgenWarning):
    """Something that was detected or decided; the command line prints it as a note."""


def missing_column(message: str, column: str) -> UsageError:
    """The error of a table that lacks a column."""
    error = UsageError(message)
    error.column = column
    return error


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """' Did you mean 'x'?' for the known name that was probably meant, or nothing.

    It differs from `name` in case or separators, or by few edits for its length; or it is the only one with this word.
    """
    typed, plain = _plain(name), {each: other for each in known if (other := _plain(each))}
    near: dict[str, float] = {}
    for each, other in plain.items():
        most = min(TYPO_EDITS, TYPO_SHARE * max(len(typed), len(other)))
        if abs(len(typed) - len(other)) <= most and (edits := _edits(typed, other)) <= most:
            near[each] = edits
    with_word = [each for each, other in plain.items() if len(typed) > 2 and typed in re.split(r"[_.]", other)]
    best = min(near, key=near.__getitem__, default=with_word[0] if len(with_word) == 1 else None)
    return "" if best is None else f" Did you mean {best!r}?"


def _plain(name: str) -> str:
    return re.sub(r"[\s_-]+", "_", name.strip().casefold())


def _edits(a: str, b: str) -> float:
    """The edit distance between two names; a swap of neighbouring letters, the commonest typo, counts half."""
    older: list[float] = []
    old: list[float] = list(range(len(b) + 1))
    for i, letter in enumerate(a):
        new: list[float] = [i + 1]
        for j, other in enumerate(b):
            new.append(min(old[j] + (letter != other), old[j + 1] + 1, new[j] + 1))
            if i and j and (letter, a[i - 1]) == (b[j - 1], other):
                new[-1] = min(new[-1], older[j - 1] + 0.5)
        older, old = old, new
    return old[-1]


def showable(message: str) -> str:
    """A message as one line of printable characters; the middle of a very long one is left out."""
    if len(message) > LONGEST_BEGIN + LONGEST_END:
        message = f"{message[:LONGEST_BEGIN]} ... {message[-LONGEST_END:]}"
    return message if message.isprintable() else on_one_line(message)


_NEEDED_FOR = {
    "torch": "training",
    "datasets": "reading data sets from the Hub",
    "huggingface_hub": "reading data sets from the Hub",
    "sentencepiece": "a subword tokenizer",
    "safetensors": "reading and writing weights",
    "pyarrow": "reading parquet and zstandard files",
    "matplotlib": "drawing a plot",
    "onnxruntime": "running weights in eight bits",
    "tensorboard": "--report-to tensorboard",
    "numpy": "running a model",
    "rich": "showing progress",
    "llguidance": "a constraint on texts",
    "onnx": "exporting to ONNX",
    "packaging": "comparing versions",
    "sklearn": "a linear model",
    "statsforecast": "comparing with AutoETS and AutoARIMA",
    "threadpoolctl": "setting the number of threads",
    **dict.fromkeys(("starlette", "uvicorn", "prometheus_client"), "serving"),
}
"""What needs each package, by its module name."""
_EXTRAS = {
    "matplotlib": "plot",
    "onnxruntime": "int8",
    "tensorboard": "tensorboard",
    "llguidance": "constrained",
    "onnx": "onnx",
    "sklearn": "bench",
    "statsforecast": "bench",
    **dict.fromkeys(("torch", "datasets", "pyarrow"), "train"),
    "huggingface_hub": "hub",
    **dict.fromkeys(("starlette", "uvicorn", "prometheus_client"), "serve"),
}
"""Our extra that installs a package; others are installed by their own name."""
_NAMES = {"sklearn": "scikit-learn"}
"""The names of packages that are not those of their modules."""


@contextmanager
def needed(package: str, purpose: str = "", instead: str = "") -> Iterator[None]:
    """A block that imports a package. Raises TextgenError with how to install it if that fails.

    `purpose` is what needs it, if not the usual feature; `instead` is an alternative.
    """
    try:
        yield
    except ImportError as error:
        raise _unusable(package, error, purpose, instead) from error


def require(package: str, purpose: str = "") -> None:
    """Raise TextgenError if a package is not installed. Imports nothing."""
    try:
        found = find_spec(package) is not None
    except (ImportError, ValueError):
        found = False
    if not found:
        raise _unusable(package, ModuleNotFoundError(name=package), purpose)


def missing(error: BaseException) -> TextgenError | None:
    """The error for a failed import, with how to install the package; None for any other error or package."""
    package = (error.name or "").split(".")[0] if isinstance(error, ImportError) else ""
    return _unusable(package, error) if package in _NEEDED_FOR else None


def _unusable(package: str, error: BaseException, purpose: str = "", instead: str = "") -> TextgenError:
    absent = isinstance(error, ModuleNotFoundError) and (error.name or "").split(".")[0] == package
    reason = " ".join(str(error).split()).removesuffix(".")
    state = "is not installed" if absent else f"cannot be imported ({reason})"
    extra = _EXTRAS.get(package)
    name = _NAMES.get(package, package.replace("_", "-"))
    install = f"pip install 'textgen-lm[{extra}]'" if extra else f"pip install {name}"
    return TextgenError(
        f"{purpose or _NEEDED_FOR[package]} needs {name}, which {state}.",
        hint=f"{install}{f'; or {instead}' if instead else ''}",
    )


_EXHAUSTED = ("out of memory", "can't allocate memory", "cannot allocate memory", "bad_alloc")

_PACKAGES: dict[type, str] = {}
"""The package, with its version, that brought a class, of those that are not ours."""


def brought(kind: type, package: str) -> None:
    """Remember which package a class comes from."""
    _PACKAGES[kind] = package


def origin(kind: type) -> str:
    """' of textgen-mycell 1.0' for a class that another package than ours brought, else nothing."""
    return f" of {_PACKAGES[kind]}" if kind in _PACKAGES else ""


@dataclass(frozen=True)
class Place:
    """A line of code. `module` is the one asked for that it belongs to, `entered` the first function of the same
    package on the way there."""

    module: str
    file: str
    line: int
    entered: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line}"


def place_of(error: BaseException, modules: Iterable[str]) -> Place | None:
    """The innermost frame of an exception that belongs to one of these modules, or to a package that one is part of.

    Where several belong to one package, the module with the longest part of its name in common is taken.
    """
    asked = [module.split(".") for module in modules]
    found: tuple[str, str, int] | None = None
    entered: dict[str, str] = {}
    for frame, line in traceback.walk_tb(error.__traceback__):
        name = str(frame.f_globals.get("__name__", "")).split(".")
        own = [parts for parts in asked if parts[0] == name[0]]
        if own:
            best = ".".join(max(own, key=lambda parts: _shared(parts, name)))
            entered.setdefault(name[0], frame.f_code.co_name)
            found = best, _shortened(frame.f_code.co_filename, name[0]), line
    return Place(*found, entered[found[0].split(".")[0]]) if found else None


def _shared(a: Iterable[str], b: Iterable[str]) -> int:
    """How many leading parts two module names have in common."""
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(a, b, strict=False)))


def _shortened(filename: str, package: str) -> str:
    """A file below its package: textgen_mycell/cells.py, or mycell.py where the package is one file."""
    parts = Path(filename).parts
    if package in parts[:-1]:
        start = len(parts) - 1 - parts[::-1].index(package)
        return "/".join(parts[start:])
    return parts[-1] if parts else filename


def summary_of(error: BaseException) -> str:
    """The type of an exception and what it says, on one line."""
    return ": ".join(filter(None, [type(error).__name__, text_of(error)]))


def text_of(error: BaseException) -> str:
    """What an exception says, on one line; nothing where its own code fails to say it."""
    try:
        return " ".join(str(error).split())
    except Exception:
        return ""


def out_of_memory(error: BaseException) -> bool:
    """Whether an exception says that there is not enough memory, as Python or torch says it."""
    return isinstance(error, MemoryError) or any(words in text_of(error).lower() for words in _EXHAUSTED)

"""What a contest keeps in `contest.json`: what was asked, what was decided, and what came out so far.

The file is replaced after every decision and every run, whole and held to its digest, so that a contest that was
stopped anywhere is taken up from it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from textgen import files, sealed
from textgen.errors import TextgenError
from textgen.options import from_mapping
from textgen.settings import TrainOptions

CONTEST = "contest.json"
FORMAT_VERSION = 1


@dataclass(frozen=True)
class Outcome:
    """How one run ended: its figures, or why it has none.

    Seconds are those of training with its evaluations and saving; speeds are in tokens a second; `peak_bytes` is the
    largest resident size of the process during the run (on a GPU, of its tensors). What could not be measured is None.
    """

    bits_per_byte: float | None = None
    nats_per_token: float | None = None
    seconds: float | None = None
    train_speed: float | None = None
    sample_speed: float | None = None
    peak_bytes: int | None = None
    failed: str | None = None


@dataclass
class Entrant:
    """A cell in the contest: what was decided for it, and what came out so far.

    `tried` holds the loss of each learning rate that was tried (None: it failed), `runs` the outcome of each seed.
    """

    name: str
    slug: str
    cell: str
    cell_options: dict[str, Any] = field(default_factory=dict)
    options: TrainOptions | None = None
    parameters: int | None = None
    step_seconds: float | None = None
    expected_seconds: float | None = None
    tried: dict[float, float | None] = field(default_factory=dict)
    rate: float | None = None
    failed: str | None = None
    runs: dict[int, Outcome] = field(default_factory=dict)

    @property
    def plan(self) -> TrainOptions:
        """The options of its runs, but for seed and rate. Only for one that can run."""
        assert self.options is not None
        return self.options


@dataclass
class Record:
    """A contest: `asked` is what makes it this one, `corpus` and `store` the text and its tokens."""

    asked: dict[str, Any]
    corpus: list[str]
    store: str
    level: str
    seeds: list[int]
    target: int
    entrants: list[Entrant]
    made_with: dict[str, Any]

    @property
    def running(self) -> list[Entrant]:
        """The entrants that can run."""
        return [entrant for entrant in self.entrants if entrant.failed is None]

    @property
    def measure(self) -> str:
        """What the cells are ranked by: bits per byte, but for words, which are not bytes."""
        return "nats_per_token" if self.level == "word" else "bits_per_byte"

    def to_json(self) -> dict[str, Any]:
        """The content of contest.json."""
        content = asdict(self)
        for entrant in content["entrants"]:
            entrant["tried"] = list(map(list, entrant["tried"].items()))
            entrant["runs"] = [{"seed": seed, **outcome} for seed, outcome in entrant["runs"].items()]
        return {"format_version": FORMAT_VERSION, **content}


def create(folder: Path, record: Record) -> None:
    """Commit the folder of a new contest. Raises TextgenError if something else is there."""
    try:
        with files.new_folder(folder) as new:
            new.write(CONTEST, files.to_json(record.to_json()))
    except FileExistsError:
        raise TextgenError(f"{str(folder)!r} exists already.", hint="name another --output-dir.") from None


def save(folder: Path, record: Record) -> None:
    """Replace what a contest has come to so far."""
    files.replace_in_folder(folder, CONTEST, files.to_json(record.to_json()))


def load(folder: Path) -> Record:
    """Read a contest back. Raises DamagedError for a damaged one, TextgenError for one of a newer format."""
    path = folder / CONTEST
    content = sealed.parse_json(sealed.verified(folder, CONTEST), str(path))
    if content.pop("format_version", None) != FORMAT_VERSION:
        raise TextgenError(f"{path} has another format than {FORMAT_VERSION}.", hint="upgrade textgen-lm.")
    try:
        content["entrants"] = [_entrant(each) for each in content["entrants"]]
        return Record(**content)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise sealed.DamagedError(f"{path} is damaged: {error}.") from None


def _entrant(content: Mapping[str, Any]) -> Entrant:
    known = {f.name for f in fields(Outcome)}
    return Entrant(
        **{
            **content,
            "options": content["options"] and from_mapping(TrainOptions, content["options"]),
            "tried": {float(rate): loss for rate, loss in content["tried"]},
            "runs": {
                run["seed"]: Outcome(**{name: run[name] for name in known & run.keys()}) for run in content["runs"]
            },
        }
    )

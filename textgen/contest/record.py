"""What `comparison.json` stores: the request, every decision, and the results so far.

The file is replaced as a whole, with its checksum, after every decision and every run, so that a comparison can be
continued wherever it was interrupted.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from textgen import files, sealed
from textgen.errors import TextgenError
from textgen.options import from_mapping
from textgen.parameters import named
from textgen.tasks.language.options import LanguageOptions

COMPARISON = "comparison.json"
FORMAT_VERSION = 1


@dataclass(frozen=True)
class RunResult:
    """The metrics of a run, or why it failed.

    `seconds` include evaluations and checkpoints; speeds are in tokens per second; `peak_bytes` is the peak resident
    memory of the process during the run (on a GPU, of its tensors). None where it could not be measured.
    """

    bits_per_byte: float | None = None
    nats_per_token: float | None = None
    seconds: float | None = None
    train_speed: float | None = None
    sample_speed: float | None = None
    peak_bytes: int | None = None
    failed: str | None = None


@dataclass
class Candidate:
    """A cell in the comparison: its plan and its results so far.

    `tried` maps each learning rate that was tried to its loss (None: the trial failed), `runs` each seed to its result.
    `slug` begins the names of its run folders; `failed` says why it is out of the comparison.
    """

    name: str
    slug: str
    cell: str
    cell_options: dict[str, Any] = field(default_factory=dict)
    options: LanguageOptions | None = None
    parameters: int | None = None
    step_seconds: float | None = None
    expected_seconds: float | None = None
    tried: dict[float, float | None] = field(default_factory=dict)
    rate: float | None = None
    failed: str | None = None
    runs: dict[int, RunResult] = field(default_factory=dict)

    @property
    def plan(self) -> LanguageOptions:
        """The options of its runs, apart from seed and learning rate. Only for a cell that can run."""
        assert self.options is not None
        return self.options

    def run_folder(self, comparison: Path, seed: int) -> Path:
        """The folder of its run with a seed."""
        return comparison / f"{self.slug}-seed{seed}"


@dataclass
class ComparisonRecord:
    """The content of `comparison.json`. `request` and `store`, the key of the tokens, identify the comparison."""

    request: dict[str, Any]
    corpus: list[str]
    store: str
    level: str
    seeds: list[int]
    target_parameters: int
    candidates: list[Candidate]
    made_with: dict[str, Any]

    @property
    def running(self) -> list[Candidate]:
        """The candidates that can run."""
        return [candidate for candidate in self.candidates if candidate.failed is None]

    @property
    def metric(self) -> str:
        """The metric that ranks the cells: bits per byte, except for word tokenizers, which are lossy."""
        return "nats_per_token" if self.level == "word" else "bits_per_byte"

    @property
    def unit(self) -> str:
        """The unit of the metric."""
        return "nats per word" if self.level == "word" else "bits per byte"


def _content(record: ComparisonRecord) -> bytes:
    return files.to_json({"format_version": FORMAT_VERSION, **asdict(record)})


def create(folder: Path, record: ComparisonRecord) -> None:
    """Create the folder of a new comparison. Raises TextgenError if it exists."""
    try:
        with files.new_folder(folder) as new:
            new.write(COMPARISON, _content(record))
    except FileExistsError:
        raise TextgenError(f"{str(folder)!r} exists already.", hint=f"name another {named('output_dir')}.") from None


def save(folder: Path, record: ComparisonRecord) -> None:
    """Replace the stored record."""
    files.replace_in_folder(folder, COMPARISON, _content(record))


def load(folder: Path) -> ComparisonRecord:
    """Read a stored record. Raises DamagedError for a damaged file, TextgenError for another format version."""
    path = folder / COMPARISON
    content = sealed.parse_json(sealed.verified(folder, COMPARISON), str(path))
    if content.pop("format_version", None) != FORMAT_VERSION:
        raise TextgenError(f"{path} has another format than {FORMAT_VERSION}.", hint="upgrade textgen-lm.")
    try:
        content["candidates"] = [_candidate(each) for each in content["candidates"]]
        return ComparisonRecord(**content)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise sealed.DamagedError(f"{path} is damaged: {error}.") from None


def _candidate(content: Mapping[str, Any]) -> Candidate:
    read = {
        "options": content["options"] and from_mapping(LanguageOptions, content["options"]),
        "tried": {float(rate): loss for rate, loss in content["tried"].items()},
        "runs": {int(seed): RunResult(**result) for seed, result in content["runs"].items()},
    }
    return Candidate(**{**content, **read})

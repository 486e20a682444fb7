"""The data of a run: read from a corpus and stored in a sealed folder named by its content.

`TaskData` is what the planner, the trainer and run folders know of it. `TextExampleData` is a base class for tasks
whose data is a list of texts: it has defaults for all that such tasks have in common. Imports no torch.
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, Self, TypeVar

import numpy as np
import numpy.typing as npt
import safetensors
import safetensors.numpy

from textgen import storage
from textgen.data import TOKENIZER_KINDS
from textgen.data.recipes import TRAIN, VALIDATION, Progress
from textgen.data.store import TokenStore, tokenizer_of
from textgen.data.tokenizers.base import Ids, Tokenizer
from textgen.errors import TextgenError, did_you_mean
from textgen.formatting import count, plural
from textgen.generation.language_model import digest_of, opened, stepper_of, tokenizer_for
from textgen.model import ModelConfig
from textgen.model.bases import sentences
from textgen.model.stepper import TokenStepper
from textgen.storage import filesystem
from textgen.tasks.regularization import Regularization
from textgen.tasks.sizes import PARAMETERS_PER_CHARACTER, model_config

Arrays = dict[str, npt.NDArray[Any]]
Integers = npt.NDArray[np.int64]
Example = TypeVar("Example")

QUICK_LOOK = 32_768
"""Held-out tokens scored in an evaluation during training; the last evaluation scores all."""

IGNORED = -100
"""The target of predictions that do not count."""

BATCH = 64
CHUNK = 512
"""Texts that a trained model reads in one batch, and tokens of each that it reads at a time."""

SHOWN_LABELS = 12
"""The most labels that a message lists."""


@dataclass(frozen=True)
class ExampleStore:
    """The arrays of each part by name, and the manifest of their folder."""

    folder: Path
    about: dict[str, Any]
    parts: dict[str, Arrays]

    @property
    def key(self) -> str:
        return str(self.about["key"])

    def content(self, name: str) -> bytes:
        """The content of another file of the folder, verified against its checksum."""
        return storage.verified(self.folder, name, self.about, storage.JSON_LIMIT)


def write_examples(
    folder: Path,
    kind: str,
    key: str,
    parts: Mapping[str, Mapping[str, npt.NDArray[Any]]],
    about: Mapping[str, Any],
    others: Mapping[str, bytes],
) -> None:
    """Commit a folder of examples: the arrays of both parts, their description, and other files unchanged."""
    with filesystem.new_folder(folder) as new:
        for part in (TRAIN, VALIDATION):
            arrays = {name: np.ascontiguousarray(array) for name, array in parts[part].items()}
            new.write(_file_of(part), safetensors.numpy.save(arrays))
        for name, content in others.items():
            new.write(name, content)
        new.about = {**about, "kind": kind, "key": key}


def open_examples(folder: Path, kind: str) -> ExampleStore:
    """Open what `write_examples` wrote. Raises TextgenError for what is missing or damaged, by name."""
    manifest = storage.read_manifest(folder)
    if manifest.get("kind") != kind or not isinstance(manifest.get("key"), str):
        raise storage.DamagedError(f"{folder} does not hold {kind} of this version of textgen.")
    parts: dict[str, Arrays] = {}
    for part in (TRAIN, VALIDATION):
        try:
            parts[part] = safetensors.numpy.load(storage.verified(folder, _file_of(part), manifest))
        except (safetensors.SafetensorError, KeyError, ValueError) as error:
            raise storage.DamagedError(f"{folder / _file_of(part)} is damaged: {error}.") from error
    return ExampleStore(folder, manifest, parts)


def _file_of(part: str) -> str:
    return f"{part}.safetensors"


class TaskData(ABC):
    """The data of a run. The planner, the trainer and run folders know only this class."""

    store: TokenStore | ExampleStore

    pipeline: ClassVar[str] = "text-generation"
    """The pipeline tag of its models, as model hubs define them."""
    usage: ClassVar[str] = 'sample -m {} --prompt "..."'
    """The `textgen` command that uses a model folder, `{}`."""

    @property
    def folder(self) -> Path:
        """The folder that stores it."""
        return self.store.folder

    @property
    def key(self) -> str:
        """A digest of everything that determines it."""
        return self.store.key

    @property
    def tokenizer(self) -> Tokenizer | None:
        """The tokenizer; None for data that is not text."""
        return None

    @property
    @abstractmethod
    def training_tokens(self) -> int:
        """Tokens, or time steps, to train on."""

    @property
    @abstractmethod
    def held_out_tokens(self) -> int:
        """Tokens, or time steps, that are held out."""

    @property
    def characters_per_token(self) -> float:
        """The approximate number of characters per token."""
        return TOKENIZER_KINDS[self.tokenizer.kind].characters if self.tokenizer else 1.0

    @property
    def most_epochs(self) -> float | None:
        """The maximum number of epochs that a plan by minutes chooses: more would not help."""
        return None

    def most_parameters(self, epochs: float) -> float:
        """The largest model that a plan chooses if it has time for so many epochs."""
        return PARAMETERS_PER_CHARACTER * self.training_tokens * self.characters_per_token

    @property
    def most_finetuning_epochs(self) -> float | None:
        """The same when training starts from a model."""
        return self.most_epochs

    def regularization(self, hidden_size: int, epochs: float, finetuning: bool = False) -> Regularization:
        """How strongly a plan regularizes a model of this size that reads the corpus so many times, and that starts
        from a model or not."""
        return Regularization(dropout=0.0 if epochs < 3 else 0.1 if epochs < 6 else 0.25)

    @property
    def vocab_size(self) -> int:
        """The number of tokens that its models read."""
        return self.tokenizer.vocab_size if self.tokenizer else 1

    @property
    def model_name(self) -> str:
        """What its models are, at the beginning of their README."""
        return "A recurrent model"

    @property
    def outputs(self) -> int:
        """The number of outputs of its models; 0 for an output for each token."""
        return 0

    @classmethod
    @abstractmethod
    def prepare(cls, paths: list[str], options: Any, cache: Path, progress: Progress) -> Self:
        """Read a corpus and store it in `cache`, unless it is there already. Raises TextgenError or UsageError."""

    @classmethod
    @abstractmethod
    def open(cls, folder: Path) -> Self:
        """Open stored data. Raises TextgenError naming what is missing or damaged."""

    @abstractmethod
    def described(self) -> list[str]:
        """Phrases that describe it in the plan."""

    def decided(self, paths: Sequence[str], options: Any) -> Any:
        """The options that read these paths in the same way again, with what their content decided."""
        return options

    def digests(self) -> dict[str, str]:
        """The SHA-256 of everything that a run reads, by file name."""
        return {name: entry["sha256"] for name, entry in self.store.about["files"].items()}

    @abstractmethod
    def with_defaults(self, options: Any) -> Any:
        """The options with a batch size, a truncated BPTT length, and the other defaults of this task."""

    def tokens_per_step(self, options: Any) -> float:
        """Tokens, or time steps, that a training step reads."""
        return float(options.batch_size * options.seq_length)

    def config(self, options: Any, hidden_size: int) -> ModelConfig:
        """The model that the options ask for, at this hidden size."""
        kind = self.tokenizer.kind if self.tokenizer else ""
        config = model_config(options, kind, self.vocab_size, hidden_size, self.outputs)
        return replace(config, task=options.task or config.task)

    @abstractmethod
    def objective(self, options: Any) -> Any:
        """The training objective, a `textgen.tasks.objective.Objective`. Raises TextgenError if the data does not fill
        one batch."""

    @abstractmethod
    def files(self) -> dict[str, bytes]:
        """The files of a model folder besides configuration, weights and arguments."""

    def text_ids(self) -> npt.NDArray[np.integer]:
        """The token ids of every text that the model learns to generate, a boundary before each; none for models that
        generate no text."""
        return np.zeros(0, np.int32)

    def trained_on(self) -> str:
        """What its models are trained on, in their README."""
        return f"{self.training_tokens:,} time steps"

    def card(self, config: ModelConfig, name: str) -> str:
        """The model folder's README, with the header that model hubs read."""
        kind = [f"{config.vocab_size:,} tokens ({self.tokenizer.kind})"] if self.tokenizer else []
        details = [*kind, f"trained on {self.trained_on()}"]
        return model_card(name, self.pipeline, self.model_name, config, details, self.usage)


class ExampleData(TaskData):
    """Data that is stored as arrays of examples, not as one stream of tokens.

    A subclass is a dataclass whose first field is `store`, and names its `kind` of folder and its `arrays`.
    """

    kind: ClassVar[str]
    arrays: ClassVar[tuple[str, ...]]
    optional: ClassVar[tuple[str, ...]] = ()
    """Arrays that may be missing."""

    store: ExampleStore

    @classmethod
    def open(cls, folder: Path) -> Self:
        store = open_examples(folder, cls.kind)
        for part in (TRAIN, VALIDATION):
            if not {*cls.arrays} <= {*store.parts[part]} <= {*cls.arrays, *cls.optional}:
                raise storage.DamagedError(f"{folder} is damaged: its {part} part does not hold the expected arrays.")
        return cls(store)  # type: ignore[call-arg]

    @classmethod
    def cached(cls, cache: Path, depends: Sequence[object], encode: Callable[[], Encoded]) -> Self:
        """Open the data in a cache whose key is a digest of `depends`; if it is not there, `encode` makes it first."""
        folder = cache / filesystem.cache_key(cls.kind, *depends)

        def write() -> None:
            parts, about, tokenizer, others = encode()
            write_examples(folder, cls.kind, folder.name, parts, about, {**tokenizer.files(), **others})

        return filesystem.cached(folder, cls.open, write)

    def tokens_per_step(self, options: Any) -> float:
        return float(self.objective(options).tokens_per_step)


class Encoded(NamedTuple):
    """What `ExampleData.cached` stores: the arrays of both parts by name, other facts, the tokenizer, other files."""

    parts: Mapping[str, Mapping[str, npt.NDArray[Any]]]
    about: Mapping[str, Any]
    tokenizer: Tokenizer
    others: Mapping[str, bytes] = {}


class TextExampleData(ExampleData):
    """Texts with a tokenizer: the ids of all texts of a part in the array `ids`, where each ends in the array `ends`.

    Of models whose `outputs` are not tokens, a model folder holds `facts` as `facts_file` (see `open_model`).
    """

    noun: ClassVar[str] = "text"
    """What an example is called."""
    defaults: ClassVar[Mapping[str, Any]] = {}
    """Defaults of options. A batch has at most as many texts as there are, and `seq_length` is at most the longest."""
    facts_file: ClassVar[str]
    usage = "predict -m {} FILE"

    @cached_property
    def tokenizer(self) -> Tokenizer:
        return tokenizer_of(self.folder)

    @property
    def training_tokens(self) -> int:
        return len(self.store.parts[TRAIN]["ids"])

    @property
    def held_out_tokens(self) -> int:
        return len(self.store.parts[VALIDATION]["ids"])

    def texts(self, part: str) -> Texts:
        """The encoded texts of a part."""
        arrays = self.store.parts[part]
        return Texts(arrays["ids"], arrays["ends"], self.tokenizer.boundary)

    def labelled(self, part: str) -> LabelledTexts:
        """The encoded texts of a part with what the array `labels` holds."""
        return LabelledTexts(self.texts(part), self.store.parts[part]["labels"].astype(np.int64))

    @property
    def facts(self) -> dict[str, Any]:
        """What a model folder says besides configuration, weights and tokenizer, as JSON: by default, the `facts` that
        were stored with the examples."""
        facts: dict[str, Any] = self.store.about["facts"]
        return facts

    def described(self) -> list[str]:
        train, held_out = (len(self.store.parts[part]["ends"]) for part in (TRAIN, VALIDATION))
        return [
            f"{plural(train, self.noun)} to train on, {count(held_out)} held out",
            f"{count(self.training_tokens)} {self.tokenizer.kind} tokens",
            f"{count(self.tokenizer.vocab_size)} tokens in the vocabulary",
        ]

    def with_defaults(self, options: Any) -> Any:
        lengths = self.texts(TRAIN).lengths
        values: dict[str, Any] = {"batch_size": 32, "seq_length": 256, **self.defaults}
        values["batch_size"] = min(values["batch_size"], len(lengths))
        values["seq_length"] = min(values["seq_length"], int(lengths.max()))
        missing = {name: value for name, value in values.items() if getattr(options, name) is None}
        return replace(options, **missing, tie_weights=False if self.outputs else options.tie_weights)

    def files(self) -> dict[str, bytes]:
        return {self.facts_file: filesystem.to_json(self.facts), **self.tokenizer.files()}

    def trained_on(self) -> str:
        return f"{len(self.store.parts[TRAIN]['ends']):,} {self.noun}s"


@dataclass(frozen=True)
class Texts:
    """N texts of at least one token: all ids (S,), and where each text ends among them, (N,)."""

    ids: npt.NDArray[Any]
    ends: Integers
    pad: int = 0

    @classmethod
    def of(cls, texts: Sequence[Ids]) -> Texts:
        """Concatenate arrays of ids, one for each text."""
        return cls(np.concatenate(texts), np.cumsum([len(ids) for ids in texts], dtype=np.int64))

    @property
    def lengths(self) -> Integers:
        """Tokens of each text, (N,)."""
        lengths: Integers = np.diff(self.ends, prepend=0)
        return lengths

    def window(self, texts: Integers, start: int, length: int) -> tuple[Ids, Integers]:
        """Up to `length` tokens of some texts (B,), from token `start` of each: ids (T, B), padded at the end, and how
        many of the T steps belong to each text, (B,), which may be 0."""
        begins = self.ends[texts] - self.lengths[texts] + start
        counts: Integers = np.clip(self.ends[texts] - begins, 0, length)
        steps = np.arange(counts.max())[:, None]
        positions = np.minimum(begins + steps, len(self.ids) - 1)
        return np.where(steps < counts, self.ids[positions], self.pad).astype(np.int32), counts

    def batches(self, chosen: Integers | None = None) -> Iterator[Integers]:
        """All texts, or those chosen (N,), in batches of similar length."""
        chosen = np.arange(len(self.ends)) if chosen is None else chosen
        by_length = chosen[np.argsort(self.lengths[chosen], kind="stable")]
        yield from (by_length[first : first + BATCH] for first in range(0, len(by_length), BATCH))

    def read(self, stepper: TokenStepper, texts: Integers) -> Iterator[tuple[npt.NDArray[Any], Integers]]:
        """Read some texts (B,) side by side, `CHUNK` tokens at a time: the outputs (T, B, C), and how many of the T
        steps belong to each text, (B,). Memory does not grow with the length of a text."""
        state = stepper.initial_state(len(texts))
        for start in range(0, int(self.lengths[texts].max()), CHUNK):
            ids, counts = self.window(texts, start, CHUNK)
            outputs, state = stepper.outputs(ids.T, state)
            yield outputs, counts

    def outputs(self, stepper: TokenStepper) -> npt.NDArray[Any]:
        """The outputs of a model at every token of every text, (S, C)."""
        found = np.zeros(0)
        for texts in self.batches():
            begins = self.ends[texts] - self.lengths[texts]
            for outputs, counts in self.read(stepper, texts):
                if not len(found):
                    found = np.empty((len(self.ids), outputs.shape[2]), outputs.dtype)
                for lane, (begin, length) in enumerate(zip(begins, counts, strict=True)):
                    found[begin : begin + length] = outputs[:length, lane]
                begins = begins + counts
        return found


class LabelledTexts(NamedTuple):
    """Encoded texts and the index of the label of each text, (N,), or of each token, (S,)."""

    texts: Texts
    labels: Integers


def divide(examples: list[Example], validation: list[Example] | None, options: Any) -> tuple[list[Example], ...]:
    """The examples to train on, and those that are held out: those of the validation file, or a share of all."""
    if validation is not None:
        return examples, validation
    held = hold_out(np.zeros(len(examples), np.int64), options.validation_split, options.seed)
    return tuple([example for out, example in zip(held, examples, strict=True) if out == part] for part in (0, 1))


def hold_out(numbers: Integers, share: float, seed: int) -> npt.NDArray[np.bool_]:
    """Which examples are held out, (N,), given the indices of their labels (N,): a `share` of every label, drawn by
    seed, at least one and never all."""
    held = np.zeros(len(numbers), np.bool_)
    if share == 0:
        return held
    for label in np.unique(numbers):
        texts = np.flatnonzero(numbers == label)
        number = min(max(1, round(share * len(texts))), len(texts) - 1)
        held[np.random.default_rng([seed, int(label), 3]).permutation(texts)[:number]] = True
    return held


def unknown_label(where: str, label: str, known: Sequence[str]) -> TextgenError:
    """The error for a label that the model does not know."""
    return TextgenError(
        f"{where} has the label {label!r}, which the model does not know; it knows {listed(known)}."
        f"{did_you_mean(label, known)}"
    )


def listed(labels: Sequence[str]) -> str:
    """Labels as a message lists them: 'neg', 'pos'; of many the first ones."""
    more = f" and {len(labels) - SHOWN_LABELS:,} more" if len(labels) > SHOWN_LABELS else ""
    return ", ".join(map(repr, labels[:SHOWN_LABELS])) + more


class OpenedModel(NamedTuple):
    """A model folder of a task: `facts` is the JSON of the task's own file, `digest` that of
    `textgen.generation.language_model.digest_of`."""

    config: ModelConfig
    tokenizer: Tokenizer
    stepper: TokenStepper
    facts: dict[str, Any]
    digest: str


def open_model(folder: Path, backend: str, facts_file: str) -> OpenedModel:
    """Open the model folder of a task with a tokenizer and a file of its own. Raises TextgenError for a damaged folder,
    and if the backend cannot run the model."""
    manifest, config = opened(folder, backend)
    content = storage.verified(folder, facts_file, manifest, storage.JSON_LIMIT)
    facts = storage.parse_json(content, str(folder / facts_file))
    tokenizer, stepper = tokenizer_for(folder, config), stepper_of(folder, manifest, config, backend)
    return OpenedModel(config, tokenizer, stepper, facts, digest_of(manifest))


def model_card(
    name: str,
    pipeline: str,
    what: str,
    config: ModelConfig,
    details: Sequence[str],
    use: str = 'sample -m {} --prompt "..."',
) -> str:
    """The README of a model folder, with the header that model hubs read: `what` it is, some `details`, and the
    `textgen` command that uses it."""
    facts = [f"{config.num_layers} x {config.cell}", f"{config.hidden_size} units", *details]
    header = f"\nbase_model: {json.dumps(config.base['name'])}" if config.base else ""
    history = f"\n{sentences(config.base)}\n" if config.base else ""
    return f"""---
library_name: textgen
pipeline_tag: {pipeline}{header}
---

# {name}

{what}, made with textgen: {", ".join(facts)}.
{history}
    textgen {use.format(name)}

The metrics over time are in `metrics.jsonl`, every option in `training_args.json`.
"""

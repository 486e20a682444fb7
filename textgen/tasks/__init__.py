"""What a task is, the one registry of them, and the options of training that every task has.

A `Task` says what models are trained for: its options, how its data is read and stored, how it is learned, how a
trained model is opened, and what `textgen evaluate` and `textgen predict` do with one. Everything else (the trainer,
the planner, run folders, `textgen.load`, the command line) takes any task and knows none by name. Packages register
tasks with the hook `register_tasks`. This module imports no torch, and neither may a task's own module: it imports
what learns and what runs inside its methods.

A task needs few other imports: all of `__all__` is imported from here, and loaded when it is first used.

Each option of `TrainOptions` is declared once with its help and limits. None means that the plan decides (see
`textgen.training.planner`). Long names are those of Hugging Face; `also` gives the spellings of other tools.
"""

from __future__ import annotations

import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, TypeVar

from textgen import plugins
from textgen.data import SIZED, FileOptions, Reading, SplitOptions, TokenizerOptions, record_of
from textgen.data.recipes import TRAIN, VALIDATION, Progress
from textgen.distributed import DEFAULT_TIMEOUT
from textgen.errors import TextgenError, UsageError, did_you_mean
from textgen.formatting import listed
from textgen.generation import SampleOptions as SampleOptions
from textgen.generation import check_sampling as check_sampling
from textgen.model import task_of as task_name
from textgen.options import from_mapping, named, option
from textgen.storage.outputs import OutputFile
from textgen.threads import use_threads

if TYPE_CHECKING:
    from textgen.tasks.data import (
        IGNORED,
        Encoded,
        ExampleData,
        ExampleStore,
        LabelledTexts,
        TaskData,
        TextExampleData,
        Texts,
        divide,
        hold_out,
        model_card,
        open_model,
        unknown_label,
    )
    from textgen.tasks.metrics import ClassificationMetrics, print_metrics
    from textgen.tasks.objective import Batches, ExampleObjective, Objective, RareTokens, TokenLabelObjective
    from textgen.tasks.regularization import Regularization
    from textgen.tasks.sizes import model_config

__all__ = [
    "IGNORED",
    "TRAIN",
    "VALIDATION",
    "Batches",
    "ClassificationMetrics",
    "Encoded",
    "ExampleData",
    "ExampleObjective",
    "ExampleStore",
    "FileOptions",
    "LabelledTexts",
    "Objective",
    "Progress",
    "RareTokens",
    "Reading",
    "Regularization",
    "Request",
    "Task",
    "TaskData",
    "TextExampleData",
    "Texts",
    "TokenLabelObjective",
    "TokenizerOptions",
    "TrainOptions",
    "built_in_tasks",
    "divide",
    "hold_out",
    "model_card",
    "model_config",
    "open_model",
    "option",
    "options_for",
    "print_metrics",
    "task",
    "unknown_label",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    """What needs numpy or torch is imported when it is first used."""
    for module in ("data", "metrics", "objective", "regularization", "sizes") if name in __all__ else ():
        found = import_module(f"{__name__}.{module}")
        if hasattr(found, name):
            return getattr(found, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


DEFAULT_MINUTES = 5.0
Value = TypeVar("Value")


@dataclass(frozen=True)
class TrainOptions(FileOptions, SplitOptions):
    """How a model is built and trained, for any task. Each task derives a class of its own from it."""

    task: str | None = option(
        None,
        "What to train the model for: lm, complete, classify, forecast, or the task of an installed package.",
        metavar="NAME",
        default_text="lm, or the task that has the options given",
        section="Model",
    )
    cell: str = option("lstm", "The recurrent cell (textgen cells lists them).", also=("--model-type",), metavar="NAME")
    cell_options: dict[str, Any] = option({}, "An option of the cell; may be repeated.")
    init_from: str | None = option(
        None,
        "Start from this model, a folder or an installed name, or none; tokens are matched by their text.",
        metavar="MODEL",
        default_text="an installed model that knows such text, in a plan for a time",
    )
    size: str | None = option(
        None,
        "Preset for width and depth; sizes you give explicitly override it.",
        choices=("tiny", "small", "medium", "large"),
        default_text="planned",
    )
    hidden_size: int | None = option(
        None, "Units per layer.", low=1, high=65_536, also=("--nhid", "--rnn-size"), default_text="planned"
    )
    embedding_size: int | None = option(
        None,
        "Width of token embeddings.",
        low=1,
        high=65_536,
        also=("--emsize", "--n-embd"),
        default_text="hidden size, at most 256 for char and byte, 64 for a long text in an alphabet",
    )
    num_layers: int | None = option(
        None, "Number of recurrent layers.", low=1, high=64, also=("--nlayers", "--n-layer"), default_text="planned"
    )
    tie_weights: bool | None = option(
        None,
        "Use one matrix for input embeddings and output layer.",
        also=("--tied",),
        default_text=f"for {listed(SIZED, 'and')}",
    )
    residual: bool | None = option(None, "Add each layer's input to its output.", default_text="from 3 layers")
    layer_norm: bool | None = option(None, "Normalize each layer's input.", default_text="from 3 layers")
    dropout: float | None = option(
        None,
        "Dropout between layers, with one mask per window.",
        low=0,
        high=0.95,
        default_text="planned",
        section="Regularization",
    )
    embedding_dropout: float | None = option(
        None,
        "Embedding dropout: the share of tokens whose embedding is zeroed.",
        low=0,
        high=0.95,
        default_text="planned",
    )
    weight_drop: float | None = option(
        None, "Dropout on the recurrent weights of gated cells.", low=0, high=0.95, default_text="planned"
    )

    minutes: float | None = option(
        None,
        "Plan model size and steps so that the whole command takes this many minutes.",
        above=0,
        high=100_000,
        default_text=f"{DEFAULT_MINUTES:g}, unless epochs or steps are given",
        section="Training length",
    )
    epochs: float | None = option(
        None, "Train for this many passes over the corpus.", above=0, high=1_000_000, also=("--num-train-epochs",)
    )
    max_steps: int | None = option(
        None, "Train for this many steps.", low=1, high=1_000_000_000, also=("--iters", "--max-iters")
    )
    max_time: float | None = option(
        None, "Save and stop after this many minutes; the run can be resumed.", above=0, high=1_000_000
    )
    batch_size: int | None = option(
        None,
        "Batch size: sequences processed in parallel.",
        low=1,
        high=65_536,
        also=("--per-device-train-batch-size",),
        default_text="planned",
        section="Optimization",
    )
    seq_length: int | None = option(
        None,
        "Truncated BPTT length: time steps that gradients flow back through.",
        low=1,
        high=1_000_000,
        also=("--bptt", "--block-size"),
        default_text="planned",
    )
    learning_rate: float | None = option(
        None, "Peak learning rate.", above=0, high=100, also=("--lr",), default_text="planned"
    )
    layer_decay: float | None = option(
        None,
        "Learning rate of each layer relative to the layer above it; below 1 when starting from a trained model.",
        above=0,
        high=1,
        default_text="planned",
    )
    lr_scheduler: str = option(
        "cosine", "Learning rate schedule.", choices=("cosine", "constant", "plateau"), also=("--lr-scheduler-type",)
    )
    warmup_steps: int | None = option(
        None,
        "Steps of linear learning-rate warmup.",
        low=0,
        high=1_000_000_000,
        default_text="a twentieth of the run, at most 200",
    )
    optimizer: str = option("adamw", "The optimizer.", choices=("adamw", "sgd"), also=("--optim",))
    momentum: float = option(0.0, "Momentum for sgd.", low=0, high=0.999)
    weight_decay: float | None = option(
        None, "Weight decay of weight matrices.", low=0, high=10, default_text="planned"
    )
    max_grad_norm: float = option(
        1.0,
        "Gradient clipping: scale gradients down to at most this norm.",
        above=0,
        high=1_000_000,
        also=("--clip", "--grad-clip"),
    )
    gradient_accumulation_steps: int = option(
        1, "Compute each batch in this many parts, to save memory.", low=1, high=65_536
    )
    average_weights: float | None = option(
        None,
        "Evaluate and keep an exponential moving average of the weights with this decay, such as 0.999; 0 for none.",
        low=0,
        high=0.99999,
        default_text="planned",
    )
    dtype: str | None = option(
        None,
        "Precision of matrix products in training; everything else is float32.",
        choices=("float32", "bfloat16"),
        default_text="whichever is faster on this processor; float32 if epochs or steps are given",
        also=("--precision",),
    )
    compile: bool | None = option(
        None,
        "Compile the time step of gated cells (needs a C++ compiler).",
        default_text="if it saves time in this run",
    )
    early_stopping_patience: int | None = option(
        None,
        "Stop after this many evaluations without improvement.",
        low=1,
        high=1_000_000,
        default_text="off",
        section="Evaluation and logging",
    )

    logging_steps: int | None = option(
        None,
        "Steps between log lines.",
        low=1,
        high=1_000_000_000,
        also=("--log-interval",),
        default_text="a fiftieth of the run",
    )
    eval_steps: int | None = option(
        None,
        "Steps between evaluations.",
        low=1,
        high=1_000_000_000,
        also=("--steps-per-eval",),
        default_text="a tenth of the run",
    )
    save_steps: int | None = option(
        None,
        "Steps between checkpoints.",
        low=1,
        high=1_000_000_000,
        also=("--save-every",),
        default_text="same as --eval-steps",
    )
    verify_steps: int | None = option(
        None,
        "Repeat every Nth step and compare the results bit by bit, to detect faulty hardware.",
        low=1,
        high=1_000_000_000,
        default_text="never",
    )
    save_total_limit: int = option(2, "Number of checkpoints to keep.", low=2, high=1_000_000)
    sample_steps: int | None = option(
        None,
        "Steps between printed samples; 0 prints none.",
        low=0,
        high=1_000_000_000,
        default_text="same as --eval-steps",
    )

    report_to: list[str] = option([], "Also log metrics to this tool: tensorboard.", metavar="TOOL")

    output_dir: str | None = option(
        None, "Run folder.", metavar="DIR", default_text="runs/CELL-CORPUS-N", section="Run"
    )
    overwrite_output_dir: bool = option(False, "Replace an existing run.", also=("--overwrite",))
    device: str = option("auto", "Device: cpu, cuda, or auto.", metavar="NAME", also=("--accel",))
    threads: int | None = option(None, "Number of CPU threads.", low=1, high=1024, default_text="all cores")
    seed: int = option(1337, "Random seed for weights, dropout and data order.", low=0, high=2**63 - 1)

    ddp_timeout: float = option(
        DEFAULT_TIMEOUT,
        "Seconds to wait for another process before giving up, under torchrun.",
        above=0,
        high=1_000_000,
        section="Several processes",
    )
    sync_every: int = option(
        1,
        "Average the weights of all processes once in N steps, instead of adding their gradients in every step: for "
        "slow networks.",
        low=1,
        high=1_000_000,
    )

    @property
    def window(self) -> tuple[int, int]:
        """The batch size and the sequence length, once they are planned."""
        return planned(self.batch_size), planned(self.seq_length)


def planned(value: Value | None) -> Value:
    """The value of an option that the plan has filled in. Raises ValueError if it has not."""
    if value is None:
        raise ValueError("an option has not been planned yet")
    return value


LANGUAGE = "lm"
"""The task of a run that does not name one."""


@dataclass(frozen=True)
class Request:
    """A call of `textgen evaluate` or `textgen predict`.

    `inputs` are the given paths, empty for the held-out part of the training data; `options` is an object of the task's
    `evaluation` or `prediction` class; `outputs` are the files to write, by option; `data` opens the data of the
    model's run and raises TextgenError if it is missing.
    """

    folder: Path
    inputs: tuple[str, ...]
    reading: Reading
    options: Any
    data: Callable[[], TaskData]
    threads: int = 1
    as_json: bool = False
    outputs: Mapping[str, OutputFile] = field(default_factory=dict)

    def load(self, backend: str = "auto") -> Any:
        """The model, using `threads` threads."""
        use_threads(self.threads)
        model = task_of_model(self.folder).load(self.folder, backend)
        if "torch" in sys.modules:  # which may have been imported only now
            use_threads(self.threads)
        return model

    def held_out(self) -> Any:
        """The data of the run, an object of the task's class, for its held-out part. Raises TextgenError if it is
        missing or has no held-out part."""
        try:
            data = self.data()
        except TextgenError as error:
            raise TextgenError(
                f"the held-out part of {str(self.folder)!r} is not available: {error}", hint="textgen evaluate FILE"
            ) from error
        if not data.held_out_tokens:
            raise TextgenError(f"{str(self.folder)!r} has no held-out part.", hint="textgen evaluate FILE")
        return data


class Task(ABC):
    """A task that models are trained for. A subclass sets `name` and `options` and may override the rest."""

    name: str
    """The name in `--task` and `config.json`."""
    options: type[TrainOptions]
    """The options of its training runs: a subclass of `TrainOptions` with the task's own options."""
    evaluation: type[FileOptions] = FileOptions
    """The options of `textgen evaluate` for its models."""
    prediction: type[FileOptions] | None = None
    """The options of `textgen predict` for its models; None for models that generate text, which `sample` uses."""

    @property
    def generates(self) -> bool:
        """Whether its models generate text."""
        return self.prediction is None

    def check(self, options: Any) -> None:  # noqa: B027
        """Raise UsageError for conflicting options, before anything is read."""

    def remembered(self, paths: list[str], options: Any) -> dict[str, Any]:
        """How the corpus was read: stored in `config.json`, so that later inputs are read the same way."""
        return record_of(paths, options)

    @abstractmethod
    def data(self) -> type[TaskData]:
        """The class that reads, stores and opens its data."""

    def module(self) -> ModuleType:
        """The module of its models, which may import numpy: it has the functions `load`, `evaluate` and `predict`, as
        the methods below."""
        raise NotImplementedError

    def load(self, folder: Path, backend: str) -> Any:
        """Open a trained model. Raises TextgenError for a damaged folder, or if the backend cannot run the model."""
        return self.module().load(folder, backend)

    def evaluate(self, request: Request) -> None:
        """Evaluate a model on the inputs, or on the held-out part without any, and print the metrics."""
        self.module().evaluate(request)

    def predict(self, request: Request) -> None:
        """Print what a model predicts for the inputs."""
        self.module().predict(request)


def built_in_tasks() -> list[Task]:
    """The tasks of this package. Those of other packages are only imported when they are asked for by name."""
    return [task(name) for name in plugins.BUILT_IN_TASKS]


def task(name: str) -> Task:
    """The task of that name. Raises UsageError if there is none, PluginError if its package is broken."""
    found = plugins.registered("tasks", name, Task)
    assert isinstance(found, Task)
    return found


def task_of_model(folder: Path) -> Task:
    """The task of the model in a folder. Raises TextgenError for a folder without a model, and if no installed package
    offers its task."""
    name = task_name(folder)
    if name not in plugins.names("tasks"):
        raise TextgenError(
            f"the model in {str(folder)!r} is for the task {name!r}, which no installed package offers.",
            hint=f"install the package of this task; installed tasks: {', '.join(plugins.names('tasks'))}.",
        )
    return task(name)


def task_of(options: TrainOptions) -> Task:
    """The task of a run's options."""
    return task(options.task or LANGUAGE)


def options_for(given: Mapping[str, Any]) -> TrainOptions:
    """The options of a training run, checked, as an object of its task's class.

    The task is the one named; else language modeling; else the only built-in task that has all given options. Raises
    UsageError for an unknown option or value, and for options of different tasks.
    """
    if given.get("task") is not None:
        if not isinstance(given["task"], str):
            raise UsageError(f"{named('task')} must be text, not {given['task']!r}.")
        chosen = task(given["task"])
    else:
        chosen = _inferred(given)
    known = {f.name for f in fields(chosen.options)}
    for name, value in given.items():
        if name not in known and value is not None:
            _refuse(name, chosen)
    made: TrainOptions = from_mapping(chosen.options, {name: given[name] for name in given if name in known})
    return replace(made, task=chosen.name)


def _inferred(given: Mapping[str, Any]) -> Task:
    """The task inferred from options that do not name one."""
    everyday = task(LANGUAGE)
    common = {f.name for f in fields(everyday.options)}
    special = [name for name, value in given.items() if name not in common and value is not None]
    if not special:
        return everyday
    owners = [each for each in built_in_tasks() if special[0] in {f.name for f in fields(each.options)}]
    return owners[0] if len(owners) == 1 else everyday


def _refuse(name: str, chosen: Task) -> None:
    """Raise UsageError for an option that a task does not have."""
    owners = {each.name: each for each in built_in_tasks() if name in {f.name for f in fields(each.options)}}
    if owners:
        others = " or ".join(named("task", other) for other in owners)
        raise UsageError(f"{named(name)} goes with {others}, not with {chosen.name}.")
    every = {f.name for each in built_in_tasks() for f in fields(each.options)}
    raise UsageError(f"there is no option {name!r}.{did_you_mean(name, every)}")

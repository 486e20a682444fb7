"""The options of training that every task has.

Each is declared once with its help and limits. None means that the plan decides (see `textgen.training.planner`). Long
names are those of Hugging Face; `also` gives the spellings of other tools.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeVar

from textgen.data import SIZED, FileOptions, SplitOptions
from textgen.distributed import DEFAULT_TIMEOUT
from textgen.formatting import listed
from textgen.options import option

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
    device: str = option(
        "auto",
        "Device: cpu, cuda, mps, or auto (cuda where there is one, else cpu).",
        metavar="NAME",
        also=("--accel",),
    )
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
        "Average the weights of all processes every N steps, instead of adding their gradients in each step; for "
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

"""Every option of tokenizing, training and sampling, each declared once with its help and limits.

None means that the plan decides (see `textgen.training.plan`). Long names are those of Hugging Face; `also` gives the
spellings of other tools.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from textgen.labels.settings import LabelsOptions
from textgen.options import option
from textgen.pairs.settings import PairsOptions
from textgen.series.settings import SeriesOptions
from textgen.text.corpus_settings import CorpusOptions
from textgen.text.levels import SIZED, listed
from textgen.writing.sampling_settings import SampleOptions as SampleOptions
from textgen.writing.sampling_settings import check_sampling as check_sampling

DEFAULT_MINUTES = 5.0


TASKS = ("lm", "complete", "classify", "forecast")
"""What models are trained for (`textgen.tasks`). A class of options that only one of them has says so by `of_task`."""


@dataclass(frozen=True)
class TrainOptions(PairsOptions, LabelsOptions, SeriesOptions, CorpusOptions):
    """How a model is built and trained."""

    task: str | None = option(
        None,
        "What the model is for.",
        choices=TASKS,
        default_text="lm, or what the columns named say",
        section="Model",
    )
    cell: str = option(
        "lstm",
        "The recurrent cell (textgen cells lists them).",
        also=("--model-type",),
        metavar="NAME",
        section="Model",
    )
    cell_options: dict[str, Any] = option({}, "An option of the cell itself; may be repeated.")
    init_from: str | None = option(
        None, "Start from the weights of this model; symbols are matched by what they stand for.", metavar="DIR"
    )
    size: str | None = option(
        None,
        "Width and depth in one word; what you name beside it wins.",
        choices=("tiny", "small", "medium", "large"),
        default_text="planned",
    )
    hidden_size: int | None = option(
        None, "Units in a layer.", low=1, high=65_536, also=("--nhid", "--rnn-size"), default_text="planned"
    )
    embedding_size: int | None = option(
        None,
        "Width of a symbol's vector.",
        low=1,
        high=65_536,
        also=("--emsize", "--n-embd"),
        default_text="hidden size, at most 256 for char and byte",
    )
    num_layers: int | None = option(
        None, "Layers of cells.", low=1, high=64, also=("--nlayers", "--n-layer"), default_text="planned"
    )
    tie_weights: bool | None = option(
        None,
        "Use one matrix to read and to write symbols.",
        also=("--tied",),
        default_text=f"for {listed(SIZED, 'and')}",
    )
    residual: bool | None = option(None, "Add each layer's input to its output.", default_text="from 3 layers")
    layer_norm: bool | None = option(None, "Normalise each layer's input.", default_text="from 3 layers")
    dropout: float | None = option(
        None,
        "Share of units dropped between layers, one mask a window.",
        low=0,
        high=0.95,
        default_text="planned",
        section="Against learning by heart",
    )
    embedding_dropout: float = option(0.0, "Share of symbols dropped whole.", low=0, high=0.95)
    weight_drop: float = option(0.0, "Share of recurrent weights dropped (gated cells).", low=0, high=0.95)

    minutes: float | None = option(
        None,
        "Plan size and steps so that the whole command takes this long.",
        above=0,
        high=100_000,
        default_text=f"{DEFAULT_MINUTES:g}, unless epochs or steps are given",
        section="How long",
    )
    epochs: float | None = option(
        None, "Train for this many passes over the corpus.", above=0, high=1_000_000, also=("--num-train-epochs",)
    )
    max_steps: int | None = option(
        None, "Train for this many steps.", low=1, high=1_000_000_000, also=("--iters", "--max-iters")
    )
    max_time: float | None = option(
        None, "Stop, saved and resumable, after this many minutes.", above=0, high=1_000_000
    )
    batch_size: int | None = option(
        None,
        "Streams of text read side by side.",
        low=1,
        high=65_536,
        also=("--per-device-train-batch-size",),
        default_text="planned",
        section="Optimizing",
    )
    seq_length: int | None = option(
        None,
        "Steps through which gradients flow.",
        low=1,
        high=1_000_000,
        also=("--bptt", "--block-size"),
        default_text="planned",
    )
    learning_rate: float | None = option(
        None, "The highest learning rate.", above=0, high=100, also=("--lr",), default_text="planned"
    )
    lr_scheduler: str = option(
        "cosine", "Learning rate over time.", choices=("cosine", "constant", "plateau"), also=("--lr-scheduler-type",)
    )
    warmup_steps: int | None = option(
        None,
        "Steps over which the learning rate rises.",
        low=0,
        high=1_000_000_000,
        default_text="a twentieth, at most 200",
    )
    optimizer: str = option("adamw", "The optimizer.", choices=("adamw", "sgd"), also=("--optim",))
    momentum: float = option(0.0, "Momentum of sgd.", low=0, high=0.999)
    weight_decay: float = option(0.01, "Decay of weight matrices.", low=0, high=10)
    max_grad_norm: float = option(
        1.0,
        "Longest gradient; a longer one is scaled down to it.",
        above=0,
        high=1_000_000,
        also=("--clip", "--grad-clip"),
    )
    gradient_accumulation_steps: int = option(
        1, "Compute each batch in this many parts, for less memory.", low=1, high=65_536
    )
    average_weights: float = option(
        0.0,
        "Evaluate and keep an average of the weights that decays by this each step, such as 0.999.",
        low=0,
        high=0.99999,
        default_text="off",
    )
    dtype: str | None = option(
        None,
        "Precision of matrix products while training; everything else is float32.",
        choices=("float32", "bfloat16"),
        default_text="the faster on this processor; float32 when epochs or steps are given",
        also=("--precision",),
    )
    compile: bool | None = option(
        None,
        "Compile what gated cells do at each step (needs a C++ compiler).",
        default_text="where it pays within the run",
    )
    sampled_softmax: int | None = option(
        None,
        "Compare the right symbols with this many others a step, not with all: for vocabularies of many thousands.",
        low=1,
        high=10_000_000,
        default_text="all",
    )
    early_stopping_patience: int | None = option(
        None,
        "Stop after this many evaluations without a better one.",
        low=1,
        high=1_000_000,
        default_text="off",
        section="Watching",
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
        default_text="as evaluations",
    )
    verify_steps: int | None = option(
        None,
        "Steps between those made twice and compared bit by bit, to find a machine that computes wrongly.",
        low=1,
        high=1_000_000_000,
        default_text="never",
    )
    save_total_limit: int = option(2, "Checkpoints kept.", low=2, high=1_000_000)
    sample_steps: int | None = option(
        None, "Steps between samples shown; 0 shows none.", low=0, high=1_000_000_000, default_text="as evaluations"
    )

    report_to: list[str] = option([], "Also write metrics for this tool: tensorboard.", metavar="TOOL")

    output_dir: str | None = option(
        None, "Folder of the run.", metavar="DIR", default_text="runs/CELL-CORPUS-N", section="The run"
    )
    overwrite_output_dir: bool = option(False, "Replace the run that is there.", also=("--overwrite",))
    device: str = option("auto", "cpu, cuda, or auto.", metavar="NAME", also=("--accel",))
    threads: int | None = option(None, "Processor threads.", low=1, high=1024, default_text="all cores")
    seed: int = option(1337, "Seed of weights, dropout and order.", low=0, high=2**63 - 1)

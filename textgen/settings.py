"""Every option of tokenizing, training and sampling, each declared once with its help and limits.

None means that the plan decides (see `textgen.plan`). Long names are those of Hugging Face; `also` gives the
spellings of other tools.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from textgen.options import option

DEFAULT_MINUTES = 5.0


@dataclass(frozen=True)
class CorpusOptions:
    """How a corpus is read, divided and turned into tokens."""

    tokenizer: str | None = option(
        None,
        "What one symbol is: char, byte, bpe, or a folder that holds a tokenizer.",
        metavar="LEVEL|PATH",
        default_text="chosen from the corpus",
    )
    vocab_size: int | None = option(
        None, "Symbols of a bpe tokenizer.", low=260, high=1_000_000, default_text="chosen from the corpus"
    )
    encoding: str | None = option(
        None, "Encoding of the text.", metavar="NAME", default_text="UTF-8, or as a byte-order mark says"
    )
    document_separator: str | None = option(
        None,
        "Text that stands between documents, such as '<|endoftext|>'.",
        metavar="TEXT",
        default_text="one file, one document",
    )
    validation_file: str | None = option(None, "Hold out this text instead of a part of the corpus.", metavar="FILE")
    validation_split: float = option(
        0.1, "The part held out: whole documents, or the tail of a single one; 0 holds out nothing.", low=0, high=0.9
    )


@dataclass(frozen=True)
class TrainOptions(CorpusOptions):
    """How a model is built and trained."""

    cell: str = option("lstm", "The recurrent cell (textgen cells lists them).", also=("--model-type",), metavar="NAME")
    cell_options: dict[str, Any] = option({}, "An option of the cell itself; may be repeated.")
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
        None, "Use one matrix to read and to write symbols.", also=("--tied",), default_text="for bpe"
    )
    residual: bool | None = option(None, "Add each layer's input to its output.", default_text="from 3 layers")
    layer_norm: bool | None = option(None, "Normalise each layer's input.", default_text="from 3 layers")
    dropout: float | None = option(
        None, "Share of units dropped between layers, one mask a window.", low=0, high=0.95, default_text="planned"
    )
    embedding_dropout: float = option(0.0, "Share of symbols dropped whole.", low=0, high=0.95)
    weight_drop: float = option(0.0, "Share of recurrent weights dropped (gated cells).", low=0, high=0.95)

    minutes: float | None = option(
        None,
        "Plan size and steps so that the whole command takes this long.",
        above=0,
        high=100_000,
        default_text=f"{DEFAULT_MINUTES:g}, unless epochs or steps are given",
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
        "cosine", "Learning rate over time.", choices=("cosine", "constant"), also=("--lr-scheduler-type",)
    )
    warmup_steps: int | None = option(
        None,
        "Steps over which the learning rate rises.",
        low=0,
        high=1_000_000_000,
        default_text="a twentieth, at most 200",
    )
    optimizer: str = option("adamw", "The optimizer.", choices=("adamw",), also=("--optim",))
    weight_decay: float = option(0.01, "Decay of weight matrices.", low=0, high=10)
    max_grad_norm: float = option(
        1.0,
        "Longest gradient; a longer one is scaled down to it.",
        above=0,
        high=1_000_000,
        also=("--clip", "--grad-clip"),
    )
    early_stopping_patience: int | None = option(
        None, "Stop after this many evaluations without a better one.", low=1, high=1_000_000, default_text="off"
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
    save_total_limit: int = option(2, "Checkpoints kept.", low=2, high=1_000_000)
    sample_steps: int | None = option(
        None, "Steps between samples shown; 0 shows none.", low=0, high=1_000_000_000, default_text="as evaluations"
    )

    output_dir: str | None = option(None, "Folder of the run.", metavar="DIR", default_text="runs/CELL-CORPUS-N")
    overwrite_output_dir: bool = option(False, "Replace the run that is there.")
    device: str = option("auto", "cpu, cuda, or auto.", metavar="NAME", also=("--accel",))
    threads: int | None = option(None, "Processor threads.", low=1, high=1024, default_text="all cores")
    seed: int = option(1337, "Seed of weights, dropout and order.", low=0, high=2**63 - 1)


@dataclass(frozen=True)
class SampleOptions:
    """How text is drawn from a model. Penalties come first, then top-k, top-p and min-p, then temperature."""

    max_new_tokens: int = option(
        200,
        "Symbols to write; -1 goes on until a stop or Ctrl-C.",
        low=-1,
        high=1_000_000_000,
        also=("-n", "--max-tokens", "--n-predict", "--length"),
    )
    temperature: float = option(
        0.8, "Boldness; 0 always takes the likeliest symbol.", low=0, high=100, also=("--temp",)
    )
    greedy: bool = option(False, "Always take the likeliest symbol.")
    top_k: int = option(0, "Choose among the k likeliest symbols; 0 is off.", low=0, high=10_000_000)
    top_p: float = option(
        1.0, "Choose among the likeliest symbols that together have this probability.", above=0, high=1
    )
    min_p: float = option(0.0, "Leave out symbols less likely than this share of the likeliest.", low=0, high=1)
    repetition_penalty: float = option(
        1.0, "Divide the odds of symbols used lately; 1 is off.", above=0, high=100, also=("--repeat-penalty",)
    )
    repeat_last_n: int = option(64, "How far back the penalty looks.", low=0, high=1_000_000)
    stop: list[str] = option([], "End before this text; may be repeated.", metavar="TEXT")
    ignore_eos: bool = option(False, "Go on past the end of a document.")
    seed: int | None = option(
        None,
        "Seed; sample k of several has seed + k.",
        low=0,
        high=2**63 - 1,
        also=("-s",),
        default_text="random, shown with -v",
    )
    logprobs: int | None = option(
        None, "Also give the K likeliest symbols at each step (with --json).", low=0, high=1000, metavar="K"
    )

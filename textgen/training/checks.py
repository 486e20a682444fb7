"""What training options are held to before anything is read: their limits, and what excludes what. Needs no torch."""

from __future__ import annotations

from textgen.errors import UsageError
from textgen.options import flag
from textgen.pairs.settings import columns_of
from textgen.settings import TrainOptions
from textgen.text.corpus_settings import check_reading

LENGTHS = ("minutes", "epochs", "max_steps")
"""Options that say how long a run is; one of them is enough."""

CHANGEABLE = ("max_time", "save_total_limit", "early_stopping_patience")
"""Options that a resumed run may be given anew; the others are part of what it is."""


def check_training(options: TrainOptions) -> None:
    """Hold options to their limits and to each other. Raises UsageError."""
    check_reading(options)
    if options.task == "complete":
        columns_of(options)
    if options.sampled_softmax and options.task not in (None, "lm"):
        raise UsageError(f"--sampled-softmax goes with --task lm, not with {options.task}.")
    lengths = [name for name in LENGTHS if getattr(options, name) is not None]
    if len(lengths) > 1:
        raise UsageError(f"{flag(lengths[0])} and {flag(lengths[1])} exclude each other; give one of them.")
    for tool in options.report_to:
        if tool != "tensorboard":
            raise UsageError(f"--report-to must be tensorboard, not {tool!r}.")
    if options.momentum and options.optimizer != "sgd":
        raise UsageError(f"--momentum goes with --optimizer sgd, not with {options.optimizer}.")
    watching = "--lr-scheduler plateau" if options.lr_scheduler == "plateau" else "--early-stopping-patience"
    watched = options.lr_scheduler == "plateau" or options.early_stopping_patience is not None
    if watched and options.validation_split == 0 and not options.validation_file:
        raise UsageError(f"{watching} watches what is held out; --validation-split 0 holds out nothing.")
    refuse_empty_parts(options)


def refuse_empty_parts(options: TrainOptions) -> None:
    """Raise UsageError for a batch, if it is decided, of fewer lanes than parts."""
    if options.batch_size is not None and options.gradient_accumulation_steps > options.batch_size:
        raise UsageError(
            f"--gradient-accumulation-steps {options.gradient_accumulation_steps} is more than the batch has lanes "
            f"({options.batch_size}).",
            hint="--batch-size sets how many.",
        )

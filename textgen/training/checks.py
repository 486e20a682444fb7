"""What training options are held to before anything is read: their limits, and what excludes what. Needs no torch."""

from __future__ import annotations

from textgen.errors import UsageError
from textgen.pairs.settings import columns_of
from textgen.parameters import named
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
        raise UsageError(f"{named('sampled_softmax')} goes with {named('task', 'lm')}, not with {options.task}.")
    lengths = [name for name in LENGTHS if getattr(options, name) is not None]
    if len(lengths) > 1:
        raise UsageError(f"{named(lengths[0])} and {named(lengths[1])} exclude each other; give one of them.")
    for tool in options.report_to:
        if tool != "tensorboard":
            raise UsageError(f"{named('report_to')} must be tensorboard, not {tool!r}.")
    if options.momentum and options.optimizer != "sgd":
        raise UsageError(f"{named('momentum')} goes with {named('optimizer', 'sgd')}, not with {options.optimizer}.")
    watching = (
        named("lr_scheduler", "plateau") if options.lr_scheduler == "plateau" else named("early_stopping_patience")
    )
    watched = options.lr_scheduler == "plateau" or options.early_stopping_patience is not None
    if watched and options.validation_split == 0 and not options.validation_file:
        raise UsageError(f"{watching} watches what is held out; {named('validation_split', 0)} holds out nothing.")
    refuse_empty_parts(options)


def refuse_empty_parts(options: TrainOptions) -> None:
    """Raise UsageError for a batch, if it is decided, of fewer lanes than parts."""
    if options.batch_size is not None and options.gradient_accumulation_steps > options.batch_size:
        raise UsageError(
            f"{named('gradient_accumulation_steps', options.gradient_accumulation_steps)} is more than the batch has "
            f"lanes ({options.batch_size}).",
            hint=f"{named('batch_size')} sets how many.",
        )

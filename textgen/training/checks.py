"""Checks of training options before anything is read: limits and conflicts. Imports no torch."""

from __future__ import annotations

from textgen.errors import UsageError
from textgen.options import check
from textgen.parameters import named
from textgen.settings import TrainOptions
from textgen.tasks.base import task_of

LENGTHS = ("minutes", "epochs", "max_steps")
"""Options that set the length of a run; only one of them may be given."""

CHANGEABLE = ("max_time", "save_total_limit", "early_stopping_patience")
"""Options that may change when a run is resumed."""


def check_training(options: TrainOptions) -> None:
    """Check options against their limits and for conflicts. Raises UsageError."""
    check(options)
    task = task_of(options)
    if isinstance(options, task.options):
        task.check(options)
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
        raise UsageError(f"{watching} needs a held-out part; {named('validation_split', 0)} holds out nothing.")
    refuse_empty_parts(options)


def refuse_empty_parts(options: TrainOptions) -> None:
    """Raise UsageError if the batch size is given and smaller than the number of accumulation steps."""
    if options.batch_size is not None and options.gradient_accumulation_steps > options.batch_size:
        raise UsageError(
            f"{named('gradient_accumulation_steps', options.gradient_accumulation_steps)} is more than the batch has "
            f"lanes ({options.batch_size}).",
            hint=f"{named('batch_size')} sets how many.",
        )

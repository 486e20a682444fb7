"""The options that only completion has."""

from __future__ import annotations

from dataclasses import dataclass

from textgen.data import FileOptions, TokenizerOptions
from textgen.errors import UsageError
from textgen.options import named, option
from textgen.tasks import TrainOptions


@dataclass(frozen=True)
class CompletionOptions(TokenizerOptions, TrainOptions):
    """How a model is trained to complete prompts."""

    prompt_column: str | None = option(
        None,
        "The prompt column of a table; the model learns to write the text in --completion-column.",
        metavar="NAME",
        section="Completion (--task complete)",
    )
    completion_column: str | None = option(None, "The column that holds the completion of each prompt.", metavar="NAME")
    prompt_loss_weight: float = option(
        0.0, "Loss weight of a prompt token, relative to a completion token.", low=0, high=1
    )


@dataclass(frozen=True)
class CompletionEvaluation(FileOptions):
    """The columns that completions are evaluated on."""

    prompt_column: str | None = option(
        None, "The prompt column.", metavar="NAME", default_text="as in training", section="Completion"
    )
    completion_column: str | None = option(
        None, "The completion column.", metavar="NAME", default_text="as in training"
    )


def columns_of(options: CompletionOptions) -> tuple[str, str]:
    """The names of the two columns. Raises UsageError if one is not named, or both are the same."""
    prompt, completion = options.prompt_column, options.completion_column
    if prompt is None and completion is None:
        raise UsageError(
            "the task complete needs pairs of two columns.",
            hint=f"{named('prompt_column', 'NAME')} {named('completion_column', 'NAME')}",
        )
    if completion is None:
        raise UsageError(f"{named('prompt_column', prompt)} goes with {named('completion_column')}, which is missing.")
    if prompt is None:
        raise UsageError(
            f"{named('completion_column', completion)} goes with {named('prompt_column')}, which is missing."
        )
    if prompt == completion:
        raise UsageError(
            f"{named('prompt_column')} and {named('completion_column')} are both {prompt!r}; a pair has two columns."
        )
    return prompt, completion

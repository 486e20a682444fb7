"""textgen predict: what a model says of texts or series, for models that do not write text."""

from __future__ import annotations

from dataclasses import dataclass, fields
from importlib import import_module
from pathlib import Path
from typing import Any

import click

from textgen.cli.outputs import STDOUT, output_file, overwrite_option
from textgen.cli.params import given, options_of, refuse_of_another_task, whole_number
from textgen.cli.screen import encodings_said, reading_said
from textgen.cli.typed_wrong import check_corpus, quoted
from textgen.errors import TextgenError, UsageError
from textgen.model_folder import remembered_reading, task_of
from textgen.outputs import FORECASTS, PLOT, Kind, OutputFile, refuse_same
from textgen.series.settings import ForecastOptions
from textgen.text.corpus_settings import ReadingOptions
from textgen.text.reading import Reading

OTHER_TASKS = {"classify": "textgen.cli.predict_labels", "forecast": "textgen.cli.predict_series"}
"""The tasks whose models predict, and the module whose `predict` takes a `PredictionRequest`."""

OWN = {
    **{f.name: ("classify",) for f in fields(ReadingOptions) if f.name in ("text_column", "document_separator")},
    **{f.name: ("forecast",) for f in fields(ForecastOptions)},
    "whole_files": ("classify",),
    "output": ("forecast",),
    "plot": ("forecast",),
}
"""The options that not every task has, and the tasks that have them."""


@dataclass(frozen=True)
class PredictionRequest:
    """What was asked of a model."""

    folder: Path
    inputs: tuple[str, ...]
    threads: int | None
    as_json: bool
    reading: Reading
    forecasting: ForecastOptions
    output: OutputFile | None
    plot: OutputFile | None


@click.command("predict", context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.argument("inputs", nargs=-1, metavar="[INPUT]...")
@click.option("-m", "--model", metavar="DIR", help="The model folder.  [default: $TEXTGEN_MODEL, or the latest run]")
@options_of(ReadingOptions)
@click.option(
    "--whole-files/--lines",
    default=None,
    help="Read a plain file as one text, or as one text per line.  [default: as in training; lines for tables]",
)
@click.option("--threads", type=whole_number(1, 1024), help="Number of CPU threads.  [default: all cores]")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object per line.")
@click.option("-o", "--output", metavar="FILE", help="Write to this file; - is standard output.  [default: -]")
@options_of(ForecastOptions)
@click.option("--plot", metavar="FILE", help="Plot the forecasts as PNG.")
@overwrite_option()
@encodings_said()
def command(
    inputs: tuple[str, ...], model: str | None, threads: int | None, as_json: bool, overwrite: bool, **values: Any
) -> int:
    """Predict the label of each text, or the next values of each series.

    INPUT is read with the encoding, document separator and columns of training, unless you give others.
    """
    from textgen.cli.sample import model_folder

    _refuse_words(inputs)
    check_corpus("predict", inputs)
    folder = model_folder(model)
    task = task_of(folder)
    if task not in OTHER_TASKS:
        raise TextgenError(
            f"the model in {str(folder)!r} generates text; predict takes models that classify or forecast.",
            hint=f'textgen sample -m {folder} --prompt "..."',
        )
    named, forecasting = given(Reading, values), given(ForecastOptions, values)
    others = {name: values[name] for name in ("output", "plot")}
    refuse_of_another_task(task, {**named, **forecasting, **others}, OWN)
    refuse_same({"--output": values["output"], "--plot": values["plot"]})
    reading = remembered_reading(folder, named)
    request = PredictionRequest(
        folder,
        inputs,
        threads,
        as_json,
        reading,
        ForecastOptions(**forecasting),
        _output(values["output"], "--output", FORECASTS, (*inputs, folder), overwrite),
        _output(values["plot"], "--plot", PLOT, (*inputs, folder), overwrite),
    )
    with reading.explained(), reading_said(reading.said(inputs)):
        return import_module(OTHER_TASKS[task]).predict(request)  # type: ignore[no-any-return]


def _refuse_words(inputs: tuple[str, ...]) -> None:
    """Raise UsageError for a text in the place of a file."""
    for typed in inputs:
        if len(typed.split()) > 2 and not Path(typed).exists():
            raise UsageError(f"there is no file {typed!r}.", hint=f"echo {quoted(typed)} | textgen predict -")


def _output(
    name: str | None, option: str, kind: Kind, inputs: tuple[str | Path, ...], overwrite: bool
) -> OutputFile | None:
    return None if name in (None, STDOUT) else output_file(name, option, kind, inputs, overwrite)

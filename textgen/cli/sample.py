"""textgen sample: write text with a trained model."""

from __future__ import annotations

import json
import os
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from textgen.cli.params import given, options_of
from textgen.cli.screen import Output, say, warn
from textgen.errors import TextgenError, UsageError
from textgen.settings import SampleOptions

if TYPE_CHECKING:
    from textgen.generate import Completion
    from textgen.language_model import LanguageModel

UNENDING = 2**62


@click.command("sample", context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.option("-m", "--model", metavar="DIR", help="The model folder.  [default: $TEXTGEN_MODEL, or the latest run]")
@click.option(
    "-p",
    "--prompt",
    "--start",
    "--primetext",
    metavar="TEXT",
    help="Text to go on from; '-' reads it from standard input.",
)
@click.option("-f", "--file", "prompt_file", metavar="FILE", help="Read the prompt from a file.")
@options_of(SampleOptions)
@click.option(
    "--num-samples", "--num-return-sequences", default="1", metavar="N", help="How many texts to write.  [default: 1]"
)
@click.option(
    "--echo/--no-echo",
    "--display-prompt/--no-display-prompt",
    default=None,
    help="Show the prompt too.  [default: on a terminal]",
)
@click.option("--stream/--no-stream", default=True, help="Show text as it is written.  [default: yes]")
@click.option("--json", "as_json", is_flag=True, help="One JSON object a text and line.")
@click.option("-0", "--null", is_flag=True, help="End each of several texts with a NUL instead of a heading.")
@click.option("--threads", default="1", metavar="N", help="Processor threads.  [default: 1]")
@click.option("-v", "--verbose", is_flag=True, help="Show speed and seed when done.")
def command(
    model: str | None,
    prompt: str | None,
    prompt_file: str | None,
    num_samples: str,
    echo: bool | None,
    stream: bool,
    as_json: bool,
    null: bool,
    threads: str,
    verbose: bool,
    **values: Any,
) -> int:
    """Write on from a prompt with a trained model.

    Sample k of several has the seed of the first plus k, and is what that seed gives alone.
    """
    samples, cores = _count("--num-samples", num_samples, 100_000), _count("--threads", threads, 1024)
    text = read_prompt(prompt, prompt_file)
    chosen = given(SampleOptions, values)
    options = _checked(chosen)
    if options.logprobs is not None and not as_json:
        raise UsageError("--logprobs goes with --json.")
    loaded = open_model(model, cores)
    options = _checked({**loaded.defaults, **chosen})
    unknown = loaded.unknown_characters(text)
    if unknown:
        shown = " ".join(map(repr, unknown[:8])) + (" ..." if len(unknown) > 8 else "")
        warn(f"the model never saw {shown} ({len(unknown)} of the prompt's characters); they are unknown to it.")
    writer = _Writer(loaded, text, options, echo, as_json, null, verbose)
    writer.write(samples, stream and not as_json)
    return 0


def _checked(chosen: dict[str, Any]) -> SampleOptions:
    from textgen.options import from_mapping
    from textgen.sampling import check_sampling

    options: SampleOptions = from_mapping(SampleOptions, chosen)
    check_sampling(options)
    return options


def _count(name: str, value: str, most: int) -> int:
    try:
        number = int(value)
    except ValueError:
        number = 0
    if not 1 <= number <= most:
        raise UsageError(f"{name} must be a whole number from 1 to {most:,}, not {value!r}.")
    return number


def read_prompt(prompt: str | None, prompt_file: str | None) -> str:
    """The prompt from the argument, standard input or a file. Raises TextgenError if it is not text."""
    if prompt is not None and prompt_file is not None:
        raise UsageError("--prompt and --file exclude each other.")
    if prompt_file is not None:
        try:
            return _decoded(Path(prompt_file).read_bytes(), prompt_file)
        except FileNotFoundError:
            raise UsageError(f"prompt file {prompt_file!r} does not exist.") from None
    if prompt == "-":
        return _decoded(sys.stdin.buffer.read(), "standard input")
    prompt = prompt or ""
    bad = next((i for i, c in enumerate(prompt) if 0xD800 <= ord(c) <= 0xDFFF), None)
    if bad is not None:
        raise TextgenError(f"the prompt is not UTF-8 text (character {bad}).")
    return prompt


def _decoded(data: bytes, name: str) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise TextgenError(
            f"the prompt in {name} is not UTF-8 text (byte 0x{data[error.start]:02x} at offset {error.start})."
        ) from None


def open_model(name: str | None, threads: int) -> LanguageModel:
    """The model of a folder, of $TEXTGEN_MODEL, or of the latest run."""
    from textgen.cli.train import find_run

    chosen = name or os.environ.get("TEXTGEN_MODEL")
    folder = find_run("latest") if chosen is None else Path(chosen)
    if chosen is not None and not folder.is_dir() and (Path("runs") / chosen).is_dir():
        folder = Path("runs") / chosen
    import torch

    from textgen.language_model import load

    torch.set_num_threads(threads)
    return load(folder)


class _Writer:
    """Puts completions on standard output in the form that was asked for."""

    def __init__(
        self,
        model: LanguageModel,
        prompt: str,
        options: SampleOptions,
        echo: bool | None,
        as_json: bool,
        null: bool,
        verbose: bool,
    ) -> None:
        self._model, self._prompt, self._options = model, prompt, options
        self._json, self._null, self._verbose = as_json, null, verbose
        self._output = Output()
        self._echo = (self._output.terminal if echo is None else echo) and not as_json

    def write(self, samples: int, stream: bool) -> None:
        from textgen.generate import EXACT_ROWS, Completion, choose_seed, complete, stream_rows

        began = time.monotonic()
        seed = choose_seed(self._options)
        completions: list[Completion] = []
        together = samples > EXACT_ROWS
        if together:
            completions = complete(self._model, [self._prompt] * samples, replace(self._options, seed=seed))
        for number in range(samples):
            self._heading(number, samples)
            if together:
                completion = completions[number]
                self._body(completion, completion.text)
            else:
                completion = Completion(self._prompt, seed + number)
                completions.append(completion)
                for _, piece in stream_rows(self._model, [self._prompt], self._options, [completion]):
                    if stream:
                        self._output.write(piece)
                self._body(completion, "" if stream else completion.text)
            self._end(samples)
        if self._verbose:
            tokens = sum(completion.tokens for completion in completions)
            speed = tokens / max(time.monotonic() - began, 1e-9)
            reasons = ", ".join(sorted({str(completion.finish_reason) for completion in completions}))
            say(f"{tokens:,} symbols · {speed:,.0f} a second · seed {seed} · stopped by {reasons}")

    def _heading(self, number: int, samples: int) -> None:
        if samples > 1 and not self._json and not self._null:
            self._output.write(f"{chr(10) if number else ''}— {number + 1} of {samples} —\n")
        if self._echo and self._prompt:
            bold = self._output.terminal and "NO_COLOR" not in os.environ
            if bold:
                click.echo("\x1b[1m", nl=False)
            self._output.write(self._prompt)
            if bold:
                click.echo("\x1b[0m", nl=False)

    def _body(self, completion: Completion, text: str) -> None:
        self._output.write(json.dumps(self._object(completion), ensure_ascii=False) if self._json else text)

    def _end(self, samples: int) -> None:
        self._output.write("\0" if self._null and not self._json else "\n")

    def _object(self, completion: Completion) -> dict[str, Any]:
        content: dict[str, Any] = {
            "prompt": completion.prompt,
            "text": completion.text,
            "seed": completion.seed,
            "tokens": completion.tokens,
            "finish_reason": completion.finish_reason,
        }
        if self._options.logprobs is not None:
            content["logprobs"] = [
                {"symbol": self._symbol(c.id), "logprob": c.logprob, "top": [[self._symbol(i), p] for i, p in c.top]}
                for c in completion.choices
            ]
        return content

    def _symbol(self, number: int) -> str:
        return self._model.tokenizer.decode([number]) or f"<{number}>"

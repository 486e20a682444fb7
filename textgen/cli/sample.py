"""textgen sample: generate text with a trained model."""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from dataclasses import fields, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from textgen.cli.help import layered
from textgen.cli.models import model_folder, open_model
from textgen.cli.outputs import output_file, overwrite_option
from textgen.cli.params import backend_option, encodings_said, given, options_of, whole_number
from textgen.cli.writer import Form, Writer
from textgen.errors import TextgenError, UsageError
from textgen.escapes import unescape
from textgen.model_folder import remembered_reading
from textgen.options import from_mapping
from textgen.outputs import STATE, OutputFile, OutputKind
from textgen.screen import say, warn
from textgen.settings import SampleOptions, check_sampling
from textgen.text.detection import STANDARD_INPUT

if TYPE_CHECKING:
    from textgen.language_model import LanguageModel
    from textgen.writing.session import Session

LINE_END = re.compile(r"(\r\n|\n|\r)\Z")
"""The last line end of a prompt from a file or pipe: an editor or `echo` wrote it, not the author."""


COMMON = (
    *("model", "prompt", "prompt_file", "max_new_tokens", "temperature", "top_p", "min_p", "num_samples", "seed"),
    *("stop", "echo", "interactive", "as_json", "save_state", "load_state"),
)


@click.command(
    "sample",
    cls=layered(COMMON, SampleOptions),
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.option("-m", "--model", metavar="DIR", help="The model folder.  [default: $TEXTGEN_MODEL, or the latest run]")
@click.option(
    "-p",
    "--prompt",
    "--start",
    "--primetext",
    metavar="TEXT",
    help="Text to continue; '-' reads it from standard input, without its last line end.",
)
@click.option(
    "-f", "--file", "prompt_file", metavar="FILE", help="Read the prompt from a file, without its last line end."
)
@click.option(
    "--encoding",
    metavar="NAME",
    help="Encoding of a prompt read from a file or standard input, or auto.  [default: as in training]",
)
@options_of(SampleOptions, first="the model's own")
@click.option(
    "--num-samples",
    "--num-return-sequences",
    type=whole_number(1, 100_000),
    default=1,
    help="Number of texts to write, separated by an empty line; on a terminal, by headings.  [default: 1]",
)
@click.option(
    "--echo/--no-echo",
    "--display-prompt/--no-display-prompt",
    default=None,
    help="Print the prompt, too.  [default: on a terminal]",
)
@click.option("--stream/--no-stream", default=None, help="Print text while it is being written.  [default: yes]")
@click.option("--raw", is_flag=True, help="Print control characters to a terminal unescaped.")
@click.option("--json", "as_json", is_flag=True, help="Print each text as a JSON object on its own line.")
@click.option("-0", "--null", is_flag=True, help="End each text with a NUL character.")
@click.option(
    "-i", "--interactive", is_flag=True, help="Write together with the model, line by line; type /help for commands."
)
@click.option("--save-state", metavar="FILE", help="Save the hidden state after the text, to continue from it later.")
@overwrite_option()
@click.option("--load-state", metavar="FILE", help="Continue from a saved state; another --seed gives another text.")
@click.option("--report-copies", is_flag=True, help="Report passages copied from the training text.")
@click.option("--threads", type=whole_number(1, 1024), default=1, help="Number of CPU threads.  [default: 1]")
@backend_option
@click.option("-v", "--verbose", is_flag=True, help="Show speed and seed when done.")
@encodings_said()
def command(
    model: str | None,
    prompt: str | None,
    prompt_file: str | None,
    encoding: str | None,
    num_samples: int,
    threads: int,
    backend: str,
    interactive: bool,
    load_state: str | None,
    overwrite: bool,
    **values: Any,
) -> int:
    """Continue a prompt with a trained model.

    With several samples, sample k uses the first seed plus k, and equals the text that this seed gives by itself.
    """
    state = values.pop("save_state")
    form = Form(**{f.name: values.pop(f.name) for f in fields(Form) if f.name != "save_state"})
    chosen = given(SampleOptions, values)
    if "stop" in chosen:
        chosen["stop"] = [unescape(text) for text in chosen["stop"]]
    _check_choice(_checked(chosen), form, num_samples)
    _check_state(form, state, interactive, prompt, num_samples)
    text = read_prompt(prompt, prompt_file, model, encoding)
    inputs = [model_folder(model), prompt_file, load_state, "-" if prompt == "-" else None]
    output = partial(_output, inputs, overwrite)
    form = form if state is None else replace(form, save_state=output(state, "--save-state", STATE))
    loaded = open_model(model, threads, backend)
    if loaded.prompt_end and not (text or interactive or load_state):
        raise UsageError("this model completes prompts, and no prompt is given.", hint="--prompt TEXT")
    from textgen.writing.generate import sampling_options

    options = sampling_options(loaded, chosen)
    _warn_of_unknown(loaded, text)
    session = None
    if interactive or load_state or form.save_state:
        session, text = _session(loaded, text, options, load_state)
    if interactive and session is not None:
        from textgen.cli.cowrite import cowrite

        cowrite(session, text, options, form.save_state, output, form.raw)
        return 0
    Writer(loaded, text, options, form, session).write(num_samples)
    return 0


def _output(
    inputs: Sequence[str | Path | None],
    overwrite: bool,
    name: str,
    option: str,
    kind: OutputKind,
    replace_any: bool = False,
) -> OutputFile:
    return output_file(name, option, kind, inputs, overwrite or replace_any)


def _check_choice(options: SampleOptions, form: Form, num_samples: int) -> None:
    if options.num_beams is not None:
        _check_search(options.num_beams, num_samples, form.stream)
    if options.logprobs is not None and not form.as_json:
        raise UsageError("--logprobs goes with --json.")


def _check_state(form: Form, state: str | None, interactive: bool, prompt: str | None, num_samples: int) -> None:
    if state is not None and num_samples > 1:
        raise UsageError(f"--save-state keeps the state after one text, not after {num_samples}.")
    if interactive and prompt == "-":
        raise UsageError("--interactive reads standard input itself; --prompt - cannot.")
    wrong = {"--json": form.as_json, "--num-samples": num_samples > 1, "--report-copies": form.report_copies}
    excluded = next((name for name, on in wrong.items() if on), None)
    if interactive and excluded:
        raise UsageError(f"--interactive and {excluded} exclude each other.")


def _session(loaded: LanguageModel, text: str, options: SampleOptions, load_state: str | None) -> tuple[Session, str]:
    """The session to continue, and the prompt to show, preceded by any text that a loaded state held back."""
    from textgen.writing.completions import REMEMBERED
    from textgen.writing.session import Session

    if options.num_beams is not None:
        raise UsageError(f"--num-beams {options.num_beams} keeps no state and continues from none.")
    remember = max(REMEMBERED, options.repeat_last_n, options.max_copy or 0)
    if load_state is None:
        return Session.begin(loaded, text, options.seed, remember), text
    session = Session.load(loaded, load_state)
    session = replace(session, remember=max(remember, session.remember))
    if options.seed is not None:
        session = session.fork(options.seed)
    if loaded.prompt_end and text:
        return session.ask(text), text
    return session.read(text), session.rest + text if text else ""


def _warn_of_unknown(loaded: LanguageModel, text: str) -> None:
    unknown = loaded.unknown_characters(text)
    if unknown:
        shown = " ".join(map(repr, unknown[:8])) + (" ..." if len(unknown) > 8 else "")
        unit = loaded.tokenizer.unit
        warn(f"the model never saw {shown} ({len(unknown)} of the prompt's {unit}s); they are unknown to it.")


def _check_search(beams: int, num_samples: int, stream: bool | None) -> None:
    if stream:
        raise UsageError(f"--num-beams {beams} cannot stream; add --no-stream.")
    if num_samples > 1:
        raise UsageError(f"--num-beams {beams} finds one text; --num-samples {num_samples} would repeat it.")


def _checked(chosen: dict[str, Any]) -> SampleOptions:
    options: SampleOptions = from_mapping(SampleOptions, chosen)
    check_sampling(options)
    return options


def read_prompt(prompt: str | None, prompt_file: str | None, model: str | None, encoding: str | None) -> str:
    """The prompt from the argument, standard input or a file. Input is decoded like the model's training text unless an
    encoding is given, and loses one final line end. Raises TextgenError if it is not text."""
    if prompt is not None and prompt_file is not None:
        raise UsageError("--prompt and --file exclude each other.")
    if prompt_file is not None:
        try:
            return _decoded(Path(prompt_file).read_bytes(), prompt_file, model, encoding)
        except FileNotFoundError:
            raise UsageError(f"prompt file {prompt_file!r} does not exist.") from None
    if prompt == "-":
        if sys.stdin is None:
            raise TextgenError("standard input is closed.")
        return _decoded(sys.stdin.buffer.read(), STANDARD_INPUT, model, encoding)
    if encoding is not None:
        raise UsageError(f"--encoding {encoding} applies to a prompt that is read: --prompt - or --file FILE.")
    prompt = prompt or ""
    bad = next((i for i, c in enumerate(prompt) if 0xD800 <= ord(c) <= 0xDFFF), None)
    if bad is not None:
        raise TextgenError(f"the prompt is not UTF-8 text (character {bad}).")
    return prompt


def _decoded(data: bytes, name: str, model: str | None, encoding: str | None) -> str:
    reading = remembered_reading(model_folder(model), {"encoding": encoding})
    text = reading.decoded(data, name)
    if "encoding" in reading.trained and text.encode() != data:
        say(f"The prompt is read as in training: --encoding {reading.encoding}.")
    return LINE_END.sub("", text)

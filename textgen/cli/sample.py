"""textgen sample: generate text with a trained model, and print it as text or JSON lines."""

from __future__ import annotations

import json
import os
import re
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, fields, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from textgen.cli.model_folders import model_folder, open_model
from textgen.cli.params import (
    backend_option,
    given,
    layered,
    model_option,
    options_of,
    output_file,
    overwrite_option,
    whole_number,
)
from textgen.data.encodings import STANDARD_INPUT
from textgen.data.lines import LINE_END
from textgen.distributed import world
from textgen.errors import TextgenError, UsageError, unescape
from textgen.formatting import count, plural
from textgen.generation import SampleOptions, check_sampling
from textgen.model import remembered_reading
from textgen.options import flag, from_mapping
from textgen.screen import Output, encodings_said, say, warn
from textgen.storage.outputs import STATE, OutputFile, OutputKind

if TYPE_CHECKING:
    from textgen.generation.copies import Copy
    from textgen.generation.generate import Completion
    from textgen.generation.language_model import LanguageModel
    from textgen.generation.session import Session


_SHOWN = 60


@dataclass(frozen=True)
class Form:
    """How completions are printed, what is reported about them, and where the state after one is saved."""

    echo: bool | None
    stream: bool | None
    raw: bool
    as_json: bool
    null: bool
    verbose: bool
    report_copies: bool
    save_state: OutputFile | None = None


class Writer:
    """Writes completions of one prompt, or of a session that has read it."""

    def __init__(
        self, model: LanguageModel, prompt: str, options: SampleOptions, form: Form, session: Session | None = None
    ) -> None:
        self._model, self._prompt, self._options, self._form = model, prompt, options, form
        self._session = session
        self._before = prompt if session is None else session.open.tail.removesuffix(session.open.text)
        self._output = Output(form.raw)
        echo = self._output.terminal or (options.lines and not model.prompt_end) if form.echo is None else form.echo
        self._echo = echo and not form.as_json
        self._stream = form.stream is not False and not form.as_json
        if form.report_copies or options.max_copy is not None:
            model.training_text  # noqa: B018 - raises before anything is written
            if base := model.config.base.get("name"):
                say(f"Copies are searched for in this model's own training text, not in that of {base}.")

    def write(self, samples: int) -> None:
        """Write this many texts; sample k uses the first seed plus k."""
        from textgen.generation.generate import EXACT_ROWS, Completion, choose_seed, complete

        began = time.monotonic()
        going_on = self._session is not None and samples == 1
        seed = self._session.seed if self._session is not None and going_on else choose_seed(self._options)
        completions: list[Completion] = []
        job = world()
        together = self._session is None and (samples > EXACT_ROWS or job.size > 1)
        if together:
            options = replace(self._options, seed=job.share(lambda: seed))
            if job.size == 1:
                completions = complete(self._model, [self._prompt] * samples, options)
            else:
                completions = self._divided(samples, options, EXACT_ROWS)
        if not job.leads:
            return
        for number in range(samples):
            self._heading(number, samples)
            if together:
                completion = completions[number]
                self._body(completion, completion.text)
            else:
                completion = Completion(self._prompt, seed + number)
                completions.append(completion)
                self._write_one(completion, going_on)
            self._output.write("\0" if self._form.null and not self._form.as_json else "\n")
            self._report(completion)
        if self._form.verbose:
            self._say_speed(completions, seed, time.monotonic() - began)

    def _divided(self, samples: int, options: SampleOptions, rows: int) -> list[Completion]:
        """The texts, in rank 0; every few of them are written by another process."""
        from textgen.generation.generate import Completion, complete
        from textgen.generation.sampling import Choice

        def work(first: int) -> list[dict[str, Any]]:
            number, seed = min(rows, samples - first), options.seed
            own = replace(options, seed=None if seed is None else seed + first)
            return [asdict(each) for each in complete(self._model, [self._prompt] * number, own)]

        written: list[Completion] = []
        for found in world().divided(range(0, samples, rows), work):
            for each in found:
                choices = [Choice(c["id"], c["logprob"], tuple(map(tuple, c["top"]))) for c in each["choices"]]
                written.append(Completion(**{**each, "choices": choices, "prompt_choices": []}))
        return written

    def _write_one(self, completion: Completion, going_on: bool) -> None:
        try:
            for piece in self._pieces(completion, going_on):
                if self._stream:
                    self._output.write(piece)
        finally:  # after Ctrl-C too
            if self._session is not None and self._form.save_state is not None:
                self._form.save_state.write(self._session.to_bytes())
        self._body(completion, "" if self._stream else completion.text)

    def _pieces(self, completion: Completion, going_on: bool) -> Iterator[str]:
        from textgen.generation.generate import stream_rows

        if self._session is None:
            yield from (piece for _, piece in stream_rows(self._model, [self._prompt], self._options, [completion]))
            return
        session = self._session if going_on else self._session.fork(completion.seed)
        keep_open = self._form.save_state is not None
        for piece, after in session.pieces(self._options, completion, keep_open):
            if going_on:
                self._session = after
            yield piece

    def _say_speed(self, completions: list[Completion], seed: int, seconds: float) -> None:
        tokens = sum(completion.tokens for completion in completions)
        speed = tokens / max(seconds, 1e-9)
        reasons = ", ".join(sorted({str(completion.finish_reason) for completion in completions}))
        say(f"{tokens:,} tokens · {speed:,.0f} tokens/s · seed {seed} · stopped by {reasons}")

    def _heading(self, number: int, samples: int) -> None:
        if self._options.lines:
            if self._echo:
                self._output.write(LINE_END.split(self._prompt)[-1])
            return
        if samples > 1 and not self._form.as_json and not self._form.null:
            heading = f"— {number + 1} of {samples} —\n" if self._output.terminal else ""
            self._output.write(("\n" if number else "") + heading)
        if self._echo and self._prompt:
            bold = self._output.terminal and "NO_COLOR" not in os.environ
            if bold:
                click.echo("\x1b[1m", nl=False)
            self._output.write(self._prompt + ("\n" if self._model.prompt_end else ""))
            if bold:
                click.echo("\x1b[0m", nl=False)

    def _body(self, completion: Completion, text: str) -> None:
        as_json = self._form.as_json
        self._output.write(json.dumps(self._object(completion), ensure_ascii=False) if as_json else text)

    def _report(self, completion: Completion) -> None:
        if self._form.report_copies and not self._form.as_json:
            say(describe(self._copy(completion)))
        if completion.unavoidable:
            tokens = plural(completion.unavoidable, "token")
            warn(f"{tokens} could not avoid copying more than {count(self._options.max_copy or 0)} characters.")

    def _copy(self, completion: Completion) -> Copy | None:
        return self._model.training_text.longest(self._before + completion.text, len(self._before))

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
                {
                    "token": self._token_text(c.id),
                    "logprob": c.logprob,
                    "top": [[self._token_text(i), p] for i, p in c.top],
                }
                for c in completion.choices
            ]
        if self._form.report_copies:
            copy = self._copy(completion)
            content["longest_copy"] = None if copy is None else {"characters": len(copy.text), **vars(copy)}
        return content

    def _token_text(self, number: int) -> str:
        return self._model.tokenizer.decode([number]) or f"<{number}>"


def describe(copy: Copy | None) -> str:
    """The longest copy as a sentence; documents and characters count from 0."""
    if copy is None:
        return "longest copy: none"
    text = copy.text if len(copy.text) <= _SHOWN else copy.text[: _SHOWN - 3] + "..."
    return (
        f"longest copy: {plural(len(copy.text), 'character')}, from character {count(copy.character)} of document "
        f"{count(copy.document)} of the training text: {text!r}"
    )


LAST_LINE_END = re.compile(r"(\r\n|\n|\r)\Z")
"""The last line end of a prompt from a file or pipe: an editor or `echo` wrote it, not the author."""


COMMON = (
    *("model", "prompt", "prompt_file", "max_new_tokens", "temperature", "top_p", "min_p", "num_samples"),
    *("lines", "seed"),
    *("stop", "echo", "interactive", "as_json", "save_state", "load_state"),
)


SECTIONS = {
    "Sampling": tuple(f.name for f in fields(SampleOptions)),
    "Output": ("num_samples", "echo", "stream", "raw", "as_json", "null", "report_copies", "verbose"),
    "Hidden state": ("load_state", "save_state", "overwrite"),
}


@click.command("sample", cls=layered(COMMON, sections=SECTIONS))
@model_option
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
    help="Number of texts to write: one per line with --lines, else separated by an empty line; on a terminal, by "
    "headings.  [default: 1]",
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
    chosen = _chosen(values)
    _check_sampling(chosen, form, num_samples)
    _check_state(form, state, interactive, prompt, num_samples)
    text = read_prompt(prompt, prompt_file, model, encoding)
    inputs = [model_folder(model), prompt_file, load_state, "-" if prompt == "-" else None]
    output = partial(_output, inputs, overwrite)
    form = form if state is None else replace(form, save_state=output(state, "--save-state", STATE))
    loaded = open_model(model, threads, backend)
    if loaded.prompt_end and not (text or interactive or load_state):
        raise UsageError("this model completes prompts, and no prompt is given.", hint="--prompt TEXT")
    from textgen.generation.generate import sampling_options

    options = sampling_options(loaded, chosen)
    _warn_of_unknown(loaded, text)
    session = None
    if interactive or load_state or form.save_state:
        session, text = _session(loaded, text, options, load_state)
    if interactive and session is not None:
        from textgen.cli.cowrite import cowrite

        cowrite(session, text, replace(options, lines=False), form.save_state, output, form.raw)
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


def _check_sampling(chosen: dict[str, Any], form: Form, num_samples: int) -> None:
    options: SampleOptions = from_mapping(SampleOptions, chosen)
    check_sampling(options)
    beams = options.num_beams
    if beams is not None and form.stream:
        raise UsageError(f"--num-beams {beams} cannot stream; add --no-stream.")
    if beams is not None and num_samples > 1:
        raise UsageError(f"--num-beams {beams} finds one text; --num-samples {num_samples} would repeat it.")
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


def _chosen(values: dict[str, Any]) -> dict[str, Any]:
    """The sampling options that are given; a grammar and a schema are read from their files."""
    chosen = given(SampleOptions, values)
    for name in set(chosen) & {"grammar", "json_schema"}:
        chosen[name] = _content(chosen[name], flag(name))
    if "stop" in chosen:
        chosen["stop"] = [unescape(text) for text in chosen["stop"]]
    return chosen


def _content(path: str, option: str) -> str:
    """The text of a file that an option names. Raises UsageError if it cannot be read."""
    try:
        return Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise UsageError(f"{option} {path!r} cannot be read: {reason}.") from None


def _session(loaded: LanguageModel, text: str, options: SampleOptions, load_state: str | None) -> tuple[Session, str]:
    """The session to continue, and the prompt to show, preceded by any text that a loaded state held back."""
    from textgen.generation.generate import REMEMBERED, heals
    from textgen.generation.session import Session

    if options.num_beams is not None:
        raise UsageError(f"--num-beams {options.num_beams} keeps no state and continues from none.")
    remember = max(REMEMBERED, options.repeat_last_n, options.max_copy or 0)
    if load_state is None:
        return Session.begin(loaded, text, options.seed, remember, heals(options)), text
    session = Session.load(loaded, load_state)
    session = replace(session, remember=max(remember, session.remember))
    if options.seed is not None:
        session = session.fork(options.seed)
    if loaded.prompt_end and text:
        return session.ask(text), text
    return session.read(text, heals(options)), session.rest + text if text else ""


def _warn_of_unknown(loaded: LanguageModel, text: str) -> None:
    unknown = loaded.unknown_characters(text)
    if unknown:
        shown = " ".join(map(repr, unknown[:8])) + (" ..." if len(unknown) > 8 else "")
        unit = loaded.tokenizer.unit
        warn(f"the model never saw {shown} ({len(unknown)} of the prompt's {unit}s); they are unknown to it.")


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
    return LAST_LINE_END.sub("", text)

"""Prints completions on standard output in the requested form."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import click

from textgen.outputs import OutputFile
from textgen.screen import Output, say, warn
from textgen.wording import count, plural
from textgen.writing.sampling_settings import SampleOptions

if TYPE_CHECKING:
    from textgen.language_model import LanguageModel
    from textgen.writing.completions import Completion
    from textgen.writing.copies import Copy
    from textgen.writing.session import Session

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
        self._echo = (self._output.terminal if form.echo is None else form.echo) and not form.as_json
        self._stream = form.stream is not False and not form.as_json
        if form.report_copies or options.max_copy is not None:
            model.training_text  # noqa: B018 - raises before anything is written

    def write(self, samples: int) -> None:
        """Write this many texts; sample k uses the first seed plus k."""
        from textgen.writing.completions import Completion
        from textgen.writing.generate import EXACT_ROWS, choose_seed, complete

        began = time.monotonic()
        going_on = self._session is not None and samples == 1
        seed = self._session.seed if self._session is not None and going_on else choose_seed(self._options)
        completions: list[Completion] = []
        together = samples > EXACT_ROWS and self._session is None
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
                self._write_one(completion, going_on)
            self._end()
            self._report(completion)
        if self._form.verbose:
            self._say_speed(completions, seed, time.monotonic() - began)

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
        from textgen.writing.generate import stream_rows

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

    def _end(self) -> None:
        self._output.write("\0" if self._form.null and not self._form.as_json else "\n")

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
                    "symbol": self._token_text(c.id),
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

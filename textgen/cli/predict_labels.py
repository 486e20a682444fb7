"""textgen predict with a model that tells labels: a line for each text, as soon as it is known."""

from __future__ import annotations

import codecs
import json
import os
import sys
from collections import deque
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from textgen.cli.screen import Output, warn
from textgen.errors import TextgenError, UsageError
from textgen.wording import plural

if TYPE_CHECKING:
    from textgen.cli.predict import PredictionRequest
    from textgen.labels.predict import Classifier, Prediction
    from textgen.labels.read import Unlabelled

READ_BYTES = 1 << 16


def predict(request: PredictionRequest) -> int:
    """Write the label of every text, and how likely each label is: a table divided by tabs, or a JSON object a line."""
    from textgen.labels.predict import load
    from textgen.labels.read import find_texts, read_texts, reading_of
    from textgen.text.bulk import usable_cores
    from textgen.threads import use_threads

    if not request.inputs:
        raise UsageError("no text given.", hint="textgen predict FILE, or - to read lines from standard input.")
    use_threads(request.threads or usable_cores())
    reading = reading_of(request.reading)
    piped = request.inputs == ("-",) and not request.whole_files and reading.document_separator is None
    sources = [] if piped else find_texts(request.inputs, reading.text_column)
    model = load(request.folder)
    texts = piped_lines(reading.encoding or "utf-8") if piped else read_texts(sources, reading, request.whole_files)
    _write(model, texts, request.as_json)
    return 0


def _write(model: Classifier, texts: Iterable[Unlabelled | None], as_json: bool) -> None:
    output, empty = Output(), 0
    if not as_json:
        output.write("\t".join(map(_cell, ["label", *model.labels])) + "\n")
    for where, answer in answers(model, texts):
        empty += answer is None
        output.write((_object(where, answer) if as_json else _line(answer)) + "\n")
    if empty:
        warn(f"{plural(empty, 'text')} without content got no label.")


def answers(model: Classifier, texts: Iterable[Unlabelled | None]) -> Iterator[tuple[str, Prediction | None]]:
    """Where each text stands and what it is labelled, in order; None among the texts gives away what was gathered."""
    places: deque[str] = deque()

    def pieces() -> Iterator[Iterable[bytes] | None]:
        for text in texts:
            if text is not None:
                places.append(text.where)
            yield None if text is None else text.pieces

    for answer in model.stream(pieces()):
        yield places.popleft(), answer


def piped_lines(encoding: str) -> Iterator[Unlabelled | None]:
    """The lines of standard input as they come, and None whenever no more is there yet."""
    from textgen.labels.read import Unlabelled, lines
    from textgen.text.decoding import codec

    if sys.stdin is None or sys.stdin.isatty():
        raise UsageError("'-' reads texts from a pipe, not from a terminal.", hint="cat FILE | textgen predict -")
    decoder = codecs.getincrementaldecoder(codec(encoding))("strict")
    handle, number, rest = sys.stdin.fileno(), 0, ""
    while True:
        read = os.read(handle, READ_BYTES)
        try:
            rest += decoder.decode(read, final=not read)
        except UnicodeDecodeError:
            raise TextgenError(f"standard input is not {encoding} text after line {number}.") from None
        whole, end, rest = rest.removeprefix("" if number else "\ufeff").rpartition("\n")
        if not read:
            whole, end, rest = whole + end + rest, "", ""
        for line in lines([(whole + end).encode()]):
            number += 1
            yield Unlabelled(f"line {number} of standard input", [line] if line.strip() else [])
        if not read:
            return
        yield None


def _line(answer: Prediction | None) -> str:
    if answer is None:
        return ""
    return "\t".join([_cell(answer.label), *[f"{value:.4f}" for value in answer.probabilities.values()]])


def _cell(text: str) -> str:
    """A label as one cell of a table."""
    return " ".join(text.split())


def _object(where: str, answer: Prediction | None) -> str:
    probabilities = answer and {label: round(value, 6) for label, value in answer.probabilities.items()}
    content = {"text": where, "label": answer and answer.label, "probabilities": probabilities}
    return json.dumps(content, ensure_ascii=False)

"""textgen predict with a model that tells labels: a line for each text, as soon as it is known."""

from __future__ import annotations

import json
import os
import sys
from collections import deque
from collections.abc import Iterable, Iterator
from itertools import chain
from typing import TYPE_CHECKING

from textgen.cli.screen import Output, warn
from textgen.errors import UsageError
from textgen.text.decoding import AUTO, Decoding, begins_mark, to_utf8
from textgen.wording import plural

if TYPE_CHECKING:
    from textgen.cli.predict import PredictionRequest
    from textgen.labels.predict import Classifier, Prediction
    from textgen.labels.read import Unlabelled
    from textgen.text.sources import SourceOptions

READ_BYTES = 1 << 16


def predict(request: PredictionRequest) -> int:
    """Write the label of every text, and how likely each label is: a table divided by tabs, or a JSON object a line."""
    from textgen.labels.predict import load
    from textgen.labels.read import find_texts, read_texts
    from textgen.text.bulk import usable_cores
    from textgen.threads import use_threads

    if not request.inputs:
        raise UsageError("no text given.", hint="textgen predict FILE, or - to read lines from standard input.")
    use_threads(request.threads or usable_cores())
    reading, options = request.reading, request.reading.options
    whole = bool(reading.whole_files)
    by_line = not whole and options.document_separator is None and options.encoding != AUTO
    piped = request.inputs == ("-",) and by_line
    sources = [] if piped else find_texts(request.inputs, reading.text_column)
    model = load(request.folder)
    texts = piped_lines(options) if piped else read_texts(sources, options, whole, reading.label_column)
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
            yield None if text is None else text.chunks

    for answer in model.stream(pieces()):
        yield places.popleft(), answer


def piped_lines(options: SourceOptions) -> Iterator[Unlabelled | None]:
    """The lines of standard input as they come, and None whenever no more is there yet."""
    from textgen.labels.read import Lines, Unlabelled

    if sys.stdin is None or sys.stdin.isatty():
        raise UsageError("'-' reads texts from a pipe, not from a terminal.", hint="cat FILE | textgen predict -")
    handle = sys.stdin.fileno()
    head = os.read(handle, READ_BYTES)
    while begins_mark(head) and (more := os.read(handle, READ_BYTES)):
        head += more
    blocks = chain([head], iter(lambda: os.read(handle, READ_BYTES), b""))
    known = Decoding(options.encoding, from_training=options.from_training)
    number, split = 0, Lines()
    for piece in chain(to_utf8(filter(None, blocks), head, "standard input", known), [None]):
        for line in split.add(piece) if piece is not None else split.rest():
            number += 1
            yield Unlabelled(f"line {number} of standard input", [line] if line.strip() else [])
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

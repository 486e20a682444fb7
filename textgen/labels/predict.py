"""`textgen predict` with a classifier: one line per text, printed as soon as its label is known."""

from __future__ import annotations

import json
import os
import sys
from collections import deque
from collections.abc import Iterable, Iterator
from itertools import chain

from textgen.errors import UsageError
from textgen.labels.classifier import Classifier, Prediction
from textgen.labels.read import Lines, Unlabelled, find_texts, read_texts
from textgen.screen import Output, warn
from textgen.tasks.base import Request
from textgen.text.decoding import AUTO, Decoding, begins_mark, to_utf8
from textgen.text.sources import SourceOptions
from textgen.wording import plural

READ_BYTES = 1 << 16


def predict(request: Request) -> None:
    """Print the label of every text and the probability of each label: a tab-separated table, or one JSON object per
    line."""
    if not request.inputs:
        raise UsageError("no text given.", hint="textgen predict FILE, or - to read lines from standard input.")
    reading, options = request.reading, request.reading.options
    whole = bool(reading.whole_files)
    by_line = not whole and options.document_separator is None and options.encoding != AUTO
    piped = request.inputs == ("-",) and by_line
    sources = [] if piped else find_texts(request.inputs, reading.text_column)
    model: Classifier = request.load()
    texts = piped_lines(options) if piped else read_texts(sources, options, whole, reading.label_column)
    _write(model, texts, request.as_json, at_once=piped)


def _write(model: Classifier, texts: Iterable[Unlabelled | None], as_json: bool, at_once: bool) -> None:
    """Print the predictions below a header, which is printed `at_once` or when the first text has been read."""
    output, empty = Output(), 0
    header = "" if as_json else "\t".join(map(_cell, ["label", *model.labels])) + "\n"
    if at_once:
        output.write(header)
    for number, (where, answer) in enumerate(answers(model, texts)):
        if number == 0 and not at_once:
            output.write(header)
        empty += answer is None
        output.write((_object(where, answer) if as_json else _line(answer)) + "\n")
    if empty:
        warn(f"{plural(empty, 'text')} without content got no label.")


def answers(model: Classifier, texts: Iterable[Unlabelled | None]) -> Iterator[tuple[str, Prediction | None]]:
    """The location and prediction of each text, in order; None among the texts flushes the collected ones."""
    places: deque[str] = deque()

    def pieces() -> Iterator[Iterable[bytes] | None]:
        for text in texts:
            if text is not None:
                places.append(text.where)
            yield None if text is None else text.chunks

    for answer in model.stream(pieces()):
        yield places.popleft(), answer


def piped_lines(options: SourceOptions) -> Iterator[Unlabelled | None]:
    """The lines of standard input as they arrive, and None whenever no more input is available yet."""
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

"""`textgen evaluate` and `textgen predict` with a classifier.

`evaluate` prints metrics; `predict` a line for each text, as soon as it is known.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from itertools import chain
from typing import Any, cast

import numpy as np

from textgen.data.encodings import AUTO, Decoding, begins_mark, to_utf8
from textgen.data.recipes import TRAIN, VALIDATION
from textgen.data.sources import SourceOptions
from textgen.distributed import world
from textgen.errors import TextgenError, UsageError, require
from textgen.formatting import count, plural, table
from textgen.generation.sampling import log_softmax
from textgen.options import named
from textgen.screen import Output, say, warn
from textgen.storage.outputs import OutputFile
from textgen.tasks import Request
from textgen.tasks.classification import multilabel
from textgen.tasks.classification.baselines import LINEAR, MOST, PURPOSE, LinearModel, measured, most_frequent, texts_of
from textgen.tasks.classification.calibration import cross_fitted, fit_temperature
from textgen.tasks.classification.data import ClassificationData
from textgen.tasks.classification.explain import explanations, page_of, printed
from textgen.tasks.classification.model import Classifier, Prediction, answers, log_probabilities, read_facts
from textgen.tasks.classification.model import load as load
from textgen.tasks.classification.multilabel import THRESHOLD, MultiLabelMetrics, most_frequent_set
from textgen.tasks.classification.ngrams import blended
from textgen.tasks.classification.reading import (
    LabelColumns,
    Labelled,
    Lines,
    Origin,
    Unlabelled,
    encoded_label,
    find_labelled,
    find_texts,
    read_labelled,
    read_texts,
)
from textgen.tasks.metrics import THRESHOLDS, ClassificationMetrics, plot_confusion, shown

READ_BYTES = 1 << 16
BASELINES = ("linear", "none")
Metrics = ClassificationMetrics | MultiLabelMetrics
HEADINGS = {"macro_f1": "macro F1", "micro_f1": "micro F1", "subset_accuracy": "subset accuracy"}


def evaluate(request: Request) -> None:
    """Evaluate the predictions of a model on a corpus, or on the held-out part of its run."""
    plot = request.outputs.get("plot")
    if plot is not None:
        require("matplotlib")
    if request.options.baselines not in (None, *BASELINES):
        raise UsageError(f"{named('baselines')} must be {' or '.join(BASELINES)}, not {request.options.baselines!r}.")
    if request.options.baselines == "linear":
        require("sklearn", PURPOSE)
    if plot is not None and read_facts(request.folder).get("multi_label"):
        raise UsageError(f"{named('plot')} draws a confusion matrix; a model with several labels per text has none.")
    model, metrics = _of_corpus(request) if request.inputs else _of_held_out(request)
    if not world().leads:
        return
    options = request.options
    if isinstance(metrics, MultiLabelMetrics):
        metrics = replace(metrics, threshold=THRESHOLD if options.threshold is None else options.threshold)
    several = model.multi_label
    linear, note = _linear(request, model)
    constant, majority = _constant(metrics)
    lines = [*_shown(metrics, options.threshold), ""]
    lines += [
        _compared({"model": metrics, LINEAR: linear, f"always {constant if several else repr(constant)}": majority}),
        *note,
    ]
    lines += _notes(metrics, not request.inputs)
    baselines = {"linear": linear and linear.summary, "majority": {"label": constant, **majority.summary}}
    content = {**metrics.to_json(), "thresholds": _thresholds(metrics, options.threshold), "baselines": baselines}
    Output().write((json.dumps(content, ensure_ascii=False) if request.as_json else "\n".join(lines)) + "\n")
    if plot is not None and isinstance(metrics, ClassificationMetrics):
        plot.check()
        plot_confusion(metrics, plot.path)
        say(f"plot: {plot.path}")


def _of_corpus(request: Request) -> tuple[Classifier, Metrics]:
    origins = find_labelled(request.inputs, request.reading.text_column, request.reading.label_column)
    model: Classifier = request.load()
    metrics = model.metrics(_labelled(request, model, origins))
    return model, replace(metrics, temperature=model.temperature)


def _labelled(request: Request, model: Classifier, origins: Sequence[Origin]) -> Iterator[Labelled]:
    """The labelled texts that are evaluated."""
    separator = request.options.label_separator or model.separator
    return read_labelled(origins, request.reading.options, LabelColumns(request.reading.label_column, separator))


def _of_held_out(request: Request) -> tuple[Classifier, Metrics]:
    data = request.held_out()
    texts, labels = data.labelled(VALIDATION)
    model: Classifier = request.load()
    raw = log_probabilities(model.reader, texts, model.pooling, None, model.multi_label)
    if model.blend and (linear := data.scores(VALIDATION)) is not None:
        raw = blended(raw, linear, model.blend.weights, model.multi_label)
    fit = multilabel.fit_temperature if model.multi_label else fit_temperature
    found = raw
    if model.temperature != 1:
        scores = cross_fitted(raw, lambda half: fit(raw[half], labels[half]))
        found = (scores if model.multi_label else log_softmax(scores)).astype(np.float64)
    measure = MultiLabelMetrics.of_scores if model.multi_label else ClassificationMetrics.of
    metrics: Metrics = measure(model.labels, labels, found)
    return model, replace(metrics, temperature=model.temperature)


def _constant(metrics: Metrics) -> tuple[str, Metrics]:
    """The best prediction that is the same for every text, in words, and its metrics."""
    if isinstance(metrics, MultiLabelMetrics):
        return most_frequent_set(metrics)
    label, found = most_frequent(metrics)
    return label, found


def _linear(request: Request, classifier: Classifier) -> tuple[Metrics | None, list[str]]:
    """The metrics of a linear model, trained on the training part, on the texts that are evaluated; without one, a note
    that says why. Raises TextgenError if it was asked for."""
    asked, labels = request.options.baselines == "linear", classifier.labels
    if request.options.baselines == "none":
        return None, []
    try:
        require("sklearn", PURPOSE)
        data = cast(ClassificationData, request.data())
        train = data.labelled(TRAIN)
        if not asked and len(train.labels) * len(labels) > MOST:
            texts = f"the {count(len(train.labels))} training texts"
            return None, [f"{named('baselines', 'linear')} also trains {LINEAR} on {texts}."]
        model = LinearModel.fit(texts_of(data, TRAIN), train.labels)
    except TextgenError as error:
        if asked:
            raise
        return None, [f"No linear model: {error}" + (f" {error.hint}" if error.hint else "")]
    if not request.inputs:
        return model.metrics(labels, texts_of(data, VALIDATION), data.labelled(VALIDATION).labels), []
    true: list[Any] = []
    origins = find_labelled(request.inputs, request.reading.text_column, request.reading.label_column)

    def contents() -> Iterator[str]:
        for text in _labelled(request, classifier, origins):
            true.append(encoded_label(classifier.known(text), labels))
            yield b"".join(text.chunks).decode()

    predicted = model.predicted(contents())
    return measured(labels, np.array(true), predicted), []


def _shown(metrics: Metrics, threshold: float | None) -> list[str]:
    """The metrics as a table, and what a threshold leaves."""
    if isinstance(metrics, MultiLabelMetrics):
        return [metrics.table()]
    return [shown(metrics), *([] if threshold is None else [str(metrics.covered(threshold))])]


def _compared(rows: Mapping[str, Metrics | None]) -> str:
    """A table with a row for each classifier."""
    cells = [
        {"": name, **{HEADINGS.get(key, key): f"{value:.2%}" for key, value in each.summary.items()}}
        for name, each in rows.items()
        if each is not None
    ]
    return table(cells, list(cells[0]))


def _thresholds(metrics: Metrics, asked: float | None) -> list[dict[str, Any]]:
    """Coverage and accuracy at some thresholds, and at the one that was asked for; F1, if a text may have several
    labels."""
    several = isinstance(metrics, MultiLabelMetrics)
    thresholds = sorted({*(multilabel.THRESHOLDS if several else THRESHOLDS), *([] if asked is None else [asked])})
    if isinstance(metrics, MultiLabelMetrics):
        return [{"threshold": each, **replace(metrics, threshold=each).summary} for each in thresholds]
    return [asdict(metrics.covered(threshold)) for threshold in thresholds]


def _notes(metrics: Metrics, held_out: bool) -> list[str]:
    """A note on the temperature."""
    if not held_out or metrics.temperature in (None, 1.0):
        return []
    return [
        f"The temperature {metrics.temperature:.2f} of this model was fitted on these texts. So that the loss and the "
        "calibration error are not flattered, each half was measured with a temperature of the other half."
    ]


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
    page = request.outputs.get("explain_html")
    if request.options.explain or page is not None:
        _explain(model, texts, request, page)
    else:
        _write(model, answers(model, texts), request, at_once=piped)


def _explain(model: Classifier, texts: Iterable[Unlabelled | None], request: Request, page: OutputFile | None) -> None:
    """Print the predictions with the contribution of each word, or write a page of them, or both."""
    if not world().leads:
        return
    output, kept, empty = Output(raw=True), [], 0
    for where, found in explanations(model, texts, request.options.threshold):
        empty += found is None
        if request.options.explain:
            output.write(printed(where, found, output, request.as_json))
        if page is not None:
            kept.append((where, found))
    if page is not None:
        page.write(page_of(kept))
        if not request.options.explain:
            _write(
                model, ((where, found.prediction if found else None) for where, found in kept), request, at_once=False
            )
        say(f"{page.path}: {plural(len(kept), 'text')} explained.")
    if empty and request.options.explain:
        _warn_of_empty(empty)


def _warn_of_empty(texts: int) -> None:
    warn(f"{plural(texts, 'text')} without content got no label.")


def _write(model: Classifier, found: Iterable[tuple[str, Prediction | None]], request: Request, at_once: bool) -> None:
    """Print the predictions below a header, which is printed `at_once` or when the first text has been read."""
    output, empty, unsure, as_json, threshold = Output(), 0, 0, request.as_json, request.options.threshold
    at_once = at_once and world().size == 1
    first = "labels" if model.multi_label else "label"
    header = "" if as_json else "\t".join(map(_cell, [first, *model.labels])) + "\n"
    if at_once:
        output.write(header)
    for number, (where, answer) in enumerate(found):
        if number == 0 and not at_once:
            output.write(header)
        empty += answer is None
        answer = answer and Prediction.of(answer.probabilities, threshold, model.multi_label)
        unsure += answer is not None and answer.label is None and not model.multi_label
        output.write((_object(where, answer) if as_json else _line(answer, model.separator)) + "\n")
    if empty:
        _warn_of_empty(empty)
    if unsure:
        say(f"{plural(unsure, 'text')} got no label: no probability of at least {threshold:g}.")


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


def _line(answer: Prediction | None, separator: str | None) -> str:
    if answer is None:
        return ""
    predicted = (separator or ",").join(answer.labels) if answer.labels is not None else answer.label or ""
    return "\t".join([_cell(predicted), *[f"{value:.4f}" for value in answer.probabilities.values()]])


def _cell(text: str) -> str:
    """A label as one cell of a table."""
    return " ".join(text.split())


def _object(where: str, answer: Prediction | None) -> str:
    probabilities = answer and {label: round(value, 6) for label, value in answer.probabilities.items()}
    if answer is not None and answer.labels is not None:
        content: dict[str, Any] = {"text": where, "labels": answer.labels, "probabilities": probabilities}
    else:
        content = {"text": where, "label": answer and answer.label, "probabilities": probabilities}
    return json.dumps(content, ensure_ascii=False)

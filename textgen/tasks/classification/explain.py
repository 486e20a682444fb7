"""Which words a prediction rests on: the probability of the predicted label with each word and without it.

Leaving out one word at a time (leave-one-out, or occlusion: Zeiler and Fergus 2014; Li et al. 2016) needs nothing but
predictions, so it works for every cell, tokenizer and backend. It says what the model does, not what is true.
"""

from __future__ import annotations

import html
import json
import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any

from textgen.errors import Escaper
from textgen.policy import policy_of
from textgen.screen import Output
from textgen.tasks.classification.model import Classifier, Prediction
from textgen.tasks.classification.reading import LONG_WORDS, Unlabelled

MOST_PARTS = 1000
"""A text of more words is left out in parts of several words each."""

STRONGEST = 5
"""The words of a text whose contributions are printed below it in a terminal."""

LEVELS = 5
"""Shades of a contribution, relative to the largest one of its text."""
FOR, AGAINST = (195, 159, 123, 81, 39), (230, 223, 216, 215, 208)
"""Their colors in a terminal, of 256: blue for the label, orange against it."""
BLACK, PLAIN = "\x1b[38;5;16m", "\x1b[0m"


@dataclass(frozen=True)
class Explanation:
    """A prediction, the label whose probability is explained, and the parts of the text in order, each with what its
    presence adds to this probability; the parts add up to the text."""

    prediction: Prediction
    label: str
    parts: tuple[tuple[str, float], ...]

    @property
    def probability(self) -> float:
        """The probability of the label that is explained."""
        return self.prediction.probabilities[self.label]

    def to_json(self) -> dict[str, Any]:
        """The label and the contributions, without the spaces around the words."""
        found = [{"token": part.strip() or part, "contribution": round(value, 6)} for part, value in self.parts]
        return {"explained": self.label, "contributions": found}

    def levels(self) -> list[tuple[str, int]]:
        """The parts with how strongly each counts, from -LEVELS to LEVELS, relative to the largest contribution."""
        largest = max((abs(value) for _, value in self.parts), default=0.0) or 1.0
        return [(part, round(LEVELS * value / largest)) for part, value in self.parts]


def explain(classifier: Classifier, texts: Iterable[str], threshold: float | None = None) -> list[Explanation]:
    """The explanation of every text. Raises TextgenError for a text that is empty.

    Example:
        >>> explain(textgen.load("runs/lstm-reviews-1"), ["a fine film"])[0].parts     # doctest: +SKIP
        (('a ', 0.001), ('fine ', 0.42), ('film', -0.003))
    """
    given = list(texts)
    found = classifier.classify(given, threshold)
    return [explained(classifier, text, answer) for text, answer in zip(given, found, strict=True)]


def explained(classifier: Classifier, text: str, prediction: Prediction) -> Explanation:
    """The explanation of the prediction for a text, whose label is the most likely one."""
    label = max(prediction.probabilities, key=prediction.probabilities.__getitem__)
    parts = parts_of(text)
    # of a text that is empty without its only word, nothing is known
    unknown = 0.5 if classifier.multi_label else 1 / len(classifier.labels)
    rests = ("".join([*parts[:number], *parts[number + 1 :]]).rstrip() for number in range(len(parts)))
    without = classifier.stream([rest.encode()] if rest else [] for rest in rests)
    values = [unknown if each is None else each.probabilities[label] for each in without]
    contributions = (prediction.probabilities[label] - value for value in values)
    return Explanation(prediction, label, tuple(zip(parts, contributions, strict=True)))


def parts_of(text: str) -> list[str]:
    """The parts of a text that are left out in turn: words with the space after them, characters where no spaces
    separate words, or blocks of them in a long text."""
    words = re.findall(r"\s*\S+\s*", text) if text.strip() else []
    parts = list(text) if sum(map(len, words)) > LONG_WORDS * len(words) + LONG_WORDS else words
    together = -(-len(parts) // MOST_PARTS)
    rest = iter(parts)
    blocks = iter(lambda: list(islice(rest, max(1, together))), [])
    return ["".join(block) for block in blocks]


def explanations(
    classifier: Classifier, texts: Iterable[Unlabelled | None], threshold: float | None
) -> Iterator[tuple[str, Explanation | None]]:
    """The location and explanation of each text, None for an empty one."""
    for text in texts:
        if text is None:
            continue
        content = b"".join(text.chunks).decode()
        (answer,) = classifier.stream([[content.encode()] if content.strip() else []])
        if answer is not None:
            answer = Prediction.of(answer.probabilities, threshold, classifier.multi_label)
        yield text.where, None if answer is None else explained(classifier, content, answer)


def printed(where: str, found: Explanation | None, output: Output, as_json: bool) -> str:
    """An explanation as `textgen predict --explain` prints it: in color in a terminal, otherwise a line for each part,
    or a JSON object."""
    if as_json:
        answer = found and found.prediction
        label = (
            {"labels": answer.labels} if answer and answer.labels is not None else {"label": answer and answer.label}
        )
        chances = answer and {name: round(value, 6) for name, value in answer.probabilities.items()}
        rest = found.to_json() if found else {"explained": None, "contributions": []}
        return json.dumps({"text": where, **label, "probabilities": chances, **rest}, ensure_ascii=False) + "\n"
    if found is None:
        return f"{where}: no text\n\n"
    head = f"{found.label}\t{found.probability:.4f}\t{where}\n"
    if output.terminal:
        return _colored(found, head.replace("\t", "  "))
    lines = (f"{value:+.4f}\t{' '.join(part.split()) or repr(part)}\n" for part, value in found.parts)
    return head + "".join(lines) + "\n"


def _colored(found: Explanation, head: str) -> str:
    """The text with each part in the color of its contribution, and the strongest ones with numbers."""
    plain = "NO_COLOR" in os.environ
    shown = []
    for part, level in found.levels():
        word = part.rstrip()
        color = (FOR if level > 0 else AGAINST)[abs(level) - 1] if level and not plain else None
        safe = Escaper()(word)
        shown.append((f"\x1b[48;5;{color}m{BLACK}{safe}{PLAIN}" if color else safe) + Escaper()(part[len(word) :]))
    strongest = sorted(found.parts, key=lambda each: -abs(each[1]))[:STRONGEST]
    words = "   ".join(f"{value:+.3f} {Escaper()(' '.join(part.split()))}" for part, value in strongest)
    return f"{Escaper()(head)}{''.join(shown).rstrip()}\n{words}\n\n"


PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="generator" content="textgen explain">
<meta http-equiv="Content-Security-Policy" content="POLICY">
<title>Explained predictions</title>
<style>
:root { color-scheme: light dark; }
body { font: 17px/1.7 Georgia, serif; max-width: 46rem; margin: 2rem auto; padding: 0 1rem; }
h1, h2, .legend, .where { font-family: system-ui, sans-serif; }
h1 { font-size: 1.4rem; }
h2 { font-size: 1rem; margin: 0; }
.legend, .where { font-size: .85rem; opacity: .75; }
article { margin: 1.6rem 0; padding-top: 1rem; border-top: 1px solid rgb(128 128 128 / .3); }
p { white-space: pre-wrap; overflow-wrap: anywhere; margin: .4rem 0; }
b { font-weight: 600; }
span { border-radius: .2rem; padding: .05rem .1rem; }
SHADES
</style>
</head>
<body>
<h1>What each prediction rests on</h1>
<p class="legend"><span class="p4">Blue</span> words raise the probability of the label: without them it would be lower.
<span class="n4">Orange</span> ones lower it. Point at a word to see by how much.</p>
ARTICLES</body>
</html>
"""
BLUE, ORANGE = "0 114 178", "213 94 0"


def page_of(found: Iterable[tuple[str, Explanation | None]]) -> bytes:
    """Explanations as one HTML file, without scripts and without anything from elsewhere."""
    shades = [
        f".{name}{level} {{ background: rgb({color} / {level * 0.13 + 0.02:.2f}); }}"
        for name, color in (("p", BLUE), ("n", ORANGE))
        for level in range(1, LEVELS + 1)
    ]
    whole = PAGE.replace("SHADES", "\n".join(shades), 1)
    whole = whole.replace("POLICY", policy_of(whole), 1)
    return whole.replace("ARTICLES", "".join(_article(*each) for each in found), 1).encode()


def _article(where: str, found: Explanation | None) -> str:
    place = f'<div class="where">{html.escape(where)}</div>\n'
    if found is None:
        return f"<article><h2>no text</h2>\n{place}</article>\n"
    words = []
    for (part, value), (_, level) in zip(found.parts, found.levels(), strict=True):
        word = part.rstrip()
        kind = f' class="{"p" if level > 0 else "n"}{abs(level)}"' if level else ""
        words.append(f'<span{kind} title="{value:+.4f}">{html.escape(word)}</span>{html.escape(part[len(word) :])}')
    answer = found.prediction
    given = ", ".join(answer.labels) if answer.labels is not None else answer.label
    label = f"<b>{html.escape(found.label)}</b> {found.probability:.1%}"
    note = f" (predicted: {html.escape(given or 'no label')})" if given != found.label else ""
    return f"<article><h2>{label}{note}</h2>\n{place}<p>{''.join(words)}</p></article>\n"

r"""BLEU of generated code and text: how many n-grams of one to four tokens a completion shares with its reference.

Corpus BLEU as defined by Papineni et al. 2002 ("BLEU: a Method for Automatic Evaluation of Machine Translation"), with
one reference per text, n-grams up to four, no smoothing. Tokens are those of published results on CoNaLa (Yin and
Neubig 2018, after Ling et al. 2016): words of the letters A-Z, digits and `_`, split where a lower-case letter meets a
capital; every other character except white space is a token; and the quotation marks ' and " are the same token.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Sequence

ORDER = 4
_CAMEL_CASE = re.compile(r"(?<=[a-z])(?=[A-Z])")
_TOKEN = re.compile(r"[A-Za-z0-9_]+|[^\sA-Za-z0-9_]")


def tokens_of(text: str) -> list[str]:
    """The tokens of a text, as described at the top of this module.

    Example:
        >>> tokens_of('sortBy("x_1")')
        ['sort', 'By', '(', '`', 'x_1', '`', ')']
    """
    found: list[str] = _TOKEN.findall(_CAMEL_CASE.sub(" ", text))
    return ["`" if token in "'\"" else token for token in found]


def bleu(generated: Sequence[str], expected: Sequence[str]) -> float:
    """Corpus BLEU of texts (N,) against one reference each, from 0 to 100; 0 if no four tokens in a row agree.

    Raises ValueError without texts, or if the numbers of texts and references differ.

    Example:
        >>> round(bleu(["a b c d e f"], ["a b c d e g"]), 2)
        75.98
    """
    if not generated or len(generated) != len(expected):
        raise ValueError(f"there are {len(generated)} texts for {len(expected)} references")
    shared, possible = [0] * ORDER, [0] * ORDER
    size = size_expected = 0
    for text, reference in zip(map(tokens_of, generated), map(tokens_of, expected), strict=True):
        size, size_expected = size + len(text), size_expected + len(reference)
        for n in range(1, ORDER + 1):
            own, other = _ngrams(text, n), _ngrams(reference, n)
            shared[n - 1] += (own & other).total()
            possible[n - 1] += max(0, len(text) - n + 1)
    if 0 in shared:
        return 0.0
    precision = sum(math.log(part / whole) for part, whole in zip(shared, possible, strict=True)) / ORDER
    brevity = min(0.0, 1 - size_expected / size)
    return 100 * math.exp(precision + brevity)


def _ngrams(tokens: Sequence[str], n: int) -> Counter[tuple[str, ...]]:
    return Counter(zip(*(tokens[start:] for start in range(n)), strict=False))


def exact_matches(generated: Iterable[str], expected: Iterable[str]) -> int:
    """How many texts equal their references, ignoring white space at both ends."""
    return sum(text.strip() == reference.strip() for text, reference in zip(generated, expected, strict=True))

r"""BLEU of written code and text: how many runs of one to four tokens a completion shares with the one expected.

Corpus BLEU as Papineni et al. 2002 ("BLEU: a Method for Automatic Evaluation of Machine Translation") define it, with
one reference a text, n-grams up to four, no smoothing. Tokens are those that results on CoNaLa are counted in (Yin and
Neubig 2018, after Ling et al. 2016): words of the letters A-Z, digits and `_`, divided where a small letter meets a
capital; every other character that is no white space is a token of its own; and both quotation marks, ' and ", are one.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Sequence

ORDER = 4
_HUMP = re.compile(r"(?<=[a-z])(?=[A-Z])")
_TOKEN = re.compile(r"[A-Za-z0-9_]+|[^\sA-Za-z0-9_]")


def tokens_of(text: str) -> list[str]:
    """The tokens of a text, as the head of this module says.

    Example:
        >>> tokens_of('sortBy("x_1")')
        ['sort', 'By', '(', '`', 'x_1', '`', ')']
    """
    found: list[str] = _TOKEN.findall(_HUMP.sub(" ", text))
    return ["`" if token in "'\"" else token for token in found]


def bleu(written: Sequence[str], expected: Sequence[str]) -> float:
    """Corpus BLEU of texts (N,) against one reference each, from 0 to 100; 0 where no run of four tokens agrees.

    Raises ValueError for none, or as many of one as not of the other.

    Example:
        >>> round(bleu(["a b c d e f"], ["a b c d e g"]), 2)
        75.98
    """
    if not written or len(written) != len(expected):
        raise ValueError(f"there are {len(written)} texts for {len(expected)} references")
    shared, possible = [0] * ORDER, [0] * ORDER
    size = size_expected = 0
    for text, reference in zip(map(tokens_of, written), map(tokens_of, expected), strict=True):
        size, size_expected = size + len(text), size_expected + len(reference)
        for n in range(1, ORDER + 1):
            own, other = _runs(text, n), _runs(reference, n)
            shared[n - 1] += (own & other).total()
            possible[n - 1] += max(0, len(text) - n + 1)
    if 0 in shared:
        return 0.0
    precision = sum(math.log(part / whole) for part, whole in zip(shared, possible, strict=True)) / ORDER
    brevity = min(0.0, 1 - size_expected / size)
    return 100 * math.exp(precision + brevity)


def _runs(tokens: Sequence[str], n: int) -> Counter[tuple[str, ...]]:
    return Counter(zip(*(tokens[start:] for start in range(n)), strict=False))


def exact_matches(written: Iterable[str], expected: Iterable[str]) -> int:
    """How many texts are the same as their references, apart from white space at their ends."""
    return sum(text.strip() == reference.strip() for text, reference in zip(written, expected, strict=True))

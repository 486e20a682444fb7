"""Texts to tokens and back: every scalar value, texts of all kinds, and texts as they stream, nothing lost."""

import codecs
import json
import random
import subprocess
import sys
from collections.abc import Iterator
from functools import partial

import numpy as np

from textgen.data.tokenizers import train_tokenizer
from textgen.data.tokenizers.base import Tokenizer

from .rows import Outcome, Row
from .tools import some

SCALARS = [*range(0xD800), *range(0xE000, 0x110000)]
TOKENIZER_KINDS = ("char", "byte", "bpe", "unigram")
TEXT = """The miller's daughter went down to the water, and the water went down to the sea.
"What does the sea want with the water?" asked the daughter. "What does the mill want with it?" said the water.
Then the daughter went home: "Where were you?" — "Down at the water," she said, "où l'eau va." 漢字 かな
"""
ONE_BY_ONE = 65536
"""Scalar values that are also encoded each on its own; the others come a line each, which no piece crosses."""


def tokenizers() -> dict[str, Tokenizer]:
    return {kind: train_tokenizer(kind, [[TEXT.encode()]], 400) for kind in TOKENIZER_KINDS}


def lost_scalars(tokenizer: Tokenizer, line: str) -> int:
    """How many of all scalar values do not come back in a text of one line each, made by `line` with the character."""
    lost, tried = 0, SCALARS[: some(len(SCALARS))]
    for start in range(0, len(tried), 1 << 16):
        text = "".join(line.format(chr(scalar)) + "\n" for scalar in tried[start : start + (1 << 16)])
        if tokenizer.decode_bytes(tokenizer.encode(text)) != text.encode():
            back = tokenizer.decode(tokenizer.encode(text))
            lost += sum(a != b for a, b in zip(text, back, strict=False)) or 1
    return lost


def lost_alone(tokenizer: Tokenizer, chance: random.Random, count: int) -> int:
    """How many single characters, each a text of its own, do not come back."""
    return sum(tokenizer.decode(tokenizer.encode(c)) != c for c in map(chr, chance.sample(SCALARS, count)))


def texts(seed: int, count: int) -> list[str]:
    """Texts as hypothesis makes them, the same ones for a seed."""
    program = (
        "import json, sys; from hypothesis import given, seed, settings, strategies as st, HealthCheck\n"
        "found = []\n"
        f"@seed({seed})\n"
        f"@settings(max_examples={count}, database=None, deadline=None, suppress_health_check=list(HealthCheck))\n"
        "@given(st.text() | st.text('ab \\n\\u2581\\u2585\\r\\xe9\\u6f22', max_size=60)"
        " | st.lists(st.sampled_from('the water <s> <0x41> \\ufeff \\u2028 \\x00'.split(' '))).map(' '.join))\n"
        "def make(text): found.append(text)\n"
        "make(); print(json.dumps(found))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True)
    made: list[str] = json.loads(done.stdout)
    return made[:count]


def streamed(tokenizer: Tokenizer, ids: list[int]) -> str:
    decoder = tokenizer.decoder()
    return "".join(decoder.add(id) for id in ids) + decoder.finish()


def id_lists(tokenizer: Tokenizer, chance: random.Random, known: list[str]) -> Iterator[list[int]]:
    """Ids as a model may write them: of texts, cut anywhere, or of no text at all."""
    while True:
        if chance.random() < 0.5:
            ids = tokenizer.encode(chance.choice(known)).tolist()
            yield ids[: chance.randrange(len(ids) + 1)]
        else:
            yield [chance.randrange(tokenizer.vocab_size) for _ in range(chance.choice([1, 3, 30]))]


def wrong_streams(tokenizer: Tokenizer, chance: random.Random, known: list[str], count: int) -> int:
    """How many of so many lists of ids do not give, one by one, what all of them together stand for."""
    wrong, made = 0, id_lists(tokenizer, chance, known)
    for _ in range(count):
        ids = next(made)
        expected = b"".join(
            tokenizer.token_bytes[id] if id < tokenizer.vocab_size else bytes([id - tokenizer.vocab_size]) for id in ids
        )
        replaced = codecs.decode(expected, "utf-8", "replace")
        wrong += not (streamed(tokenizer, ids) == tokenizer.decode(np.array(ids, np.int32)) == replaced)
    return wrong


def run(count: int, seed: int) -> Outcome:
    """All of it over every kind that loses nothing."""
    count = some(count)
    chance, found = random.Random(seed), {}
    known = texts(seed, count)
    for kind, tokenizer in tokenizers().items():
        found[kind] = {
            "scalars in a text": lost_scalars(tokenizer, "a {} b") + lost_scalars(tokenizer, "{}"),
            "scalars alone": lost_alone(tokenizer, chance, some(ONE_BY_ONE // 16)),
            "texts": sum(tokenizer.decode_bytes(tokenizer.encode(text)) != text.encode() for text in known),
            "streams": wrong_streams(tokenizer, chance, known, 5 * count // 2 // len(TOKENIZER_KINDS)),
        }
    lossy = [
        f"{kind}: {number} {what}" for kind, numbers in found.items() for what, number in numbers.items() if number
    ]
    streams = count * 5 // 2 // len(TOKENIZER_KINDS) * len(TOKENIZER_KINDS)
    kinds = len(TOKENIZER_KINDS)
    figure = f"2 x {some(len(SCALARS)):,} scalar values, {len(known):,} texts, {streams:,} streams, {kinds} kinds: "
    return Outcome(figure + ("; ".join(lossy) or "0 lossy"), not lossy and len(known) >= count // 2)


ROWS = [
    Row("R11", "text to tokens and back", "every scalar value, 2,000 texts, 5,000 streams, 4 kinds: 0 lossy",
        partial(run, 2000), "ci"),
    Row("R11b", "the same, more", "10,000 texts, 25,000 streams: 0 lossy", partial(run, 10_000), "torture"),
]  # fmt: skip


if __name__ == "__main__":
    print(run(int(sys.argv[1]), int(sys.argv[2])))

"""Turns biases as people write them, {"e": -5, "#17": -100}, into biases by id."""

from __future__ import annotations

import re
from collections.abc import Mapping

from textgen.errors import UsageError, did_you_mean
from textgen.escapes import unescape
from textgen.parameters import named
from textgen.text.symbols import Tokenizer

_ID = re.compile(r"#(\d+)", re.ASCII)


def bias_of_ids(table: Mapping[int | str, float], tokenizer: Tokenizer) -> dict[int | str, float]:
    r"""The table by id. A key is an id (17 or '#17') or the text of a token, which stands for every token that has
    exactly this text; escapes such as `\n` count as what they stand for. Several biases of one id add up.

    Raises UsageError for a token that this tokenizer does not have.
    """
    biases: dict[int | str, float] = {}
    for key, bias in table.items():
        for id in _ids(key, tokenizer):
            biases[id] = biases.get(id, 0.0) + bias
    return biases


def _ids(key: int | str, tokenizer: Tokenizer) -> list[int]:
    numbered = _ID.fullmatch(key) if isinstance(key, str) else None
    if numbered or not isinstance(key, str):
        id = int(numbered[1]) if numbered else int(key)
        if not 0 <= id < tokenizer.vocab_size:
            raise UsageError(f"{named('logit_bias')}: id {id} is not between 0 and {tokenizer.vocab_size - 1}.")
        return [id]
    texts = {key.encode("utf-8", "surrogateescape"), unescape(key).encode("utf-8", "surrogateescape")}
    found = [id for id, token in enumerate(tokenizer.symbols) if token and token in texts]
    if not found:
        known = [token.decode("utf-8", "replace") for token in tokenizer.symbols if token]
        close = did_you_mean(key, [" " + key] if " " + key in known else known)
        raise UsageError(f"{named('logit_bias')}: no token of this model is {key!r}.{close}")
    return found

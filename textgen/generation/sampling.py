"""From logits to a token: pure functions on arrays of logits, (..., V), composed by `Sampler`.

A filter returns logits in which excluded tokens are -inf. The order: penalties, biases, top-k, top-p, min-p, then
temperature. Noise comes from each row's own seed, so that no row depends on its neighbors. Biases are given by text
or by id, {"e": -5, "#17": -100}.

Tokens that cannot continue the bytes before them are excluded, so that generated text is always valid. A token may be
a few bytes of a character, which other tokens complete. A text in UTF-8 is always in one of eight places: between two
characters, or inside one and awaiting certain bytes (The Unicode Standard, table 3-7). For each place the tokens that
can follow are computed once for a model; then a step costs a lookup and an addition.
"""

from __future__ import annotations

import re
from collections import Counter, deque
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from textgen.data.tokenizers.base import Tokenizer
from textgen.errors import TextgenError, UsageError, did_you_mean, unescape
from textgen.generation import SampleOptions, check_sampling
from textgen.model.stepper import Logits
from textgen.options import named

Steer = Callable[[Logits], Logits]
OUT = -np.inf
FEW_TOKENS = 512
"""In a vocabulary of up to this size, computing all tokens is faster than selecting the relevant ones first."""
NOISE_RANGE = 21
"""The difference between the smallest and the largest noise that `draw` can add to a logit, -3.9 and 16.7: no token
further below the likeliest one is ever drawn."""
_NOISE_NUMBERS = {"buffer_pos": 4, "has_uint32": 1, "uinteger": 2**32 - 1}
_NOISE_ARRAYS = {"counter": 4, "key": 2, "buffer": 4}
"""The state of numpy's Philox: the highest value of each number, the size of each array of 64-bit words."""
_ID = re.compile(r"#(\d+)", re.ASCII)

BETWEEN, NOWHERE = 0, -1
"""The place between two characters; the place after bytes that are not UTF-8."""
_EXPECTED: list[list[tuple[int, int, int]]] = [
    [(0x00, 0x7F, BETWEEN), (0xC2, 0xDF, 1), (0xE0, 0xE0, 3), (0xE1, 0xEC, 2), (0xED, 0xED, 4), (0xEE, 0xEF, 2)]
    + [(0xF0, 0xF0, 6), (0xF1, 0xF3, 5), (0xF4, 0xF4, 7)],
    [(0x80, 0xBF, BETWEEN)],
    [(0x80, 0xBF, 1)],
    [(0xA0, 0xBF, 1)],  # after E0: no overlong form
    [(0x80, 0x9F, 1)],  # after ED: no surrogate
    [(0x80, 0xBF, 2)],
    [(0x90, 0xBF, 2)],  # after F0: no overlong form
    [(0x80, 0x8F, 2)],  # after F4: nothing above U+10FFFF
]
"""For each place, the ranges of bytes (first and last) that can follow, and the place after them."""
PLACES = len(_EXPECTED)
_AFTER = [{byte: after for first, last, after in ranges for byte in range(first, last + 1)} for ranges in _EXPECTED]


def require_choice(logits: Logits) -> None:
    """Raise TextgenError for logits (..., V) from which nothing can be drawn: their maximum is not finite."""
    if not np.isfinite(logits.max(axis=-1)).all():
        raise TextgenError(
            "the model computes no probabilities: its numbers overflow or are NaN.",
            hint="its weights are damaged, or its training diverged; use another model.",
        )


def log_softmax(logits: Logits) -> Logits:
    """Log-probabilities along the last axis, in float64."""
    shifted = logits.astype(np.float64) - logits.max(axis=-1, keepdims=True)
    result: Logits = shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
    return result


def without(logits: Logits, ids: Sequence[int] | npt.NDArray[np.intp]) -> Logits:
    """Exclude these tokens."""
    if not len(ids):
        return logits
    logits = logits.copy()
    logits[..., np.asarray(ids)] = OUT
    return logits


def repetition_penalty(logits: Logits, recent: Iterable[int], penalty: float) -> Logits:
    """Divide positive logits of recent tokens by the penalty and multiply negative ones (Keskar et al. 2019)."""
    used = [] if penalty == 1 else sorted(set(recent))
    if not used:
        return logits
    logits = logits.copy()
    chosen = logits[..., used]
    logits[..., used] = np.where(chosen > 0, chosen / penalty, chosen * penalty)
    return logits


def count_penalty(logits: Logits, recent: Iterable[int], presence: float, frequency: float) -> Logits:
    """Subtract `presence` once and `frequency` once per use from the logits of recent tokens, as OpenAI's API does:
    logit - presence - uses * frequency. Negative penalties favour these tokens."""
    uses = Counter(() if presence == frequency == 0 else recent)
    if not uses:
        return logits
    logits = logits.copy()
    logits[..., list(uses)] -= presence + frequency * np.array(list(uses.values()), dtype=logits.dtype)
    return logits


def add_bias(logits: Logits, biases: Mapping[int, float]) -> Logits:
    """Add a bias to the logits of some tokens, by id. Excluded tokens stay excluded."""
    if not biases:
        return logits
    logits = logits.copy()
    logits[..., list(biases)] += np.array(list(biases.values()), dtype=logits.dtype)
    return logits


def top_k(logits: Logits, k: int) -> Logits:
    """Keep the k likeliest tokens (and any that tie with the last of them)."""
    if not 0 < k < logits.shape[-1]:
        return logits
    threshold = np.partition(logits, -k, axis=-1)[..., -k, None]
    return np.where(logits >= threshold, logits, OUT)


def top_p(logits: Logits, p: float) -> Logits:
    """Keep the fewest likeliest tokens whose probabilities add up to p (Holtzman et al. 2020), at least one."""
    if p >= 1:
        return logits
    if logits.ndim > 1:
        return np.stack([top_p(row, p) for row in logits])
    kept = _nucleus(logits, p)
    filtered = np.full_like(logits, OUT)
    filtered[kept] = logits[kept]
    return filtered


def _nucleus(logits: Logits, p: float) -> npt.NDArray[np.intp]:
    """The ids of the fewest likeliest tokens of logits (V,) whose probabilities add up to p.

    In a large vocabulary only tokens with a probability of at least (1 - p) / V can be among them, which leaves few to
    sort. If the sum is so close to p that its rounding decides, all are sorted.
    """
    weights: Logits = np.exp(logits.astype(np.float64) - logits.max())
    if len(weights) > FEW_TOKENS:
        share = p * weights.sum()
        among = np.flatnonzero(weights >= 0.999 * (1 / p - 1) * share / len(weights))
        ordered = among[np.argsort(-logits[among], kind="stable")]
        first, last = np.searchsorted(np.cumsum(weights[ordered]), [share * (1 - 1e-9), share * (1 + 1e-9)])
        if first == last < len(ordered):
            return ordered[: first + 1]
    ordered = np.argsort(-logits, kind="stable")
    sums: Logits = np.cumsum(weights[ordered])
    return ordered[: int(sums[:-1].searchsorted(p * sums[-1])) + 1]


def min_p(logits: Logits, share: float) -> Logits:
    """Keep tokens at least `share` times as likely as the likeliest (Nguyen et al. 2024)."""
    if share <= 0:
        return logits
    return np.where(logits >= logits.max(axis=-1, keepdims=True) + np.log(share), logits, OUT)


def draw(logits: Logits, temperature: float, rng: np.random.Generator) -> int:
    """One token of logits (V,): the likeliest at temperature 0, else by probability (Gumbel's maximum). The only token
    that is left needs no noise, so that text which must be as it is does not change what is drawn after it."""
    if temperature == 0 or np.count_nonzero(logits != OUT) == 1:
        return int(logits.argmax())
    uniform = rng.random((logits.shape[-1],), dtype=np.float32)
    with np.errstate(over="ignore"):  # a temperature near 0 puts all but the likeliest at -inf
        scaled = (logits.astype(np.float64) - logits.max()) / temperature
    if len(scaled) <= FEW_TOKENS:
        return int((scaled + _gumbel(uniform)).argmax())
    able = np.flatnonzero(scaled >= -NOISE_RANGE)
    return int(able[(scaled[able] + _gumbel(uniform[able])).argmax()])


def _gumbel(uniform: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Gumbel noise from uniform numbers between 0 and 1."""
    tiny = np.float32(1e-20)
    noise: npt.NDArray[np.float32] = -np.log(-np.log(uniform + tiny) + tiny)
    return noise


@dataclass(frozen=True)
class Choice:
    """A token that was drawn, with the model's log-probabilities, before filters, of it and of the likeliest tokens."""

    id: int
    logprob: float | None = None
    top: tuple[tuple[int, float], ...] = ()


def choice_of(id: int, logits: Logits, wanted: int | None) -> Choice:
    """The choice of a token from logits (V,), with log-probabilities if they are wanted."""
    if wanted is None:
        return Choice(id)
    model = log_softmax(logits)
    best = np.argsort(-model, kind="stable")[:wanted]
    return Choice(id, float(model[id]), tuple((int(i), float(model[i])) for i in best))


def temperatures(options: SampleOptions) -> list[float]:
    """The temperatures that successive tokens cycle through; one, if it is constant."""
    if options.greedy:
        return [0.0]
    return options.temperature if isinstance(options.temperature, list) else [options.temperature]


def biases_by_id(options: SampleOptions) -> dict[int, float]:
    """The biases by id (see `textgen.generation.sampling`). Raises UsageError for a bias of a token's text."""
    text = next((key for key in options.logit_bias if isinstance(key, str)), None)
    if text is not None:
        raise UsageError(
            f"{named('logit_bias')} {text!r} must be an id here; textgen.generation.sampling.bias_of_ids finds it."
        )
    return {int(id): bias for id, bias in options.logit_bias.items()}


class Sampler:
    """Draws one row's tokens with its own noise, never those in `unsampled`. Raises UsageError for invalid options.

    `steer` may exclude more tokens: it maps logits (V,), in float64, to logits.
    """

    def __init__(
        self, options: SampleOptions, seed: int, unsampled: Sequence[int] = (), steer: Steer | None = None
    ) -> None:
        check_sampling(options)
        self._options = options
        self._temperatures = temperatures(options)
        self._biases = biases_by_id(options)
        self._unsampled = np.array(sorted(set(unsampled)), dtype=np.intp)
        self._steer = steer
        self._rng = np.random.Generator(np.random.Philox(seed))
        self._recent: deque[int] = deque(maxlen=options.repeat_last_n)
        self._drawn = 0

    def see(self, ids: Iterable[int]) -> None:
        """Tell the penalties of tokens that were not drawn: the prompt."""
        self._recent.extend(ids)

    def noise(self) -> dict[str, Any]:
        """The state of the noise, as JSON values that `restore` takes."""
        state = self._rng.bit_generator.state
        arrays = {**state["state"], "buffer": state["buffer"]}
        numbers = {name: int(state[name]) for name in _NOISE_NUMBERS}
        return {**{name: array.tolist() for name, array in arrays.items()}, **numbers, "drawn": self._drawn}

    def restore(self, noise: Mapping[str, Any]) -> None:
        """Set the noise to a state that `noise` returned. Raises TextgenError for anything else."""
        for name, high in {**_NOISE_NUMBERS, "drawn": 2**62}.items():
            if type(noise.get(name)) is not int or not 0 <= noise[name] <= high:
                raise TextgenError(f"the noise has no {name!r} from 0 to {high}.")
        for name, size in _NOISE_ARRAYS.items():
            words = noise[name] if isinstance(noise.get(name), list) else []
            if len(words) != size or not all(type(word) is int and 0 <= word < 2**64 for word in words):
                raise TextgenError(f"the noise has no {name!r} of {size} whole numbers.")
        arrays = {name: np.array(noise[name], dtype=np.uint64) for name in _NOISE_ARRAYS}
        buffer = arrays.pop("buffer")
        numbers = {name: noise[name] for name in _NOISE_NUMBERS}
        self._rng.bit_generator.state = {"bit_generator": "Philox", "state": arrays, "buffer": buffer, **numbers}
        self._drawn = noise["drawn"]

    def filtered(self, logits: Logits) -> Logits:
        """The logits (V,) after penalties, biases and filters, before temperature, in float64."""
        o = self._options
        kept: Logits = logits.astype(np.float64)
        kept[self._unsampled] = OUT
        require_choice(kept)
        kept = kept if self._steer is None else self._steer(kept)
        kept = repetition_penalty(kept, self._recent, o.repetition_penalty)
        kept = count_penalty(kept, self._recent, o.presence_penalty, o.frequency_penalty)
        kept = add_bias(kept, self._biases)
        return min_p(top_p(top_k(kept, o.top_k), o.top_p), o.min_p)

    def choose(self, logits: Logits) -> Choice:
        """Draw the next token from logits (V,). Raises TextgenError if none is left."""
        temperature = self._temperatures[self._drawn % len(self._temperatures)]
        chosen = draw(self.filtered(logits), temperature, self._rng)
        self._recent.append(chosen)
        self._drawn += 1
        return choice_of(chosen, logits, self._options.logprobs)


def place_after(place: int, data: bytes) -> int:
    """The place after these bytes, NOWHERE if they cannot follow."""
    for byte in data:
        if place != NOWHERE:
            place = _AFTER[place].get(byte, NOWHERE)
    return place


class CharacterGuard:
    """Excludes tokens that cannot continue a text.

    `after`, (PLACES, V), holds the place after each token, NOWHERE if it is excluded; `barred`, (PLACES, V), says which
    are. A token that begins a character is kept only where others can complete it, so that every place has a token to
    draw.
    """

    def __init__(self, after: npt.NDArray[np.int8]) -> None:
        """`after` is as above for all bytes that can follow; tokens that lead to no complete character are removed."""
        alive = np.zeros(PLACES, dtype=bool)
        alive[BETWEEN] = True
        for _ in range(PLACES):
            leads_on = (after != NOWHERE) & alive[after]
            alive |= leads_on.any(axis=1)
        self.after = np.where(leads_on, after, np.int8(NOWHERE))
        self.barred = alive[:, None] & ~leads_on

    def mask(self, logits: Logits, held: bytes) -> Logits:
        """Logits (V,) without the tokens that cannot follow `held`, the incomplete character (see `TextDecoder.held`).

        Raises TextgenError if none of the others has a probability.
        """
        masked: Logits = np.where(self.barred[place_after(BETWEEN, held)], OUT, logits)
        require_choice(masked)
        return masked


def character_guard(tokenizer: Tokenizer, unsampled: Collection[int], vocab_size: int) -> CharacterGuard | None:
    """The guard of a model with `vocab_size` tokens that never draws those in `unsampled`.

    None if every token consists of whole characters, and if the tokens cannot spell a single character.
    """
    tokens = [*tokenizer.token_bytes, *[b""] * (vocab_size - tokenizer.vocab_size)]
    after = np.full((PLACES, vocab_size), NOWHERE, dtype=np.int8)
    for id, token in enumerate(tokens):
        if id not in unsampled and (token or id == tokenizer.boundary):
            places = range(PLACES) if token else [BETWEEN]
            after[list(places), id] = [place_after(place, token) for place in places]
    drawn = [id for id, token in enumerate(tokens) if token and id not in unsampled]
    if (after[BETWEEN, drawn] == BETWEEN).all():
        return None
    guard = CharacterGuard(after)
    return guard if (guard.after[BETWEEN, drawn] != NOWHERE).any() else None


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
    found = [id for id, token in enumerate(tokenizer.token_bytes) if token and token in texts]
    if not found:
        known = [token.decode("utf-8", "replace") for token in tokenizer.token_bytes if token]
        close = did_you_mean(key, [" " + key] if " " + key in known else known)
        raise UsageError(f"{named('logit_bias')}: no token of this model is {key!r}.{close}")
    return found

"""From logits to a token: pure functions on arrays of logits, (..., V), composed by `Sampler`.

A filter sets the logits of excluded tokens to -inf. The order is penalties, biases, top-k, top-p, min-p, temperature.
The noise of each row comes from its own seed, so no row depends on the others.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from textgen.errors import TextgenError, UsageError
from textgen.parameters import named
from textgen.stepper import Logits
from textgen.writing.sampling_settings import SampleOptions, check_sampling

Steer = Callable[[Logits], Logits]
OUT = -np.inf
FEW_SYMBOLS = 512
"""In a vocabulary of up to this size, computing all tokens is faster than selecting the relevant ones first."""
NOISE_RANGE = 21
"""The difference between the smallest and the largest noise that `draw` can add to a logit, -3.9 and 16.7: no token
further below the likeliest one is ever drawn."""
_NOISE_NUMBERS = {"buffer_pos": 4, "has_uint32": 1, "uinteger": 2**32 - 1}
_NOISE_ARRAYS = {"counter": 4, "key": 2, "buffer": 4}
"""The state of numpy's Philox: the highest value of each number, the size of each array of 64-bit words."""


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
    if len(weights) > FEW_SYMBOLS:
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
    """One token of logits (V,): the likeliest at temperature 0, else by probability (Gumbel's maximum)."""
    if temperature == 0:
        return int(logits.argmax())
    uniform = rng.random((logits.shape[-1],), dtype=np.float32)
    with np.errstate(over="ignore"):  # a temperature near 0 puts all but the likeliest at -inf
        scaled = (logits.astype(np.float64) - logits.max()) / temperature
    if len(scaled) <= FEW_SYMBOLS:
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
    """The biases by id (see `textgen.writing.biases`). Raises UsageError for a bias of a token's text."""
    text = next((key for key in options.logit_bias if isinstance(key, str)), None)
    if text is not None:
        raise UsageError(
            f"{named('logit_bias')} {text!r} must be an id here; textgen.writing.biases.bias_of_ids finds it."
        )
    return {int(id): bias for id, bias in options.logit_bias.items()}


def _are_words(value: Any, size: int) -> bool:
    return isinstance(value, list) and len(value) == size and all(type(v) is int and 0 <= v < 2**64 for v in value)


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
            if not _are_words(noise.get(name), size):
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

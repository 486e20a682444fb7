"""From logits to a symbol: pure functions on arrays of logits, (..., V), composed by `Sampler`.

A filter returns logits in which what is left out is -inf. The order is that of llama.cpp: penalties, top-k, top-p,
min-p, then temperature. Noise comes from each row's own seed, so that no row depends on its neighbours.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from textgen.errors import UsageError
from textgen.options import check
from textgen.settings import SampleOptions

Logits = npt.NDArray[np.floating]
OUT = -np.inf


def log_softmax(logits: Logits) -> Logits:
    """Log-probabilities along the last axis, in float64."""
    shifted = logits.astype(np.float64) - logits.max(axis=-1, keepdims=True)
    result: Logits = shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
    return result


def without(logits: Logits, ids: Sequence[int] | npt.NDArray[np.intp]) -> Logits:
    """Leave out these symbols."""
    if not len(ids):
        return logits
    logits = logits.copy()
    logits[..., np.asarray(ids)] = OUT
    return logits


def repetition_penalty(logits: Logits, recent: Iterable[int], penalty: float) -> Logits:
    """Divide positive logits of recent symbols by the penalty and multiply negative ones (Keskar et al. 2019)."""
    used = sorted(set(recent))
    if penalty == 1 or not used:
        return logits
    logits = logits.copy()
    chosen = logits[..., used]
    logits[..., used] = np.where(chosen > 0, chosen / penalty, chosen * penalty)
    return logits


def top_k(logits: Logits, k: int) -> Logits:
    """Keep the k likeliest symbols (and any that tie with the last of them)."""
    if not 0 < k < logits.shape[-1]:
        return logits
    threshold = np.partition(logits, -k, axis=-1)[..., -k, None]
    return np.where(logits >= threshold, logits, OUT)


def top_p(logits: Logits, p: float) -> Logits:
    """Keep the fewest likeliest symbols whose probabilities add up to p (Holtzman et al. 2020), at least one."""
    if p >= 1:
        return logits
    order = np.argsort(-logits, axis=-1, kind="stable")
    ordered = np.take_along_axis(logits, order, axis=-1).astype(np.float64)
    sums = np.cumsum(np.exp(ordered - ordered[..., :1]), axis=-1)
    needed = np.ones(logits.shape, dtype=bool)
    needed[..., 1:] = sums[..., :-1] < p * sums[..., -1:]
    kept = np.empty(logits.shape, dtype=bool)
    np.put_along_axis(kept, order, needed, axis=-1)
    return np.where(kept, logits, OUT)


def min_p(logits: Logits, share: float) -> Logits:
    """Keep symbols at least `share` times as likely as the likeliest (Nguyen et al. 2024)."""
    if share <= 0:
        return logits
    return np.where(logits >= logits.max(axis=-1, keepdims=True) + np.log(share), logits, OUT)


def draw(logits: Logits, temperature: float, rng: np.random.Generator) -> int:
    """One symbol of logits (V,): the likeliest at temperature 0, else by probability (Gumbel's maximum)."""
    if temperature == 0:
        return int(logits.argmax())
    uniform = rng.random(logits.shape[-1], dtype=np.float32)
    noise = -np.log(-np.log(uniform + np.float32(1e-20)) + np.float32(1e-20))
    with np.errstate(over="ignore"):  # a temperature near 0 leaves all but the likeliest at -inf
        scaled = (logits.astype(np.float64) - logits.max()) / temperature
    return int((scaled + noise).argmax())


@dataclass(frozen=True)
class Choice:
    """A symbol drawn, with the model's own log-probability of it (before filters) and of the likeliest symbols."""

    id: int
    logprob: float | None = None
    top: tuple[tuple[int, float], ...] = ()


class Sampler:
    """Draws one row's symbols from noise of its own; those in `unsampled` never. Raises UsageError for bad options."""

    def __init__(self, options: SampleOptions, seed: int, unsampled: Sequence[int] = ()) -> None:
        check_sampling(options)
        self._options = options
        self._temperature = 0.0 if options.greedy else options.temperature
        self._unsampled = np.array(sorted(set(unsampled)), dtype=np.intp)
        self._rng = np.random.Generator(np.random.Philox(seed))
        self._recent: deque[int] = deque(maxlen=options.repeat_last_n)

    def see(self, ids: Iterable[int]) -> None:
        """Let the penalty know of symbols that were not drawn: the prompt."""
        self._recent.extend(ids)

    def filtered(self, logits: Logits) -> Logits:
        """The logits (V,) after penalties and filters, before temperature, in float64."""
        o = self._options
        kept = without(logits.astype(np.float64), self._unsampled)
        kept = repetition_penalty(kept, self._recent, o.repetition_penalty)
        return min_p(top_p(top_k(kept, o.top_k), o.top_p), o.min_p)

    def choose(self, logits: Logits) -> Choice:
        """Draw the next symbol from logits (V,)."""
        chosen = draw(self.filtered(logits), self._temperature, self._rng)
        self._recent.append(chosen)
        if self._options.logprobs is None:
            return Choice(chosen)
        model = log_softmax(logits)
        best = np.argsort(-model, kind="stable")[: self._options.logprobs]
        return Choice(chosen, float(model[chosen]), tuple((int(i), float(model[i])) for i in best))


def check_sampling(options: SampleOptions) -> None:
    """Hold options to their limits and to each other. Raises UsageError."""
    check(options)
    if options.greedy and options.temperature not in (SampleOptions.temperature, 0):
        raise UsageError(f"--greedy and --temperature {options.temperature:g} exclude each other.")
    for text in options.stop:
        if not isinstance(text, str) or not text:
            raise UsageError(f"--stop must be text, not {text!r}.")

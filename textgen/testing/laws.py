"""The list of laws, in the order in which they are tried: what everything else rests on comes first."""

from __future__ import annotations

from collections.abc import Iterable

from textgen.errors import UsageError, did_you_mean
from textgen.testing.law import Law
from textgen.testing.laws_gradients import (
    cut_gradients,
    detach,
    every_parameter,
    gradcheck,
    loop_gradients,
    reaches_back,
)
from textgen.testing.laws_manners import cost_flat, finite, memory_flat, no_noise, no_side_effects, same_seed
from textgen.testing.laws_rows import rows_alone, rows_apart
from textgen.testing.laws_state import (
    dtype_kept,
    initial_state,
    keeps_nothing,
    nothing_changed,
    nothing_shared,
    sizes,
    state_structure,
)
from textgen.testing.laws_storage import (
    built_on_meta,
    copied,
    moves,
    options_json,
    own_storage,
    parameter_groups,
    saved_and_loaded,
    stored_step,
)
from textgen.testing.laws_time import (
    causality,
    cut_anywhere,
    empty_sequence,
    forward_is_steps,
    layouts,
    recurrent_mask,
    without_gradients,
)
from textgen.testing.laws_tools import compiles, exports, imports_fast

LAWS: tuple[Law, ...] = (
    *(sizes, options_json, state_structure, nothing_changed, dtype_kept, initial_state),
    *(forward_is_steps, cut_anywhere, causality, empty_sequence, layouts, without_gradients, recurrent_mask),
    *(rows_apart, rows_alone),
    *(loop_gradients, gradcheck, cut_gradients, detach, reaches_back, every_parameter),
    *(nothing_shared, keeps_nothing),
    *(same_seed, no_noise, no_side_effects),
    *(saved_and_loaded, stored_step, own_storage, copied, moves, built_on_meta, parameter_groups),
    *(finite, memory_flat, cost_flat),
    *(compiles, exports, imports_fast),
)
"""Every law, the slow ones last."""


def chosen(names: Iterable[str]) -> list[Law]:
    """The laws of these names, in the order of LAWS. Raises UsageError for a name that is no law's."""
    known = {law.name: law for law in LAWS}
    asked = list(names)
    for name in asked:
        if name not in known:
            raise UsageError(
                f"there is no law {name!r}.{did_you_mean(str(name), known)}", hint=f"laws: {', '.join(known)}."
            )
    return [law for name, law in known.items() if name in asked]


def selected(names: Iterable[str] | None, slow: bool) -> list[Law]:
    """The laws of these names; without names all fast ones, and with `slow` really all."""
    return [law for law in LAWS if slow or not law.slow] if names is None else chosen(names)

"""The list of laws, in the order in which they are checked: the foundations first, the slow ones last."""

from __future__ import annotations

from collections.abc import Iterable

from textgen.errors import UsageError, did_you_mean
from textgen.testing import (
    laws_gradients,
    laws_manners,
    laws_rows,
    laws_state,
    laws_storage,
    laws_time,
    laws_tools,
)
from textgen.testing.law import Law

MODULES = (laws_state, laws_time, laws_rows, laws_gradients, laws_manners, laws_storage, laws_tools)
LAWS: tuple[Law, ...] = tuple(value for module in MODULES for value in vars(module).values() if isinstance(value, Law))
"""Every law that these modules define."""


def chosen(names: Iterable[str]) -> list[Law]:
    """The laws with these names, in the order of LAWS. Raises UsageError for an unknown name."""
    known = {law.name: law for law in LAWS}
    asked = list(names)
    for name in asked:
        if name not in known:
            raise UsageError(
                f"there is no law {name!r}.{did_you_mean(str(name), known)}", hint=f"laws: {', '.join(known)}."
            )
    return [law for name, law in known.items() if name in asked]


def selected(names: Iterable[str] | None, slow: bool) -> list[Law]:
    """The laws with these names; without names, all fast laws, and with `slow` all laws."""
    return [law for law in LAWS if slow or not law.slow] if names is None else chosen(names)

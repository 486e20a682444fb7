"""Run the laws on a cell, and reduce failures to the smallest case.

`parametrize_with_checks` makes a whole test file in five lines: one pytest test for each cell and each law.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any
from unittest import SkipTest

from torch import Tensor

from textgen import plugins
from textgen.cells import Cell, Scalar, parse
from textgen.cells.engine import State
from textgen.errors import TextgenError, UsageError, did_you_mean, text_of
from textgen.testing import laws_side_effects, laws_state, laws_time
from textgen.testing.law import Case, CaseConfig, Law, LawBroken, MakeCell, NotApplicable, Result, Violation, isolated
from textgen.testing.laws_state import no_mutation

MODULES = (laws_state, laws_time, laws_side_effects)
LAWS: tuple[Law, ...] = tuple(value for module in MODULES for value in vars(module).values() if isinstance(value, Law))
"""Every law that these modules define, each once."""
CellSpec = type[Cell] | str | tuple[type[Cell] | str, Mapping[str, Scalar]]
Sizes = list[tuple[int, int]]
SIZES = (
    *((1, 1), (1, 2), (2, 1), (2, 2), (2, 3), (3, 2), (3, 5), (5, 3), (5, 5), (3, 4), (7, 4), (4, 4), (3, 8), (9, 8)),
    *((8, 8), (5, 16), (16, 16), (6, 12), (12, 12), (7, 32), (32, 32), (9, 64), (64, 64), (128, 128), (256, 256)),
)
"""The (input_size, hidden_size) to try, small ones first, with ones and primes among them."""


def selected(names: Iterable[str] | None, slow: bool = False) -> list[Law]:
    """The laws with these names, in the order of LAWS; without names, all fast laws, and with `slow` all laws.

    Raises UsageError for an unknown name.
    """
    if names is None:
        return [law for law in LAWS if slow or not law.slow]
    known = {law.name: law for law in LAWS}
    asked = list(names)
    for name in asked:
        if name not in known:
            raise UsageError(
                f"there is no law {name!r}.{did_you_mean(str(name), known)}", hint=f"laws: {', '.join(known)}."
            )
    return [law for name, law in known.items() if name in asked]


def check_cell(cell: type[Cell], /, **options: Scalar) -> list[Result]:
    """Check every fast law on a cell with these options. Returns the results; raises LawBroken at the first failure.

    Raises TextgenError for options that the cell does not have and for `expected_failures` that name unknown laws.
    `run_laws` checks slow or chosen laws, and does not raise for a failure.

    Example:
        >>> from textgen import plugins
        >>> results = check_cell(plugins.cell("gru"))
        >>> {result.status for result in results}
        {'passed'}
    """
    results = []
    for result in run_laws(cell, options):
        results.append(result)
        raise_if_failed(cell, result)
    return results


def raise_if_failed(cell: type[Cell], result: Result) -> None:
    """Raises LawBroken for a failed result."""
    if result.status == "failed":
        raise LawBroken(cell.__name__, selected([result.law])[0], result) from result.error


def run_laws(
    cell: type[Cell], options: Mapping[str, Scalar] | None = None, laws: Iterable[str] | None = None, slow: bool = False
) -> Iterator[Result]:
    """Check laws on a cell, one result after another: the named laws, or all fast ones, and with `slow` all of them.

    Raises TextgenError at once for unknown laws, unknown options, and invalid `expected_failures`.
    """
    wanted, declared = selected(laws, slow), declared_failures(cell)
    given = parse(cell, cell.__name__, options) if options else {}
    return results_of(cell, given, wanted, declared)


def declared_failures(cell: type[Cell]) -> dict[str, str]:
    """The cell's `expected_failures`: laws and reasons. Raises TextgenError for an unknown law or an empty reason."""
    declared = dict(cell.expected_failures)
    selected(declared)
    for name, reason in declared.items():
        if not isinstance(reason, str) or not reason.strip():
            raise TextgenError(
                f"{cell.__name__}.expected_failures gives no reason for {name!r}.",
                hint="say in a few words why the cell cannot satisfy this law.",
            )
    return declared


def results_of(
    cell: type[Cell], options: Mapping[str, Scalar], laws: Iterable[Law], declared: Mapping[str, str]
) -> Iterator[Result]:
    """The results of laws on a cell, with options and declared failures that are known to be valid."""
    sizes, refusal = accepted_sizes(cell, options)
    cause: str | None = None
    for law in laws:
        if sizes:
            result = run_law(law, cell, options, sizes)
            if result.status == "failed" and law is not no_mutation:
                if cause is None:
                    mutation = run_law(no_mutation, cell, options, sizes)
                    cause = mutation.detail if mutation.status == "failed" else ""
                if cause and _due_to_mutation(law, cell, options, sizes):
                    result = replace(result, cause=cause)
        elif law.name == "sizes":
            result = Result(law.name, "failed", None, f"the constructor accepts none of the sizes tried: {refusal}.")
        else:
            result = Result(law.name, "skipped", None, "the constructor accepts none of the sizes tried.")
        yield _as_declared(result, declared.get(law.name))


def _due_to_mutation(law: Law, cell: type[Cell], options: Mapping[str, Scalar], sizes: Sizes) -> bool:
    """Whether a law fails because the cell changes tensors in place: judged by its result when the cell gets copies."""
    copying: type[Cell] = type(cell.__name__, (_OnCopies, cell), {"__module__": cell.__module__})
    result = run_law(law, copying, options, sizes)
    detail = result.detail.lower().replace("-", "")
    return result.status == "passed" or "modified by an inplace" in detail or "tensor in place" in detail


class _OnCopies:
    """A mixin in front of a cell's class: each method receives copies, and cannot change anyone else's tensors."""

    def step(self, x: Tensor, state: State) -> Any:
        return super().step(x.clone(), _copies(state))  # type: ignore[misc]

    def forward(self, xs: Tensor, state: State | None = None, **more: Any) -> Any:
        return super().forward(xs.clone(), None if state is None else _copies(state), **more)  # type: ignore[misc]

    def activate(self, wx: Tensor, rh: Tensor, state: State) -> Any:
        return super().activate(wx.clone(), rh.clone(), _copies(state))  # type: ignore[misc]


def _copies(state: State) -> State:
    return tuple(tensor.clone() for tensor in state)


def _as_declared(result: Result, reason: str | None) -> Result:
    if reason is None:
        return result
    if result.status == "failed":
        return replace(result, status="expected", detail=f"{reason} ({result.detail})")
    if result.status == "passed":
        return replace(result, status="failed", detail=f"declared to fail ({reason}), but passes.")
    return result


def accepted_sizes(cell: type[Cell], options: Mapping[str, Scalar]) -> tuple[Sizes, str]:
    """The sizes that the constructor accepts, in the order of SIZES, and why it last refused one.

    A ValueError refuses one size; any other exception ends the search.
    """
    accepted, refusal = [], ""
    for size in SIZES:
        try:
            with isolated():
                _maker(cell, options)(*size)
            accepted.append(size)
        except ValueError as error:
            refusal = f"{type(error).__name__}: {error}".rstrip(".")
        except (Exception, SystemExit) as error:
            return accepted, f"{type(error).__name__}: {error}".rstrip(".")
        if len(accepted) >= 12:
            break
    return accepted, refusal


def _maker(cell: type[Cell], options: Mapping[str, Scalar]) -> MakeCell:
    constructor: Callable[..., Cell] = cell  # only the cell's own class knows the types of its options
    return partial(constructor, **options)


def representative_sizes(sizes: Sizes, least: int) -> Sizes:
    """The smallest size, and one each with a wider, a narrower and an equal input; with `least` hidden units if any."""
    enough = [size for size in sizes if size[1] >= least] or sizes
    middle = [size for size in enough if size[1] > 2] or enough
    kinds = [[(i, h) for i, h in middle if (i > h) - (i < h) == kind] for kind in (-1, 1, 0)]
    return list(dict.fromkeys([enough[0], *(kind[0] for kind in kinds if kind)]))


def run_law(law: Law, cell: type[Cell], options: Mapping[str, Scalar], sizes: Sizes) -> Result:
    """Check one law in case after case, and shrink the first case that fails."""
    make = _maker(cell, options)
    worst: float | None = None
    result = Result(law.name, "passed")
    for config in case_configs(law, representative_sizes(sizes, law.least[2])):
        result = run_case(law, make, config)
        worst = _larger(worst, result.deviation)
        if result.status == "failed":
            result = shrunk(law, make, config, result, sizes)
            return replace(result, deviation=_larger(worst, result.deviation))
        if result.status == "skipped":
            return result
    return replace(result, deviation=worst, case="")


def _larger(one: float | None, other: float | None) -> float | None:
    return other if one is None else one if other is None else max(one, other)


def case_configs(law: Law, sizes: Sizes) -> Iterator[CaseConfig]:
    """Each shape and each size at least once, in each dtype, small ones first."""
    sizes = sizes[-1:] if law.one_size else sizes
    for dtype in law.dtypes:
        for k in range(max(len(law.shapes), len(sizes))):
            length, batch = law.shapes[k % len(law.shapes)]
            yield CaseConfig(length, batch, *sizes[k % len(sizes)], dtype)


def run_case(law: Law, make: MakeCell, config: CaseConfig) -> Result:
    """Check a law in one case, isolated."""
    case = Case(make, config)
    try:
        with isolated() as case.printed:
            law.test(case)
    except NotApplicable as reason:
        return Result(law.name, "skipped", None, str(reason))
    except Violation as found:
        return Result(law.name, "failed", _larger(case.worst, found.deviation), str(found), str(config))
    except (Exception, SystemExit) as error:
        return Result(law.name, "failed", case.worst, _raised(error), str(config), error)
    return Result(law.name, "passed", case.worst, case.note, str(config))


def _raised(error: BaseException) -> str:
    """The exception, and the last line of code that is neither torch's nor this package's."""
    text = text_of(error)
    frames = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if "/torch/" not in Path(frame.filename).as_posix() and Path(frame.filename).parent != Path(__file__).parent
    ]
    place = f" at {Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else ""
    return f"{type(error).__name__}{place}: {text[:300]}"


def shrunk(law: Law, make: MakeCell, config: CaseConfig, result: Result, sizes: Sizes) -> Result:
    """The result of a smaller case that still fails: fewer steps, then fewer rows, then a smaller cell."""
    candidates: list[list[dict[str, Any]]] = [
        [{"length": n} for n in range(law.least[0], config.length)],
        [{"batch": n} for n in range(law.least[1], config.batch)],
        [
            {"input_size": i, "hidden_size": h}
            for i, h in sizes
            if h >= law.least[2] and i + h < config.input_size + config.hidden_size
        ],
    ]
    for changes in candidates:
        for change in changes:
            smaller = replace(config, **change)
            tried = run_case(law, make, smaller)
            if tried.status == "failed":
                config, result = smaller, tried
                break
    return result


@dataclass(frozen=True)
class Check:
    """One law on one cell: call it. `id` names both; `reason` is the cell's reason in `expected_failures`, if any."""

    id: str
    cell: type[Cell]
    options: Mapping[str, Scalar]
    law: Law
    reason: str | None = None

    def __call__(self) -> None:
        """Raises LawBroken if the law is broken, declared or not, and unittest.SkipTest if it does not apply."""
        for result in results_of(self.cell, self.options, [self.law], {}):
            if result.status == "skipped":
                raise SkipTest(result.detail)
            raise_if_failed(self.cell, result)


def checks(cells: Iterable[CellSpec], laws: Iterable[str] | None = None, slow: bool = False) -> list[Check]:
    """A check for each cell and each law: the named laws, or all fast ones, and with `slow` all of them.

    A cell is a class, the name of an installed cell, or a pair of either and options. Raises TextgenError for unknown
    names and options, and for invalid `expected_failures`.
    """
    wanted = selected(laws, slow)
    made = []
    for spec in cells:
        which, options = spec if isinstance(spec, tuple) else (spec, {})
        cell = plugins.cell(which) if isinstance(which, str) else which
        label = which if isinstance(which, str) else which.__name__
        typed = "".join(f",{name}={value}" for name, value in options.items())
        parsed = parse(cell, label, options) if options else {}
        declared = declared_failures(cell)
        made += [Check(f"{label}{typed}-{law.name}", cell, parsed, law, declared.get(law.name)) for law in wanted]
    return made


def parametrize_with_checks(
    cells: Iterable[CellSpec], laws: Iterable[str] | None = None, slow: bool = False
) -> Callable[[Any], Any]:
    """Parametrize a test function that takes `check` and calls it: one test for each cell and each law.

    Arguments and errors as for `checks`. A law in the cell's `expected_failures` is a strict xfail.

    Example:
        >>> from textgen import plugins
        >>> @parametrize_with_checks(["gru", ("rnn", {"nonlinearity": "relu"})])
        ... def test_conformance(check):
        ...     check()
    """
    import pytest

    parameters = [pytest.param(check, id=check.id, marks=expectation(check)) for check in checks(cells, laws, slow)]
    decorator: Callable[[Any], Any] = pytest.mark.parametrize("check", parameters)
    return decorator


def expectation(check: Check) -> list[Any]:
    """A strict xfail mark for a law that the cell declares to break; empty for others."""
    import pytest

    if check.reason is None:
        return []
    return [pytest.mark.xfail(reason=f"declared to fail: {check.reason}", strict=True, raises=LawBroken)]

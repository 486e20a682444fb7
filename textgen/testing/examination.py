"""Trying laws on a cell: sizes that its constructor takes, cases from small to large, and the smallest that breaks."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor

from textgen import cell_options
from textgen.attribution import text_of
from textgen.cell import Cell
from textgen.cell_options import Scalar
from textgen.errors import TextgenError
from textgen.recurrence import State
from textgen.testing.law import Law, LawBroken, Result
from textgen.testing.laws import chosen, selected
from textgen.testing.laws_state import nothing_changed
from textgen.testing.room import quiet_room
from textgen.testing.trial import Broken, Case, NotForThisCell, Trial

SIZES = (
    *((1, 1), (1, 2), (2, 1), (2, 2), (2, 3), (3, 2), (3, 5), (5, 3), (5, 5), (3, 4), (7, 4), (4, 4), (3, 8), (9, 8)),
    *((8, 8), (5, 16), (16, 16), (6, 12), (12, 12), (7, 32), (32, 32), (9, 64), (64, 64), (128, 128), (256, 256)),
)
"""(input_size, hidden_size) that a cell is offered, small ones first, ones and primes among them."""


Make = Callable[[int, int], Cell]
"""Makes a cell of (input_size, hidden_size)."""


@dataclass(frozen=True)
class Verdict:
    """What one case gave: whether the law is broken, the deviation, a sentence, and the cell's own exception."""

    broken: bool
    deviation: float | None
    detail: str = ""
    error: BaseException | None = None


def check_cell(cell: type[Cell], /, **options: Scalar) -> list[Result]:
    """Try every fast law on a cell with these options. Returns the results; raises LawBroken at the first one broken.

    Raises TextgenError for options that the cell does not have and for declarations of unknown laws. `examine` tries
    slow laws or chosen ones, and does not raise for a broken law.

    Example:
        >>> from textgen import plugins
        >>> results = check_cell(plugins.cell("gru"))
        >>> {result.status for result in results}
        {'passed'}
    """
    results = []
    for result in examine(cell, options):
        results.append(result)
        raise_if_failed(cell, result)
    return results


def raise_if_failed(cell: type[Cell], result: Result) -> None:
    """Raises LawBroken for a failed result."""
    if result.status == "failed":
        raise LawBroken(cell.__name__, chosen([result.law])[0], result) from result.error


def examine(
    cell: type[Cell],
    options: Mapping[str, Scalar] | None = None,
    laws: Iterable[str] | None = None,
    slow: bool = False,
) -> Iterator[Result]:
    """Try laws on a cell, one result after another: those named, or all fast ones, and with `slow` really all.

    Raises TextgenError at once for unknown laws, unknown options, and a wrong `expected_failures`.
    """
    wanted, declared = selected(laws, slow), declared_failures(cell)
    given = cell_options.parse(cell, cell.__name__, options) if options else {}
    return results_of(cell, given, wanted, declared)


def declared_failures(cell: type[Cell]) -> dict[str, str]:
    """The laws that a cell says it breaks, with its reasons. Raises TextgenError for an unknown law or no reason."""
    declared = dict(cell.expected_failures)
    chosen(declared)
    for name, reason in declared.items():
        if not isinstance(reason, str) or not reason.strip():
            raise TextgenError(
                f"{cell.__name__}.expected_failures gives no reason for {name!r}.",
                hint="say in a few words why the cell cannot keep this law.",
            )
    return declared


def results_of(
    cell: type[Cell], options: Mapping[str, Scalar], laws: Iterable[Law], declared: Mapping[str, str]
) -> Iterator[Result]:
    """The results of laws on a cell with these options, checked before, and these declarations."""
    accepted, refusal = accepted_sizes(cell, options)
    cause: str | None = None
    for law in laws:
        if accepted:
            result = try_law(law, cell, options, accepted)
            if result.status == "failed" and law is not nothing_changed:
                cause = changes_in_place(cell, options, accepted) if cause is None else cause
                if cause and follows(try_law(law, on_copies(cell), options, accepted)):
                    result = replace(result, because=cause)
        elif law.name == "sizes":
            result = Result(law.name, "failed", None, f"it can be made in none of the sizes tried: {refusal}.")
        else:
            result = Result(
                law.name, "skipped", None, "no cell to try it on: it can be made in none of the sizes tried."
            )
        yield _as_declared(result, declared.get(law.name))


def changes_in_place(cell: type[Cell], options: Mapping[str, Scalar], accepted: list[tuple[int, int]]) -> str:
    """Which of the tensors that it is given a cell changes, and where; empty if it changes none."""
    result = try_law(nothing_changed, cell, options, accepted)
    return result.detail if result.status == "failed" else ""


def follows(on_copies: Result) -> bool:
    """Whether a law fails because the cell changes tensors in place: what it gives where the cell gets copies."""
    said = on_copies.detail.lower().replace("-", "")
    return on_copies.status == "passed" or "modified by an inplace" in said or "tensor in place" in said


def on_copies(cell: type[Cell]) -> type[Cell]:
    """The same cell, given copies of its inputs and state, so that it can change nobody else's tensors."""
    copying: type[Cell] = type(cell.__name__, (_OnCopies, cell), {"__module__": cell.__module__})
    return copying


class _OnCopies:
    """Put before a cell's class: each method gets copies."""

    def step(self, x: Tensor, state: State) -> Any:
        return super().step(x.clone(), copies(state))  # type: ignore[misc]

    def forward(self, xs: Tensor, state: State | None = None, **more: Any) -> Any:
        return super().forward(xs.clone(), None if state is None else copies(state), **more)  # type: ignore[misc]

    def activate(self, wx: Tensor, rh: Tensor, state: State) -> Any:
        return super().activate(wx.clone(), rh.clone(), copies(state))  # type: ignore[misc]


def copies(state: State) -> State:
    """A state whose tensors are copies."""
    return tuple(tensor.clone() for tensor in state)


def _as_declared(result: Result, reason: str | None) -> Result:
    if reason is None:
        return result
    if result.status == "failed":
        return replace(result, status="expected", detail=f"{reason} ({result.detail})")
    if result.status == "passed":
        return replace(result, status="failed", detail=f"declared to fail ({reason}), but passes.")
    return result


def accepted_sizes(cell: type[Cell], options: Mapping[str, Scalar]) -> tuple[list[tuple[int, int]], str]:
    """The sizes that the constructor takes, in the order of SIZES, and why it last refused one.

    A ValueError means that a size is not for this cell; any other exception means that none is taken.
    """
    accepted, refusal = [], ""
    for size in SIZES:
        try:
            with quiet_room():
                made_by(cell, options)(*size)
            accepted.append(size)
        except ValueError as error:
            refusal = f"{type(error).__name__}: {error}".rstrip(".")
        except (Exception, SystemExit) as error:
            return accepted, f"{type(error).__name__}: {error}".rstrip(".")
        if len(accepted) >= 12:
            break
    return accepted, refusal


def made_by(cell: type[Cell], options: Mapping[str, Scalar]) -> Make:
    """The constructor with these options, of which only the cell's own class knows the types."""
    constructor: Callable[..., Cell] = cell
    return partial(constructor, **options)


def some_of(sizes: list[tuple[int, int]], least: int) -> list[tuple[int, int]]:
    """The smallest, and one with a wider, a narrower and an equal input; of so many hidden units if there are."""
    enough = [size for size in sizes if size[1] >= least] or sizes
    middle = [size for size in enough if size[1] > 2] or enough
    kinds = [[(i, h) for i, h in middle if (i > h) - (i < h) == kind] for kind in (-1, 1, 0)]
    return list(dict.fromkeys([enough[0], *(kind[0] for kind in kinds if kind)]))


def try_law(law: Law, cell: type[Cell], options: Mapping[str, Scalar], accepted: list[tuple[int, int]]) -> Result:
    """Try one law on case after case, and make the first that breaks it smaller."""
    make = made_by(cell, options)
    worst: float | None = None
    note = ""
    try:
        for case in cases(law, some_of(accepted, law.least[2])):
            verdict = attempt(law, make, case)
            worst = _larger(worst, verdict.deviation)
            if verdict.broken:
                case, verdict = smallest(law, make, case, verdict, accepted)
                return Result(
                    law.name, "failed", _larger(worst, verdict.deviation), verdict.detail, str(case), verdict.error
                )
            note = verdict.detail
    except NotForThisCell as reason:
        return Result(law.name, "skipped", None, str(reason))
    return Result(law.name, "passed", worst, note)


def _larger(one: float | None, other: float | None) -> float | None:
    return other if one is None else one if other is None else max(one, other)


def cases(law: Law, sizes: list[tuple[int, int]]) -> Iterator[Case]:
    """Each shape and each size at least once, in each dtype, small ones first."""
    sizes = sizes[-1:] if law.one_size else sizes
    for dtype in law.dtypes:
        for k in range(max(len(law.shapes), len(sizes))):
            length, batch = law.shapes[k % len(law.shapes)]
            yield Case(length, batch, *sizes[k % len(sizes)], dtype)


def attempt(law: Law, make: Make, case: Case) -> Verdict:
    """Try a law on one case, in a quiet room."""
    trial = Trial(make, case)
    try:
        with quiet_room() as trial.said:
            law.test(trial)
    except NotForThisCell:
        raise
    except Broken as broken:
        return Verdict(True, _larger(trial.worst, broken.deviation), str(broken))
    except (Exception, SystemExit) as error:
        return Verdict(True, trial.worst, _raised(error), error)
    return Verdict(False, trial.worst, trial.note)


def _raised(error: BaseException) -> str:
    """What was raised, and the last line of code that was neither torch's nor this kit's."""
    text = text_of(error)
    frames = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if "/torch/" not in Path(frame.filename).as_posix() and Path(frame.filename).parent != Path(__file__).parent
    ]
    place = f" at {Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else ""
    return f"{type(error).__name__}{place}: {text[:300]}"


def smallest(
    law: Law, make: Make, case: Case, verdict: Verdict, accepted: list[tuple[int, int]]
) -> tuple[Case, Verdict]:
    """A smaller case that still breaks the law: fewer steps, then fewer rows, then smaller sizes."""
    candidates: list[list[dict[str, Any]]] = [
        [{"length": n} for n in range(law.least[0], case.length)],
        [{"batch": n} for n in range(law.least[1], case.batch)],
        [
            {"input_size": i, "hidden_size": h}
            for i, h in accepted
            if h >= law.least[2] and i + h < case.input_size + case.hidden_size
        ],
    ]
    for changes in candidates:
        for change in changes:
            smaller = replace(case, **change)
            try:
                tried = attempt(law, make, smaller)
            except NotForThisCell:
                continue
            if tried.broken:
                case, verdict = smaller, tried
                break
    return case, verdict

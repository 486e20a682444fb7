"""What the source says: nothing in it runs data as code, and no dependency with a known hole is allowed."""

import ast

from .rows import Outcome, Row


def run(seed: int) -> Outcome:
    """Look through every shipped module, and through what the package asks for."""
    import test_house as house

    modules = [
        (name, found)
        for name in house.SHIPPED
        for found in house.roots(house.everywhere(name)) & house.FORBIDDEN_IMPORTS
    ]
    calls = [(name, ast.unparse(call)) for name in house.SHIPPED for call in house.calls(name) if house.forbidden(call)]
    names = [
        (name, found) for name in house.SHIPPED for found in house.mentioned(house.tree(name)) & house.FORBIDDEN_CALLS
    ]
    house.test_no_version_with_a_known_hole_is_allowed()
    found = [*modules, *calls, *names]
    bounds = ", ".join(f"{name}>={'.'.join(map(str, version))}" for name, version in house.LEAST.items())
    figure = "; ".join(map(str, found)) or f"{len(house.SHIPPED)} modules, nothing found; {bounds}"
    return Outcome(figure, not found)


ROWS = [Row("R23", "source and dependencies", "no pickle, no eval, no shell; no version with a known hole", run, "ci")]

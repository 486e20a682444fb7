"""Which module may import which: one direction, counting lazy, type-only and by-name imports too."""

import ast
from functools import cache
from pathlib import Path

from importing import at_import

ROOT = Path(__file__).parents[1]
MODULES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
    for path in sorted((ROOT / "textgen").rglob("*.py"))
}
LAYERS = [  # of packages and modules below `textgen`; each may import its own layer and those above it in this list
    "errors formatting options policy signals threads distributed",
    "storage",
    "cells",
    "hookspecs plugin_metadata plugins hub",
    "data",
    "screen",
    "model",
    "runtime tracing",
    "generation",
    "evaluation",
    "tasks",
    "training loading",
    "estimator",
    "compare forecasting",
    "scaffold testing",
    "export serve",
    "cli __main__",
]
RANK = {name: rank for rank, names in enumerate(LAYERS) for name in names.split()}

TORCHLESS = "errors formatting options storage plugins data model.stepper runtime generation evaluation loading cli"
"""What imports without torch: all that reads, samples and scores by the stored step, and the command line."""


@cache
def statements(name):
    return ast.parse(MODULES[name].read_text())


def named(node):
    """The modules that a node names: in an import statement, or as the constant argument of `import_module`."""
    if isinstance(node, ast.Import):
        return {alias.name for alias in node.names}
    if isinstance(node, ast.ImportFrom):
        inner = {f"{node.module}.{alias.name}" for alias in node.names}
        return {name if name in MODULES else node.module for name in inner}
    if isinstance(node, ast.Call) and ast.unparse(node.func).split(".")[-1] == "import_module":
        return {arg.value for arg in node.args if isinstance(arg, ast.Constant)}
    return set()


@cache
def imports(name):
    """Every module of ours that a module imports anywhere: lazily and for types too."""
    found = set().union(*(named(node) for node in ast.walk(statements(name))))
    return frozenset(found & MODULES.keys() - {name, "textgen"})


@cache
def loaded(name):
    """Every module, ours or not, that importing this one imports, in turn."""
    seen, waiting = set(), [name]
    while waiting:
        fresh = set().union(*map(named, at_import(statements(waiting.pop()).body))) - seen
        seen |= fresh
        waiting += fresh & MODULES.keys()
    return seen


def reachable(name):
    seen, waiting = set(), [name]
    while waiting:
        fresh = imports(waiting.pop()) - seen
        seen |= fresh
        waiting += fresh
    return seen


def rank(name):
    return RANK[name.split(".")[1]]


def test_every_module_has_a_layer():
    assert {name.split(".")[1] for name in MODULES if name != "textgen"} == RANK.keys()


def test_imports_point_one_way():
    upward = {
        (name, other) for name in MODULES.keys() - {"textgen"} for other in imports(name) if rank(other) > rank(name)
    }
    assert upward == set()


def test_imports_form_no_cycle():
    assert {name for name in MODULES if name in reachable(name)} == set()


def test_reading_sampling_and_scoring_import_no_torch():
    light = tuple(f"textgen.{name}" for name in TORCHLESS.split())
    modules = [name for name in MODULES if name in light or name.startswith(tuple(f"{each}." for each in light))]
    assert [name for name in modules if {found.split(".")[0] for found in loaded(name)} & {"torch"}] == []

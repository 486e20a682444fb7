"""The house rules, read off the source: sizes, docstrings, who imports whom, and what is never called."""

import ast
import re
import tomllib
from collections import Counter
from functools import cache
from pathlib import Path

import pytest
from importing import at_import

ROOT = Path(__file__).parents[1]
LIBRARY = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
    for path in sorted((ROOT / "textgen").rglob("*.py"))
}
PACKAGED = sorted((ROOT / "plugins").glob("textgen-*/textgen_*/*.py"))
SHIPPED = {
    **LIBRARY,
    **{path.stem: path for path in sorted((ROOT / "plugins").glob("textgen[_-]*/*.py"))},
    **{f"{path.parent.name}.{path.stem}".removesuffix(".__init__"): path for path in PACKAGED},
}
LONGEST_MODULE, LONGEST_FUNCTION = 500, 45
FORBIDDEN_IMPORTS = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "marshal", "shelve", "yaml", "copyreg"}
FORBIDDEN_CALLS = {
    *("eval", "exec", "compile", "print", "input", "breakpoint", "__import__", "builtins.eval", "builtins.exec"),
    *("torch.load", "torch.save", "torch.hub.load", "torch.jit.load", "torch.package", "torch.serialization.load"),
    *("np.load", "np.save", "numpy.load", "numpy.save", "np.fromfile", "types.FunctionType", "types.CodeType"),
    *("os.system", "os.popen", "os.execv", "os.execvp", "os.spawnv", "yaml.load"),
    *("subprocess.getoutput", "subprocess.getstatusoutput", "logging.config.listen", "shutil.unpack_archive"),
}
LEAST = {"torch": (2, 10), "sentencepiece": (0, 2, 2), "safetensors": (0, 8)}
"""Versions below these run code from files, or read beyond their memory (CVE-2025-32434, CVE-2026-24747,
CVE-2026-1260)."""
HARMLESS = {"shell": "False", "allow_pickle": "False", "weights_only": "True", "trust_remote_code": "False"}
ERRORS = {"TextgenError", "UsageError", "DamagedError", "PluginError"}
REASONS = {"textgen.plugins", "textgen.data.recipes"}  # what they say ends inside a longer sentence
HEAVY = {"torch", "numpy", "datasets", "sentencepiece", "safetensors", "pyarrow", "rich"}

PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
REPLACED = {
    "contest": "comparison",
    "soundness": "guards",
    "repetition_check": "determinism check",
    "habits": "generation config",
    "rings": "strongly connected components",
    "survey": "scan",
    "wording": "formatting",
    "figures": "metrics",
    "told": "prediction",
    "symbol": "token",
}
"""Words that are not used for these things, and the field's terms that are."""
SYMBOLS = ("textgen.evaluation.compression", "textgen.data.tokenizers")
"""What range coders and subword algorithms work on is called a symbol."""
UNCLEAR = (
    *("Steps through which gradients flow", "Share of symbols dropped whole", "Longest gradient"),
    *("Streams of text read side by side", "What of a model's outputs along a text is the answer"),
    *("Hold every file to its SHA-256", "keeps 34 laws, breaks 1", "differs by 0.33 where no bit may"),
    *(
        "is no operation of a stored step",
        "this is a fault of textgen",
        "a stranger's plugin",
        "packed files",
        "blanks",
    ),
    *("Say what a trained model makes of", "tokenizer level", "scoring package", "writing package"),
)
"""Phrases that readers did not understand."""


@cache
def tree(name):
    return ast.parse(SHIPPED[name].read_text())


def imported(nodes):
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            inner = [f"{node.module}.{alias.name}" for alias in node.names]
            yield from (name if name in LIBRARY else node.module for name in inner)


@cache
def imports(name):
    """What is imported as soon as the module is."""
    return frozenset(imported(at_import(tree(name).body))) - {"textgen"}


@cache
def everywhere(name):
    """What is imported anywhere in it, by functions too."""
    return frozenset(imported(ast.walk(tree(name))))


def roots(modules):
    return {module.split(".")[0] for module in modules}


@cache
def reached(name):
    """The same, and whatever that imports in turn."""
    seen, waiting = set(), [name]
    while waiting:
        for found in imports(waiting.pop()) - seen:
            seen.add(found)
            waiting += [found] if found in LIBRARY else []
    return seen


def calls(name):
    return (node for node in ast.walk(tree(name)) if isinstance(node, ast.Call))


def test_the_library_knows_neither_its_command_line_nor_its_plugins():
    library = [name for name in LIBRARY if not name.startswith(("textgen.cli", "textgen.__main__"))]
    strangers = ("textgen.cli", "textgen_cells", "click")
    wrong = [
        (name, module) for name in library for module in everywhere(name)
        if module.startswith(strangers) and (name, module) != ("textgen.screen", "click")
    ]  # fmt: skip
    assert wrong == []
    assert [name for name in LIBRARY if any(module.startswith("textgen_cells") for module in everywhere(name))] == []


def test_a_verb_imports_what_is_slow_when_it_is_called():
    light = [name for name in LIBRARY if name.startswith("textgen.cli") and not name.endswith("training_display")]
    assert [(name, found) for name in light for found in roots(reached(name)) & HEAVY] == []


def test_modules_and_functions_are_short():
    lines = {name: len(path.read_text().splitlines()) for name, path in SHIPPED.items()}
    assert [(name, n) for name, n in lines.items() if n > LONGEST_MODULE] == []
    functions = [
        (name, node.name, node.end_lineno - node.lineno + 1)
        for name in SHIPPED
        for node in ast.walk(tree(name))
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))
    ]
    assert [function for function in functions if function[2] > LONGEST_FUNCTION] == []


def test_modules_and_public_names_have_docstrings():
    assert [name for name in SHIPPED if not ast.get_docstring(tree(name))] == []
    public = [
        (name, node)
        for name in LIBRARY
        for node in tree(name).body
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and not node.name.startswith("_")
    ]
    assert [(name, node.name) for name, node in public if not ast.get_docstring(node)] == []


def test_nothing_runs_data_as_code_or_prints():
    modules = [(name, module) for name in SHIPPED for module in roots(everywhere(name)) & FORBIDDEN_IMPORTS]
    assert modules == []
    assert [(name, ast.unparse(call)) for name in SHIPPED for call in calls(name) if forbidden(call)] == []
    assert [(name, found) for name in SHIPPED for found in mentioned(tree(name)) & FORBIDDEN_CALLS] == []


def mentioned(module):
    """Every name that is read, with dots, and every name that is imported from somewhere: aliases hide nothing."""
    found = set()
    for node in ast.walk(module):
        if isinstance(node, (ast.Name, ast.Attribute)) and isinstance(node.ctx, ast.Load):
            found.add(ast.unparse(node))
        elif isinstance(node, ast.ImportFrom):
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def test_replaced_words_and_unclear_phrases_do_not_return():
    word = re.compile(rf"(?<![a-z])({'|'.join(REPLACED)})(ed|s)?(?![a-z])", re.IGNORECASE)
    texts = {
        **{path.name: path.read_text() for path in PAGES},
        **{name: path.read_text() for name, path in LIBRARY.items()},
    }
    found = [
        (name, match[0], REPLACED[match[1].lower()])
        for name, text in texts.items()
        for match in word.finditer(text)
        if match[1].lower() != "symbol" or not name.startswith(SYMBOLS)
    ]
    assert found == []
    assert [(name, phrase) for name, text in texts.items() for phrase in UNCLEAR if phrase in text] == []
    none = re.compile(r"(?<!there )\b(is|are) none\b")  # "an unknown type", not "a type that is none"
    assert [(name, match[0]) for name, text in texts.items() for match in none.finditer(text)] == []


@pytest.mark.parametrize(
    "code",
    [
        "torch.load(x)", "from torch import load", "read = torch.load", "map(eval, x)", "np.load(x, None, True)",
        "f(shell=True)", "subprocess.run(x, shell=yes)", "np.load(x, allow_pickle=True)", "from os import system",
        "f(trust_remote_code=True)",
        "import torch; getattr(torch.hub.load, '__call__')(x)", "yaml.load(x)", "f(weights_only=False)",
    ],
)  # fmt: skip
def test_what_runs_data_as_code_is_found(code):
    parsed = ast.parse(code)
    made = any(forbidden(node) for node in ast.walk(parsed) if isinstance(node, ast.Call))
    assert made or mentioned(parsed) & FORBIDDEN_CALLS


def test_no_version_with_a_known_hole_is_allowed():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    stated = [*project["dependencies"], *extras["train"], *extras["hub"]]
    least = dict(re.fullmatch(r"([\w-]+)>=([\d.]+)", each).groups() for each in stated)
    found = {name: tuple(map(int, least[name].split("."))) for name in LEAST}
    assert [(name, version) for name, version in found.items() if version < LEAST[name]] == []


def forbidden(call):
    given = {keyword.arg: ast.unparse(keyword.value) for keyword in call.keywords}
    return ast.unparse(call.func) in FORBIDDEN_CALLS or any(
        given.get(name, harmless) != harmless for name, harmless in HARMLESS.items()
    )


def test_an_error_is_a_sentence():
    wrong = []
    for name in LIBRARY.keys() - REASONS:
        for call in calls(name):
            if call.args and ast.unparse(call.func).split(".")[-1] in ERRORS:
                message = call.args[0]
                end = message.values[-1] if isinstance(message, ast.JoinedStr) else message
                if isinstance(end, ast.Constant) and not end.value.endswith((".", "?")):
                    wrong.append((name, call.lineno, end.value))
    assert wrong == []


def is_law(node):
    """Whether it is a function with the decorator `law`, which `textgen.testing.runner` finds by its type."""
    return any(ast.unparse(each).startswith("law(") for each in node.decorator_list)


def test_every_name_is_used():
    words = Counter(re.findall(r"\w+", "\n".join(path.read_text() for path in SHIPPED.values())))
    unused = []
    for name in LIBRARY:
        for node in tree(name).body:
            names = [node.name] if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and not is_law(node) else []
            if isinstance(node, ast.Assign):
                names = [target.id for target in node.targets if isinstance(target, ast.Name)]
            unused += [(name, defined) for defined in names if defined[:2] != "__" and words[defined] == 1]
    assert unused == []

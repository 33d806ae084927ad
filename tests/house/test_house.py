"""The house rules that a machine can hold; CONTRIBUTING.md has all of them.

A list of exceptions here may only shrink: whoever mends one takes it off, and nobody adds one.
"""

from __future__ import annotations

import ast
import re
from collections import Counter
from collections.abc import Iterator
from functools import cache
from itertools import pairwise
from pathlib import Path

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "celery_idempotent"
LONGEST_MODULE, LONGEST_FUNCTION, MOST_TOP_LEVEL = 260, 45, 10
ANY_PER_THOUSAND = 16
"""Of lines of the package; strict mypy sees nothing behind an ``Any``."""
PREPOSITIONS = re.compile(
    "_?(after|again|at|before|between|by|down|for|from|in|into|near|of|off|on|onto|out|over|per|than|through"
    "|till|to|under|until|up|upon|via|with|within|without)"
)

LONG_MODULES: set[str] = set()
PREPOSITION_NAMES = {("email_types/call_keys.py", "_without")}
LONG_FIRST_LINES: set[str] = set()
PRIVATE_PATCHES = {
    "_PORTS": 1,
    "_publish": 7,
    "_write": 6,
}
"""How often a private name is replaced in the tests, by name."""


@cache
def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text())


def modules() -> Iterator[tuple[str, Path]]:
    """Yield the package's modules but for migrations, by their paths in the package."""
    for path in sorted(PACKAGE.glob("**/*.py")):
        if "migrations" not in path.parts:
            yield str(path.relative_to(PACKAGE)), path


def calls(method: str) -> Iterator[tuple[str, ast.Call]]:
    """Yield every call of a ``method`` in the tests, with the file's path there."""
    for path in sorted((ROOT / "tests").glob("**/*.py")):
        for node in ast.walk(parsed(path)):
            if isinstance(node, ast.Call) and getattr(node.func, "attr", "") == method:
                yield str(path.relative_to(ROOT / "tests")), node


def text_of(node: ast.expr) -> str:
    """Return a literal text, with 0 for what is filled in; nothing for any other expression."""
    if isinstance(node, ast.JoinedStr):
        return "".join(text_of(part) if isinstance(part, ast.Constant) else "0" for part in node.values)
    return node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else ""


def calls_something(code: str) -> bool:
    """Tell whether ``code`` calls anything. Text that is no Python does not."""
    try:
        return any(isinstance(node, ast.Call) for node in ast.walk(ast.parse(code)))
    except SyntaxError:
        return False


def test_modules_are_short() -> None:
    """At most 260 lines."""
    long = {name for name, path in modules() if len(path.read_text().splitlines()) > LONGEST_MODULE}
    assert long == LONG_MODULES


def test_functions_are_short() -> None:
    """At most 45 lines, docstring and all."""
    long = [
        (name, node.name)
        for name, path in modules()
        for node in ast.walk(parsed(path))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and (node.end_lineno or 0) - node.lineno >= LONGEST_FUNCTION
    ]
    assert long == []


def test_the_hall_is_small() -> None:
    """At most ten modules lie at the package's top; all others are in a room."""
    assert len(list(PACKAGE.glob("*.py"))) <= MOST_TOP_LEVEL


def test_no_function_is_named_by_a_preposition() -> None:
    """A name that says nothing without its caller has to be looked up each time."""
    found = {
        (name, node.name)
        for name, path in modules()
        for node in parsed(path).body
        if isinstance(node, ast.FunctionDef) and PREPOSITIONS.fullmatch(node.name)
    }
    assert found == PREPOSITION_NAMES


def test_a_modules_first_line_is_one_sentence() -> None:
    """Which says what the module does; details come below it."""
    unclear = set()
    for name, path in modules():
        first = (ast.get_docstring(parsed(path)) or "").partition("\n")[0]
        if path.read_text() and (not first.endswith(".") or ". " in first):
            unclear.add(name)
    assert unclear == LONG_FIRST_LINES


def test_few_values_are_of_any_type() -> None:
    """So that strict mypy sees the seams: ``Any`` is counted in the whole package."""
    texts = [path.read_text() for _, path in modules()]
    lines = sum(len(text.splitlines()) for text in texts)
    found = sum(len(re.findall(r"\bAny\b", text)) for text in texts)
    assert found * 1000 / lines < ANY_PER_THOUSAND


def test_tests_keep_code_out_of_strings() -> None:
    """No tool sees statements in a text: ``ask`` gets a function, and ``python -c`` gets nothing to call."""
    found = [(name, call.lineno) for name, call in calls("ask") if call.args and text_of(call.args[0])]
    for path in (ROOT / "tests").glob("**/*.py"):
        for node in ast.walk(parsed(path)):
            if isinstance(node, ast.List | ast.Tuple):
                words = [text_of(word) for word in node.elts]
                codes = [code for option, code in pairwise(words) if option == "-c"]
                found += [(path.name, node.lineno) for code in codes if calls_something(code)]
    assert found == []


def test_private_names_are_not_patched() -> None:
    """If a test needs a knob, the knob is public in ``testing``."""
    found: Counter[str] = Counter()
    for _, call in calls("setattr"):
        texts = [text for argument in call.args[:2] if (text := text_of(argument))]
        name = texts[-1].rpartition(".")[2] if texts else ""
        found[name] += name.startswith("_") and not name.startswith("__")
    assert +found == Counter(PRIVATE_PATCHES)

"""The house: arrows between the package's rooms run down only, in the order written here; functions stay small."""

import ast
from collections.abc import Iterator
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "lcm_nb"
# A room, and the rooms that it may import besides those which these may import. A room is a module at the top of the
# package or a folder in it; an import inside a function counts as every other.
ORDER = {
    "training": ["tutorial", "cli"],
    "tutorial": ["studio"],
    "cli": ["bench", "check", "student", "serving"],
    "check": ["studio"],
    "student": ["files"],
    "serving": ["studio"],
    "export": ["studio", "web"],
    "web": ["sections"],
    "bench": ["studio"],
    "studio": ["result", "runtimes", "widgets", "grid", "turn"],
    "result": ["models", "grid", "png"],
    "runtimes": ["models", "protocol"],
    "models": ["sections"],
    "protocol": ["settings", "png"],
    "sections": ["settings"],
    "widgets": ["settings"],
    "settings": ["schedule", "pictures"],
    "grid": ["pictures"],
    "turn": [],
    "schedule": [],
    "png": [],
    "pictures": ["kept"],
    "kept": ["files"],
    "files": [],
}
# Imports that run up, and why. One that is gone has to go from here, too.
UP = {
    ("tutorial.checks", "training.own"): "the checks of notebook 08 run the loop that it is about",
    ("tutorial.checks", "training.loop"): "as above",
}
LINES, PARAMETERS = 40, 6  # of a function: without its docstring, without self


@cache
def modules() -> dict[str, Path]:
    """Return name inside the package -> file; "" is the package itself."""
    found = {}
    for path in PACKAGE.rglob("*.py"):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imported(name: str, path: Path) -> Iterator[str]:
    """Yield the package's own modules that a module imports, anywhere in it."""
    package = name if path.stem == "__init__" else name.rpartition(".")[0]
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom):
            yield from _from(node, package)
        elif isinstance(node, ast.Import):
            for alias in node.names:
                top, _, rest = alias.name.partition(".")
                if top == "lcm_nb":
                    yield rest


def _from(node: ast.ImportFrom, package: str) -> Iterator[str]:
    if node.level:
        parents = package.split(".") if package else []
        home = parents[: len(parents) - node.level + 1] + (node.module.split(".") if node.module else [])
    elif (node.module or "").partition(".")[0] == "lcm_nb":
        home = node.module.split(".")[1:]
    else:
        return
    for alias in node.names:
        module = ".".join([*home, alias.name])
        yield module if module in modules() else ".".join(home)


def arrows() -> set[tuple[str, str]]:
    """Return all pairs of a module and one that it imports; the package's own front is none of them."""
    pairs = {(name, other) for name, path in modules().items() if name for other in imported(name, path)}
    return {(name, other) for name, other in pairs if other != name and other}


def below(room: str) -> set[str]:
    """Return the rooms that a room may import from."""
    return {room}.union(*(below(other) for other in ORDER[room]))


def test_every_room_has_its_place():
    assert {name.partition(".")[0] for name in modules() if name} <= ORDER.keys()


def test_arrows_run_down_only():
    up = {(a, b) for a, b in arrows() if b.partition(".")[0] not in below(a.partition(".")[0])}
    assert up - UP.keys() == set(), "imports that run up"
    assert UP.keys() - up == set(), "these run down now: take them from the list"


def test_no_circle():
    graph: dict[str, set[str]] = {}
    for name, other in arrows() - UP.keys():
        graph.setdefault(name, set()).add(other)
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(" <- ".join(error.args[1]))


def functions() -> Iterator[tuple[str, ast.FunctionDef]]:
    for path in modules().values():
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
                yield f"{path.relative_to(PACKAGE).as_posix()} {node.name}", node


def lines(function: ast.FunctionDef) -> int:
    first = function.body[0]
    docstring = first.end_lineno - first.lineno + 1 if ast.get_docstring(function) else 0
    return function.end_lineno - function.lineno + 1 - docstring


def parameters(function: ast.FunctionDef) -> int:
    given = [*function.args.posonlyargs, *function.args.args, *function.args.kwonlyargs]
    return len([argument for argument in given if argument.arg not in ("self", "cls")])


def test_functions_are_small():
    large = {name for name, node in functions() if lines(node) > LINES or parameters(node) > PARAMETERS}
    assert large == set(), f"over {LINES} lines or {PARAMETERS} parameters"

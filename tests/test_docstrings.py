"""Docstrings of public functions: `Args:` where there are parameters, and no argument that does not exist."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

PACKAGE = Path(__file__).parents[1] / "ganscale"
FLOOR = 0.80
"""Share of public functions with parameters that must have an `Args:` section."""

Function = ast.FunctionDef | ast.AsyncFunctionDef


class Documented(NamedTuple):
    """A public function or class with parameters: where it is, its parameters, and those its docstring explains."""

    place: str
    parameters: set[str]
    explained: set[str]


def parameters(function: Function, *, bound: bool) -> set[str]:
    """Names of a function's parameters; the first one of a bound method is left out."""
    given = function.args
    names = [each.arg for each in (*given.posonlyargs, *given.args)][bound:]
    names += [each.arg for each in (*given.kwonlyargs, given.vararg, given.kwarg) if each]
    return {name for name in names if not name.startswith("_")}


def explained(docstring: str) -> set[str]:
    """Names in a docstring's `Args:` section: `name:`, `name, other:` or `name (type):`, indented once."""
    section = re.search(r"^Args:\n((?:[ ]+.*\n?|\n)+)", docstring, re.MULTILINE)
    heads = re.findall(r"^ {4}(\*{0,2}\w[\w, *]*?)(?: \([^)]*\))?: ", section[1] if section else "", re.MULTILINE)
    return {name.strip(" *") for head in heads for name in head.split(",")}


def inherited(tree: ast.Module) -> dict[str, list[str]]:
    """Bases of a module's classes by name."""
    bases = {node.name: node.bases for node in ast.walk(tree) if isinstance(node, ast.ClassDef)}
    return {name: [ast.unparse(base).partition("[")[0].rpartition(".")[2] for base in b] for name, b in bases.items()}


TREES = {path: ast.parse(path.read_text(encoding="utf-8")) for path in sorted(PACKAGE.rglob("*.py"))}
BASES = {name: bases for tree in TREES.values() for name, bases in inherited(tree).items()}
METHODS = {
    node.name: {each.name for each in node.body if isinstance(each, Function)}
    for tree in TREES.values()
    for node in ast.walk(tree)
    if isinstance(node, ast.ClassDef)
}
NO_CONTRACT = {"NamedTuple", "Enum", "Generic", "RuntimeError", "ValueError", "OSError", "BaseModel"}


def overrides(owner: str, method: str) -> bool:
    """Whether a base documents a method: one of ours that has it, or a library's, whose documentation it is."""
    return any(
        method in METHODS[base] or overrides(base, method) if base in METHODS else base not in NO_CONTRACT
        for base in BASES.get(owner, [])
    )


def documented(path: Path) -> Iterator[Documented]:
    """A module's public functions, methods and classes that take parameters."""
    name = str(path.relative_to(PACKAGE.parent))
    for node in TREES[path].body:
        if isinstance(node, Function) and not node.name.startswith("_"):
            text = ast.get_docstring(node) or ""
            yield Documented(f"{name}: {node.name}", parameters(node, bound=False), explained(text))
        elif isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
            for each in [each for each in node.body if isinstance(each, Function)]:
                static = any(ast.unparse(mark) == "staticmethod" for mark in each.decorator_list)
                wanted = parameters(each, bound=not static)
                if each.name == "__init__":
                    yield Documented(f"{name}: {node.name}", wanted, explained(ast.get_docstring(node) or ""))
                elif not each.name.startswith("_") and not overrides(node.name, each.name):
                    text = ast.get_docstring(each) or ""
                    yield Documented(f"{name}: {node.name}.{each.name}", wanted, explained(text))


EVERY = [each for path in TREES for each in documented(path) if each.parameters]


def test_arguments_are_explained() -> None:
    without = [each.place for each in EVERY if not each.explained]
    share = 1 - len(without) / len(EVERY)
    print(f"{share:.1%} of {len(EVERY)} public functions with parameters have an Args section")
    assert share >= FLOOR, "no Args section:\n" + "\n".join(without)


def test_what_is_explained_exists() -> None:
    wrong = {each.place: each.explained - each.parameters for path in TREES for each in documented(path)}
    assert {place: names for place, names in wrong.items() if names} == {}

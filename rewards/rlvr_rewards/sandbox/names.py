"""Say which names of a test script come from the program, which from modules that the script forgot to import.

Standard library only.
"""

from __future__ import annotations

import ast
import builtins
import importlib
import sys
from typing import Any

__all__ = ["forgotten_imports", "missing_names"]

_ALIASES = {"np": "numpy"}
_SOURCES = ("math", "collections", "copy")  # modules whose names scripts use as if they were built in
_FROM_NUMPY = ("allclose", "array_equal")
_IMPLIED = {"__name__", "__builtins__", "__file__", "__doc__"}


def missing_names(trees: list[ast.Module], entry: str) -> set[str]:
    """Collect the names that scripts use and nobody there defines, and the entry point."""
    used, bound = _used(trees), _bound(trees)
    # A name of the entry point that the tests bind as a local of their own is still the program's at their top.
    names = (used - bound - set(dir(builtins)) - _IMPLIED) | {n for n in (entry, "candidate") if n and n not in bound}
    return names | ({entry} if entry else set())


def forgotten_imports(trees: list[ast.Module], *, entry: str) -> dict[str, Any]:
    """Import what scripts use without a word: never the program's own idea of `math` or `isclose`, which judge it.

    A function that a test calls on constants alone, as in `assert factorial(5) == 120`, is what is tested, and comes
    from the program whatever it is called. Errors: ImportError where numpy is wanted and missing.
    """
    missing = missing_names(trees, entry) - {entry, "candidate"}
    found: dict[str, Any] = {}
    for name in missing & _bases(trees) & sys.stdlib_module_names:
        found[name] = importlib.import_module(name)
    for name in missing & _ALIASES.keys():
        found[name] = importlib.import_module(_ALIASES[name])
    tested = set() if entry else _tested(trees, missing)
    for name in missing - found.keys() - tested:
        if name in _FROM_NUMPY:
            found[name] = getattr(importlib.import_module("numpy"), name)
        for source in _SOURCES:
            module = importlib.import_module(source)
            if name[0] != "_" and hasattr(module, name):
                found[name] = getattr(module, name)
    return found


def _tested(trees: list[ast.Module], missing: set[str]) -> set[str]:
    """Collect the missing names that stand alone in an assertion, with nothing else that could be under test."""
    alone: set[str] = set()
    for tree in trees:
        for node in ast.walk(tree):
            if isinstance(node, ast.Assert):
                names = {inner.id for inner in ast.walk(node) if isinstance(inner, ast.Name)} - set(dir(builtins))
                alone |= names if len(names) == 1 else set()
    return alone & missing


def _bases(trees: list[ast.Module]) -> set[str]:
    """Collect the names that scripts take something from by a dot."""
    nodes = [node for tree in trees for node in ast.walk(tree)]
    return {node.value.id for node in nodes if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name)}


def _used(trees: list[ast.Module]) -> set[str]:
    names = [node for tree in trees for node in ast.walk(tree) if isinstance(node, ast.Name)]
    return {node.id for node in names if isinstance(node.ctx, ast.Load)}


def _bound(trees: list[ast.Module]) -> set[str]:
    bound: set[str] = set()
    for node in [node for tree in trees for node in ast.walk(tree)]:
        if isinstance(node, ast.Name) and not isinstance(node.ctx, ast.Load):
            bound.add(node.id)
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            bound.add(node.name)
        elif isinstance(node, ast.Import | ast.ImportFrom):
            bound.update((alias.asname or alias.name).partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.arg):
            bound.add(node.arg)
        elif isinstance(node, ast.ExceptHandler | ast.MatchAs | ast.MatchStar) and node.name:
            bound.add(node.name)
    return bound

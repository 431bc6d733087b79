"""Run trusted test scripts in a process of their own, with stand-ins for what the program under test defines.

A call of a stand-in crosses as bounded plain data to the program's jail and back. Objects of the program's own classes
stay there: here they are handles, whose equality, hash, truth and text the program does not decide. Standard library
only.
"""

from __future__ import annotations

import ast
import builtins
import os
import types
from collections import deque
from typing import Any

from .codec import Unplain, WireError, dumps, loads, plain
from .handles import Handle
from .jail import Wire
from .names import forgotten_imports, missing_names

__all__ = ["run_tests"]

_TEXT = 300
_SCALARS = (type(None), bool, int, float, complex, str, bytes)
# Exceptions that would end a loop, an iteration or the script in silence if a program raised them.
_SILENT = {"StopIteration", "StopAsyncIteration", "GeneratorExit", "SystemExit", "KeyboardInterrupt"}


class _Unsupported(BaseException):
    """The tests want something that cannot cross: our limit, not the program's fault."""


def run_tests(wire: Wire, order: dict[str, Any]) -> None:
    """Run the tests of an order one after another, report each after it ran to its end, then say that all are done."""
    remote = _Remote(wire)
    scope: dict[str, Any] = {"__name__": "tests", "__builtins__": builtins}
    tests, entry = order["tests"], order["entry_point"]
    try:
        code = [compile(test, f"test {i}", "exec", dont_inherit=True) for i, test in enumerate(tests)]
        prelude = compile(order["prelude"], "prelude", "exec", dont_inherit=True)
        trees = [ast.parse(text) for text in [order["prelude"], *tests]]
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        wire.send(b"r" + dumps({"broken": f"{type(error).__name__}: {str(error)[:_TEXT]}"}))
        return
    try:
        trusted = forgotten_imports(trees, entry=entry)
    except ImportError as error:
        wire.send(b"r" + dumps({"broken": str(error)[:_TEXT]}))
        return
    scope.update(trusted)
    names = missing_names(trees, entry) - trusted.keys()
    remote.objects = any(name[:1].isupper() for name in names)
    scope.update({name: remote.name(name) for name in names})
    scope["callable"] = _is_callable
    remote.asked = False
    own_check = entry and _defines_check(trees) and not _calls_check(trees)
    try:
        exec(prelude, scope)  # noqa: S102 - trusted helpers, contained all the same
    except BaseException as error:  # noqa: BLE001 - it is reported
        why = f"the prelude raises {type(error).__name__}: {str(error)[:_TEXT]}"
        given = missing_names(trees[:1], "")
        if remote.asked or any(
            name in scope and not isinstance(scope[name], Handle) for name in given - trusted.keys()
        ):
            _fail_all(wire, len(code), why)  # what it builds on came from the program
        else:
            wire.send(b"r" + dumps({"broken": why}))
        return
    for index, test in enumerate(code):
        last = index == len(code) - 1
        wire.send(
            b"r" + dumps({"test": index, **_outcome(test, scope, scope.get(entry) if own_check and last else None)})
        )
    wire.send(b"r" + dumps({"done": len(code)}))


def _is_callable(value: Any) -> bool:
    """Tell whether a value can be called; of a result of the program's that is not known."""
    return callable(value) and not (isinstance(value, Handle) and value.is_result)


def _fail_all(wire: Wire, count: int, why: str) -> None:
    for index in range(count):
        wire.send(b"r" + dumps({"test": index, "passed": False, "why": why}))
    wire.send(b"r" + dumps({"done": count}))


def _outcome(test: types.CodeType, scope: dict[str, Any], checked: Any) -> dict[str, Any]:
    try:
        exec(test, scope)  # noqa: S102 - trusted tests, contained all the same
        if checked is not None:
            scope["check"](checked)
    except _Unsupported as limit:
        return {"passed": None, "why": str(limit)[:_TEXT]}
    except BaseException as error:  # noqa: BLE001 - a failing test is a result
        text = f"{type(error).__name__}: {str(error)[:_TEXT]}"
        return {"passed": False, "why": text.rstrip(": ")}
    return {"passed": True, "why": ""}


def _defines_check(trees: list[ast.Module]) -> bool:
    return any(isinstance(node, ast.FunctionDef) and node.name == "check" for tree in trees for node in tree.body)


def _calls_check(trees: list[ast.Module]) -> bool:
    statements = [s for tree in trees for s in tree.body if not isinstance(s, ast.FunctionDef | ast.ClassDef)]
    calls = [n for s in statements for n in ast.walk(s) if isinstance(n, ast.Call)]
    return any(isinstance(call.func, ast.Name) and call.func.id == "check" for call in calls)


class _Remote:
    """Send requests to the program's jail and read its answers."""

    def __init__(self, wire: Wire) -> None:
        self._wire = wire
        self._token = ""
        self.objects = False  # whether the tests want a class, so that a result may be an object of it
        self.asked = False  # whether the program had a say

    def name(self, name: str) -> Any:
        """Fetch what the program calls `name`: plain data, or a handle; a handle that fails later where it has none."""
        try:
            value = self.ask("get", name)
        except NameError:
            return Handle(self, name)
        return Handle(self, name) if isinstance(value, Handle) else value

    def ask(self, operation: str, target: Any, *args: Any, **kwargs: Any) -> Any:
        """Let the program do one operation. Errors: what it raised, as a built-in exception; _Unsupported."""
        self.asked = True
        self._token = os.urandom(8).hex()  # an answer sent before the question cannot know it
        try:
            fields = {
                "n": self._token,
                "op": operation,
                "target": target if isinstance(target, str) else {"h": target},
                "args": [self._write(arg) for arg in args],
                "kwargs": {"d": [[name, self._write(value)] for name, value in kwargs.items()]},
                "handles": True,
            }
            request = dumps(fields)
        except Unplain as error:  # too large or too deep, and the program may have made it so
            raise RuntimeError(f"the tests hand the program {error}") from None
        self._wire.send(b"o" + request)
        return self._read(self._wire.receive(), operation, args, kwargs)

    def _write(self, value: Any) -> Any:
        return plain(value, other=_reference)

    def _read(self, answer: bytes, operation: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        try:
            reply = loads(answer, handle=lambda reference: _new_handle(self, reference))
        except WireError as error:
            raise RuntimeError(f"the program's answer is {error}") from None
        if reply.get("n") != self._token:
            raise RuntimeError("the program's answer belongs to no request")
        if "raised" in reply:
            raise _exception(_text(reply["raised"]), _text(reply.get("text")))
        if operation == "next" and reply.get("ended") is True:
            raise StopIteration
        if "value" not in reply:
            raise RuntimeError(f"the program returned {_text(reply.get('unplain'))}")
        # `f(xs) == sorted(xs)` must not be met by emptying xs: with a container as its result a call changes nothing.
        changed = reply.get("changed") if type(reply["value"]) in _SCALARS else None
        for place, theirs in _changes(changed):
            if isinstance(place, int) and 0 <= place < len(args):
                _refill(args[place], theirs)
            elif isinstance(place, str) and place in kwargs:
                _refill(kwargs[place], theirs)
        return reply["value"]


def _reference(value: Any) -> Any:
    if isinstance(value, Handle):
        return {"h": object.__getattribute__(value, "_target")}
    raise _Unsupported(f"the tests hand the program a {type(value).__name__}, which is no plain data")


def _new_handle(remote: _Remote, reference: Any) -> Handle:
    if type(reference) is not list or not reference or type(reference[0]) is not int:
        raise WireError("no reference")
    handle = Handle(remote, reference[0])
    # A match of a regular expression is the usual way to say yes: no more than True, which is plain data.
    object.__setattr__(handle, "_true", reference[1:] == [True])
    return handle


def _exception(name: str, text: str) -> Exception:
    kind = getattr(builtins, name, None)
    if name in _SILENT or not (isinstance(kind, type) and issubclass(kind, Exception)):
        return RuntimeError(text)
    try:
        return kind(text)
    except TypeError:  # one that wants more than a text
        return ValueError(text) if issubclass(kind, ValueError) else RuntimeError(text)


def _text(value: Any) -> str:
    return value[:_TEXT] if type(value) is str else ""


def _changes(changed: Any) -> list[list[Any]]:
    """Read which arguments a call changed, and into what: pairs of a place or name and the new content."""
    pairs = changed if type(changed) is list else []
    return [pair for pair in pairs if type(pair) is list and len(pair) == 2]


def _refill(mine: Any, theirs: Any) -> None:
    """Give what a call was handed the content that the program left in it; what lies within stays the same object."""
    if type(mine) is not type(theirs):
        return
    if type(mine) in (list, tuple, deque):
        for index in range(min(len(mine), len(theirs))):
            _keep_within(mine, theirs, index)
    elif type(mine) is dict:
        for key in mine.keys() & theirs.keys():
            _keep_within(mine, theirs, key)
    if type(mine) in (list, bytearray):
        mine[:] = theirs
    elif type(mine) in (dict, set):
        mine.clear()
        mine.update(theirs)
    elif type(mine) is deque:
        mine.clear()
        mine.extend(theirs)


def _keep_within(mine: Any, theirs: Any, key: Any) -> None:
    inner = mine[key]
    if type(inner) is type(theirs[key]) and type(inner) in (list, tuple, dict, set, deque, bytearray):
        _refill(inner, theirs[key])
        if type(theirs) is not tuple:
            theirs[key] = inner

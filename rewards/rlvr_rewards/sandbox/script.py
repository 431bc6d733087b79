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
from collections.abc import Iterator
from typing import Any

from .codec import Unplain, WireError, dumps, loads, plain
from .jail import Wire
from .names import forgotten_imports, missing_names

__all__ = ["run_tests"]

_TEXT = 300
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
    scope.update({name: remote.name(name) for name in missing_names(trees, entry) - trusted.keys()})
    remote.asked = False
    own_check = entry and _defines_check(trees) and not _calls_check(trees)
    try:
        exec(prelude, scope)  # noqa: S102 - trusted helpers, contained all the same
    except BaseException as error:  # noqa: BLE001 - it is reported
        why = f"the prelude raises {type(error).__name__}: {str(error)[:_TEXT]}"
        given = missing_names(trees[:1], "")
        if remote.asked or any(
            name in scope and not isinstance(scope[name], _Handle) for name in given - trusted.keys()
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
        self.asked = False  # whether the program had a say

    def name(self, name: str) -> Any:
        """Fetch what the program calls `name`: plain data, or a handle; a handle that fails later where it has none."""
        try:
            value = self.ask("get", name)
        except NameError:
            return _Handle(self, name)
        return _Handle(self, name) if isinstance(value, _Handle) else value

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
        return self._read(self._wire.receive(), operation, args)

    def _write(self, value: Any) -> Any:
        return plain(value, other=_reference)

    def _read(self, answer: bytes, operation: str, args: tuple[Any, ...]) -> Any:
        try:
            reply = loads(answer, handle=lambda reference: _handle(self, reference))
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
        if reply["value"] is None and isinstance(reply.get("args"), list):
            for mine, theirs in zip(args, reply["args"], strict=False):
                _refill(mine, theirs)
        return reply["value"]


class _Handle:
    """Stand in for a function or an object of the program."""

    def __init__(self, remote: _Remote, target: Any) -> None:
        object.__setattr__(self, "_remote", remote)
        object.__setattr__(self, "_target", target)
        object.__setattr__(self, "_wanted", False)  # whether the tests made it by calling a class's name

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        result = self._remote.ask("call", self._target, *args, **kwargs)
        if isinstance(result, _Handle) and isinstance(self._target, str) and self._target[:1].isupper():
            object.__setattr__(result, "_wanted", True)
        return result

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") and name.endswith("__") and name not in ("__name__", "__doc__"):
            raise AttributeError(name)
        return self._remote.ask("attribute", self._target, name)

    def __setattr__(self, name: str, value: Any) -> None:
        self._remote.ask("set", self._target, name, value)

    def __len__(self) -> int:
        return int(self._remote.ask("len", self._target))

    def __bool__(self) -> bool:
        return True

    def __getitem__(self, key: Any) -> Any:
        return self._remote.ask("item", self._target, key)

    def __contains__(self, item: Any) -> bool:
        # Where the tests want a class, membership is part of what it does. Of a mere result the elements are compared
        # here: an object that claims to hold everything is no answer.
        if object.__getattribute__(self, "_wanted"):
            return self._remote.ask("contains", self._target, item) is True
        return any(item is one or item == one for one in self)

    def __iter__(self) -> Iterator[Any]:
        iterator = self._remote.ask("iterate", self._target)
        if not isinstance(iterator, _Handle):
            yield from iterator
            return
        while True:
            try:
                value = next(iterator)
            except StopIteration:
                return
            yield value

    def __next__(self) -> Any:
        return self._remote.ask("next", self._target)

    def __instancecheck__(self, value: Any) -> bool:
        return isinstance(value, _Handle) and self._remote.ask("isinstance", self._target, value) is True

    def __deepcopy__(self, memo: Any) -> _Handle:
        return self

    def __repr__(self) -> str:
        return "<an object of the program>"


def _reference(value: Any) -> Any:
    if isinstance(value, _Handle):
        return {"h": object.__getattribute__(value, "_target")}
    raise _Unsupported(f"the tests hand the program a {type(value).__name__}, which is no plain data")


def _handle(remote: _Remote, reference: Any) -> _Handle:
    if type(reference) is not list or not reference or type(reference[0]) is not int:
        raise WireError("no reference")
    return _Handle(remote, reference[0])


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


def _refill(mine: Any, theirs: Any) -> None:
    """Give a list, dict or set the content that the program left in it."""
    if type(mine) is not type(theirs) or mine == theirs:
        return
    if type(mine) is list:
        mine[:] = theirs
    elif type(mine) is dict or type(mine) is set:
        mine.clear()
        mine.update(theirs)

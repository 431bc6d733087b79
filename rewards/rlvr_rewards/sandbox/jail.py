"""Run a program inside its jail: as a script, or as a module whose functions are called one request at a time.

Nothing here is trusted once the program is loaded: whatever it forges, it can only send other plain data than it would
have returned. Standard library only.
"""

from __future__ import annotations

import atexit
import builtins
import contextlib
import io
import json
import operator
import os
import re
import struct
import sys
import threading
import types
from collections import deque
from collections.abc import Callable
from typing import Any

from .codec import MAX_BYTES, Unplain, dumps, loads, plain

__all__ = ["Wire", "open_streams", "run_functions", "run_script"]

ARITHMETIC = ("add", "sub", "mul", "truediv", "floordiv", "mod", "pow", "matmul", "and_", "or_", "xor")
ORDER = ("lt", "le", "gt", "ge")
_LENGTH = struct.Struct("!I")
_TEXT = 300  # characters of an exception's message that cross


class Wire:
    """Send and receive messages of bounded length over a socket's file descriptor."""

    def __init__(self, fd: int) -> None:
        self._fd = fd

    def send(self, payload: bytes) -> None:
        """Send one message."""
        view = memoryview(_LENGTH.pack(len(payload)) + payload)
        while view:
            view = view[os.write(self._fd, view) :]

    def receive(self) -> bytes:
        """Receive one message. Errors: EOFError where the other side is gone."""
        (length,) = _LENGTH.unpack(self._exactly(_LENGTH.size))
        return self._exactly(length)

    def _exactly(self, size: int) -> bytes:
        data = bytearray()
        while len(data) < size:
            chunk = os.read(self._fd, min(size - len(data), 2**20))
            if not chunk:
                raise EOFError
            data += chunk
        return bytes(data)


def open_streams() -> None:
    """Make the standard streams anew on file descriptors 0, 1 and 2, as an interpreter does at its start."""
    sys.stdin = sys.__stdin__ = _text(0, "r")  # type: ignore[misc]
    sys.stdout = sys.__stdout__ = _text(1, "w")  # type: ignore[misc]
    sys.stderr = sys.__stderr__ = _text(2, "w")  # type: ignore[misc]


def run_script(source: str) -> int:
    """Run a program as `__main__` and give the status that the interpreter would exit with."""
    main = _module("__main__")
    status = 0
    try:
        exec(compile(source, "main.py", "exec", dont_inherit=True), main.__dict__)  # noqa: S102 - in the jail
    except SystemExit as leaving:
        code = leaving.code
        status = 0 if code is None else code & 0xFF if isinstance(code, int) else 1
    except BaseException as error:  # noqa: BLE001 - the program's own; it ends here
        sys.excepthook(type(error), error, error.__traceback__)
        status = 1
    threading._shutdown()  # type: ignore[attr-defined] # waits for its threads, as the interpreter does
    atexit._run_exitfuncs()
    try:
        sys.stdout.flush()
    except (OSError, ValueError):
        status = status or 120
    return status


def run_functions(wire: Wire, source: str) -> None:
    """Load a program as a module, report that, and answer requests until the other side is gone."""
    module = _module("solution")
    try:
        exec(compile(source, "solution.py", "exec", dont_inherit=True), module.__dict__)  # noqa: S102 - in the jail
    except BaseException as error:  # noqa: BLE001 - the program's own; it is reported
        wire.send(dumps(_raised(error)))
        return
    wire.send(dumps({"ok": True}))
    service = _Service(module)
    while True:
        try:
            request = wire.receive()
        except EOFError:
            return
        wire.send(service.answer(request))


class _Service:
    """Answer requests about a module: calls, names, and operations on objects that stay here."""

    def __init__(self, module: types.ModuleType) -> None:
        self._module = module
        self._objects: list[Any] = []

    def answer(self, request: bytes) -> bytes:
        """Do one request: {"n": number, "op": ..., "target": name or handle, "args": [...], "kwargs": {...}}."""
        number: Any = None
        try:
            fields = dict(loads(request, handle=self._object, bounded=False))
            number = fields["n"]
            keep = fields.get("handles", False)
            value = self._do(fields, keep)
            if value is _ENDED:
                return dumps({"n": number, "ended": True})
            written = plain(value, other=self._keep if keep else None, as_list=not keep)
            reply = dumps({"n": number, "value": written, **(self._changed(fields, request) if keep else {})})
            if len(reply) > MAX_BYTES:
                raise Unplain(f"a value of {len(reply)} bytes")
            return reply
        except Unplain as error:
            return dumps({"n": number, "unplain": str(error)[:_TEXT]})
        except BaseException as error:  # noqa: BLE001 - the program's own; it is reported
            return dumps({"n": number, **_raised(error)})

    def _do(self, fields: dict[str, Any], keep: bool) -> Any:
        operation, target = fields["op"], fields["target"]
        found = self._named(target, loose=not keep) if isinstance(target, str) else target
        if operation == "get":
            return found
        args, kwargs = fields.get("args", []), fields.get("kwargs", {})
        if operation == "next":
            return next(found, _ENDED)
        value = _OPERATIONS[operation](found, *args, **kwargs)
        if keep and operation == "call" and isinstance(found, type) and found.__module__ == "solution":
            return _Kept(value)
        return value

    def _changed(self, fields: dict[str, Any], request: bytes) -> dict[str, Any]:
        """Send those arguments back that a call changed: changing them may be what it is for."""
        if fields["op"] != "call":
            return {}
        given = [*enumerate(fields["args"]), *fields["kwargs"].items()]
        if not any(isinstance(value, _CONTAINERS) for _, value in given):
            return {}
        written = dict(json.loads(request)["d"])
        before = [*written["args"], *(value for _, value in written["kwargs"]["d"])]
        changed = []
        for (place, value), old in zip(given, before, strict=True):
            if isinstance(value, _CONTAINERS):
                with contextlib.suppress(Unplain):
                    new = plain(value, other=self._keep)
                    changed += [[place, new]] if new != old else []
        return {"changed": changed} if changed else {}

    def _named(self, path: str, *, loose: bool) -> Any:
        """Find a function by its dotted name; a method of a class is bound to a new object of it."""
        parts = path.split(".")
        if loose and not hasattr(self._module, parts[0]) and hasattr(getattr(self._module, "Solution", None), parts[0]):
            parts = ["Solution", *parts]
        found: Any = self._module
        for part in parts:
            if loose and isinstance(found, type) and isinstance(found.__dict__.get(part), types.FunctionType):
                found = found()
            if found is self._module:  # what it defines, and no answer of a `__getattr__`
                if part not in vars(found):
                    raise NameError(f"name '{part}' is not defined")
                found = vars(found)[part]
            else:
                found = getattr(found, part)
        return found

    def _keep(self, value: Any) -> Any:
        value = value.value if type(value) is _Kept else value
        self._objects.append(value)
        return {"h": [len(self._objects) - 1, type(value) is re.Match]}

    def _object(self, reference: Any) -> Any:
        if isinstance(reference, str):
            return self._named(reference, loose=False)
        return self._objects[reference]


_CONTAINERS = (list, tuple, dict, set, deque, bytearray)


class _Kept:
    """Mark an object that the program's own class made: it stays here, even where it is a plain type's subclass."""

    def __init__(self, value: Any) -> None:
        self.value = value


def _swapped(operation: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
    return lambda found, other: operation(other, found)


_ENDED = object()
_OPERATIONS: dict[str, Callable[..., Any]] = {
    "call": lambda found, *args, **kwargs: found(*args, **kwargs),
    "attribute": getattr,
    "set": setattr,
    "len": len,
    "item": lambda found, key: found[key],
    "contains": lambda found, item: item in found,
    "iterate": iter,
    "iterator": lambda found: iter(found) is found,
    "isinstance": lambda found, value: isinstance(value, found),
    "set item": operator.setitem,
    "delete item": operator.delitem,
    "enter": lambda found: type(found).__enter__(found) is None,
    "exit": lambda found: bool(type(found).__exit__(found, None, None, None)),
    **{name: getattr(operator, name) for name in (*ARITHMETIC, *ORDER)},
    **{f"r{name}": _swapped(getattr(operator, name)) for name in ARITHMETIC},
}


def _raised(error: BaseException) -> dict[str, Any]:
    """Name an exception by its nearest built-in type."""
    names = [base.__name__ for base in type(error).__mro__ if getattr(builtins, base.__name__, None) is base]
    try:
        text = str(error)[:_TEXT]
    except BaseException:  # noqa: BLE001 - an exception of the program whose text raises
        text = ""
    return {"raised": names[0] if names else "Exception", "type": type(error).__name__[:_TEXT], "text": text}


def _module(name: str) -> types.ModuleType:
    module = types.ModuleType(name)
    module.__dict__["__builtins__"] = builtins
    module.__dict__["__file__"] = f"{'main' if name == '__main__' else name}.py"
    sys.modules[name] = module
    return module


def _text(fd: int, mode: str) -> io.TextIOWrapper:
    raw = open(fd, mode + "b", closefd=False)  # noqa: SIM115 - the program's for its whole life
    return io.TextIOWrapper(raw, encoding="utf-8", errors="surrogateescape", write_through=False)

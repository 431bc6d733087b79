"""Stand in, in a test script, for functions and objects that stay in the program's jail.

What the tests ask for by name is the program's to decide. A mere result is not: it answers for its content by one
reading of it, has neither truth nor hash, and its equality is never the program's word. Standard library only.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from .jail import ARITHMETIC, ORDER

__all__ = ["Handle"]

_MOST = 2**11  # elements that are read of a result to know all of them


class Handle:
    """A function or an object of the program.

    Args:
        target: a name of the program's, or the reference of an object.
        owner: the handle that gave it as an attribute: a call of a method may change its object.
    """

    def __init__(self, remote: Any, target: Any, owner: Handle | None = None) -> None:
        fields = {
            "_remote": remote,
            "_target": target,
            "_owner": owner,
            "_wanted": isinstance(target, str) and target[:1].isupper(),
            "_true": False,
            "_content": None,
            "_read": {},
        }
        for name, value in fields.items():
            object.__setattr__(self, name, value)

    @property
    def is_result(self) -> bool:
        """Tell whether the program handed it over, rather than the tests asking for it by name."""
        return not isinstance(self._target, str) and not self._wanted

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        for changed in (self, self._owner, *args, *kwargs.values()):
            if isinstance(changed, Handle):
                changed._forget()
        result = self._remote.ask("call", self._target, *args, **kwargs)
        if isinstance(result, Handle) and isinstance(self._target, str) and self._wanted:
            object.__setattr__(result, "_wanted", True)
        return result

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") and name.endswith("__") and name not in ("__name__", "__doc__"):
            raise AttributeError(name)
        if not self.is_result:
            return self._owned(self._remote.ask("attribute", self._target, name))
        if name not in self._read:  # the second answer is the first
            self._read[name] = self._owned(self._remote.ask("attribute", self._target, name))
        return self._read[name]

    def __setattr__(self, name: str, value: Any) -> None:
        self._forget()
        self._remote.ask("set", self._target, name, value)

    def __eq__(self, other: object) -> bool:
        return self is other

    def __ne__(self, other: object) -> bool:
        if self.is_result and other is not None:
            raise TypeError("a result that is an object of the program's differs from nothing that is known")
        return self is not other

    def __hash__(self) -> int:
        if self.is_result:
            raise TypeError("a result that is an object of the program's has no hash")
        return id(self)

    def __bool__(self) -> bool:
        if self.is_result and not (self._true or self._remote.objects):
            raise TypeError("a result that is an object of the program's is neither true nor false")
        return True

    def __len__(self) -> int:
        return int(self._remote.ask("len", self._target)) if self._wanted else len(self._sequence())

    def __getitem__(self, key: Any) -> Any:
        if self._wanted:
            return self._remote.ask("item", self._target, key)
        return self._sequence()[key]

    def __setitem__(self, key: Any, value: Any) -> None:
        self._change("set item", key, value)

    def __delitem__(self, key: Any) -> None:
        self._change("delete item", key)

    def __enter__(self) -> Any:
        self._change("enter")
        return self

    def __exit__(self, *error: object) -> bool:
        return self._change("exit") is True and error[0] is None

    def __contains__(self, item: Any) -> bool:
        if self._wanted:
            return self._remote.ask("contains", self._target, item) is True
        return any(item is one or item == one for one in self._elements().all())

    def __iter__(self) -> Iterator[Any]:
        return iter(_Elements(self._remote, self._target) if self._wanted else self._elements())

    def __next__(self) -> Any:
        if self._wanted:
            return self._remote.ask("next", self._target)
        if not self._elements().consumed:
            raise TypeError("an object of the program's is not an iterator")
        return next(iter(self._elements()))

    def __instancecheck__(self, value: Any) -> bool:
        return isinstance(value, Handle) and self._remote.ask("isinstance", self._target, value) is True

    def __deepcopy__(self, memo: Any) -> Handle:
        return self

    def __repr__(self) -> str:
        return "<an object of the program>"

    def _owned(self, value: Any) -> Any:
        if isinstance(value, Handle):
            object.__setattr__(value, "_owner", self)
        return value

    def _forget(self) -> None:
        """Read anew what a call or an assignment may have changed; an iterator goes on where it was."""
        self._read.clear()
        if self._content is not None and not self._content.consumed:
            object.__setattr__(self, "_content", None)

    def _change(self, operation: str, *args: Any) -> Any:
        if not self._wanted:
            raise TypeError("an object of the program's that the tests did not make cannot be changed so")
        self._forget()
        return self._remote.ask(operation, self._target, *args)

    def _elements(self) -> _Elements:
        if self._content is None:
            object.__setattr__(self, "_content", _Elements(self._remote, self._target))
        content: _Elements = self._content
        return content

    def _sequence(self) -> list[Any]:
        if self._elements().consumed:
            raise TypeError("an iterator has no length and no places")
        return self._elements().all()


class _Elements:
    """What an iteration over an object gives, read once and remembered; of an iterator each element comes once."""

    def __init__(self, remote: Any, target: Any) -> None:
        self._remote = remote
        self.consumed = remote.ask("iterator", target) is True
        found = remote.ask("iterate", target)
        self._source = None if not isinstance(found, Handle) else found._target
        self._known: list[Any] = list(found) if self._source is None else []
        self._given = 0

    def __iter__(self) -> Iterator[Any]:
        if self.consumed:
            while self._more(self._given):
                self._given += 1
                yield self._known[self._given - 1]
            return
        index = 0
        while self._more(index):
            yield self._known[index]
            index += 1

    def all(self) -> list[Any]:
        """Read to the end. Errors: TypeError where that is too far."""
        while self._more(len(self._known)):
            if len(self._known) > _MOST:
                raise TypeError(f"a result of more than {_MOST} elements that is no plain data")
        start, self._given = self._given if self.consumed else 0, len(self._known)
        return self._known[start:]

    def _more(self, index: int) -> bool:
        """Read until there is an element at this place; false where there is none."""
        while len(self._known) <= index and self._source is not None:
            try:
                self._known.append(self._remote.ask("next", self._source))
            except StopIteration:
                self._source = None
        return len(self._known) > index


def _binary(name: str, *, swapped: bool) -> Callable[[Any, Any], Any]:
    def operate(self: Handle, other: Any) -> Any:
        if not self._wanted:
            return NotImplemented
        both = isinstance(other, Handle) and other._wanted
        result = self._remote.ask(("r" if swapped else "") + name, self._target, other)
        # Of an object and plain data the program's word makes an object only: a number would be a forged result.
        return result if both or isinstance(result, Handle) else NotImplemented

    return operate


for _name in ARITHMETIC:
    _bare = _name.rstrip("_")
    setattr(Handle, f"__{_bare}__", _binary(_name, swapped=False))
    setattr(Handle, f"__r{_bare}__", _binary(_name, swapped=True))
for _name in ORDER:
    setattr(Handle, f"__{_name}__", _binary(_name, swapped=False))

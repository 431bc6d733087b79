"""Parse a small grammar of expressions: numbers, letters, + - * / ^, fractions, roots, functions, parentheses."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

__all__ = ["FUNCTIONS", "Node", "UnknownForm", "names", "tree"]

_LONGEST = 600
_DEEPEST = 30
_TOKEN = re.compile(
    r"\s*(?:(\d+(?:,\d{3})+(?!\d)|\d+)(\.\d+)?|(\.\d+)|\\([A-Za-z]+)|([A-Za-z])|(\*\*|[-+*/^_(){}\[\]|!]))"
)
_SYMBOLS = frozenset(
    re.findall(
        r"\w+",
        "alpha beta gamma delta epsilon varepsilon zeta eta theta vartheta iota kappa lambda mu nu xi rho sigma tau "
        "upsilon phi varphi chi psi omega Gamma Delta Theta Lambda Xi Sigma Phi Psi Omega ell hbar",
    )
)
FUNCTIONS = frozenset(["sin", "cos", "tan", "ln", "exp", "sec", "csc", "cot", "sinh", "cosh", "tanh"])


class UnknownForm(Exception):
    """The text or the operation is beyond exact rules."""


@dataclass(frozen=True, slots=True)
class Node:
    """An operation on nodes: "number", "symbol", "+", "*", "/", "^", "sqrt" or a function's name."""

    kind: str
    parts: tuple[Any, ...]


def tree(text: str) -> Node:
    """Parse a tidied expression. Errors: UnknownForm."""
    if len(text) > _LONGEST:
        raise UnknownForm
    return _Parser(text).whole()


class _Parser:
    """Recursive descent with a bound on its depth. A product after a slash ("1/2x") has two readings, and none here."""

    def __init__(self, text: str) -> None:
        self._tokens = list(self._split(text))
        self._at = 0
        self._depth = 0

    @staticmethod
    def _split(text: str) -> Iterator[tuple[str, str]]:
        at, text = 0, text.strip()
        while at < len(text):
            match = _TOKEN.match(text, at)
            if match is None:
                raise UnknownForm
            integer, decimal, bare, command, letter, sign = match.groups()
            if integer or bare:
                yield "number", (integer or "").replace(",", "") + (decimal or bare or "")
            elif letter:
                yield "letter", letter
            else:
                yield ("command", command) if command else ("sign", "^" if sign == "**" else sign)
            at = match.end()

    def _peek(self) -> tuple[str, str]:
        return self._tokens[self._at] if self._at < len(self._tokens) else ("end", "")

    def _take(self, sign: str) -> bool:
        if self._peek() == ("sign", sign):
            self._at += 1
            return True
        return False

    def _need(self, sign: str) -> None:
        if not self._take(sign):
            raise UnknownForm

    def whole(self) -> Node:
        node = self._sum()
        if self._peek()[0] != "end":
            raise UnknownForm
        return node

    def _sum(self) -> Node:
        self._depth += 1
        if self._depth > _DEEPEST:
            raise UnknownForm
        terms = []
        while True:
            negative = False
            while self._peek() in (("sign", "+"), ("sign", "-")):
                negative ^= self._peek()[1] == "-"
                self._at += 1
            term = self._product()
            terms.append(Node("*", (Node("number", (Fraction(-1),)), term)) if negative else term)
            if self._peek() not in (("sign", "+"), ("sign", "-")):
                break
        self._depth -= 1
        return terms[0] if len(terms) == 1 else Node("+", tuple(terms))

    def _product(self) -> Node:
        node, divided = self._power(), False
        while True:
            if self._take("/") or self._peek() == ("command", "div"):
                self._at += self._peek() == ("command", "div")
                node, divided = Node("/", (node, self._signed())), True
            elif self._take("*") or self._peek() in (("command", "cdot"), ("command", "times")):
                self._at += self._peek()[0] == "command" and self._peek()[1] in ("cdot", "times")
                node = Node("*", (node, self._signed()))
            elif self._starts():
                if divided:
                    raise UnknownForm
                node = Node("*", (node, self._power()))
            else:
                return node

    def _starts(self) -> bool:
        kind, text = self._peek()
        return kind in ("letter", "command", "number") or (kind == "sign" and text in "({[")

    def _signed(self) -> Node:
        if self._take("-"):
            return Node("*", (Node("number", (Fraction(-1),)), self._power()))
        self._take("+")
        return self._power()

    def _power(self) -> Node:
        base = self._atom()
        if not self._take("^"):
            if self._peek() == ("sign", "!"):
                raise UnknownForm
            return base
        exponent = self._signed() if self._peek()[1] in "+-" else self._atom()
        if self._peek() == ("sign", "^"):
            raise UnknownForm
        return Node("^", (base, exponent))

    def _atom(self) -> Node:
        kind, text = self._peek()
        self._at += 1
        if kind == "number":
            return Node("number", (Fraction(text),))
        if kind == "letter":
            return self._symbol(text)
        if kind == "command":
            return self._command(text)
        closing = {"(": ")", "{": "}", "[": "]"}.get(text)
        if closing is None:
            raise UnknownForm
        node = self._sum()
        self._need(closing)
        return node

    def _symbol(self, name: str) -> Node:
        if self._take("_"):
            kind, text = self._peek()
            if kind not in ("number", "letter"):
                raise UnknownForm
            self._at += 1
            name += "_" + text
        return Node("symbol", (name,))

    def _command(self, name: str) -> Node:
        if name == "pi" or name in _SYMBOLS:
            return self._symbol(name)
        if name == "frac":
            return Node("/", (self._group(), self._group()))
        if name == "sqrt":
            if self._take("["):
                kind, degree = self._peek()
                self._at += 1
                self._need("]")
                if kind != "number" or not degree.isdigit() or not 0 < int(degree) < 100:
                    raise UnknownForm
                return Node("^", (self._group(), Node("number", (Fraction(1, int(degree)),))))
            return Node("sqrt", (self._group(),))
        if name in FUNCTIONS and self._peek() in (("sign", "("), ("sign", "{")):
            return Node(name, (self._atom(),))
        raise UnknownForm

    def _group(self) -> Node:
        self._need("{")
        node = self._sum()
        self._need("}")
        return node


def names(node: Node) -> set[str]:
    """Give the letters of an expression, constants included."""
    found: set[str] = set()
    todo = [node]
    while todo:
        one = todo.pop()
        if one.kind == "symbol":
            found.add(one.parts[0])
        todo += [part for part in one.parts if isinstance(part, Node)]
    return found

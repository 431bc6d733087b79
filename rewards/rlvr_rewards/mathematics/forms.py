"""Compare how expressions are built: whether an answer is the task's own expression, or one that is not worked out.

Two expressions have one form if they differ in the order of terms and factors, neutral elements, signs, and how
products, powers and quotients are written. Nothing is multiplied out or cancelled.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from typing import Any

from rlvr_rewards.mathematics import algebra
from rlvr_rewards.mathematics.expression import Node, UnknownForm, tree

__all__ = ["restated", "rewriting"]

_MOST = 40  # formulas of a task that are read
_LONGEST = 200  # characters of one

# ("number", 3), ("symbol", "x"), ("+", terms), ("*", ((base, exponent), ...)) or (operation, forms)
_Form = tuple[Any, ...]
_Factors = dict[tuple[_Form, bool], int]  # base, whether above the line: exponent


@dataclass(slots=True)
class _Work:
    """What is left to do in an expression: less is better."""

    products: int = 0  # sums that are multiplied
    divisors: int = 0  # that are no integers
    radicands: int = 0  # the sum of the integers under square roots


def restated(said: str, gold: str, *, posed: str) -> bool:
    """Tell whether an answer has the form of one of the task's formulas, or leaves more work than the gold.

    The latter counts where the task holds the gold in another form: then the form is what it asks for. `posed` is the
    task's text, and in further lines its formulas.
    """
    ours, theirs = _form(said), _form(gold)
    if not posed or ours is None or theirs is None or ours == theirs:
        return False
    if ours[0] not in ("number", "symbol") and ours in _posed(posed):
        return True
    return rewriting(posed, gold) and _unfinished(ours, theirs)


@lru_cache(maxsize=1024)
def rewriting(posed: str, gold: str) -> bool:
    """Tell whether a task's formulas hold the gold in another form."""
    theirs = _form(gold)
    return any(form != theirs and algebra.verdict(text, gold) for form, text in _posed(posed).items())


@lru_cache(maxsize=256)
def _posed(posed: str) -> dict[_Form, str]:
    sides = [side.strip() for line in posed.splitlines()[1 : _MOST + 1] for side in line.split("=")]
    forms = ((_form(side), side) for side in sides if 0 < len(side) <= _LONGEST)
    return {form: side for form, side in forms if form is not None}


@lru_cache(maxsize=4096)
def _form(text: str) -> _Form | None:
    try:
        return _formed(tree(text))
    except UnknownForm:
        return None


def _formed(node: Node) -> _Form:
    if node.kind in ("number", "symbol"):
        return (node.kind, node.parts[0])
    if node.kind == "+":
        terms: list[_Form] = []
        for part in node.parts:
            one = _formed(part)
            terms += one[1] if one[0] == "+" else [one]
        terms = sorted((one for one in terms if one != ("number", 0)), key=repr)
        return terms[0] if len(terms) == 1 else ("+", tuple(terms))
    factors: _Factors = {}
    if not _factor(node, 1, factors):
        return (node.kind, tuple(_formed(part) for part in node.parts))
    left = sorted(((base, power) for (base, _), power in factors.items() if power), key=repr)
    if not left:
        return ("number", Fraction(1))
    return left[0][0] if len(left) == 1 and left[0][1] == 1 else ("*", tuple(left))


def _factor(node: Node, power: int, factors: _Factors) -> bool:
    """Add the factors of a product, quotient or integer power; False where it is none of them."""
    if node.kind == "^":
        exponent = _integer(node.parts[1])
        if exponent is None:
            return False
        _add(node.parts[0], power * exponent, factors)
    elif node.kind == "*":
        for part in node.parts:
            _add(part, power, factors)
    elif node.kind == "/":
        _add(node.parts[0], power, factors)
        _add(node.parts[1], -power, factors)
    else:
        return False
    return True


def _add(node: Node, power: int, factors: _Factors) -> None:
    if _factor(node, power, factors):
        return
    form = _formed(node)
    if form == ("number", -1):
        factors[form, True] = (factors.get((form, True), 0) + power) % 2
        return
    # A sum of one term may be a product.
    for base, own in form[1] if form[0] == "*" else ((form, 1),):
        if base != ("number", 1):
            place = (base, own * power > 0)
            factors[place] = factors.get(place, 0) + own * power


def _integer(node: Node) -> int | None:
    form = _formed(node)
    negative = form[0] == "*" and (("number", -1), 1) in form[1] and len(form[1]) == 2
    if negative:
        form = next((base for base, power in form[1] if base != ("number", -1) and power == 1), form)
    if form[0] != "number" or form[1].denominator != 1:
        return None
    return -int(form[1]) if negative else int(form[1])


def _unfinished(ours: _Form, theirs: _Form) -> bool:
    """Tell whether an answer leaves work that the gold does not: products of sums, quotients, roots, factors."""
    left, wanted = _Work(), _Work()
    _count(ours, left)
    _count(theirs, wanted)
    return (
        left.products > wanted.products
        or left.divisors > wanted.divisors
        or left.radicands > wanted.radicands
        or (wanted.products > 0 and _factors(ours) < _factors(theirs))
    )


def _count(form: _Form, work: _Work) -> None:
    if form[0] == "*":
        above = sum(power for base, power in form[1] if power > 0 and base != ("number", -1))
        for base, power in form[1]:
            if base[0] == "+" and power > 0 and above > 1:
                work.products += power
            if power < 0 and base[0] != "number":
                work.divisors -= power
            for _ in range(min(abs(power), 9)):
                _count(base, work)
    elif form[0] == "sqrt":
        work.radicands += _radicand(form[1][0])
        _count(form[1][0], work)
    elif form[0] not in ("number", "symbol"):
        for part in form[1]:
            _count(part, work)


def _radicand(form: _Form) -> int:
    """Give the size of a literal number under a root, 0 for anything else."""
    factors = form[1] if form[0] == "*" else ((form, 1),)
    if any(base[0] != "number" or abs(power) > 9 for base, power in factors):
        return 0
    return sum(abs(int(base[1].numerator)) for base, power in factors for _ in range(abs(power)))


def _factors(form: _Form) -> int:
    """Count the factors of an expression that are no numbers."""
    if form[0] != "*":
        return int(form[0] != "number")
    return sum(power for base, power in form[1] if power > 0 and base[0] != "number")

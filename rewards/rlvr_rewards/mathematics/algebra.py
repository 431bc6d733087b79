"""Compare expressions without a computer algebra system: exactly in a prime field, and numerically to refute.

Rational functions, square roots of rationals, pi and i have exact images in a finite field in which all primes up to 97
and -1 are squares: the same expression has the same image, and different ones collide with a chance below 1e-30. What
the field cannot say is left to the symbolic worker, unless plain complex arithmetic shows that the two differ.
"""

from __future__ import annotations

import cmath
import hashlib
import math
from collections.abc import Callable
from fractions import Fraction
from functools import lru_cache

from rlvr_rewards.mathematics.expression import Node, UnknownForm, names, tree

__all__ = ["differ", "multiples", "real_value", "verdict"]

_SMALL_PRIMES = tuple(p for p in range(2, 100) if all(p % q for q in range(2, p)))
_SIZE = 16777217 * 4 * math.prod(_SMALL_PRIMES) + 1  # a prime, 1 mod 8 and mod each odd small prime
_FUNCTIONS: dict[str, Callable[[complex], complex]] = {
    "sin": cmath.sin, "cos": cmath.cos, "tan": cmath.tan, "ln": cmath.log, "exp": cmath.exp,
    "sec": lambda z: 1 / cmath.cos(z), "csc": lambda z: 1 / cmath.sin(z), "cot": lambda z: 1 / cmath.tan(z),
    "sinh": cmath.sinh, "cosh": cmath.cosh, "tanh": cmath.tanh,
}  # fmt: skip


@lru_cache(maxsize=1)
def _roots() -> dict[int, int]:
    """Give a square root in the field of each small prime and, under -1, of -1."""
    odd, twos = _SIZE - 1, 0
    while odd % 2 == 0:
        odd, twos = odd // 2, twos + 1
    other = next(n for n in range(2, 10**6) if pow(n, (_SIZE - 1) // 2, _SIZE) == _SIZE - 1)
    return {square: _root(square % _SIZE, odd, twos, pow(other, odd, _SIZE)) for square in (-1, *_SMALL_PRIMES)}


def _root(square: int, odd: int, twos: int, chain: int) -> int:
    """Give a square root in the field (Tonelli and Shanks)."""
    root, unit = pow(square, (odd + 1) // 2, _SIZE), pow(square, odd, _SIZE)
    while unit != 1:
        order, power = 0, unit
        while power != 1:
            power, order = power * power % _SIZE, order + 1
        factor = pow(chain, 1 << (twos - order - 1), _SIZE)
        twos, chain, root = order, factor * factor % _SIZE, root * factor % _SIZE
        unit = unit * chain % _SIZE
    return root


def _symbol_image(name: str, point: int) -> int:
    """Give a letter's place in the field at one of several points; i is a root of -1."""
    if name == "i":
        return _roots()[-1]
    digest = hashlib.blake2b(f"{name} {point}".encode(), digest_size=32).digest()
    return int.from_bytes(digest, "big") % _SIZE


def _image(node: Node, point: int) -> int:
    """Map an expression to the field. Errors: UnknownForm where it has no image."""
    if node.kind == "number":
        return _fraction_image(node.parts[0])
    if node.kind == "symbol":
        return _symbol_image(node.parts[0], point)
    if node.kind == "sqrt":
        return _sqrt_image(_number_of(node.parts[0]))
    if node.kind == "^":
        exponent = _number_of(node.parts[1])
        if exponent is None or exponent.denominator != 1 or abs(exponent) > 10**9:
            raise UnknownForm
        base = _image(node.parts[0], point)
        if not base:
            raise UnknownForm
        return pow(base, int(exponent), _SIZE)
    if node.kind not in ("+", "*", "/"):
        raise UnknownForm
    images = [_image(part, point) for part in node.parts]
    if node.kind == "+":
        return sum(images) % _SIZE
    if node.kind == "*":
        return math.prod(images) % _SIZE
    if not images[1]:
        raise UnknownForm
    return images[0] * pow(images[1], -1, _SIZE) % _SIZE


def _fraction_image(value: Fraction) -> int:
    return value.numerator * pow(value.denominator, -1, _SIZE) % _SIZE


def _sqrt_image(value: Fraction | None) -> int:
    """Map the square root of a rational whose primes are small. Errors: UnknownForm."""
    if value is None or abs(value.numerator) > 10**40 or value.denominator > 10**40:
        raise UnknownForm
    image = _roots()[-1] if value < 0 else 1
    for number, power in ((abs(value.numerator), 1), (value.denominator, -1)):
        root, number = _integer_root(number)
        image = image * pow(root, power, _SIZE) % _SIZE
        if number != 1 or not image:
            raise UnknownForm
    return image


def _integer_root(number: int) -> tuple[int, int]:
    """Split a positive integer into the image of its root and what is left of it without small primes or squares."""
    image = 1
    for prime in _SMALL_PRIMES:
        while number and number % prime == 0:
            number //= prime
            image = image * _roots()[prime] % _SIZE
    whole = math.isqrt(number)
    return (image * whole % _SIZE, 1) if whole * whole == number else (image, number)


def _number_of(node: Node) -> Fraction | None:
    """Give the value of an expression of small rationals; None where it has letters, roots or long powers."""
    if node.kind == "number":
        return node.parts[0]
    if node.kind not in ("+", "*", "/"):
        return None
    values = [_number_of(part) for part in node.parts]
    if any(v is None or abs(v.numerator) > 10**60 or v.denominator > 10**60 for v in values):
        return None
    known = [v for v in values if v is not None]
    if node.kind == "/":
        return known[0] / known[1] if known[1] else None
    return sum(known, Fraction(0)) if node.kind == "+" else math.prod(known, start=Fraction(1))


class _Numeric:
    """Evaluate in complex floating point and remember the largest number on the way, for the error's size."""

    def __init__(self, point: int) -> None:
        self._point = point
        self.largest = 0.0

    def value(self, node: Node) -> complex:
        """Give the value. Errors: UnknownForm where floating point cannot say it."""
        try:
            result = self._value(node)
        except (OverflowError, ZeroDivisionError, ValueError) as error:
            raise UnknownForm from error
        if not cmath.isfinite(result):
            raise UnknownForm
        self.largest = max(self.largest, abs(result))
        return result

    def _value(self, node: Node) -> complex:
        if node.kind == "number":
            return complex(node.parts[0])
        if node.kind == "symbol":
            return self._symbol(node.parts[0])
        parts = [self.value(part) for part in node.parts]
        if node.kind == "+":
            return sum(parts)
        if node.kind == "*":
            return math.prod(parts, start=1 + 0j)
        if node.kind == "/":
            return parts[0] / parts[1]
        if node.kind == "sqrt":
            return cmath.sqrt(parts[0])
        if node.kind == "^":
            if parts[0] == 0 or (parts[1] != round(parts[1].real) and not (parts[0].imag == 0 and parts[0].real > 0)):
                raise UnknownForm  # a root of a negative number has several values, and conventions differ
            return parts[0] ** parts[1]
        return _FUNCTIONS[node.kind](parts[0])

    def _symbol(self, name: str) -> complex:
        constant = {"pi": math.pi, "e": math.e, "i": 1j}.get(name)
        if constant is not None:
            return constant
        digest = hashlib.blake2b(f"{name} {self._point}".encode(), digest_size=7).digest()
        return complex(0.5 + int.from_bytes(digest, "big") / 2**56)


def differ(said: Node, gold: Node) -> bool:
    """Tell whether floating point shows that two expressions differ; False also where it cannot tell."""
    for point in range(2):
        numeric = _Numeric(point)
        try:
            ours, theirs = numeric.value(said), numeric.value(gold)
        except UnknownForm:
            return False
        if abs(ours - theirs) > 1e-9 * max(numeric.largest, 1e-300):
            return True
    return False


def real_value(text: str) -> float | None:
    """Give the value of a tidied real constant; None where there are letters or it is not real."""
    try:
        node = tree(text)
        value = 1j if names(node) - {"pi", "e"} else _Numeric(0).value(node)
    except UnknownForm:
        return None
    return value.real if value.imag == 0 else None


def verdict(said: str, gold: str) -> bool | None:
    """Tell whether two tidied expressions are equal; None where that takes computer algebra."""
    try:
        ours, theirs = tree(said), tree(gold)
        if differ(ours, theirs):
            return False
        return all(_image(ours, point) == _image(theirs, point) for point in range(3))
    except UnknownForm:
        return None


def multiples(said: tuple[str, str], gold: tuple[str, str]) -> bool | None:
    """Tell whether two equations, given by their sides, are constant multiples of each other; None as for `verdict`."""
    try:
        (left, right), (other, last) = map(tree, said), map(tree, gold)
        ratios = set()
        for point in range(3):
            ours = (_image(left, point) - _image(right, point)) % _SIZE
            theirs = (_image(other, point) - _image(last, point)) % _SIZE
            if not ours or not theirs:
                return None
            ratios.add(ours * pow(theirs, -1, _SIZE) % _SIZE)
    except UnknownForm:
        return None
    return len(ratios) == 1

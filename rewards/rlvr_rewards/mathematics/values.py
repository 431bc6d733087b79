"""Read literal numbers exactly: integers, decimals, ratios, mixed numbers, powers of ten, percentages, units.

A literal number is written out: "19", "19.0", "1,234", "3 1/2", "1.9 x 10^3", "50%", "2 million". Sums, products,
roots, powers other than of ten and factorials are not, so they never answer a task whose gold is a number.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction

from rlvr_rewards.mathematics.units import conversion, measure

__all__ = ["NUMBER_WORD", "UNIT_WORD", "Value", "agree", "number"]

_DIGITS = 400  # a number with more digits is no answer
_PART = r"(?:(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d*)?|\.\d+)"
_POWER = r"(?: ?(?:\\times|\\cdot|\*|x) ?10 ?\^ ?\{? ?([+-]?\d{1,3}) ?\}?|[eE]([+-]?\d{1,3})(?![\d.]))"
_LITERAL = re.compile(
    rf"(\d+ +|\d+(?=\\frac))?(?:({_PART})(?: ?/ ?({_PART}))?"
    rf"|\\frac ?\{{ ?([+-]?{_PART}) ?\}} ?\{{ ?([+-]?{_PART}) ?\}}){_POWER}?"
)
_SPACED = re.compile(r"^\d{1,3}(?: \d{3})+(?![\d/])(?! ?/)")
_TEN = re.compile(r"10 ?\^ ?\{? ?([+-]?\d{1,3}) ?\}?")
_REPEATING = re.compile(r"(\d*)\.(\d{0,20})\\overline ?\{ ?(\d{1,20}) ?\}")
_SIGN = re.compile(r"(?:\\approx )?([+-])? ?")
_BASE = re.compile(r"([\dA-Z]{1,60})_\{? ?(\d{1,2}) ?\}?")
_EUROPEAN = re.compile(r"([+-]?)(\d{1,3}(?:\.\d{3})+|\d+),(\d{1,2}|\d{4,})")
_SCALES = {"hundred": 100, "thousand": 1000, "million": 10**6, "billion": 10**9, "trillion": 10**12, "dozen": 12}

# Words after a number that change its value or deny it; any other word is a unit.
NUMBER_WORD = re.compile(
    r"\b(?:or|and|to|of|pi|tau|sqrt|half|halves|thirds?|quarters?|fourths?|factorial|squared|cubed|times|plus|minus|over|"
    r"by|divided|mod|base|sin|cos|tan|log|ln|exp|hundreds?|thousands?|millions?|billions?|trillions?|dozens?|not|no|nor|"
    r"never|wrong|incorrect|isn't|false|but|if|unless|except|less|more|fewer|greater|than|through|until|versus|vs|"
    r"least|most|above|below|under|up|max|maximum|minimum|cannot|can't|remainder|r(?= ?\d))(?![A-Za-z])",
    re.IGNORECASE,
)
UNIT_WORD = re.compile(r" ?(?:[A-Za-z][A-Za-z'.]*(?:(?:\^|\*\*) ?\{?-?\d\}?|\d)?(?: ?/ ?| |-|\\cdot )?){1,6}")


@dataclass(frozen=True, slots=True)
class Value:
    """A literal number as it was written."""

    size: Fraction  # what the digits say, a percentage not yet divided
    percent: bool = False
    unit: str = ""
    base: int = 10
    decimals: int = 0  # digits after the point
    digits: int = 0  # digits that count
    ratio: bool = False
    lowest: bool = True  # a ratio in lowest terms and no integer

    @property
    def exact(self) -> Fraction:
        """Give the number itself."""
        return self.size / 100 if self.percent else self.size


def number(text: str, *, comma: bool = False) -> Value | None:
    """Read a tidied literal number; None for anything else. `comma` reads 2,74 as a decimal."""
    text = text.strip()
    if len(text) > _DIGITS or not any(c.isdigit() for c in text):
        return None
    if based := _BASE.fullmatch(text):
        return _in_base(based[1], int(based[2]))
    if comma and (european := _EUROPEAN.fullmatch(text)):
        text = european[1] + european[2].replace(".", "") + "." + european[3]
    opening = _SIGN.match(text)
    sign = -1 if opening and opening[1] == "-" else 1
    text = text[opening.end() :] if opening else text
    if text[:1] + text[-1:] in ("()", "[]") and "," not in text:
        text = text[1:-1].strip()
    if repeating := _REPEATING.fullmatch(text):
        return Value(sign * _repeated(*repeating.groups()), decimals=20, digits=20)
    if ten := _TEN.match(text):
        return _with_rest(Value(Fraction(10) ** int(ten[1])), sign, text[ten.end() :])
    text = _SPACED.sub(lambda m: m[0].replace(" ", ""), text)
    match = _LITERAL.match(text)
    if match is None:
        return None
    value = _read(match)
    return None if value is None else _with_rest(value, sign, text[match.end() :])


def _read(match: re.Match[str]) -> Value | None:
    whole, plain, below, above, under, power, exponent = match.groups()
    top = _fraction(above if plain is None else plain)
    bottom = _fraction(under if plain is None else below) if (under or below) else Fraction(1)
    if not bottom or (whole and (not (under or below) or top < 0 or bottom < 0)):
        return None
    ratio = bool(under or below)
    size = top / bottom
    lowest = not ratio or (size.denominator == abs(bottom) and bottom.denominator == 1 and size.denominator != 1)
    shift = int(power or exponent or 0)
    decimals = 0 if ratio or plain is None or "." not in plain else len(plain) - plain.index(".") - 1
    digits = 0 if ratio or plain is None else len(plain.replace(",", "").replace(".", "").replace(" ", "").lstrip("0"))
    return Value(
        (size + int(whole or 0)) * Fraction(10) ** shift, decimals=max(decimals - shift, 0), digits=digits, ratio=ratio,
        lowest=lowest,
    )  # fmt: skip


def _fraction(digits: str) -> Fraction:
    return Fraction(digits.replace(",", "").replace(" ", "").rstrip("."))


def _with_rest(value: Value, sign: int, rest: str) -> Value | None:
    """Add what stands behind the digits: a scale, a percent sign, a unit."""
    behind, rest = rest, rest.strip()
    size = sign * value.size
    first, _, others = rest.partition(" ")
    if (scale := first.lower().rstrip("s")) in _SCALES and not value.ratio:
        size, rest = size * _SCALES[scale], others
    if re.match(r"[A-Za-z]{2}(?![A-Za-z])", behind) and measure(behind) is None:
        return None  # 2ab is a product
    percent = rest.startswith("%")
    rest = rest[1:].strip() if percent else rest
    if rest and (
        not UNIT_WORD.fullmatch(rest)
        or NUMBER_WORD.search(rest)
        or (re.fullmatch(r"[a-zA-Z](?:\^.*|\d+)?", rest) and rest[0] not in "mgshLl")
    ):
        return None
    return Value(size, percent, rest, value.base, value.decimals, value.digits, value.ratio, value.lowest)


def _in_base(digits: str, base: int) -> Value | None:
    if not 2 <= base <= 36 or any(int(d, 36) >= base for d in digits):
        return None
    return Value(Fraction(int(digits, base)), base=base, unit=digits)


def _repeated(whole: str, fixed: str, repeated: str) -> Fraction:
    shifted = Fraction(int((whole or "0") + fixed)) + Fraction(int(repeated), 10 ** len(repeated) - 1)
    return shifted / 10 ** len(fixed)


def agree(said: Value, gold: Value, *, percent_asked: bool = False) -> bool:
    """Tell whether a literal number is the gold's.

    A percentage equals its hundredth; a gold percentage is also met by the bare number, and where the task asks for a
    percentage, a bare gold by the percentage. A ratio where the gold is an integer is a division left undone.
    """
    if gold.base != 10 or said.base != 10:
        if said.base == gold.base:
            return said.size == gold.size
        # The task says which base, as it says which unit: 4210 for the gold 4210_5.
        return said.base == 10 and not said.ratio and not said.unit and gold.unit == str(said.size)
    if said.ratio and not said.lowest and gold.exact.denominator == 1:
        return False
    factor = conversion(said.unit, gold.unit)
    if factor is None:
        return False
    if said.percent != gold.percent and said.size * factor == gold.size and (gold.percent or percent_asked):
        return True
    if said.exact * factor == gold.exact:
        return True
    return near(gold.exact, said) or near(said.exact, gold)


def near(exact: Fraction, rounded: Value) -> bool:
    """Tell whether a decimal of 6 digits, 4 of them after the point, rounds what no decimal writes out."""
    if rounded.digits < 6 or rounded.decimals < 4 or rounded.percent or _terminates(exact):
        return False
    return abs(exact - rounded.size) * 2 * 10**rounded.decimals <= 1


def _terminates(value: Fraction) -> bool:
    rest = value.denominator
    for prime in (2, 5):
        while rest % prime == 0:
            rest //= prime
    return rest == 1

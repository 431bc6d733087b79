"""Read units of measurement: their dimension, as powers of base units, and their size."""

from __future__ import annotations

import re
from fractions import Fraction
from functools import lru_cache

__all__ = ["Measure", "conversion", "measure"]

Measure = tuple[tuple[tuple[str, int], ...], Fraction]  # powers of base dimensions, in alphabetical order; size

_SIZES = {
    "length": {"mm millimeter millimetre": "1/1000", "cm centimeter centimetre": "1/100", "m meter metre": "1",
               "km kilometer kilometre": "1000", "in inch inche": "0.0254", "ft foot feet": "0.3048",
               "yd yard": "0.9144", "mi mile": "1609.344"},
    "mass": {"mg milligram": "1/1000", "g gram": "1", "kg kilogram": "1000", "lb lbs pound": "453.59237",
             "oz ounce": "28.349523125"},
    "time": {"s sec second": "1", "min minute": "60", "h hr hour": "3600", "day": "86400", "week": "604800"},
    "energy": {"j joule": "1", "kj kilojoule": "1000"},
    "power": {"w watt": "1", "kw kilowatt": "1000"},
    "frequency": {"hz hertz": "1", "khz kilohertz": "1000"},
    "money": {"cent": "1/100", "dollar usd buck": "1"},
    "angle": {"degree deg": "1"},
    "angle in radians": {"radian rad": "1"},
}  # fmt: skip
_CUBIC_METRES = {"ml milliliter millilitre": "1e-6", "l liter litre": "1e-3", "gallon": "0.003785411784"}
_UNITS: dict[str, Measure] = {
    name: (((dimension, 1),), Fraction(size))
    for dimension, sizes in _SIZES.items()
    for names, size in sizes.items()
    for name in names.split()
}
_UNITS |= {name: ((("length", 3),), Fraction(size)) for names, size in _CUBIC_METRES.items() for name in names.split()}
_UNITS |= {"mph": ((("length", 1), ("time", -1)), Fraction("0.44704"))}
_WORDED = ((re.compile(r"\bper\b"), "/"), (re.compile(r"\b(square|sq|cubic)\b\.? ?([a-z]+)"), r"\2 \1"))
_POWERS = {"square": 2, "sq": 2, "cubic": 3}
_TERM = re.compile(
    r"(/?)(?: |-|\\cdot)*([a-z]+)\.?(?: (square|sq|cubic)\b|(?:\^|\*\*)? ?\{? ?(-?\d)? ?\}?)(?: |-|\\cdot)*"
)


@lru_cache(maxsize=1024)
def measure(text: str) -> Measure | None:
    """Read a unit such as "m", "square feet", "cm^2" or "km per hour"; None where a part of it is unknown."""
    text = text.strip(" .").lower()
    for pattern, by in _WORDED:
        text = pattern.sub(by, text)
    powers: dict[str, int] = {}
    size, at = Fraction(1), 0
    while at < len(text):
        term = _TERM.match(text, at)
        unit = _unit(term[2]) if term else None
        if term is None or unit is None:
            return None
        power = (_POWERS[term[3]] if term[3] else int(term[4] or 1)) * (-1 if term[1] else 1)
        for dimension, own in unit[0]:
            powers[dimension] = powers.get(dimension, 0) + own * power
        size, at = size * unit[1] ** power, term.end()
    return (tuple(sorted((name, power) for name, power in powers.items() if power)), size) if powers else None


def _unit(name: str) -> Measure | None:
    return _UNITS.get(name) or _UNITS.get(name.removesuffix("s")) or _UNITS.get(name.removesuffix("es"))


def conversion(said: str, gold: str) -> Fraction | None:
    """Give the factor between units: 1 where one is missing or unknown, None where they exclude each other."""
    ours, theirs = measure(said), measure(gold)
    if ours is None or theirs is None:
        return Fraction(1)
    return ours[1] / theirs[1] if ours[0] == theirs[0] else None

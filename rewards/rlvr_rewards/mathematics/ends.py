"""Read what an answer ends in: the last side of equations, a rounded form, a unit behind an expression."""

from __future__ import annotations

import math
import re

from rlvr_rewards.mathematics import algebra
from rlvr_rewards.mathematics.units import measure
from rlvr_rewards.mathematics.values import Value, number
from rlvr_rewards.mathematics.wording import MATH_WORDS

__all__ = ["last_side", "letters", "rounds_to", "unit_apart"]

_LETTERS_ONLY = re.compile(r"\\?[A-Za-z]+'?(?:_\{?\w+\}?)?(?: ?\([^()]*\))?")
_UNIT_WORDS = re.compile(r"[A-Za-z]{3,}\.?(?:\^\{?\d\}?)?(?:[ /-]+[A-Za-z]{3,}\.?(?:\^\{?\d\}?)?)*")


def last_side(text: str, *, decimal: bool = False) -> str:
    """Give what a chain of equations ends in, before it is rounded; a gold decimal is compared with the rounded end.

    An exact end and a rounded one that is not its rounding are two guesses: "".
    """
    exact, sign, rounded = (_end(part) for part in text.partition("\\approx"))
    if not sign or not rounded or number(exact) is not None:
        return exact
    value = algebra.real_value(unit_apart(exact)[0])
    if value is None:
        return rounded if not exact or _LETTERS_ONLY.fullmatch(exact) else exact
    if (approximate := number(rounded)) is None or not _rounded(value, approximate):
        return ""
    return rounded if decimal else exact


def _end(text: str) -> str:
    """Give the last side of equations; of "5 = x" the number."""
    parts = [part.strip() for part in re.split(r"(?<![<>!\\])=", text) if part.strip()]
    if len(parts) == 2 and re.fullmatch(r"[A-Za-z]", parts[1]) and number(parts[0]) is not None:
        return parts[0]
    return parts[-1] if parts else ""


def _rounded(exact: float, said: Value) -> bool:
    """Tell whether a decimal rounds a number to the digits that it shows."""
    size = abs(float(said.exact))
    if said.ratio or not size:
        return False
    unit = 10.0 ** (math.floor(math.log10(size)) + 1 - said.digits)
    return abs(exact - float(said.exact)) <= 0.5000001 * unit


def unit_apart(text: str, *, beside: str = "") -> tuple[str, str]:
    """Split an expression from the unit behind it: 12\\sqrt{13} feet. A letter that the gold has is no unit."""
    best, at = (text, ""), len(text)
    for _ in range(5):
        at = text.rfind(" ", 0, at)
        before, unit = text[:at].rstrip(), text[at + 1 :]
        if at <= 0 or not re.match("[A-Za-z]", unit):
            break
        if not re.search(r"[\w})]$", before):
            continue
        command = re.search(r"\\?([A-Za-z]+)$", before)
        known = measure(unit) is not None and not (len(unit) == 1 and unit in letters(beside))
        words = _UNIT_WORDS.fullmatch(unit) and not MATH_WORDS & set(re.findall("[a-z]+", unit))
        if (known or words) and not (command and command[1] in MATH_WORDS):
            best = (before, unit)
    return best


def rounds_to(said: str, gold: str) -> bool:
    """Tell whether a long decimal is a real constant rounded."""
    value = number(said)
    if value is None or value.digits < 6 or value.decimals < 4:
        return False
    exact = algebra.real_value(gold)
    if exact is None or value.digits > 15:
        return False
    return abs(exact - float(value.size)) * 10**value.decimals <= 0.5000001


def letters(text: str) -> set[str]:
    """Collect the letters of an expression that stand for numbers."""
    return set(re.findall(r"(?<![\\A-Za-z])[A-Za-z](?![A-Za-z])", text)) - {"e", "i"}

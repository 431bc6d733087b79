"""Find the last number of prose, unless words beside it make it a bound, part of a calculation or one of several."""

from __future__ import annotations

import re

from rlvr_rewards.mathematics.notation import plain

__all__ = ["GAP", "JOINED", "denied", "joins", "last_number", "series"]

_LONGEST = 4000  # characters at the end of prose that are read
_FREE = r"(?<![A-Za-z\d_.,\\])"  # not within a word, a number or a command
_TIMES_TEN = r"\s?(?:\\times|\\cdot|×|\*)\s*10\s?\^\s?\{?[-−]?\d{1,3}\}?"
_NUMBERS = (
    rf"{_FREE}[-−]?\d[\d,.]{{0,20}}{_TIMES_TEN}",  # 1.9 x 10^3
    rf"{_FREE}\d+(?:\s?:\s?\d+)+",  # 2:3, 10:30:00
    rf"{_FREE}(?:[-−]\s?)?(?:\d{{1,3}}(?:,\d{{3}})+(?!\d)|\d+)(?:\.\d+)?",  # 1,234.5
    r"(?<![\d.])[-−]?\.\d+",  # .5
    r"[-−]?\\[dt]?frac\s*(?:\{[^{}]*\}\s*\{[^{}]*\}|\d\s*\d)",
)
_NUMBER = re.compile("|".join(_NUMBERS))
_TAILS = (
    r"\s?\\?%|\s?percent\b|\s?\^\s?\{?\\circ\}?|°",
    r"\s(?:hundred|thousand|million|billion|trillion|dozen)\b",
    rf"{_TIMES_TEN}|[eE][+-]?\d{{1,3}}\b",
    r"\\frac\s*\{\d+\}\s*\{\d+\}| \d+/\d+",  # of a mixed number
)
_TAIL_OF_NUMBER = re.compile(rf"(?: ?/ ?\d+(?!\.?\d))?(?:{'|'.join(_TAILS)})?")
_OPERATOR_BEFORE = (
    r"[\d)}A-Za-z]\s?[-−–—]|[+*/^×·÷√<>≤≥≠]",
    r"\\(?:times|cdot|div|pm|le|ge|leq|geq|ne|neq|sqrt)",
    r"\b(?:sqrt|times|plus|minus|over|between|than)",
    r"\b(?:(?:any|every|no)thing\s+but|all\s+but|except)(?:\s+(?:exactly|equal\s+to|the\s+number))?",
)
_SPOILS_BEFORE = re.compile(rf"(?:{'|'.join(_OPERATOR_BEFORE)})[\s${{(]*$", re.IGNORECASE)
# Words that make the number or formula beside them a bound or a denial.
_BOUND = (
    r"\b(?:at\s+(?:least|most)|up\s+to|above|below|under|over|beyond)"
    r"|\b(?:more|less|fewer|greater|larger|smaller|other)\s+than"
)
_DENIAL = r"(?:\b(?:not|cannot|never)|n['’]t)(?:\s+(?:be|equal|equal\s+to|exactly|the\s+number|just))*"
_DENIES_BEFORE = re.compile(rf"(?:{_BOUND}|{_DENIAL})[\s${{(:]*(?:\\[(\[]\s*)?$", re.IGNORECASE)
_DIRECTION = r"(?:more|less|fewer|greater|larger|smaller|higher|lower|above|below|over|under|up|beyond)"
_BOUND_AFTER = re.compile(
    rf"(?:\s?[$)]|\\[)\]])?(?:\s[a-z]+){{0,3}}\s(?:(?:or|and)\s{_DIRECTION}|at\s(?:least|most))\b", re.IGNORECASE
)
# What follows makes the number part of a calculation or the quotient of a division with remainder.
_SPOILS_AFTER = re.compile(
    r"[!]\s*[^\s]|\s?[Rr]\s?\d|\s?rem(?:ainder)?\b|[\^²³√]|\s?[*×·÷+]|\s?\\(?:sqrt|pi|times|cdot)|\s?π|[A-Za-z]{1,2}(?![a-z])\s*[\^+*/=]|[xyzn]\b"
)
_CHANGES = re.compile(
    r"\s(?:or|factorial|squared|cubed|pi|times|plus|minus)\b|\s?(?:is|was|can|would|could)(?:n't|not|\snot|\sneither)\b"
    r"|\s?is\s(?:wrong|false|incorrect|impossible|excluded|too)\b",
    re.IGNORECASE,
)
GAP = 60  # characters between answers that make one list
JOINED = re.compile(
    r"(?:[\s$,]|\\[()])*(?:,|\b(?:and|or|to|through)\b|、|和|或)(?:[\s$,]|\\[()])*(?:(?:and|or|maybe|perhaps|possibly|also)\s+)*(?:[A-Za-z]\s*=\s*)?[\s$]*",
    re.IGNORECASE,
)


def last_number(text: str) -> tuple[str, int] | None:
    """Give the last number of prose and its end; "" where it is part of a calculation, denied, or one of several."""
    text = plain(text.replace("**", "  "))
    found = list(_NUMBER.finditer(text))
    while found and found[-1][0].startswith("\\") and not any(c.isdigit() for c in found[-1][0]):
        found.pop()
    if not found:
        return None
    last = found[-1]
    if len(found) > 1 and re.fullmatch(r" ?/ ?", text[found[-2].end() : last.start()]):
        found.pop()
        last = found[-1]
    if len(found) > 1 and re.fullmatch(r" ?", text[found[-2].end() : last.start()]) and "frac" in last[0]:
        last = found[-2]
    tail = _TAIL_OF_NUMBER.match(text, last.end())
    end = tail.end() if tail else last.end()
    number = text[last.start() : end]
    before, after = text[max(0, last.start() - 60) : last.start()], text[end : end + 40]
    spoiled = _SPOILS_BEFORE.search(before) or _SPOILS_AFTER.match(after) or _CHANGES.match(after)
    if spoiled or denied(text, last.start(), end) or _several(text, found):
        return "", end
    return number.strip(), end


def denied(text: str, start: int, end: int) -> bool:
    """Tell whether words around a number or formula make it a bound or deny it."""
    before, after = text[max(0, start - 60) : start], text[end : end + 60]
    return bool(_DENIES_BEFORE.search(before) or _BOUND_AFTER.match(after))


def _several(text: str, found: list[re.Match[str]]) -> bool:
    """Tell whether the last number closes an enumeration of different numbers."""
    items = _enumeration(text, found)
    return len({re.sub(r"\s|,", "", item) for item in items}) > 1


def joins(text: str, end: int, start: int) -> bool:
    """Tell whether what stands between two answers makes one list of them."""
    return start - end <= GAP and JOINED.fullmatch(text, end, start) is not None


def _enumeration(text: str, found: list[re.Match[str]]) -> list[str]:
    items = [found[-1][0]]
    for earlier, later in zip(found[-2::-1], found[:0:-1], strict=True):
        if not joins(text, earlier.end(), later.start()):
            break
        items.append(earlier[0])
    return items[::-1]


def series(text: str) -> str | None:
    """Give the enumeration of numbers that ends a prose text: "x = 3, x = 5, and x = 7" is 3, 5, 7."""
    text = plain(text.strip()[-_LONGEST:])
    found = list(_NUMBER.finditer(text))
    items = _enumeration(text, found) if found else []
    return ", ".join(items) if len(items) > 1 else None

"""Read numbers, quantities with units and dates from short answers, in words or digits."""

from __future__ import annotations

import re
from collections.abc import Sequence
from fractions import Fraction
from typing import NamedTuple

__all__ = [
    "FOLDS",
    "UNITS",
    "Date",
    "Quantity",
    "dates",
    "folded",
    "number_words",
    "quantities",
    "same_date",
    "same_quantity",
    "stem",
]

_ONES = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen "
    "eighteen nineteen"
)
_TENS = "twenty thirty forty fifty sixty seventy eighty ninety"
_VALUES = {word: value for value, word in enumerate(_ONES.split(" "))} | {
    word: 10 * value for value, word in enumerate(_TENS.split(" "), start=2)
}
_SCALES = {"hundred": 10**2, "thousand": 10**3, "million": 10**6, "billion": 10**9, "trillion": 10**12, "dozen": 12}
_ORDINALS = {
    "first": 1, "second": 2, "third": 3, "fifth": 5, "eighth": 8, "ninth": 9, "twelfth": 12,
} | {f"{word}th": value for word, value in _VALUES.items() if value not in (1, 2, 3, 5, 8, 9, 12) and value < 20} | {
    f"{word[:-1]}ieth": value for word, value in _VALUES.items() if value >= 20
}  # fmt: skip
_WORD = "|".join(sorted([*_VALUES, *_SCALES], key=len, reverse=True))
_SPELLED = re.compile(rf"\b(?:(?:an? )?(?:{_WORD})|a)(?:(?: and |[ -])(?:{_WORD})\b)*(?![\w-])", re.IGNORECASE)
_ORDINAL = re.compile(
    rf"(?<!\d )(?<!\bone )\b(?:({_TENS.replace(' ', '|')})[ -])?({'|'.join(_ORDINALS)})\b", re.IGNORECASE
)
_NUMBER = re.compile(
    r"(?<![\w.])(?<![\d,]\d)([-−+]?)((?:\d{1,3}(?:[, ]\d{3})+|\d+)(?:\.\d+)?|\.\d+)(?: ?/ ?(\d+)(?![\d/]))?"
    r"(?: ?(hundred|thousand|million|billion|trillion|dozen|bn|mn|k)\b)?"
    r"(?: ?(%|percent\b|per cent\b))?(?!\d|[./,-]\d)(?![^\W_]*\d)(?!(?:st|nd|rd|th|s)\b)",
    re.IGNORECASE,
)
_UNIT_WORD = re.compile(r" ?([^\W\d_]+(?:/[^\W\d_]+)?|°(?: ?[CF]\b)?|[$€£¥₹₩¢])", re.IGNORECASE)
_NO_UNIT = frozenset(
    re.findall(
        r"\w+",
        """
    a an the of in on at to for from by with into is was are were be been being has have had do does did it its this
    that these those he she they i we you there here as also so then and or but not if per each every out who which
    where when while since because than more less about around after before during until over under all total won
""",
    )
)
_SHARES = frozenset(("percent", "percentage", "share", "proportion", "fraction", "rate"))
_TEMPERATURES = ("celsius", "fahrenheit", "degree")
_SHORT_SCALES = {"bn": 10**9, "mn": 10**6, "k": 1000}
_MEASURES = """
    length: mm millimeter millimetre=1/1000 cm centimeter centimetre=1/100 m meter metre=1 km kilometer kilometre=1000
    length: nm nanometer nanometre=1/1000000000 micrometer micrometre micron=1/1000000
    length: inch in=127/5000 foot feet ft=381/1250 yard yd=1143/1250 mile mi=201168/125
    mass: mg milligram=1/1000000 g gram=1/1000 kg kilogram=1 ton tonne=1000 pound lb lbs=45359237/100000000
    time: ns nanosecond=1/1000000000 microsecond=1/1000000 ms millisecond=1/1000
    time: second sec s=1 minute min=60 hour hr h=3600 day=86400 week=604800
    years: month=1/12 year yr=1 decade=10 century centurie=100
    dollar: $ dollar usd buck=1 ¢ cent=1/100
    euro: € euro eur=1
    sterling: £ gbp sterling=1 penny pence=1/100
    yen: ¥ yen jpy=1
    yuan: yuan rmb cny renminbi=1
    rupee: ₹ rupee inr=1
    won: ₩ krw=1
    celsius: °c celsius centigrade=1
    fahrenheit: °f fahrenheit=1
    degree: ° degree=1
    volume: ml milliliter millilitre=1/1000 l liter litre=1
"""


def _units() -> dict[str, tuple[str, Fraction]]:
    """Give of each unit its dimension, and what one of it is in that dimension's base unit."""
    rows = [line.split(":") for line in _MEASURES.strip().splitlines()]
    groups = [(row[0].strip(), *group) for row in rows for group in re.findall(r"([^=\d]+)=(\S+)", row[1])]
    return {name: (dimension, Fraction(size)) for dimension, names, size in groups for name in names.split()}


UNITS = _units()
_MONEY = frozenset(("dollar", "euro", "sterling", "yen", "yuan", "rupee", "won"))
FOLDS = str.maketrans("ıİſ\u212a", "iisk")
_YEARLY = "january february march april may june july august september october november december"
_MONTHS = _YEARLY.split()
_MONTH = "|".join(f"{month}|{month[:3]}|{month[:4]}" for month in _MONTHS)
_DAY = r"(?:the )?(\d{1,2})(?:st|nd|rd|th)?"
_ERA = r"(?:ad|bce?|ce|before christ|before the common era)\b"
_YEAR = rf"(\d{{1,4}} ?{_ERA}|\d{{3,4}})"
_DATES = (
    ("dmy", re.compile(rf"\b{_DAY}(?: of)? ({_MONTH})\b\.? ?,? ?(?:(?:of |in )?{_YEAR})?(?!\d)", re.IGNORECASE)),
    ("mdy", re.compile(rf"\b({_MONTH})\b\.? {_DAY}\b(?! ?\d{{3}}) ?,? ?(?:(?:of |in )?{_YEAR})?(?!\d)", re.IGNORECASE)),
    ("my", re.compile(rf"\b({_MONTH})\b\.? ?,? (?:of |in )?{_YEAR}(?!\d)", re.IGNORECASE)),
    ("iso", re.compile(r"\b(\d{4})[-/.](\d{1,2})[-/.](\d{1,2})\b")),
    ("slash", re.compile(r"\b(\d{1,2})[/.](\d{1,2})[/.](\d{4})\b")),
    (
        "y",
        re.compile(
            rf"(?<![\w.,/$€£-])(\d{{1,4}} ?{_ERA}|(?:1\d|20|21)\d\d)"
            rf"(?![\w/-]|[.,]\d| ?%| ?(?:{'|'.join(filter(str.isalpha, UNITS))})s?\b)",
            re.IGNORECASE,
        ),
    ),
)


class Quantity(NamedTuple):
    """A number with the words behind it: a unit that we know, or else what may be one, or what is counted."""

    value: Fraction
    unit: str | None
    percent: bool
    noun: frozenset[str]
    start: int
    end: int


class Date(NamedTuple):
    """A date as far as it is told. `either` says that day and month could be read the other way round."""

    year: str | None
    month: int | None
    day: int | None
    either: bool
    start: int
    end: int


def folded(text: str) -> str:
    """Write text in lower case, the letters that match i, s and k regardless of case as these."""
    return text.translate(FOLDS).lower()


def number_words(text: str) -> str:
    """Write numbers in digits: "nineteen" as 19, "two hundred and five" as 205, "twenty-first" as 21st."""
    text = _ORDINAL.sub(_ordinal, text)
    return _SPELLED.sub(_spelled, text)


def stem(word: str) -> str:
    """Drop the s of a plural."""
    plural = len(word) > 3 and word.endswith("s") and not word.endswith("ss") and word.isalpha()
    return word[:-1] if plural else word


def quantities(text: str) -> list[Quantity]:
    """List the numbers of a text in digits, in order."""
    found = []
    for match in _NUMBER.finditer(text):
        sign, digits, below, scale, percent = match.groups()
        value = Fraction(digits.replace(",", "").replace(" ", ""))
        if below:
            if not int(below):
                continue
            value /= int(below)
        scale = folded(scale or "")
        value *= _SCALES.get(scale, _SHORT_SCALES.get(scale, 1))
        money = re.search(r"[$€£¥₹₩] ?$", text[max(0, match.start() - 2) : match.start()])
        unit, noun, end = (money[0].strip(), frozenset(), match.end()) if money else _unit(text, match.end())
        start = match.start() - len(money[0]) if money else match.start()
        found.append(Quantity(-value if sign in ("-", "−") else value, unit, bool(percent), noun, start, end))
    return found


def _unit(text: str, at: int) -> tuple[str | None, frozenset[str], int]:
    """Read the unit behind a number, or up to three words that may be one, and where the unit ends."""
    said: list[str] = []
    end = at
    while len(said) < 3 and (match := _UNIT_WORD.match(text, end)):
        word = folded(match[1]).replace(" ", "")
        inches = word == "in" and not re.search(r"\w", text[match.end() :])
        if word in _NO_UNIT and not inches:
            break
        word = word if word in UNITS else stem(word) if stem(word) in UNITS else word.rstrip("s")
        end = match.end()
        said.append(word)
        known = word in UNITS and (len(said) == 1 or UNITS[word][0] in (*_MONEY, *_TEMPERATURES))
        if known and word not in ("degree", "°"):
            return word, frozenset(), end
    if said and said[0] in ("degree", "°"):
        return said[0], frozenset(), at
    return None, frozenset(said), at


def same_quantity(said: Quantity, meant: Quantity, *, tolerance: float, echoed: frozenset[str] = frozenset()) -> bool:
    """Compare two quantities in units of one dimension.

    A unit that one of them leaves out is forgiven, and so is a word of the question (`echoed`) in its place. A percent
    sign in the answer only needs a question about shares.
    """
    one, other = said.value, meant.value
    nouns = [{stem(word) for word in quantity.noun} - echoed for quantity in (said, meant)]
    if said.percent != meant.percent:
        bare = meant if said.percent else said
        if bare.unit or nouns[said.percent] or (said.percent and not echoed & _SHARES):
            return False
    elif said.unit and meant.unit:
        (dimension, size), (wanted, base) = UNITS[said.unit], UNITS[meant.unit]
        if dimension == wanted:
            one, other = one * size, other * base
        elif not _akin(said.unit, dimension, meant.unit, wanted):
            return False
    elif said.unit or meant.unit:
        if any(nouns):
            return False
    elif all(nouns) and not (nouns[0] <= nouns[1] or nouns[1] <= nouns[0]):
        return False
    return abs(one - other) <= abs(other) * Fraction(tolerance)


def _akin(unit: str, dimension: str, other: str, wanted: str) -> bool:
    """Tell whether two units may be one: degrees of either scale, pounds of money."""
    degrees = "degree" in (dimension, wanted) and dimension in _TEMPERATURES and wanted in _TEMPERATURES
    return degrees or {unit, other} in ({"£", "pound"}, {"gbp", "pound"}, {"sterling", "pound"})


def dates(text: str) -> list[Date]:
    """List the dates of a text in the order of their places; a bare number of four digits is a year."""
    found: list[Date] = []
    for order, pattern in _DATES:
        for match in pattern.finditer(text):
            date = _date(order, match)
            if date and not any(date.start < other.end and other.start < date.end for other in found):
                found.append(date)
    return sorted(found, key=lambda date: date.start)


def same_date(said: Date, meant: Date, *, coarse: bool) -> bool:
    """Compare the parts that both tell. The answer may leave out a part of the gold only where `coarse` says so."""
    pairs = [(said.year, meant.year), (said.month, meant.month), (said.day, meant.day)]
    swapped = [(said.year, meant.year), (said.day, meant.month), (said.month, meant.day)]
    readings = [pairs, swapped] if said.either or meant.either else [pairs]
    return any(_agree(reading, coarse=coarse) for reading in readings)


def _agree(pairs: Sequence[tuple[object, object]], *, coarse: bool) -> bool:
    if any(said is not None and meant is not None and said != meant for said, meant in pairs):
        return False
    if not any(said is not None and said == meant for said, meant in pairs):
        return False
    left_out = [said is None and meant is not None for said, meant in pairs]
    return not left_out[0] and (coarse or not any(left_out))


def _date(order: str, match: re.Match[str]) -> Date | None:
    groups = match.groups()
    year: str | None
    if order == "iso":
        year, month, day, either = groups[0], int(groups[1]), int(groups[2]), False
    elif order == "slash":
        year, month, day = groups[2], int(groups[0]), int(groups[1])
        either = month <= 12 and day <= 12
        if month > 12:
            month, day = day, month
    elif order == "y":
        year, month, day, either = groups[0], 0, 0, False
    else:
        names = {"d": None, "m": None, "y": None} | dict(zip(order, groups, strict=True))
        year = names["y"]
        month = next(i for i, name in enumerate(_MONTHS, 1) if name.startswith(folded(str(names["m"]))[:3]))
        day, either = int(names["d"] or 0), False
    if month > 12 or day > 31:
        return None
    if year:
        year = re.sub(r" ?(?:ad|ce)$", "", re.sub(r" ?(?:bce|before .*)$", "bc", folded(year)).replace(" ", ""))
    return Date(year, month or None, day or None, either, match.start(), match.end())


def _ordinal(match: re.Match[str]) -> str:
    value = (_VALUES[folded(match[1])] if match[1] else 0) + _ORDINALS[folded(match[2])]
    last = value % 10 if value % 100 not in (11, 12, 13) else 0
    return f"{value}{ {1: 'st', 2: 'nd', 3: 'rd'}.get(last, 'th') }"


def _spelled(match: re.Match[str]) -> str:
    words = [word for word in re.split(r"[ -]", folded(match[0])) if word not in ("and", "a", "an")]
    if not words:
        return match[0]
    total, current = 0, 0
    if not any(word in _VALUES for word in words) and not re.match(r"an? ", folded(match[0])):
        return match[0]  # "5 million" is read with its digits
    for word in words:
        if word in _VALUES:
            pair = 10 <= current < 100 and _VALUES[word] >= 10  # "nineteen eighty" is a year
            current = current * (100 if pair else 1) + _VALUES[word]
        elif word in ("hundred", "dozen"):
            current = max(current, 1) * _SCALES[word]
        else:
            total, current = total + max(current, 1) * _SCALES[word], 0
    return str(total + current)

"""Compare answers that are words: names, choices of a multiple choice, yes and no, times of day."""

from __future__ import annotations

import re

from rlvr_rewards.mathematics.values import number

__all__ = ["MATH_WORDS", "choice", "chosen", "is_name", "is_words", "same_words"]

MATH_WORDS = frozenset(
    re.findall(
        r"\w+",
        "sin cos tan cot sec csc log ln exp sqrt arcsin arccos arctan sinh cosh tanh mod gcd lcm max min det",
    )
)
_CHOICE = re.compile(
    r"(?:(?:option|choice|answer)\s+)?(?:\(\s*([A-Z])\s*\)|([A-Z])(?=[).:]|\s|$)[).:]?)\s*(.*)", re.IGNORECASE
)
# A further choice: (B), "B." or "B)", or a letter that stands alone before or after the rest.
_ANOTHER = re.compile(
    r"\(\s*([A-Za-z])\s*\)|(?<![A-Za-z\\])([A-Z])[).:](?=\s|$)"
    r"|^\W*(?:or |and )?([B-HJ-Z](?![\w'^=])|[A-Z]\W*$)|(?<![\w\\])([B-Z])\W*$"
)
_COPULA = re.compile(r"^.*\b(?:is|are|was|were|be|equals|called|on|at|:)\s+(?:an?\s+|the\s+)?", re.IGNORECASE)
_NONE = "no solution"
_SYNONYMS = {
    "no solutions": _NONE, "no real solution": _NONE, "no real solutions": _NONE, "none": _NONE, "emptyset": _NONE,
    "there is no solution": _NONE, "there are no solutions": _NONE, "empty set": _NONE, "no real roots": _NONE,
    "does not exist": "undefined", "dne": "undefined", "all reals": "all real numbers", "mathbb r": "all real numbers",
    "true": "yes", "false": "no", "infinitely many solutions": "infinitely many", "infinity": "infinitely many",
}  # fmt: skip


def is_name(gold: str) -> bool:
    """Tell whether a gold is words or a choice."""
    return number(gold) is None and (choice(gold) is not None or is_words(gold))


def choice(gold: str) -> tuple[str, str] | None:
    """Read a gold that is a letter of a multiple choice, with the text of the choice if it is there."""
    match = _CHOICE.fullmatch(gold)
    if match is None or not (match[1] or match[2]).isupper():
        return None
    letter, rest = match[1] or match[2], match[3].strip()
    if rest and not match[1] and not is_words(rest):
        return None
    return letter, rest


def chosen(said: str, letter: str, rest: str) -> bool:
    """Tell whether an answer names the gold's letter and no other, or gives the text of the choice."""
    match = _CHOICE.fullmatch(said)
    if match is not None and (match[1] or (match[2].isupper() and (not match[3] or not match[3][0].islower()))):
        first = (match[1] or match[2]).upper()
        return first == letter and (_words(match[3]) == _words(rest) or _letters(match[3]) <= {first})
    reasoned = re.match(r"\(?([A-Z])\)?,? (?:because|since|as)\b", said)
    if reasoned:
        return reasoned[1] == letter
    return bool(rest) and _words(said) == _words(rest)


def _letters(text: str) -> set[str]:
    """Collect the letters of choices that follow the first one."""
    return {next(filter(None, match)).upper() for match in _ANOTHER.findall(text)}


def is_words(text: str) -> bool:
    """Tell whether a text is words, as against a formula of letters."""
    words = re.findall(r"[A-Za-z]+", text)
    if not re.fullmatch(r"\\?[A-Za-z][A-Za-z '.:\d-]*", text) or not any(len(w) >= 3 for w in words):
        return bool(re.fullmatch(r"\d{1,2}(?::\d\d){1,2} ?[ap]\.? ?m\.?.*", text, re.IGNORECASE)) or text.lower() in (
            "no",
            "yes",
        )
    return not MATH_WORDS & set(words) and (not text.startswith("\\") or text == "\\emptyset")


def _words(text: str) -> str:
    plain = " ".join(re.sub(r"[^\w: ]|_", " " if "." not in text else "", text.casefold()).split())
    plain = re.sub(r"^(?:an?|the) ", "", plain)
    return _SYNONYMS.get(plain, plain)


def same_words(said: str, gold: str) -> bool:
    """Tell whether words are the gold's, whatever case, article or sentence they stand in."""
    return _words(gold) in (_words(said), _words(_COPULA.sub("", said)))

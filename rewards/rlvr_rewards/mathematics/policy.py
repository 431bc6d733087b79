"""Tell answers from work left undone: operators that the gold lacks, great length, the task's own calculation."""

from __future__ import annotations

import re
from functools import lru_cache

from rlvr_rewards.mathematics.forms import restated

__all__ = ["posed_in", "restates"]

_FAMILIES = {
    name: family
    for family, members in {
        "integral": "int iint iiint oint", "sum": "sum", "product": "prod", "limit": "lim limsup liminf",
        "choice": "binom choose", "logarithm": "log ln lg", "trigonometry": "sin cos tan cot sec csc",
        "angle": "arcsin arccos arctan arccot sin^{-1} cos^{-1} tan^{-1}", "hyperbolic": "sinh cosh tanh coth",
        "rounding": "lfloor lceil floor ceil", "extreme": "max min sup inf", "divisor": "gcd lcm",
        "remainder": "bmod mod pmod", "determinant": "det", "derivative": "partial nabla", "dots": "dots ldots cdots",
        "factorial": "!", "absolute": "|", "repetition": "overline", "part": "Re Im arg", "probability": "Pr",
    }.items()
    for name in members.split()
}  # fmt: skip
_FILLING = re.compile(r"[ {}]")
_OPERATORS = re.compile(r"\\?([A-Za-z]+)|([!|])|\.\.\.")
_COUNTED = re.compile(r"\\(?:frac|sqrt|cdot|times|div)|[-+*/^]")
_FORMS = {
    "derivative": re.compile(r"\\frac ?\{ ?d\b"),
    "tower": re.compile(r"\^ ?(?:\{[^{}]*|\w)\^"),
    "long power": re.compile(r"(?:\^|\*\*) ?\{? ?[-+]?\d{4,}"),
    "double power": re.compile(r"\*\*[^*]*\*\*"),
}


def restates(said: str, gold: str, *, posed: str) -> bool:
    """Tell whether an answer leaves work undone: operators that the gold lacks, great length, the task's own words."""
    if _operators(said) - _operators(gold):
        return True
    if len(_COUNTED.findall(said)) > 3 * len(_COUNTED.findall(gold)) + 12:
        return True
    return posed_in(said, posed) or restated(said, gold, posed=posed)


@lru_cache(maxsize=1024)
def _without_filling(posed: str) -> str:
    return _FILLING.sub("", posed)


def posed_in(said: str, posed: str) -> bool:
    """Tell whether the task's text holds a calculation as it was answered, not within a longer one."""
    ours = said.replace(" ", "")
    if not posed or not _COUNTED.search(ours.lstrip("+-")):
        return False
    if _FILLING.sub("", ours) not in _without_filling(posed):
        return False
    spelled = " ?".join(r"[{}]?" if c in "{}" else re.escape(c) for c in ours)
    return re.search(rf"(?<![-+*/^.)}}\w\\])(?<![-+*/^] ){spelled}(?![\w^(])(?! ?[-+*/^])", posed) is not None


def _operators(text: str) -> set[str]:
    found = {name for name, pattern in _FORMS.items() if pattern.search(text)}
    for match in _OPERATORS.finditer(text):
        name = match[1] or match[2] or "dots"
        if name in _FAMILIES:
            found.add(_FAMILIES[name])
    return found

"""Decide whether an answer is the gold: exactly where a rule can, else by a function that knows computer algebra.

The policy on what counts as an answer lives here. A gold that is a number wants a literal number. A gold that is an
expression takes an equal one, but not an unevaluated one: no operator that the gold does without, not much longer than
the gold, and not a different form that stands in the task itself. Several answers are right only where the gold is
several.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from rlvr_rewards.mathematics import algebra
from rlvr_rewards.mathematics.ends import last_side, letters, rounds_to, unit_apart
from rlvr_rewards.mathematics.forms import restated, rewriting
from rlvr_rewards.mathematics.notation import key, tidy
from rlvr_rewards.mathematics.policy import posed_in, restates
from rlvr_rewards.mathematics.shapes import Shape, atoms, region, shape, sides
from rlvr_rewards.mathematics.units import conversion
from rlvr_rewards.mathematics.values import Value, agree, number
from rlvr_rewards.mathematics.wording import MATH_WORDS, choice, chosen, is_words, same_words

__all__ = ["Equal", "GoldError", "check", "same"]

Equal = Callable[[str, str], "bool | None"]  # (said, gold), both tidied; None where it cannot tell

_RELATION = re.compile(
    r"(?<![<>!])=|\\(?:le|ge|ne|in|notin|approx|equiv|sim|to|rightarrow|Rightarrow|mid)(?![A-Za-z])|[<>]"
)
_INEQUALITY = re.compile(r"\\(?:le|ge|ne|notin)(?![A-Za-z])|[<>]")
_SIGN = r"(?:=|<|>|\\(?:le|ge|ne)(?![A-Za-z]))"
_SOLVED = re.compile(rf"^[A-Za-z](?:_?\d)? ?{_SIGN}|{_SIGN} ?[A-Za-z](?:_?\d)? ?(?:{_SIGN}|$)")
_WORD = re.compile(r"(?<![\\A-Za-z])[A-Za-z]{3,}(?![A-Za-z])")
_LABEL = re.compile(r"(?:\( ?[A-J] ?\)|[A-J][.)](?= ))\s*(?=\S)")
_ASIDE = re.compile(r"(?<=\d) *\((?![^()]*\b(?:not|or|no|wrong|mod)\b)[A-Za-z][A-Za-z ,.-]{3,}\)$")  # 19 (nineteen)


_DEGREES = re.compile(r"\\circ(?![A-Za-z])|°|\bdeg(?:rees?)?\b")  # tidying drops the sign
_RADIANS = re.compile(r"(?<![A-Za-z\\])rad(?:ians?|s)?$")


class GoldError(Exception):
    """The gold is no mathematics that can be parsed."""


@dataclass(frozen=True, slots=True)
class _Case:
    """What stays the same while the parts of one answer are compared."""

    equal: Equal
    percent_asked: bool
    posed: str


def same(said: str, gold: str, *, equal: Equal, percent_asked: bool = False, posed: str = "") -> bool | None:
    """Tell whether an answer is the gold; None where `equal` could not tell.

    `posed` is the task's tidied text, and in further lines its formulas; `percent_asked` says that it asks
    for a percentage.
    Errors: GoldError from `equal`.
    """
    case = _Case(equal, percent_asked, posed)
    ours, theirs = tidy(said), tidy(gold)
    if not ours or not theirs or (_DEGREES.search(gold) and _RADIANS.search(ours)):
        return False
    if key(ours) == key(theirs):
        return True
    meant = shape(theirs)
    result = _compared(shape(ours), meant, case)
    # "(C) 12": the letter says which choice 12 is. Where the gold names a choice, it is the answer itself.
    if result is False and (label := _LABEL.match(ours)) and not _chooses(theirs, meant):
        result = _compared(shape(ours[label.end() :]), meant, case)
    return result


def _chooses(gold: str, meant: Shape) -> bool:
    return choice(gold) is not None or any(choice(text) is not None for text in atoms(meant))


def check(gold: str, *, evaluate: Callable[[str], None]) -> None:
    """Evaluate all parts of a gold that may need computer algebra. Errors: what `evaluate` raises for one."""
    for text in atoms(shape(tidy(gold))):
        if not _exact_kind(text):
            evaluate(text)


def _exact_kind(gold: str) -> bool:
    """Tell whether a gold is a number, a choice or words, which never need computer algebra."""
    return number(gold) is not None or choice(gold) is not None or is_words(gold)


def _compared(said: Shape, gold: Shape, case: _Case) -> bool | None:
    if said.name and gold.name and said.name != gold.name and gold.kind == said.kind == "atom":
        return _atom(said.text, gold.text, case) if "=" in gold.text and letters(sides(gold.text)[1]) else False
    if gold.kind == "atom" and said.kind == "atom" and not _to_region(gold, said):
        return _atom(said.text, gold.text, case)
    if gold.kind in ("list", "set"):
        return _compared_lists(said, gold, case)
    if said.kind == "list" and gold.kind in ("atom", "matrix", "union", "tuple"):
        distinct = _distinct(said.items, case)
        if len(distinct) == 1:
            return _compared(distinct[0], gold, case)
        if gold.kind == "atom" and (value := number(said.text, comma=True)) and "," in said.text:
            wanted = number(sides(gold.text)[1])
            return wanted is not None and wanted.exact.denominator != 1 and agree(value, wanted)
    if gold.kind == "matrix" or said.kind == "matrix":
        return _compared_matrices(said, gold, case)
    said, gold = region(said), region(gold)
    if gold.kind == "union" and said.kind == "union":
        return _matched(said.items, gold.items, case)
    if gold.kind == "tuple" and said.kind in ("tuple", "list"):
        if said.kind == "tuple" and said.ends != gold.ends and (len(gold.items) == 2 or "|" in said.ends):
            return False
        return _in_order(said.items, gold.items, case) if said.ends != "any" else False
    if (gold.kind == "tuple" and said.kind == "set") or gold.kind == "union":
        return False if said.kind != "atom" else _undecided_relation(said, gold, case)
    if gold.kind == "atom" and said.kind in ("tuple", "union") and _INEQUALITY.search(gold.text):
        return case.equal(said.text, gold.text)
    return False


def _to_region(gold: Shape, said: Shape) -> bool:
    """Tell whether either side of two atoms is an inequality or the real line."""
    return region(gold) is not gold and region(said) is not said and key(said.text) != key(gold.text)


def _undecided_relation(said: Shape, gold: Shape, case: _Case) -> bool | None:
    return case.equal(said.text, gold.text) if _INEQUALITY.search(said.text) else False


def _compared_lists(said: Shape, gold: Shape, case: _Case) -> bool | None:
    items = gold.items
    if said.kind in ("list", "set"):
        given = said.items
    elif said.kind in ("atom", "tuple", "matrix", "union") and len(items) == 1:
        given = (said,)
    elif said.kind == "tuple" and _assigned(items):
        given = said.items
    else:
        whole = region(gold)
        return _compared(said, whole, case) if whole.kind == "union" else False
    if not given and not items:
        return True
    if _assigned(items) and not all(one.name for one in given):
        return _in_order(given, items, case)
    result = _matched(given, items, case)
    if result is not False or len(given) <= len(items):
        return result
    return _matched(_distinct(given, case), items, case)


def _assigned(items: Sequence[Shape]) -> bool:
    """Tell whether each item has a name of its own: p = 5, q = 2."""
    named = [item.name for item in items]
    return len(named) > 1 and all(named) and len(set(named)) == len(named)


def _compared_matrices(said: Shape, gold: Shape, case: _Case) -> bool | None:
    if said.kind == gold.kind == "matrix":
        if said.ends != gold.ends or [len(r.items) for r in said.items] != [len(r.items) for r in gold.items]:
            return False
        cells = [[cell for row in one.items for cell in row.items] for one in (said, gold)]
        return _in_order(cells[0], cells[1], case)
    matrix, other = (gold, said) if gold.kind == "matrix" else (said, gold)
    if other.kind != "tuple" or matrix.ends:
        return False
    flat = tuple(cell for row in matrix.items for cell in row.items)
    if len(matrix.items) != 1 and len(flat) != len(matrix.items):
        return False
    pair = (other.items, flat) if matrix is gold else (flat, other.items)
    return _in_order(*pair, case)


def _in_order(said: Sequence[Shape], gold: Sequence[Shape], case: _Case) -> bool | None:
    if len(said) != len(gold):
        return False
    unknown = False
    for ours, theirs in zip(said, gold, strict=True):
        result = _compared(ours, theirs, case)
        if result is False:
            return False
        unknown = unknown or result is None
    return None if unknown else True


def _matched(said: Sequence[Shape], gold: Sequence[Shape], case: _Case) -> bool | None:
    """Compare as multisets. Equality is transitive, so the first match is as good as any."""
    if len(said) != len(gold):
        return False
    left, unknown = list(said), False
    for theirs in gold:
        found, maybe = None, False
        for ours in left:
            result = _compared(ours, theirs, case)
            if result:
                found = ours
                break
            maybe = maybe or result is None
        if found is not None:
            left.remove(found)
        elif maybe:
            unknown = True
        else:
            return False
    return None if unknown else True


def _distinct(items: Sequence[Shape], case: _Case) -> list[Shape]:
    """Drop items that repeat an earlier one, as far as exact rules see it."""
    exact = _Case(lambda said, gold: None, case.percent_asked, "")
    kept: list[Shape] = []
    for one in items:
        if not any(one.text and _compared(one, other, exact) for other in kept):
            kept.append(one)
    return kept


def _atom(said: str, gold: str, case: _Case) -> bool | None:
    meant = sides(gold)[1]
    wanted = number(meant)
    said = _ASIDE.sub("", said)
    if wanted is not None:
        given = number(last_side(said, decimal="." in meant), comma=wanted.exact.denominator != 1)
        if given is None or (given.ratio and key(said) != key(meant) and _undivided(said, given, meant, case)):
            return False
        return agree(given, wanted, percent_asked=case.percent_asked)
    if (letter := choice(meant)) is not None:
        return chosen(said, *letter)
    if is_words(meant):
        return same_words(said, meant)
    if _RELATION.search(meant) or (_RELATION.search(gold) and _is_equation(said)):
        return _relation(said, gold, case)
    if _INEQUALITY.search(said):
        return False
    return _expression(last_side(said), meant, case)


def _undivided(said: str, given: Value, gold: str, case: _Case) -> bool:
    """Tell whether a ratio is the task's own, or another unreduced one where the task asks to rewrite one."""
    if posed_in(said, case.posed) or restated(said, gold, posed=case.posed):
        return True
    return not given.lowest and rewriting(case.posed, gold)


def _is_equation(text: str) -> bool:
    return "=" in text and not sides(text)[0]


def _relation(said: str, gold: str, case: _Case) -> bool | None:
    """Compare equations and inequalities. Where the gold is solved for its only letter, the answer must be as well."""
    if not _RELATION.search(said):
        return False
    solved = _SOLVED.search(gold)
    if solved and len(letters(gold)) == 1 and not _SOLVED.search(said):
        return False
    if restates(said, gold, posed=case.posed):
        return False
    ours, theirs = said.split("="), gold.split("=")
    if len(ours) == len(theirs) == 2 and not _INEQUALITY.search(said + gold):
        multiples = algebra.multiples((ours[0], ours[1]), (theirs[0], theirs[1]))
        if multiples is not None:
            return multiples
    return case.equal(said, gold)


def _expression(said: str, gold: str, case: _Case) -> bool | None:
    if key(said) == key(gold):
        return True
    (said, ours), (gold, theirs) = unit_apart(said, beside=gold), unit_apart(gold, beside=gold)
    if not said or any(word not in MATH_WORDS for word in _WORD.findall(said)) or conversion(ours, theirs) != 1:
        return False
    if rounds_to(said, gold):
        return True
    if restates(said, gold, posed=case.posed):
        return False
    verdict = algebra.verdict(said, gold)
    return case.equal(said, gold) if verdict is None else verdict

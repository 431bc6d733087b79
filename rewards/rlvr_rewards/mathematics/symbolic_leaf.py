"""Ask math-verify and sympy whether two expressions are equal. Only the symbolic worker's processes import this.

There is no time limit here: the process has one. Decimals become exact ratios before they are parsed, so that nothing
is equal by rounding; what math-verify parses is compared by its values at several points, to 40 digits.
"""

from __future__ import annotations

import logging
import re
from typing import Any

import sympy
from math_verify import LatexExtractionConfig, parse, verify
from sympy.core.relational import Relational

from rlvr_rewards.mathematics.compare import GoldError

__all__ = ["equal", "evaluate"]

logging.getLogger("math_verify").setLevel(logging.ERROR)  # it warns that it has no time limit of its own
logging.getLogger("latex2sympy2_extended").setLevel(logging.CRITICAL)

_CONFIG = [LatexExtractionConfig()]
_RATIO = re.compile(r"(?<![\w.}^_/])(\d+)/(\d+)(?![\w.^(/])")
_DECIMAL = re.compile(r"(?<![\w.])(\d*)\.(\d+)(?![\d.])")
_POINTS = ((3, 7), (11, 5), (17, 13))
_DIGITS = 40
_FLIPPED = {"<": ">", ">": "<", "<=": ">=", ">=": "<=", "==": "==", "!=": "!="}


def equal(said: str, gold: str) -> bool | None:
    """Tell whether two tidied expressions are equal. Errors: GoldError where the gold cannot be parsed."""
    meant = _parsed(gold)
    if meant is None:
        raise GoldError(gold)
    given = _parsed(said)
    if given is None:
        return False
    if isinstance(meant, Relational) and isinstance(given, Relational):
        return _same_relation(given, meant)
    if isinstance(meant, sympy.Expr) and isinstance(given, sympy.Expr):
        return _same_value(given, meant, negative="|" in gold or "|" in said)
    return bool(verify(meant, given, allow_set_relation_comp=True, timeout_seconds=None))


def evaluate(gold: str) -> None:
    """Parse and evaluate a tidied gold as comparing would. Errors: GoldError where it cannot be parsed."""
    meant = _parsed(gold)
    if meant is None:
        raise GoldError(gold)
    if isinstance(meant, sympy.Expr):
        for above, below in _POINTS:
            _value(meant, {s.name: sympy.Rational(above, below) for s in meant.free_symbols})


def _parsed(text: str) -> Any:
    text = _DECIMAL.sub(lambda m: rf"\frac{{{m[1]}{m[2]}}}{{1{'0' * len(m[2])}}}", text)
    text = _RATIO.sub(r"\\frac{\1}{\2}", text)
    found = parse(f"${text}$", _CONFIG, fallback_mode="no_fallback", parsing_timeout=None)  # type: ignore[arg-type]
    return found[0] if found else None


def _same_value(given: Any, meant: Any, *, negative: bool = False) -> bool:
    """Compare values where letters are positive numbers, and negative ones too where absolute values occur."""
    if given == meant:
        return True
    letters = sorted({s.name for s in given.free_symbols | meant.free_symbols} - {"i"})
    points = [(1, *p) for p in _POINTS] + ([(-1, 5, 3)] if negative else [])
    for sign, above, below in points:
        at = {name: sympy.Rational(sign * (above + 2 * k), below + k) for k, name in enumerate(letters)}
        if not _close(_value(given, at), _value(meant, at)):
            return False
    return True


def _value(expression: Any, at: dict[str, Any]) -> Any:
    """Evaluate. What does not come to a number gives None."""
    names = {s: sympy.I if s.name == "i" else at[s.name] for s in expression.free_symbols}
    value = expression.doit().xreplace(names).doit().evalf(_DIGITS)
    return value if value.is_number and value.is_finite else None


def _close(ours: Any, theirs: Any) -> bool:
    if ours is None or theirs is None:
        return False
    size = max(abs(ours), abs(theirs))
    return bool(size == 0 or abs(ours - theirs) <= size * sympy.Float(10, 15) ** -25)


def _same_relation(given: Any, meant: Any) -> bool:
    """Compare equations and inequalities: their sides' differences must be constant multiples of each other."""
    if not all(isinstance(side, sympy.Expr) for side in (*given.args, *meant.args)):
        return bool(given == meant or verify(meant, given, timeout_seconds=None))
    ours, theirs = given.lhs - given.rhs, meant.lhs - meant.rhs
    letters = sorted({s.name for s in ours.free_symbols | theirs.free_symbols} - {"i"})
    ratios = []
    for above, below in _POINTS:
        at = {name: sympy.Rational(above + 2 * k, below + k) for k, name in enumerate(letters)}
        one, other = _value(ours, at), _value(theirs, at)
        if one is None or other is None or not other or not one:
            return False
        ratios.append(one / other)
    if not all(_close(ratio, ratios[0]) for ratio in ratios):
        return False
    if meant.rel_op in ("==", "!="):
        return bool(given.rel_op == meant.rel_op)
    wanted = meant.rel_op if ratios[0] > 0 else _FLIPPED[meant.rel_op]
    return bool(given.rel_op == wanted)

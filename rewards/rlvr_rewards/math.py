"""Judge final answers in mathematics: find the answer, compare it exactly where that is cheap, else by math-verify.

A gold that is a plain number wants a plain number: an unevaluated form ("5!", "2 + 3") is not an answer to it, and most
replies never reach the slow path. What the model wrote is read by regular expressions and math-verify's LaTeX grammar.
"""

from __future__ import annotations

import logging
import re
from fractions import Fraction
from typing import Any

from rlvr.types import Grade, Rollout, Task, Ungraded, Verdict

__all__ = ["Math", "same"]

_LONGEST = 500  # characters of an answer; nothing longer is one
_TAIL = 4000  # characters at the end of a reply that are searched for an answer without a mark
_SENTENCE = 200  # characters up to which a line without prose is an answer

_DECIMAL = r"(?:(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d*)?|\.\d+)"
_NUMBER = re.compile(rf"([+-]?) ?(?:(\d+) +)?({_DECIMAL})(?: ?/ ?({_DECIMAL}))?(?:e([+-]?\d{{1,3}}))?(?: ?(%))?")
_FRACTION = re.compile(r"^([+-]? ?\d*) ?\\frac\{ ?([+-]?\d+) ?\}\{ ?(\d+) ?\}")
_SCALE = "hundred|thousand|million|billion|trillion|dozen"
_LAST_NUMBER = re.compile(
    rf"(?<![A-Za-z\d_.])[+-]?{_DECIMAL}(?:/\d+)?(?! ?[\d/])(?: ?\\?%| percent\b| (?:{_SCALE})\b)?"
)
_PROSE = re.compile(r"(?<![\\A-Za-z{])[A-Za-z']{2,},? +(?:[A-Za-z']{2,}|[$\\(\d])")
_BRACES = re.compile(r"\\(?:boxed|fbox)\s*\{|\\.|[{}]", re.DOTALL)
_MARK = re.compile(r"(?:answer\**\s*(?:is\b\s*:?|[:=])\**|####|^A:)[ \t\n]*", re.IGNORECASE | re.MULTILINE)
_DISPLAY = re.compile(r"\\\[(.*?)\\\]|\$\$(.*?)\$\$|\\\((.*?)\\\)|(?<!\\)\$([^$\n]+)(?<!\\)\$", re.DOTALL)
_ABSTAINS = re.compile(
    r"\b(?:i|we) (?:do not|don['’]?t|cannot|can['’]?t|can not|am unable to|are unable to|am not able to) "
    r"(?:know|solve|answer|determine|tell|say)\b|\bnot sure\b|^(?:unknown|no idea)$",
    re.IGNORECASE,
)
# Words after a number that change its value; any other word is a unit.
_NO_UNIT = re.compile(
    rf"\b(?:or|and|to|of|pi|tau|sqrt|{_SCALE}|half|halves|thirds?|quarters?|"
    r"factorial|squared|cubed|times|plus|minus|over|by|divided|mod|percent|base|sin|cos|tan|log|ln|exp)\b",
    re.IGNORECASE,
)
_HEDGE = re.compile(r"\b(?:or|and)\b")
_UNIT = re.compile(r"(?: +[A-Za-z]{2,}\.?(?:\^\d)?){1,4}")
_REWRITES = tuple(
    (re.compile(pattern), by)
    for pattern, by in (
        (r"<\|\w+\|>|\*\*|`|\\(?:left|right|displaystyle|big|Big|bigl|bigr)(?![A-Za-z])|\\[!,;:]|\\?\$|[€£]", ""),
        (r"\\(?:text|textbf|textit|mbox|mathrm|mathbf|operatorname|boxed|fbox)\s*\{([^{}]*)\}", r"\1"),
        (r"\\[()\[\]]|\^\s*\{?\s*\\circ\s*\}?|°", ""),
        (r"\\[dt]frac(?![A-Za-z])", r"\\frac"),
        (r"\\frac\s*(\d)\s*(\d)", r"\\frac{\1}{\2}"),
        (r"\\frac\s*(\d)\s*\{", r"\\frac{\1}{"),
        (r"\{,\}", ","),
        (r"[−–—]", "-"),
        (r"√\s*\(([^()]*)\)|√\s*(\w+)|(?<![\\A-Za-z])sqrt\s*\(([^()]*)\)", r"\\sqrt{\1\2\3}"),
        (r"(?<![\\A-Za-z])pi(?![A-Za-z])|π", r"\\pi "),
        (r"∞|(?<![\\A-Za-z])(?:oo|infinity)(?![A-Za-z])", r"\\infty "),
        (r"\s*(?:\\times|×|\*)\s*10\s*\^\s*\{?\s*([+-]?\d{1,3})\s*\}?", r"e\1"),
        (r"(?<![\w.)}])10\s*\^\s*\{?\s*(\d{1,3})\s*\}?$", r"1e\1"),
        (r"\\%|\bpercent(?:age)?\b|\bpct\b", "%"),
        (r"([_^])\s*\{(\w)\}", r"\1\2"),
        (r"\\ |~|\s+", " "),
    )
)


class Math:
    """Judge a reply by its final answer.

    The answer is the later of the last balanced \\boxed{} and the last marked one ("Answer: ...", "#### ..."); without
    either, a short reply without prose, else the last formula between dollars, else the last number. A task's truth is
    a string or number, a list of them, or {"answers": [...]}: any of them is right.

    Args:
        marked_only: read boxed and marked answers only.
    """

    def __init__(self, *, marked_only: bool = False) -> None:
        self._marked_only = marked_only

    def grade(self, task: Task, rollout: Rollout) -> Grade | Ungraded:
        """Judge one reply. "I don't know", as the marked answer or in a reply without one, abstains."""
        golds = _golds(task.truth)
        if not golds:
            return Ungraded(boundary="reward:math", reason=f"the truth of task {task.id} holds no answer")
        answer = _marked(rollout.reply)
        if _ABSTAINS.search(rollout.reply if answer is None else _tidy(answer[:_LONGEST])):
            return Grade(verdict=Verdict.ABSTAINED, score=0.0, why="the reply abstains")
        if answer is None and not self._marked_only:
            answer = _said_in(rollout.reply)
        if not answer or len(answer) > _LONGEST:
            return _wrong("no answer found" if not answer else "the answer is too long to be one")
        outcomes = [same(answer, gold) for gold in golds]
        if True in outcomes:
            return Grade(verdict=Verdict.CORRECT, score=1.0, why=f"{_short(answer)} is right")
        if None in outcomes:
            gold = golds[outcomes.index(None)]
            return Ungraded(
                boundary="reward:math", reason=f"the gold {_short(gold)} of task {task.id} cannot be parsed"
            )
        return _wrong(f"{_short(answer)} is not {_short(golds[0])}")

    def warm_up(self) -> None:
        """Import math-verify and build its parser, which takes a second that no reply should pay for."""
        _verified("x + 1", "1 + x")

    def gold(self, task: Task) -> str:
        """Write a reply that earns CORRECT. Errors: ValueError where the truth holds no answer."""
        golds = _golds(task.truth)
        if not golds:
            raise ValueError(f"the truth of task {task.id} holds no answer")
        return f"\\boxed{{{golds[0]}}}"


def same(answer: str, gold: str) -> bool | None:
    """Tell whether an answer equals a gold; None where the gold is no mathematics that can be parsed."""
    said, meant = _tidy(answer), _tidy(gold)
    named = re.fullmatch(r"[A-Za-z]\w?\s*=([^=]+)", meant)
    meant = named[1].strip() if named else meant
    if "=" not in meant and (side := re.fullmatch(r"[^<>!,;]*=([^=]+)", said)) and not _HEDGE.search(said):
        said = side[1].strip()
    number = _number(meant)
    if number is not None:
        bare_percent = meant.endswith("%") and said + "%" == meant
        return bare_percent or _number(said) == number
    if _key(said) == _key(meant):
        return True
    if re.fullmatch(r"(?:[A-Za-z]{2,}|[ ,.'-])+", meant):
        return said.casefold() == meant.casefold()
    return _verified(said, meant)


def _verified(said: str, meant: str) -> bool | None:
    """Ask math-verify. It knows no time limit here: its own is an alarm signal, which works in a main thread only."""
    from math_verify import LatexExtractionConfig, parse, verify

    logging.getLogger("math_verify").setLevel(logging.ERROR)  # it warns about the missing limit

    def parsed(text: str) -> list[Any]:
        text = re.sub(r"(?<![\w.}^_])(\d+)/(\d+)(?![\w.^(])", r"\\frac{\1}{\2}", text)
        found: list[Any] = parse(
            f"${text}$", [LatexExtractionConfig()], fallback_mode="no_fallback", parsing_timeout=None
        )
        return found

    gold = parsed(meant)
    if not gold:
        return None
    target = parsed(said)
    return bool(target) and bool(verify(gold, target, timeout_seconds=None))


def _number(text: str) -> Fraction | None:
    """Read a plain number: an integer, decimal, ratio, mixed number, power of ten or percentage, with a unit or not."""
    text = _FRACTION.sub(r"\1 \2/\3", text).strip()
    match = _NUMBER.match(text)
    if match is None:
        return None
    sign, whole, above, below, exponent, percent = match.groups()
    rest = text[match.end() :]
    if (whole and not below) or (rest and (not _UNIT.fullmatch(rest) or _NO_UNIT.search(rest))):
        return None
    value = Fraction(above.replace(",", "").rstrip("."))
    if below:
        divisor = Fraction(below.replace(",", "").rstrip("."))
        if not divisor:
            return None
        value /= divisor
    value = (value + int(whole or 0)) * Fraction(10) ** int(exponent or 0) / (100 if percent else 1)
    return -value if sign == "-" else value


def _tidy(text: str) -> str:
    """Write an answer in one way: no dollars, sizes or text commands; simple fractions as a/b; signs in ASCII."""
    for pattern, by in _REWRITES:
        text = pattern.sub(by, text)
    text = text.strip().rstrip(".,;:").strip()
    while len(text) > 1 and (re.fullmatch(r"\{[^{}]*\}", text) or re.fullmatch(r"\([A-Z]\)", text)):
        text = text[1:-1].strip()
    return text


def _key(text: str) -> str:
    """Drop the spaces that carry no meaning: all but those between digits."""
    return re.sub(r"(?<!\d) +| +(?!\d)", "", text)


def _golds(truth: object) -> list[str]:
    """List the right answers of a truth, without their wrapping."""
    if isinstance(truth, dict):
        truth = truth.get("answers")
    answers = truth if isinstance(truth, list | tuple) else [truth]
    texts = [str(a) for a in answers if isinstance(a, str | int | float) and not isinstance(a, bool)]
    inner = [(_boxed(text) or ("", 0))[0] or text.rpartition("####")[2] for text in texts]
    return [text.strip() for text in inner if _tidy(text)]


def _marked(reply: str) -> str | None:
    """Find the later of the last boxed and the last marked answer; None where there is neither."""
    boxed = _boxed(reply)
    marks = list(_MARK.finditer(reply))
    mark = marks[-1] if marks else None
    if boxed and (mark is None or boxed[1] > mark.start() or " is" in mark[0]):  # "so our answer is correct" is no mark
        return boxed[0].strip()
    if mark is None:
        return None
    rest = reply[mark.end() :]
    shown = _DISPLAY.match(rest)
    if shown:
        return next(group for group in shown.groups() if group is not None).strip()
    said = re.split(r"\.\s", rest.partition("\n")[0], maxsplit=1)[0].strip()
    return said if re.search(r"\bor\b", said) else _said_in(said)  # two answers are none


def _boxed(text: str) -> tuple[str, int] | None:
    """Find the content and the end of the \\boxed{} that closes last, counting braces in one pass."""
    opened: list[int] = []  # where the content of each open brace starts; 0 for a brace that is no box
    found = None
    for match in _BRACES.finditer(text):
        if match[0] == "}":
            start = opened.pop() if opened else 0
            if start:
                found = (text[start : match.start()], match.end())
        elif match[0].endswith("{") and match[0] != "\\{":
            opened.append(match.end() if len(match[0]) > 1 else 0)
    return found


def _said_in(text: str) -> str:
    """Find the answer in text without a mark: all of it if it is short and no prose, else the last formula or number.

    A formula counts between dollars or \\( \\); a lone letter is a name rather than an answer.
    """
    text = text.strip()[-_TAIL:]
    if len(text) <= _SENTENCE and ("\n" not in text or text.startswith("\\begin")) and not _PROSE.search(text):
        return text
    formulas = [next(g for g in match.groups() if g is not None).strip() for match in _DISPLAY.finditer(text)]
    formulas = [f for f in formulas if len(f) > 1 and not _PROSE.search(f)]
    return (formulas or _LAST_NUMBER.findall(text) or [text])[-1]


def _short(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= 60 else text[:59] + "…"


def _wrong(why: str) -> Grade:
    return Grade(verdict=Verdict.WRONG, score=0.0, why=why)

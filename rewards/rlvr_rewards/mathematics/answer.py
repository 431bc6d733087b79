"""Find the final answer of a reply: the last boxed or marked one, else the last formula, else the last number."""

from __future__ import annotations

import re
from dataclasses import dataclass

from rlvr_rewards.mathematics.counted import GAP, JOINED, denied, joins, last_number
from rlvr_rewards.mathematics.notation import plain

__all__ = ["Found", "boxes", "choice", "closing", "find", "formula", "formulas", "joined", "prose", "run", "spoken"]

_LONGEST = 100_000  # characters at the end of a reply that are read
_TAIL = 4000  # of them, without a mark
_ONE = 200  # characters up to which a line without prose is an answer
_BRACES = re.compile(
    r"\\{1,2}(?:begin)?(?:boxed|fbox)\s*\{"
    r"|\\{1,2}(?:boxed|fbox)\s*(-?\d+(?:\.\d+)?|[A-Za-z](?![A-Za-z]))"  # a box without braces
    r"|\\.|[{}]",
    re.DOTALL,
)
_MARKS = (
    r"\banswers?\**\s*(?:(?:is|are)\b\s*:?|[:=])\**",  # the answer is, Answer:, **Answer**:
    r"\b(?:r[ée]ponse|respuesta|resposta|risposta|antwort)\**\s*(?:(?:est|es|é|è|ist)\b\s*:?|:)\**",
    r"(?:答案|答)(?:是|为|為)?\s*[:：]?\**|ответ\**\s*:\**|정답\**\s*:?|उत्तर\**\s*:",
    r"####|^A:|<answer>",
)
_MARK = re.compile(rf"(?:{'|'.join(_MARKS)})[ \t\n]*", re.IGNORECASE | re.MULTILINE)
# Formulas between dollars or their kin.
_DISPLAY = re.compile(r"\\\[(.*?)\\\]|\$\$(.*?)\$\$|\\\((.*?)\\\)|(?<!\\)\$((?:[^$\n\\]|\\.)+)\$", re.DOTALL)
_SPACING = r"(?:\\[()\[\]]|\\quad|\\qquad|\\;|\\,|\s|\$)*"
_CONJUNCTION = r"(?:,|;|\\?(?:text\s*\{\s*(?:,\s*)?)?\b(and|or)\b\s*\}?)"  # the word may stand in \text{, and}
_JOINT = re.compile(rf"[\s$,;.]*{_SPACING}{_CONJUNCTION}{_SPACING}(?:[A-Za-z](?:_\{{?\w\}}?)?\s*=\s*)?")
# A mark that cannot be part of a sentence.
_DECIDES = re.compile(r".*(?:[:：]\**|####|<answer>|=\**)\s*$", re.DOTALL)
# What an answer begins with.
_STARTS = re.compile(r"[*\s]*(?:\$|\\[(\[\w]|[-+−]?\.?\d|[(\[{]|[A-Z]\b)")
# A percent sign behind a box.
_BEHIND = re.compile(r"(?:\$|\\\)|\\\]|\s){0,4}(\\?%|percent\b|pct\b)")
# Two words in a row, a word before a number, or another script.
_WORDY = re.compile(
    r"(?<![\\A-Za-z{])[A-Za-zÀ-ÿ']{2,},? +(?:[A-Za-zÀ-ÿ']{2,}|[$\\(\d])"
    r"|[\u0400-\u04ff\u0900-\u0dff\u3040-\u30ff\u4e00-\u9fff\uac00-\ud7af\u0600-\u06ff]"
)
_TEXT = re.compile(r"\\(?:text(?:bf|it|rm)?|[mh]box|mathrm|operatorname)\s*\{[^{}]*\}|\b(?:and|or)\b")
# A rounded form behind an exact one.
_APPROXIMATELY = re.compile(
    r",?\s*(?:\(|which\s+is|or|that\s+is)?,?\s*(?:approximately|about|roughly|around|≈|\\approx)\s.*$",
    re.IGNORECASE | re.DOTALL,
)
# Signs, numbers, commands and lone letters of mathematics.
_RUN = re.compile(
    r"(?:\\(?:[dt]?frac|sqrt|pi|cdot|times|div|infty)(?![A-Za-z])|√|[-+*/^(){}\[\]\d.=]"
    r"|(?<![A-Za-z'])[a-z](?![A-Za-z'])| (?=[-+*/^=\\√(\d]))+"
)
_BLANKS = re.compile(r" ?\n\s*")
_BLANK = re.compile(r"[^\S\n]+")
_CHOICE = re.compile(  # (B); "option B", "the correct choice is B"; "B is correct"
    r"\(([A-Z])\)|\b(?:[Oo]ption|[Cc]hoice)\s+(?:is:?\s+)?\**([A-Z])\b"
    r"|(?<![\w(\\])([A-Z])\b\**\s+is\s+(?:the\s+)?(?:correct|right)\b"
)


@dataclass(frozen=True, slots=True)
class Found:
    """What a reply answers. `text` is as the reply wrote it."""

    text: str
    marked: bool  # boxed or marked
    boxed: bool = False


def find(reply: str) -> Found | None:
    """Find the later of the last boxed and the last marked answer; None where there is neither."""
    reply = spoken(reply)
    boxed = boxes(reply)
    marks = [match for match in _MARK.finditer(reply) if not boxed or _announces(reply, match)]
    mark = marks[-1] if marks else None
    if boxed and (mark is None or boxed[-1][1] > mark.start()):
        return Found(joined(reply, boxed), True, True)
    for mark in reversed(marks[-3:]):
        if said := _after(reply, mark.end()):
            return Found(said, True)
    return Found("", True) if mark is not None and _DECIDES.match(mark[0]) else None


def _announces(reply: str, mark: re.Match[str]) -> bool:
    """Tell whether a mark behind a box announces another answer: "so our answer is correct" does not."""
    return bool(_DECIDES.match(mark[0]) or _STARTS.match(reply, mark.end()))


def spoken(reply: str) -> str:
    """Leave out the reasoning: what precedes the last </think>, and what follows a <think> that stays open."""
    said = reply.rpartition("</think>")[2].partition("<think>")[0]
    return _BLANKS.sub("\n", _BLANK.sub(" ", said[-_LONGEST:]))


def boxes(text: str) -> list[tuple[int, int, str]]:
    """List the outermost \\boxed{} that close, as start, end and content, counting braces in one pass."""
    opened: list[tuple[int, int]] = []  # of each open brace: where its box starts and its content, -1 for a brace
    found: list[tuple[int, int, str]] = []
    for match in _BRACES.finditer(text):
        if match[1]:
            found.append((match.start(), match.end(), match[1]))
        elif match[0] == "}":
            start, inner = opened.pop() if opened else (-1, -1)
            if start >= 0:
                while found and found[-1][0] > start:
                    found.pop()
                found.append((start, match.end(), text[inner : match.start()]))
        elif match[0].endswith("{") and match[0] != "\\{":
            opened.append((match.start(), match.end()) if len(match[0]) > 1 else (-1, -1))
    return found


def joined(reply: str, found: list[tuple[int, int, str]], *, adjacent: bool = False) -> str:
    """Give the content of the last box. Boxes joined by a comma or "and" are one list; a gold's may be adjacent."""
    items, words = [found[-1][2].strip()], []
    if inner := boxes(items[0]):
        items[0] = joined(items[0], inner)
    for (_, end, content), (start, _, _) in zip(found[-2::-1], found[:0:-1], strict=True):
        joint = _JOINT.fullmatch(reply, end, start) if start - end <= GAP else None
        if joint is None and not (adjacent and not reply[end:start].strip(" $")):
            break
        words.append("or" if joint and joint[1] == "or" else ",")
        items.append(content.strip())
    percent = _BEHIND.match(reply, found[-1][1])
    text = items[-1]
    for item, word in zip(items[-2::-1], reversed(words), strict=True):
        text += f" {word} {item}"
    return text + "\\%" if percent and not text.endswith("%") else text


def _after(reply: str, at: int) -> str:
    """Give the marked answer that starts here: a formula, or the rest of the line up to its first full stop."""
    rest = reply[at : at + _TAIL]
    shown = _DISPLAY.match(rest)
    if shown and not JOINED.match(rest, shown.end()):
        text = next(group for group in shown.groups() if group is not None).strip()
        percent = re.match(r"\s*(\\?%|percent\b)", rest[shown.end() :])
        return text + "\\%" if percent else text
    line = rest.lstrip().partition("\n")[0] if rest.strip() else ""
    if line.startswith("\\begin") or line.strip() in ("\\[", "$$"):
        return rest.strip()
    line = line.partition("</answer>")[0]
    return re.split(r"(?<![A-Z\d])(?<!\b[ap])\.\s|(?<=\d)\.\s(?=[A-Z])|。", line, maxsplit=1)[0].strip()


def prose(text: str) -> bool:
    """Tell whether a text is sentences rather than an answer."""
    text = text.strip()
    return len(text) > _ONE or ("\n" in text and "\\begin" not in text) or bool(_WORDY.search(_TEXT.sub(" ", text)))


def closing(reply: str) -> str:
    """Give the last statement of a reply without a marked answer: its last line that says something."""
    lines = [line.strip() for line in spoken(reply)[-_TAIL:].splitlines() if any(c.isalnum() for c in line)]
    return lines[-1][-600:] if lines else ""


def formula(text: str) -> str | None:
    """Give the last formula or number of prose, whichever comes later. A lone letter or f(x) is a name, no answer."""
    text = _without_rounding(text.strip()[-_TAIL:])
    shown = [match for match in _DISPLAY.finditer(text) if _answers(next(g for g in match.groups() if g is not None))]
    number = last_number(text)
    last = shown[-1] if shown else None
    if last is not None and (number is None or number[1] <= last.end()):
        if denied(text, last.start(), last.end()):
            return None
        content = next(group for group in last.groups() if group is not None).strip()
        before = shown[-2] if len(shown) > 1 else None
        if before is not None and joins(text, before.end(), last.start()):
            content = next(g for g in before.groups() if g is not None).strip() + " or " + content
        return content
    return number[0] if number else None


def formulas(text: str) -> list[str]:
    """List the formulas of prose, those between dollars first."""
    shown = [next(group for group in match.groups() if group is not None) for match in _DISPLAY.finditer(text)]
    return [*shown, *(match[0].strip(" .,=") for match in _RUN.finditer(plain(text)) if len(match[0]) > 2)]


def _answers(content: str) -> bool:
    content = content.strip()
    return (
        len(content) > 1
        and not re.fullmatch(r"[A-Za-z](?:_\w)?\s?\([A-Za-z, ]*\)|\\?[A-Za-z]+", content)
        and not _WORDY.search(re.sub(r"\\text\s*\{[^{}]*\}|\b(?:and|or)\b", " ", content))
    )


def _without_rounding(text: str) -> str:
    """Drop a rounded form that follows an exact one: "2/7, which is approximately 0.29"."""
    match = _APPROXIMATELY.search(text)
    before = text[: match.start()] if match else ""
    exact = match is not None and match[0].lstrip(" ,(").lower().startswith(("which", "or", "that", "≈", "\\approx"))
    return before if exact and last_number(before) else text


def run(text: str) -> str:
    """Give the last formula of prose that stands there without dollars: "it is 2\\sqrt{3} cm" holds 2\\sqrt{3}."""
    text = plain(text.strip()[-_TAIL:])
    found = [match for match in _RUN.finditer(text) if re.search(r"\d|\\pi", match[0])]
    if not found or denied(text, *found[-1].span()):
        return ""
    return found[-1][0].strip(" .,=").rpartition("=")[2].strip()


def choice(text: str) -> str | None:
    """Give the last choice in parentheses or behind "option"; "" where it is one of several, None without one."""
    found = list(_CHOICE.finditer(text))
    if not found:
        return None
    last = found[-1]
    if len(found) > 1 and joins(text, found[-2].end(), last.start()) and found[-2][0] != last[0]:
        return ""
    return "" if denied(text, *last.span()) else last[1] or last[2] or last[3]

"""Find what a reply gives as its answer: the marked one, else its last statement. Linear in the reply's length."""

from __future__ import annotations

import re
from typing import NamedTuple

__all__ = ["final_answer", "marked_answer", "split_reply", "without_confidence"]

LONGEST = 1000  # characters of a statement; a reply up to here is one statement, and nothing longer is read
_TRIES = 50  # of the last "the answer is" of a reply, how many are looked at

_WORDS = (
    "antwort|r[ée]ponse|respuesta|risposta|resposta|antwoord|odpowied[źz]|ответ|答案|回答|答え|답변?|정답|"
    "الجواب|الإجابة|जवाब|उत्तर|cevap|yan[ıi]t"
)
_MARK = re.compile(
    rf"(?:\banswer|^[ \t>*_#-]{{0,9}}(?:(?:final|end|die|la|el|o) )?(?:{_WORDS}|A))"
    r"[*_ ]{0,4}[:：][*_ \t]{0,4}|####",
    re.IGNORECASE | re.MULTILINE,
)
_SAYS = re.compile(
    r"\banswer(?: to (?:this|the|that|your)(?: \w{1,30}){1,3}?)?,? (?:is|was|would be|must be|should be)\b"
    r"(?:[: ]{0,3}that\b)?[: \t]{0,4}",
    re.IGNORECASE,
)
# "I don't know what the answer is", "if the answer is 5": no answer is given there.
_ASIDE = re.compile(r"\b(?:what|whether|if|not|doubt|sure|until|unless|once|why|how)\b|n['’]t\b", re.IGNORECASE)
_REMARK = re.compile(
    r"\W*(?:(?:as follows|below|above|right|correct|wrong|simple|clear|obvious)\b[^\n]*)?", re.IGNORECASE
)
_BRACES = re.compile(r"\\(?:boxed|fbox)\s{0,3}\{|\\.|[{}]", re.DOTALL)
_STYLE = re.compile(r"\\(?:text|textbf|textit|mathrm|mathbf|mbox)\s{0,3}\{([^{}]*)\}")
_TOKEN = re.compile(r"<\|[^|<>]{1,40}\|>|</?s>")
_CONFIDENCE_LINE = re.compile(
    r"^[ \t>*_#-]{0,9}(?:\w{1,20} ){0,2}confidence\b[^\n]{0,80}$", re.IGNORECASE | re.MULTILINE
)


class _Found(NamedTuple):
    start: int
    text: str


def split_reply(reply: str) -> tuple[str, str]:
    """Give a reply's reasoning and its final answer, each without white space around it."""
    body, thought = _after_thinking(reply)
    found = _marked(body) or _Found(*_last_statement(body))
    return f"{thought}\n{body[: found.start]}".strip(), found.text


def final_answer(reply: str) -> str:
    """Give the marked answer, else the last statement: all of a short reply or the last paragraph of a long one.

    Thinking between <think> tags, a stated confidence and a chat template's tokens are no part of it. At most
    `LONGEST` characters; empty where thinking never ends or nothing follows the mark.
    """
    return split_reply(reply)[1]


def marked_answer(reply: str) -> str | None:
    """Give the answer behind the last mark, None without one.

    Marks are \\boxed{}, <answer>, "Answer:" (in several languages) and "####"; without these, "the answer is".
    """
    found = _marked(_after_thinking(reply)[0])
    return found.text if found else None


def without_confidence(text: str) -> str:
    """Drop the lines that state a confidence."""
    return _CONFIDENCE_LINE.sub("", text) if "onfidence" in text.casefold() else text


def _after_thinking(reply: str) -> tuple[str, str]:
    """Give what follows the thinking, and the thinking. Thinking that never ends is followed by nothing."""
    thought, _, body = reply.rpartition("</think>")
    if "<think>" in body:
        return "", reply
    return without_confidence(_TOKEN.sub("", body)), thought.replace("<think>", "").strip()


def _marked(body: str) -> _Found | None:
    """Find the strict mark that starts last, else the last "the answer is"."""
    found = [mark for mark in (_boxed(body), _tagged(body), _announced(body)) if mark]
    return max(found) if found else _said(body)


def _announced(body: str) -> _Found | None:
    mark = None
    for mark in _MARK.finditer(body):  # noqa: B007 - the last one counts
        pass
    return _Found(mark.start(), _line(body, mark.end())) if mark else None


def _said(body: str) -> _Found | None:
    """Find the last "the answer is ..." that gives one; a doubt or a remark in these words does not."""
    for mark in reversed(list(_SAYS.finditer(body))[-_TRIES:]):
        before = re.split(r"[.!?\n;:,]", body[max(0, mark.start() - 60) : mark.start()])[-1]
        text = _line(body, mark.end())
        if not _ASIDE.search(before) and not _REMARK.fullmatch(text):
            return _Found(mark.start(), text)
    return None


def _tagged(body: str) -> _Found | None:
    start = body.rfind("<answer>")
    if start < 0:
        return None
    return _Found(start, _plain(body[start + len("<answer>") :].partition("</answer>")[0]))


def _boxed(body: str) -> _Found | None:
    """Find the \\boxed{} that closes last, counting braces in one pass."""
    opened: list[int] = []  # where the content of each open brace starts; 0 for a brace that is no box
    found = None
    for match in _BRACES.finditer(body):
        if match[0] == "}":
            start = opened.pop() if opened else 0
            if start:
                found = (start, match.start())
        elif match[0].endswith("{") and match[0] != "\\{":
            opened.append(match.end() if len(match[0]) > 1 else 0)
    return _Found(found[0], _plain(_STYLE.sub(r"\1", body[found[0] : found[1]]))) if found else None


def _line(body: str, start: int) -> str:
    """Give the text from `start` to the end of its line, or the next line where this one ends at once."""
    lines = body[start : start + 2 * LONGEST].lstrip(" \t*_\r\n").split("\n", 1)
    return _plain(lines[0].partition("</answer>")[0])


def _last_statement(body: str) -> tuple[int, str]:
    end = len(body.rstrip())
    start = 0
    if end > LONGEST:
        start = max(body.rfind("\n\n", 0, end), end - LONGEST)
    return start, _plain(body[start:end])


def _plain(text: str) -> str:
    """Drop what only styles text, and what exceeds a statement."""
    return re.sub(r"\*\*|__|`(?![\w])|(?<!\w)`", "", text[:LONGEST]).strip()

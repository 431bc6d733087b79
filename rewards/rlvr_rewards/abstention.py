"""Tell whether a reply abstains: says that it does not know, cannot tell or will not answer, and no more than that.

A hedged answer ("I don't know, but Paris") is an answer. A grader decides about abstaining before it compares with the
gold, whatever the gold is: a policy whose hedges were paid when right and forgiven when wrong would hedge always. The
one exception is a gold that itself reads as an abstention ("cannot be determined"): compare with that first.
"""

from __future__ import annotations

import re
import unicodedata
from enum import Enum
from typing import NamedTuple

from rlvr_rewards.language.phrases import (
    CONTRAST,
    CUES,
    FILLER,
    FOREIGN,
    GOES_ON,
    LEADS_IN,
    NOT_MEANT,
    PROPOSES,
    STRONG,
    SUGGESTS,
    WEAK,
)
from rlvr_rewards.language.reply import final_answer, marked_answer, split_reply, without_confidence

__all__ = [
    "abstains",
    "final_answer",
    "marked_answer",
    "one_spelling",
    "split_reply",
    "without_confidence",
    "without_doubts",
]

_SHORT = 6  # words of a clause beside an abstention that may be an answer without looking like a sentence
_APOSTROPHES = re.compile(r"[’ʼ′‘‛＇´]|(?<=\w)`(?=\w)")
_QUOTES = re.compile("[“”„‟«»「」『』″]")
_QUOTED = re.compile(r"\"[^\"]{1,200}\"|(?<!\w)'[^\n]{1,200}?'(?!\w)")
_ACCENT = re.compile(r"(?<=[a-z])[\u0300-\u036f]+")
_WRITTEN_OUT = tuple(
    (re.compile(pattern), by)
    for pattern, by in (
        (r"\b(?:can'?t|can not)\b", "cannot"),
        (r"\bwon'?t\b", "will not"),
        (r"\b(do|does|did|is|are|was|were|have|has|had|could|would|should)n'?t\b", r"\1 not"),
        (r"\b(i|you|we|they|it|he|she|that|there|what|who)'(?:ve)\b", r"\1 have"),
        (r"\bi'?m\b", "i am"),
        (r"\b(it|that|there|he|she|what|who|here)'s\b", r"\1 is"),
        (r"\b(you|we|they)'re\b", r"\1 are"),
        (r"\b(i|you|we|they|it|he|she)'d\b", r"\1 would"),
        (r"\b(i|you|we|they|it|he|she)'ll\b", r"\1 will"),
    )
)
_SENTENCE = re.compile(r"[!?…。؟।\n]+|(?<!\b[a-z])(?<!\b[djms]r)(?<!\bmrs)(?<!\bst)(?<!\bvs)\.(?=\s|$|[\"')])")
_CLAUSE = re.compile(rf"([,;:()\[\]、،؛]|\s[-–—~/=|]+\s|[–—→⇒]|[=-]>)|({CONTRAST})")
_PIECE = re.compile(rf"([,;:()\[\]、،؛]|[!?…。؟।\n]+|\.(?=\s|$)|\s[-–—]\s|[–—]|{CONTRAST})", re.IGNORECASE)
_OPENS = re.compile(r"\b(?:whether|if|between|among|either)\b")
_ADDS = re.compile(r"\d|=|\b(?:is|was|are|were|will be|has been)\b")


class _Kind(Enum):
    ABSTAINS = "abstains"  # "I don't know": outweighs what was said before it
    DOUBTS = "doubts"  # "I'm not sure": abstains only where nothing was answered
    ANSWERS = "answers"
    FILLS = "fills"  # an excuse, an explanation, advice


class _Clause(NamedTuple):
    text: str
    after_but: bool


def abstains(text: str) -> bool:
    """Tell whether a final answer, or the final statement of a whole reply, abstains. An empty one never does.

    Pure, and linear in the text's length.
    """
    statement = one_spelling(final_answer(text))
    doubts = False
    for sentence in reversed(_SENTENCE.split(_unquoted(statement))):
        kind = _sentence_kind(sentence)
        if kind in (_Kind.ANSWERS, _Kind.ABSTAINS):
            return kind is _Kind.ABSTAINS
        doubts = doubts or kind is _Kind.DOUBTS
    return doubts


def without_doubts(text: str) -> str:
    """Drop the clauses that abstain or doubt from a hedged answer: "I don't know, but Paris" is "Paris"."""
    if abstains(text):
        return text
    pieces = _PIECE.split(text)
    kept = [piece for piece in pieces if not piece.strip() or _phrase_kind(one_spelling(piece).strip(" .")) is None]
    if len(kept) == len(pieces):
        return text
    return re.sub(rf"^(?:[\s,;:.()–—-]|{CONTRAST})+", "", "".join(kept), flags=re.IGNORECASE).strip()


def one_spelling(text: str) -> str:
    """Write text in one way: case-folded, Latin letters without accents, straight quotes, contractions written out."""
    text = unicodedata.normalize("NFKC", _APOSTROPHES.sub("'", text)).casefold()
    if not text.isascii():
        text = _QUOTES.sub('"', text)
        text = unicodedata.normalize("NFC", _ACCENT.sub("", unicodedata.normalize("NFD", text)))
    for pattern, by in _WRITTEN_OUT:
        text = pattern.sub(by, text)
    return re.sub(r"[ \t\r\f\v]+", " ", text).strip()


def _unquoted(text: str) -> str:
    """Put a word in place of each quotation, unless the whole statement is one."""
    bare = text.strip(" .!?")
    if len(bare) > 1 and bare[0] == bare[-1] and bare[0] in "\"'" and bare[0] not in bare[1:-1].replace("o'", ""):
        return bare[1:-1]
    return _QUOTED.sub(" quotation ", text)


def _clauses(sentence: str) -> list[_Clause]:
    clauses, start, after_but = [], 0, False
    for match in _CLAUSE.finditer(sentence):
        clauses.append(_Clause(sentence[start : match.start()].strip(" ."), after_but))
        # a comma right behind "but" belongs to it
        after_but = bool(match[2]) or (after_but and not clauses[-1].text)
        start = match.end()
    clauses.append(_Clause(sentence[start:].strip(" ."), after_but))
    return [clause for clause in clauses if clause.text]


def _sentence_kind(sentence: str) -> _Kind:
    clauses = _clauses(sentence)
    phrases = [_phrase_kind(clause.text) for clause in clauses]
    if any(phrases):
        listed = _choices(clauses, phrases)
        kinds = [
            phrase or (_Kind.FILLS if i in listed else _beside(clause, behind=any(phrases[:i])))
            for i, (clause, phrase) in enumerate(zip(clauses, phrases, strict=True))
        ]
    else:
        kinds = [_alone(part.strip()) for part in re.split(CONTRAST, sentence) if part.strip()]
    for kind in (_Kind.ANSWERS, _Kind.ABSTAINS, _Kind.DOUBTS):
        if kind in kinds:
            return kind
    return _Kind.FILLS


def _choices(clauses: list[_Clause], phrases: list[_Kind | None]) -> range:
    """Find the clauses that go on with the choices of an abstention: "I do not know whether it is A, B or C"."""
    start = next((i for i, phrase in enumerate(phrases) if phrase and _OPENS.search(clauses[i].text)), len(clauses)) + 1
    for i in range(start, len(clauses)):
        text = clauses[i].text
        if phrases[i] or clauses[i].after_but or len(text.split()) > _SHORT + 1 or PROPOSES.search(text):
            break
        if re.search(r"\bor\b", text):
            return range(start, i + 1)
    return range(0)


def _phrase_kind(clause: str) -> _Kind | None:
    """Classify a clause that holds a phrase of abstaining; None for one that holds none, or takes it back."""
    if clause.isascii() and not any(cue in clause for cue in CUES):
        return None
    weak = WEAK.search(clause)
    match = weak or STRONG.search(clause) or FOREIGN.search(clause)
    if match is None or NOT_MEANT.search(clause[: match.start()]):
        return None
    rest = clause[match.end() :].strip()
    if PROPOSES.search(rest) and not SUGGESTS.search(rest) and not GOES_ON.match(rest):
        return _Kind.ANSWERS
    elliptic = re.fullmatch(r"(?:i )?(?:idk|dunno|no (?:idea|clue)|not sure|unsure)", match[0].strip())
    if (
        elliptic
        and rest
        and not GOES_ON.match(rest)
        and not re.match(r"(?:about|the|this|that|sorry|yet|at all)\b", rest)
    ):
        return _Kind.ANSWERS
    if weak and not re.match(r"(?:of |about )?(?:who|whom|whose|what|when|where|which|whether|how|why|if)\b", rest):
        return _Kind.DOUBTS
    return _Kind.ABSTAINS


def _beside(clause: _Clause, *, behind: bool) -> _Kind:
    """Classify a clause in the same sentence as an abstention."""
    text = clause.text
    if SUGGESTS.search(text):
        return _Kind.FILLS
    if PROPOSES.search(text):
        return _Kind.ANSWERS
    carried = (GOES_ON if behind else LEADS_IN).match(text) and not (behind and clause.after_but)
    if carried or FILLER.search(text):
        return _Kind.FILLS
    if clause.after_but or len(text.split()) <= _SHORT or _ADDS.search(text):
        return _Kind.ANSWERS
    return _Kind.FILLS


def _alone(part: str) -> _Kind:
    """Classify a sentence without an abstention, or the part of it up to a "but"."""
    if SUGGESTS.search(part):
        return _Kind.FILLS
    if PROPOSES.search(part):
        return _Kind.ANSWERS
    return _Kind.FILLS if FILLER.search(part) or not re.search(r"\w", part) else _Kind.ANSWERS

"""Split short answers into words in one spelling, and numbers into digits."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from typing import NamedTuple

from rlvr_rewards.language.quantities import FOLDS, dates, number_words, stem

__all__ = ["OR", "ORDERS", "SMALL", "Word", "content", "plain", "stem", "vocabulary", "words"]


def vocabulary(text: str) -> frozenset[str]:
    """Give the words of a list in one string."""
    return frozenset(text.split())


OR = frozenset(("or", "/", "|"))
_ARTICLES = frozenset(("a", "an", "the"))
SMALL = vocabulary("""
    a an the of in on at to for from by with into onto upon is was are were be been being has have had do does did it
    its this that these those he she they his her their there here as also so then thus therefore called named known
    located found approximately about around roughly some exactly nearly almost circa c ca
    between just only simply typically
    usually generally mainly mostly primarily originally officially currently s answer correct would
""")
_NUMBERED = vocabulary("war part type chapter book volume phase bowl class stage level act king pope game")
_ROMAN = {
    "ii": "2", "iii": "3", "iv": "4", "vi": "6", "vii": "7", "viii": "8", "ix": "9", "xi": "11", "xii": "12",
    "xiii": "13", "xiv": "14", "xv": "15", "xvi": "16", "xvii": "17", "xviii": "18", "xix": "19", "xx": "20",
}  # fmt: skip
_REWRITES = tuple(
    (re.compile(pattern), by)
    for pattern, by in (
        (r"\bU\. ?S\. ?A\b\.?|\bU\. ?S\.|\bUSA?\b", "United States"),
        (r"\bU\. ?K\.|\bUK\b", "United Kingdom"),
        (r"\b([AB])\. ?([CD])\.(?: ?(E)\.)?", r"\1\2\3"),
        (r"(?<=\d) ?([ab])\. ?([cd])\.(?: ?(e)\.)?", r" \1\2\3"),
        (r"\b([A-Z])\.(?=[\sA-Z])", r"\1 "),
        (r"\b(Dr|Mr|Mrs|Ms|Prof|St|Jr|Sr|Gen|Sen|Gov|Rev|vs|No)\.", r"\1"),
    )
)
_SIGN = r"(?:\+{1,2}|[#♯♭]{1,2}|(?<=\b[A-Z])-(?!\w)|(?<=\b[A-Z]\w)-(?!\w)|(?<=\b[A-Z]\w\w)[+-](?!\w))"
_TOKEN = re.compile(
    r"(?P<tag></?[a-zA-Z][^<>\s]{0,20}>)|"
    rf"(?P<word>(?:(?<![\w).])[-+](?=[\d.]))?[^\W_]+(?:['.][^\W_]+)*(?:{_SIGN}|'?))|"
    r"(?P<order>[≤≥≠±√$€£¥₹₩¢]|(?<![-=])(?:(?<=\w)|(?<=\w )|(?=[<>]=? ?[-+.$€£¥]?\d))[<>]=?)|"
    r"(?P<stop>[,;:()\[\]/\n|—–=]|\.(?=\s|$)|(?<=\s)-(?=\s))|(?P<and>&)|(?P<percent>%)"
)
_SIGNS = {"&": "and", "%": "percent", "<=": "≤", ">=": "≥"}
ORDERS = frozenset("<>≤≥≠±√")


class Word(NamedTuple):
    """A word in one spelling; `breaks` says what separates it from the word before."""

    text: str
    capital: bool
    breaks: str


def words(text: str) -> list[Word]:
    """Split a text into words in one spelling, numbers in digits."""
    found: list[Word] = []
    breaks = ""
    for match in _TOKEN.finditer(number_words(plain(text))):
        if match["tag"]:
            continue
        if match["stop"]:
            breaks = match[0] if breaks not in OR else breaks
            continue
        raw = _SIGNS.get(match[0], match[0]).replace("♯", "#")
        spelled = _spelled(raw)
        for part in spelled.split(" "):
            if part:
                numbered = bool(found) and (found[-1].capital or found[-1].text in _NUMBERED)
                part = _ROMAN.get(part, part) if numbered else part
                found.append(Word(part, raw[0].isupper(), breaks))
                breaks = ""
    return found


def plain(text: str) -> str:
    """Write signs one way, and join what digits, initials and titles are split by."""
    text = (
        re.sub("[’ʼ′‘`´]", "'", unicodedata.normalize("NFKC", text).translate(FOLDS))
        .replace("−", "-")
        .replace("⁄", "/")
    )
    text = re.sub(r"(?<=\d),(?=\d{3}\b)", "", text)
    for pattern, by in _REWRITES:
        text = pattern.sub(by, text)
    if not dates(text):
        text = re.sub(r"(?<=\d) ?[-–] ?(?=\d)", " to ", text)
        text = re.sub(r"(?<=\w)[-‐‑](?=\w)", " ", text)
    return text.strip().strip("\"“”«»'").strip()


def _spelled(raw: str) -> str:
    """Give one word's common spelling: case-folded, without accents, dots of initials and the genitive's s."""
    folded = raw.casefold()
    if not folded.isascii():
        folded = "".join(
            c for c in unicodedata.normalize("NFD", folded) if not unicodedata.combining(c) or not c.isascii()
        )
        folded = unicodedata.normalize("NFC", re.sub(r"[\u0300-\u036f]", "", folded))
    folded = re.sub(r"'s?$", "", folded)
    if folded.endswith("n't"):
        return f"{folded[:-3]} not"
    folded = re.sub(r"'", "", folded)
    if not re.search(r"\d", folded):
        folded = folded.replace(".", " " if len(folded) > 8 else "")
    return folded


def content(found: Sequence[Word]) -> list[Word]:
    """Drop small words, unless nothing else is there."""
    kept = [word for word in found if word.text not in SMALL and word.text != "and"]
    return kept or [word for word in found if word.text not in _ARTICLES] or list(found)

"""Decide whether a short answer says a gold: the same words, number, date or name, or a sentence that gives it first.

Only the first candidate of an answer counts, and alternatives ("A or B") are none: a policy that lists guesses earns no
more than one that makes the first of them.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from enum import IntEnum
from typing import NamedTuple

from rlvr_rewards._names import same_person
from rlvr_rewards._quantities import UNITS, dates, number_words, quantities, same_date, same_quantity
from rlvr_rewards._words import OR, SMALL, Word, content, plain, stem, vocabulary, words

__all__ = ["Match", "Question", "compare", "words"]

_LONGEST = 400  # characters of an answer beyond which nothing but the same words is the gold
_NEGATIONS = vocabulary("""
    not never neither nor no none without except unlike besides wrong incorrect false anything everything anyone
    everyone cannot
""")
_RELATIVE = vocabulary("and but while although because since who which where when")
_NOT_BUT = re.compile(r"\bnot (?:in |by |the )?[\w' ]{1,40}?,? (?:but|it's|it is) ", re.IGNORECASE)
_LAST = re.compile(r"(?:so|thus|therefore|hence|in conclusion|in summary|overall|the answer)\b", re.IGNORECASE)
_YES_NO = frozenset(("yes", "no", "true", "false"))


class Match(IntEnum):
    """How well an answer says a gold."""

    NONE = 0
    GIVEN = 1  # a sentence gives it, or a name or a date is told with more or less detail
    SAME = 2  # the same words, number or date


class Question(NamedTuple):
    """What of a question matters: the stems that an answer may echo, and whether it asks for a person."""

    stems: frozenset[str]
    person: bool

    @classmethod
    def of(cls, text: str) -> Question:
        """Read the question."""
        found = words(text)
        person = any(word.text in ("who", "whom", "whose", "actor", "actress", "author", "singer") for word in found)
        return cls(frozenset(stem(word.text) for word in found), person)


def compare(
    answer: str, golds: Sequence[str], *, question: Question, tolerance: float = 0.0, coarse_dates: bool = True
) -> Match:
    """Compare an answer with all golds and give the best match.

    Args:
        tolerance: how far a number may lie from the gold's, relative to it.
        coarse_dates: whether the year answers for a full date.
    """
    names = [name for gold in golds for name in _aliases(plain(gold))]
    said = plain(answer)
    best = max((_one(said, n, question, tolerance=tolerance, coarse=coarse_dates) for n in names), default=Match.NONE)
    if best is Match.GIVEN and not all(
        any(_one(item, n, question, tolerance=tolerance, coarse=coarse_dates) for n in names) for item in _items(said)
    ):
        return Match.NONE
    return best


def _one(said: str, meant: str, question: Question, *, tolerance: float, coarse: bool) -> Match:
    wanted = content(words(meant))
    if not wanted:
        return Match.SAME if said and said == meant else Match.NONE
    given = words(said)
    if _same_words(given, words(meant), question=question):
        return Match.SAME
    if len(said) > _LONGEST or not given:
        return Match.NONE
    if len(wanted) == 1 and wanted[0].text in _YES_NO:
        return Match.GIVEN if given[0].text == wanted[0].text else Match.NONE
    counted = _as_amount(said, meant, wanted, question=question, tolerance=tolerance, coarse=coarse)
    if counted is not None:
        return counted
    if (
        question.person
        and not set(map(stem, (w.text for w in wanted))) <= question.stems
        and _names_person(said, wanted, question=question)
    ):
        return Match.GIVEN
    return _given(said, wanted, question=question)


def _aliases(gold: str) -> list[str]:
    """Give a gold with and without its parenthesis, and the parenthesis itself where it is an abbreviation."""
    match = re.fullmatch(r"([^()]{3,}) \(([^()]+)\)", gold)
    if not match:
        return [gold]
    return [gold, match[1], match[2]] if re.fullmatch(r"[A-Z][A-Za-z.]{1,5}", match[2]) else [gold, match[1]]


def _items(said: str) -> list[str]:
    """Give the items of an answer that lists three or more ("A, B and C"), else none."""
    items = re.split(r"(,(?: and| or)? |,? (?:and|or) )", said.rstrip(" ."))
    joins, rest = items[1::2], items[2::2]
    is_list = len(rest) > 1 and joins[-1].strip(", ") in ("and", "or") and all(len(item.split()) <= 5 for item in rest)
    return rest if is_list else []


def _names_person(said: str, wanted: Sequence[Word], *, question: Question) -> bool:
    """Compare the first name in an answer with the gold: a run of capitals, or all of a short answer."""
    found = words(_answering_sentence(said, question))
    meant = [word.text for word in wanted]
    if _refuses([word for word in found if word.text not in question.stems], allowed=wanted):
        return False
    if len(found) <= 5 and not any(word.breaks or word.text == "and" for word in found[1:]):
        return same_person([word.text for word in content(found)], meant)
    runs: list[list[Word]] = [[]]
    for word in found:
        if not word.capital or (word.breaks and runs[-1]):
            runs.append([])
        if word.capital and word.text not in SMALL:
            runs[-1].append(word)
    first = next((run for run in runs if run and not any(stem(w.text) in question.stems for w in run)), [])
    behind = found[next((i for i, word in enumerate(found) if first and word is first[-1]), 0) + 1 :]
    if len(behind) > 1 and behind[0].text == "and" and behind[1].capital:
        return False
    return len(first) > 1 and same_person([word.text for word in first], meant)


def _same_words(given: Sequence[Word], meant: Sequence[Word], *, question: Question) -> bool:
    """Compare word by word: in order, joined together, as the same list, or without what the question says already."""
    if any(word.breaks in OR or word.text == "or" for word in given) and not any(w.text == "or" for w in meant):
        return False
    one, other = ([stem(word.text) for word in content(words)] for words in (given, meant))
    if one == other or "".join(one) == "".join(other):
        return True
    is_list = any(word.text == "and" or word.breaks == "," for word in meant)
    if is_list and sorted(one) == sorted(other):
        return True
    rest, wanted = ([stem for stem in stems if stem not in question.stems] for stems in (one, other))
    return bool(wanted) and rest == wanted and set(one) <= set(other) | question.stems and len(given) <= len(meant) + 2


def _as_amount(
    said: str, meant: str, wanted: Sequence[Word], *, question: Question, tolerance: float, coarse: bool
) -> Match | None:
    """Compare dates or numbers where the gold is nothing else; None where it is."""
    said, meant = number_words(_NOT_BUT.sub("", said)), number_words(meant)
    if not re.search(r"\d", meant) or any(_is_name(word, question=question) for word in wanted):
        return None
    if _refuses(words(said), allowed=wanted):
        return Match.NONE
    golds = dates(meant)
    if golds:
        found = [date for date in dates(said) if not _echoed(said[date.start : date.end], question) or len(golds) > 1]
        if len(golds) != len(found[: len(golds)]) or (len(golds) == 1 and _is_range(said, [d.end for d in found])):
            return Match.NONE
        fits = all(same_date(one, gold, coarse=coarse) for one, gold in zip(found, golds, strict=False))
        return (Match.SAME if len(said) <= len(meant) + 5 else Match.GIVEN) if fits else Match.NONE
    counts = quantities(meant)
    heard = [q for q in quantities(said) if not _echoed(said[q.start : q.end], question) or len(counts) > 1]
    if not counts:
        return None
    if len(heard) < len(counts) or (len(counts) == 1 and _is_range(said, [q.end for q in heard])):
        return Match.NONE
    fits = all(same_quantity(one, gold, tolerance=tolerance) for one, gold in zip(heard, counts, strict=False))
    return (
        (Match.SAME if len(heard) == len(counts) and len(said) <= len(meant) + 12 else Match.GIVEN)
        if fits
        else Match.NONE
    )


def _is_name(word: Word, *, question: Question) -> bool:
    """Tell whether a word beside a number makes more of it than an amount: neither a unit nor the question's own."""
    amount = re.fullmatch(
        r"[\d.,]+(?:st|nd|rd|th|s|k|m|bn|mn|km|cm|mm|kg|g|l|ml|ft|in|h)?|percent|bc|ad|bce|ce|hundred|thousand|million|billion|"
        r"trillion|dozen|dollar|euro|people|person|time|usd|eur|"
        r"jan\w*|feb\w*|mar(?:ch)?|apr\w*|may|june?|july?|aug\w*|sep\w*|oct\w*|nov\w*|dec\w*|"
        r"early|late|mid|year old|old",
        stem(word.text),
    )
    return not amount and stem(word.text) not in UNITS and stem(word.text) not in question.stems


def _echoed(text: str, question: Question) -> bool:
    return all(stem(word.text) in question.stems for word in words(text))


def _is_range(said: str, ends: Sequence[int]) -> bool:
    """Tell whether the first of several amounts is only one end of a range or one of two choices."""
    if len(ends) < 2:
        return False
    between = said[ends[0] : ends[0] + 12]
    return bool(re.match(r"\s*(?:to|or|and|/|-|–|through|until)\b", between) or re.match(r"\s*[/–-]", between))


def _refuses(found: Sequence[Word], *, allowed: Sequence[Word]) -> bool:
    """Look for a negation or an "or" that the gold does not hold."""
    fine = {word.text for word in allowed}
    return any(
        (word.text in _NEGATIONS or word.text == "or" or word.breaks in OR) and word.text not in fine for word in found
    )


def _given(said: str, wanted: Sequence[Word], *, question: Question) -> Match:
    """Find the gold as the first candidate of the sentence that answers."""
    said = _NOT_BUT.sub("", said)
    found = words(_answering_sentence(said, question))
    if _refuses([word for word in found if word.text not in question.stems], allowed=wanted):
        return Match.NONE
    content = [word for word in found if word.text not in SMALL and word.text != "and"] or found
    stems, gold = [stem(word.text) for word in content], [stem(word.text) for word in wanted]
    at = next((i for i in range(len(stems) - len(gold) + 1) if stems[i : i + len(gold)] == gold), None)
    if at is None:
        return Match.NONE
    if set(gold) <= question.stems:  # one of the choices that the question names: it has to open the answer
        return Match.GIVEN if at == 0 and not _refuses(found, allowed=wanted) else Match.NONE
    sentence = any(stem in question.stems for stem in stems) or any(
        w.text in ("is", "was", "are", "were", "by") for w in found
    )
    return (
        Match.GIVEN
        if _is_first(found, content, at, at + len(gold), question=question, sentence=sentence)
        else Match.NONE
    )


def _is_first(
    found: Sequence[Word], content: Sequence[Word], start: int, end: int, *, question: Question, sentence: bool
) -> bool:
    """Tell whether nothing before the gold competes with it and nothing beside it makes another name of it."""
    before = [word for word in content[:start] if stem(word.text) not in question.stems]
    lower = not any(word.capital for word in content)
    if before and (not sentence or (lower and len(before) > 2)):
        return False
    if any(word.capital for word in _strangers(content, start, question)) or (
        before and before[-1] is content[start - 1] and before[-1].capital
    ):
        return False
    if any(word.breaks == "," for word in content[1 : start + 1]) and before and not _leads_in(found):
        return False
    if end >= len(content) or content[end].breaks or stem(content[end].text) in question.stems:
        return True
    place = next(i for i, word in enumerate(found) if word is content[end])
    joint = found[place - 1].text
    if joint == "and" and (content[end].capital or not sentence):
        return False
    return joint in SMALL or joint in _RELATIVE


def _strangers(content: Sequence[Word], start: int, question: Question) -> list[Word]:
    """List the capitalised words before the gold that name something else: in no name with a word of the question."""
    runs: list[list[Word]] = [[]]
    for word in content[:start]:
        if not word.capital or word.breaks:
            runs.append([])
        runs[-1].append(word)
    free = [run for run in runs if not any(stem(word.text) in question.stems for word in run)]
    return [word for run in free for word in run if word.capital and word is not content[0]]


def _leads_in(found: Sequence[Word]) -> bool:
    return found[0].text in ("in", "on", "during", "after", "since", "by", "according")


def _answering_sentence(text: str, question: Question) -> str:
    """Give the first sentence that says more than the question; the last where it draws a conclusion."""
    sentences = [
        part for part in re.split(r"(?<=[.!?])(?<!\b[A-Z]\.)(?<!\b[DMJS]r\.)(?<!\bSt\.)\s+|\n+", text) if part.strip()
    ]
    if not sentences:
        return text
    if len(sentences) > 1 and _LAST.match(sentences[-1].strip()):
        return sentences[-1]
    return next((s for s in sentences if any(stem(w.text) not in question.stems for w in content(words(s)))), text)

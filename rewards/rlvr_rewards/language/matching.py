"""Decide whether a short answer says a gold: the same words, number, date or name, or a sentence that gives it first.

Only the first candidate of an answer counts, and alternatives ("A or B") are none: a policy that lists guesses earns no
more than one that makes the first of them.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from enum import IntEnum
from typing import NamedTuple

from rlvr_rewards.language.names import same_person
from rlvr_rewards.language.quantities import (
    UNITS,
    Date,
    Quantity,
    dates,
    number_words,
    quantities,
    same_date,
    same_quantity,
)
from rlvr_rewards.language.words import OR, ORDERS, SMALL, Word, content, plain, stem, vocabulary, words

__all__ = ["Match", "Question", "compare", "words"]

_LONGEST = 400  # characters of an answer beyond which nothing but the same words is the gold
_MOST_ITEMS = 64  # of a list, beyond which it is no answer
_NEGATIONS = vocabulary("""
    not never neither nor no none without except unlike besides wrong incorrect false anything everything anyone
    everyone cannot
""")
_RELATIVE = vocabulary("and but while although because since who which where when")
_VERBS = vocabulary("is was are were be been has had by")
_BOUNDS = frozenset({"than", "least", "most", "under", "over", "below", "above", "exceeding", "beyond"})
_BESIDE = 10  # characters that may stand beside an amount that is the same: "about", "in", a unit
_OPENING = re.compile(
    r"^(?:(?:well|so|maybe|perhaps|probably|possibly|most likely|likely|"
    r"i (?:think|believe|guess|suppose|would say|would guess)(?: that)?|"
    r"i'd (?:say|guess)(?: that)?|my (?:best )?guess (?:is|would be)|if i had to guess|it's|that's|"
    r"(?:it|that|this|he|she|they|the answer) (?:is|was|were|are|might be|could be|may be|would be))[,: ]+){1,5}",
    re.IGNORECASE,
)
_NUMERIC_DATE = re.compile(r"\d{1,4}/\d{1,2}/\d{1,4}")
_NOT_BUT = re.compile(r"\bnot (?:in |by |the )?[\w' ]{1,40}?,? (?:but|it's|it is) ", re.IGNORECASE)
_LAST = re.compile(r"(?:so|thus|therefore|hence|in conclusion|in summary|overall|the answer)\b", re.IGNORECASE)
_JOINTS = _RELATIVE | vocabulary("or what how why whom whose")
_OPPOSITE = {
    "yes": ("no", "false"), "no": ("yes", "true"), "true": ("false", "no"), "false": ("true", "yes"),
}  # fmt: skip
_DIRECTIONS = vocabulary("from to by")
_CHOICE = vocabulary("or than between versus vs")


class Match(IntEnum):
    """How well an answer says a gold."""

    NONE = 0
    GIVEN = 1  # a sentence gives it, or a name or a date is told with more or less detail
    SAME = 2  # the same words, number or date


class Question(NamedTuple):
    """What of a question matters: the stems that an answer may echo, and whether it asks for a person or a choice."""

    stems: frozenset[str]
    person: bool
    choice: bool

    @classmethod
    def of(cls, text: str) -> Question:
        """Read the question."""
        found = words(text)
        person = any(word.text in ("who", "whom", "whose", "actor", "actress", "author", "singer") for word in found)
        choice = any(word.text in _CHOICE or word.breaks in OR for word in found)
        return cls(frozenset(stem(word.text) for word in found), person, choice)


class Gold(NamedTuple):
    """A right answer, read once: its words, those that matter, and its amounts where it is nothing else."""

    text: str
    words: list[Word]
    content: list[Word]
    named: bool  # whether it may be a person's name
    counted: str  # with numbers in digits
    amounts: Sequence[Date | Quantity]

    @classmethod
    def of(cls, text: str, question: Question) -> Gold:
        """Read a right answer."""
        found = words(text)
        kept = content(found)
        named = bool(kept) and kept[-1].capital and not any(word.text in _NEGATIONS for word in found)
        counted = number_words(text)
        # where the question offers a choice, a word of it tells which one the amount belongs to
        stems = question._replace(stems=frozenset()) if question.choice else question
        only = bool(re.search(r"\d", counted)) and not any(_is_name(word, question=stems) for word in kept)
        amounts: Sequence[Date | Quantity] = (dates(counted) or quantities(counted)) if only else ()
        return cls(text, found, kept, named, counted, amounts)


class Said(NamedTuple):
    """An answer, read once: all its words, those of the sentence that answers, and the amounts in that."""

    text: str
    words: list[Word]
    sentence: list[Word]
    counted: str  # the sentence with numbers in digits
    counted_words: list[Word]
    plain_words: list[Word]  # with no slash of a date in them
    dates: Sequence[Date]
    quantities: Sequence[Quantity]

    @classmethod
    def of(cls, text: str, question: Question) -> Said:
        """Read an answer. Of a long one only the words are."""
        if len(text) > _LONGEST:
            return cls(text, words(text), [], "", [], [], (), ())
        sentence = _answering_sentence(_NOT_BUT.sub("", text), question)
        counted = number_words(sentence)
        return cls(
            text, words(text), words(sentence), counted, words(counted), words(_NUMERIC_DATE.sub("0", counted)),
            dates(counted), quantities(counted),
        )  # fmt: skip


def compare(
    answer: str, golds: Sequence[str], *, question: Question, tolerance: float = 0.0, coarse_dates: bool = True
) -> Match:
    """Compare an answer with all golds and give the best match.

    Args:
        tolerance: how far a number may lie from the gold's, relative to it.
        coarse_dates: whether the year answers for a full date.
    """
    meant = [Gold.of(name, question) for gold in golds for name in _aliases(plain(gold))]

    def best(text: str) -> Match:
        said = Said.of(text, question)
        found = (_one(said, gold, question, tolerance=tolerance, coarse=coarse_dates) for gold in meant)
        return max(found, default=Match.NONE)

    said = plain(answer)
    match = max(map(best, {said, _OPENING.sub("", said)}))
    if match is not Match.GIVEN:
        return match
    items = set(_items(said))
    return match if len(items) <= _MOST_ITEMS and all(map(best, items)) else Match.NONE


def _one(said: Said, gold: Gold, question: Question, *, tolerance: float, coarse: bool) -> Match:
    if not gold.content:
        return Match.SAME if said.text and said.text == gold.text else Match.NONE
    given = said.words
    if _same_words(given, gold.words, question=question):
        return Match.SAME
    if len(said.text) > _LONGEST or not given:
        return Match.NONE
    if len(gold.content) == 1 and gold.content[0].text in _OPPOSITE:
        meant = gold.content[0].text
        both = any(word.text in _OPPOSITE[meant] for word in given) or _offers(given)
        return Match.GIVEN if given[0].text == meant and not both else Match.NONE
    counted = _as_amount(said, gold, question=question, tolerance=tolerance, coarse=coarse)
    if counted is not None:
        return counted
    found = said.sentence
    if _refuses(found, gold, question=question):
        return Match.NONE
    if {
        stem(word.text) for word in gold.content
    } <= question.stems:  # a choice that the question names opens the answer
        return (
            Match.GIVEN
            if [w.text for w in content(found)][: len(gold.content)] == [w.text for w in gold.content]
            else Match.NONE
        )
    if question.person and gold.named and _names_person(found, gold, question=question):
        return Match.GIVEN
    return Match.GIVEN if _gives(found, gold, question=question) else Match.NONE


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


def _names_person(found: Sequence[Word], gold: Gold, *, question: Question) -> bool:
    """Compare the first name in an answer with the gold: a run of capitals, or all of a short answer."""
    meant = [word.text for word in gold.content]
    name = [word.text for word in content(found)]
    plainly = not any(word.breaks or word.text in SMALL or word.text == "and" for word in found[1:])
    if plainly and len(name) <= (5 if len(meant) > 1 else 3):
        return same_person(name, meant)
    if not _is_sentence(found, question):
        return False
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


def _is_sentence(found: Sequence[Word], question: Question) -> bool:
    """Tell a sentence, which may say more than the gold, from a bare answer: by a verb or by words of the question."""
    told = [word for word in found if word.text not in SMALL and word.text not in _JOINTS]
    return any(word.text in _VERBS for word in found) or any(stem(word.text) in question.stems for word in told)


def _same_words(given: Sequence[Word], meant: Sequence[Word], *, question: Question) -> bool:
    """Compare word by word: in order, joined together, as the same list, or but for what the question says already."""
    if _offers(given) and not _offers(meant):
        return False
    one, other = ([stem(word.text) for word in content(words)] for words in (given, meant))
    if _directions(given) != _directions(meant):
        return False
    if one == other or _joined(one) == _joined(other):
        return True
    if sorted(one) == sorted(other) and _listed(given) == _listed(meant):
        return True
    if question.choice or _NEGATIONS & ({word.text for word in given} ^ {word.text for word in meant}):
        return False
    few, many = sorted((one, other), key=len)
    if len(given) > len(meant) + 2 or all(stem in question.stems for stem in few):
        return False
    left = list(few)
    for word in many:
        if left and word == left[0]:
            del left[0]
        elif word not in question.stems:
            return False
    return not left


def _offers(found: Sequence[Word]) -> bool:
    return any(word.text == "or" or word.breaks in OR for word in found)


def _directions(found: Sequence[Word]) -> list[str]:
    """List the words that say who does what to whom, or which way it goes; those that open an answer do not."""
    first = next((i for i, word in enumerate(found) if word.text not in SMALL), len(found))
    return [word.text for word in found[first:] if word.text in _DIRECTIONS]


def _joined(stems: Sequence[str]) -> str:
    """Join words, but for two that would make another number."""
    return re.sub(r"(?<!\d) | (?!\d)", "", " ".join(stems))


def _listed(found: Sequence[Word]) -> list[list[str]]:
    """Give the items of a list ("A, B and C") in one order."""
    items: list[list[str]] = [[]]
    for word in found:
        if word.text == "and" or word.breaks == ",":
            items.append([])
        if word.text not in SMALL and word.text != "and":
            items[-1].append(stem(word.text))
    return sorted(item for item in items if item)


def _as_amount(said: Said, gold: Gold, *, question: Question, tolerance: float, coarse: bool) -> Match | None:
    """Compare dates or numbers where the gold is nothing else; None where it is."""
    wanted = gold.amounts
    if not wanted:
        return None
    found: Sequence[Date | Quantity] = said.dates if isinstance(wanted[0], Date) else said.quantities
    if len(wanted) == 1:
        found = [one for one in found if not _echoed(said.counted[one.start : one.end], question)]
    if len(found) < len(wanted):
        return Match.NONE
    for one, meaning in zip(found, wanted, strict=False):
        if isinstance(one, Date) and isinstance(meaning, Date):
            fits = same_date(one, meaning, coarse=coarse)
        else:
            assert isinstance(one, Quantity) and isinstance(meaning, Quantity)
            fits = same_quantity(one, meaning, tolerance=tolerance, echoed=question.stems)
        if not fits:
            return Match.NONE
    if _surrounded(said, found, gold, question=question):
        return Match.NONE
    return Match.SAME if len(found) == len(wanted) and len(said.counted) <= len(gold.counted) + _BESIDE else Match.GIVEN


def _surrounded(said: Said, found: Sequence[Date | Quantity], gold: Gold, *, question: Question) -> bool:
    """Tell whether what stands around an amount makes another one of it: a bound, a range, a rival."""
    signs = [{word.text for word in found if word.text in ORDERS} for found in (said.counted_words, gold.words)]
    if signs[0] != signs[1] or _refuses(said.plain_words, gold):
        return True
    if len(gold.amounts) == 1 and _is_range(said.counted, found):
        return True
    before = words(said.counted[: found[0].start])
    if any(word.text in _BOUNDS for word in before[-2:]) and not any(word.text in _BOUNDS for word in gold.words):
        return True  # "less than 5", "at least 5": a bound is no amount
    if len(gold.amounts) == 1 and any(re.search(r"\d", w.text) and stem(w.text) not in question.stems for w in before):
        return True
    extra = [word for word in before if word.text not in SMALL and _is_name(word, question=question)]
    return bool(extra) and (
        not _is_sentence(said.counted_words, question) or bool(_strangers(content(before), question))
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


def _is_range(said: str, found: Sequence[Date | Quantity]) -> bool:
    """Tell whether the first of several amounts is only one end of a range or one of two choices."""
    if len(found) < 2:
        return False
    between = said[found[0].end : found[0].end + 12]
    return bool(re.match(r"\s*(?:(?:to|or|and|through|until)\b|[/–-])", between))


def _refuses(found: Sequence[Word], gold: Gold, *, question: Question | None = None) -> bool:
    """Look for a negation or an alternative that the gold does not hold; a negation may echo the question's own."""
    fine = {word.text for word in gold.words} | {word.breaks for word in gold.words}
    for place, word in enumerate(found):
        if (word.text == "or" and "or" not in fine) or (word.breaks in OR and word.breaks not in fine):
            return True
        if word.text in _NEGATIONS and word.text not in fine:
            behind = next((stem(w.text) for w in found[place + 1 :] if w.text not in SMALL), "")
            if question is None or stem(word.text) not in question.stems or behind not in question.stems:
                return True
    return False


def _gives(found: Sequence[Word], gold: Gold, *, question: Question) -> bool:
    """Find the gold as the first candidate of a sentence."""
    kept = content(found)
    stems, wanted = [stem(word.text) for word in kept], [stem(word.text) for word in gold.content]
    start = next((i for i in range(len(stems) - len(wanted) + 1) if stems[i : i + len(wanted)] == wanted), None)
    if start is None:
        return False
    span = [i for i, word in enumerate(found) if word is kept[start] or word is kept[start + len(wanted) - 1]]
    if _directions(found[span[0] : span[-1] + 1]) != _directions(gold.words):
        return False
    before = [word for word in kept[:start] if stem(word.text) not in question.stems]
    if before and not _leads_up(found, kept[: start + 1], before, question):
        return False
    end = start + len(wanted)
    if end >= len(kept) or kept[end].breaks or stem(kept[end].text) in question.stems:
        return True
    joint = found[next(i for i, word in enumerate(found) if word is kept[end]) - 1].text
    if joint == "and" and (kept[end].capital or not _is_sentence(found, question)):
        return False
    return joint in SMALL or joint in _RELATIVE


def _leads_up(found: Sequence[Word], kept: Sequence[Word], before: Sequence[Word], question: Question) -> bool:
    """Tell whether the words before a gold, `kept` with its first word, only lead up to it and name no rival."""
    if not _is_sentence(found, question):
        return False
    if not any(word.capital for word in found) and len(before) > 2:
        return False  # without capitals a rival looks like any other word
    if _strangers(kept[:-1], question):
        return False
    beside = (
        before[-1] is kept[-2] and found[next(i for i, word in enumerate(found) if word is kept[-1]) - 1] is kept[-2]
    )
    if beside and (before[-1].capital or not (kept[-1].capital or kept[-1].text[0].isdigit())):
        return False  # "average instantaneous speed" may be two guesses
    leads_in = found[0].text in ("in", "on", "during", "after", "since", "by", "according")
    return leads_in or not any(word.breaks == "," for word in kept[1:])


def _strangers(kept: Sequence[Word], question: Question) -> list[Word]:
    """List the capitalised words that name something else: in no name with a word of the question."""
    runs: list[list[Word]] = [[]]
    for word in kept:
        if not word.capital or word.breaks or not (runs[-1] and runs[-1][-1].capital):
            runs.append([])
        runs[-1].append(word)
    free = [run for run in runs if not any(stem(word.text) in question.stems for word in run)]
    return [word for run in free for word in run if word.capital and word is not kept[0]]


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

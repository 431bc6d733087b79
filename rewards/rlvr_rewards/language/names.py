"""Tell whether two names mean one person: middle names, initials and short forms left out or not."""

from __future__ import annotations

from collections.abc import Sequence

from rlvr_rewards.language.words import vocabulary

__all__ = ["same_person"]

_TITLES = vocabulary("""
    mr mrs ms miss dr doctor prof professor sir dame lord lady king queen prince princess emperor president senator
    governor general colonel captain major pope saint st rev reverend
""")
_GENERATIONS = {"jr": "junior", "sr": "senior", "junior": "junior", "senior": "senior"}
_FORMS = """
    andrew andy drew; anthony tony; benjamin ben; charles charlie chuck; christopher chris; daniel dan danny;
    david dave davey; donald don; douglas doug; edward ed eddie ted; elizabeth liz beth lizzie; frederick fred;
    gregory greg; james jim jimmy jamie; jeffrey jeff; john jack johnny jon; joseph joe joey; joshua josh;
    katherine kate katie kathy; kenneth ken kenny; lawrence larry; margaret meg maggie peggy; matthew matt;
    michael mike mick mickey; nicholas nick; patrick pat; peter pete; philip phil; raymond ray;
    richard rick dick rich richie; robert bob bobby rob robbie; ronald ron ronnie; samuel sam; stephen steve steven;
    susan sue; theodore teddy theo; thomas tom tommy; timothy tim; victoria vicky; william bill billy will
"""
_SHORT_FORMS = {short: full for full, *shorts in map(str.split, _FORMS.split(";")) for short in shorts}


def same_person(said: Sequence[str], meant: Sequence[str]) -> bool:
    """Compare two names, given as words in one spelling.

    A surname alone stands for a full name. Between full names the first and the last must agree, initials standing for
    names; middle names may be missing from the end, but no other one may stand there. A junior is no senior.
    """
    ages = [{_GENERATIONS[word] for word in name if word in _GENERATIONS} for name in (said, meant)]
    if ages[0] and ages[1] and ages[0] != ages[1]:
        return False
    one, other = (_bare(name) for name in (said, meant))
    if not one or not other or len(one) > 5 or any(not word.isalpha() for word in (*one, *other)):
        return False
    if one[-1] != other[-1]:
        return False
    if len(one) == 1:
        return len(one[-1]) > 2
    if len(other) == 1:  # "Cher Madonna" is two guesses
        return False
    if not _agree(one[0], other[0]):
        return False
    return all(_agree(middle, place) for middle, place in zip(one[1:-1], other[1:-1], strict=False))


def _bare(name: Sequence[str]) -> list[str]:
    words = [word for word in name if word not in _TITLES and word not in _GENERATIONS]
    # "j.k." comes as one word "jk"; two letters without a vowel are two initials
    return [part for word in words for part in (word if len(word) == 2 and not set(word) & set("aeiouy") else [word])]


def _agree(one: str, other: str) -> bool:
    if len(one) == 1 or len(other) == 1:
        return one[0] == other[0]
    return _SHORT_FORMS.get(one, one) == _SHORT_FORMS.get(other, other)

"""Take an answer apart: lists, sets, tuples, intervals, unions and matrices of atoms, with the names they are given."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache

from rlvr_rewards.mathematics.notation import key

__all__ = ["Shape", "atoms", "is_real_line", "region", "shape", "sides"]

_DEEPEST = 6
_MOST = 64  # items of one list
_BRACKETS = (
    r"\\begin\{\w+\*?\}|\\end\{\w+\*?\}|\\[{}]|\\[lr]angle(?![A-Za-z])|\\[lr](?:floor|ceil)(?![A-Za-z])|[()\[\]{}]"
)
_OPENING = re.compile(r"\\begin|\\\{|\\l|[(\[{]")
_COMMA = re.compile(rf"{_BRACKETS}|,? *(?<![A-Za-z\\])(?:and|or)(?![A-Za-z]) *,?|,|;")
_UNION = re.compile(rf"{_BRACKETS}|\\cup(?![A-Za-z])|(?<=[)\]]) ?U ?(?=[(\[])")
_ROW = re.compile(rf"{_BRACKETS}|\\\\|\\cr(?![A-Za-z])")
_CELL = re.compile(rf"{_BRACKETS}|&")
_EQUALS = re.compile(rf"{_BRACKETS}|(?<![<>!])=|\\(?:in|equiv)(?![A-Za-z])")
_ONE_OF = re.compile(rf"{_BRACKETS}")
_MATRIX = re.compile(r"\\begin\{([pbBvV]?matrix|smallmatrix|array)\}(?:\{[lcr| ]*\})?(.*)\\end\{\1\}", re.DOTALL)
_LETTER = r"(?:[A-Za-z]|\\[A-Za-z]+)"
_POINT = r"[A-Za-z](?:_?\d)?"
_NAME = re.compile(
    rf"{_LETTER}(?:_\{{?\w{{1,3}}\}}?)?'?(?:\^\{{?-1\}}?)?"  # x, a_n, f', f^{-1}
    rf"(?: ?\({_LETTER}(?:, ?[A-Za-z]){{0,3}}\))?"  # the arguments in f(x), P(A)
    rf"|\({_POINT}(?:, ?{_POINT}){{1,5}}\)"  # (x, y), (x_1, x_2)
)
_MIRRORED = re.compile(r"([\[\]])([^\[\]()]*[,;][^\[\]()]*)([\[\]])")
_BUILDER = re.compile(r"\\\{ ?[A-Za-z](?: ?\\in ?\\mathbb\{R\})? ?[|:] ?([^|]+)\\\}")
_RELATION = re.compile(r"\\(?:le|ge|ne)(?![A-Za-z])|[<>]")
_FLIPPED = {"<": ">", ">": "<", "\\le": "\\ge", "\\ge": "\\le", "\\ne": "\\ne"}
_ALL = ("\\mathbb{r}", "allrealnumbers", "allreals")


@dataclass(frozen=True, slots=True)
class Shape:
    """An answer or a part of one."""

    kind: str  # atom, list, set, tuple, union, matrix
    text: str
    items: tuple[Shape, ...] = ()
    ends: str = ""  # of a tuple: ( or [ and ) or ]
    name: str = ""  # what the answer calls it: x in x = 5


def cut(text: str, pattern: re.Pattern[str]) -> list[tuple[str, str]]:
    """Cut a text outside all brackets where the pattern matches; gives pieces with the separator before each."""
    pieces, depth, start, before = [], 0, 0, ""
    for match in pattern.finditer(text):
        mark = match[0]
        if _ONE_OF.fullmatch(mark):
            depth += 1 if _OPENING.match(mark) else -1
        elif depth == 0:
            pieces.append((before, text[start : match.start()].strip()))
            start, before = match.end(), mark.strip()
    return [*pieces, (before, text[start:].strip())]


@lru_cache(maxsize=4096)
def shape(text: str, depth: int = 0, inside: bool = False) -> Shape:
    """Take a tidied answer apart. `inside` brackets a comma separates, whatever stands around it."""
    text = _mirrored(text.strip())
    if depth > _DEEPEST or len(text) > 4000:
        return Shape("atom", text)
    pieces = _pieces(text, inside)
    if len(pieces) > 1:
        return _listed(text, pieces, depth)
    name, value = sides(text)
    if name and value:
        inner = shape(value, depth + 1, inside)
        return Shape(inner.kind, text if inner.kind == "atom" else value, inner.items, inner.ends, key(name))
    return _single(text, depth)


def _mirrored(text: str) -> str:
    """Write ]0, 1[ as (0, 1)."""
    match = _MIRRORED.fullmatch(text)
    if match is None or (match[1], match[3]) == ("[", "]"):
        return text
    return ("(" if match[1] == "]" else "[") + match[2] + (")" if match[3] == "[" else "]")


def _pieces(text: str, inside: bool) -> list[tuple[str, str]]:
    raw = cut(text, _COMMA)
    if len(raw) == 1:
        return raw
    spaced = not inside or re.search(r",[ ]", text)
    joined: list[tuple[str, str]] = []
    at = 0
    for before, piece in raw:
        # A comma between digits, three of them after it, groups thousands.
        at = text.find(piece, at)
        groups = before == "," and spaced and joined and re.search(r"(?<!\d)\d{1,3}(?:,\d{3})*$", joined[-1][1])
        if groups and re.match(r"\d{3}(?!\d)", piece) and text[at - 1 : at] == ",":
            joined[-1] = (joined[-1][0], f"{joined[-1][1]},{piece}")
        else:
            joined.append((before, piece))
        at += len(piece)
    return [(before, piece) for before, piece in joined if piece]


def _listed(text: str, pieces: list[tuple[str, str]], depth: int) -> Shape:
    """Make a list; where semicolons part groups of commas, each group is a tuple."""
    marks = [before for before, _ in pieces[1:]]
    if ";" in marks and "," in marks:
        groups = [piece for _, piece in cut(text, re.compile(rf"{_BRACKETS}|;")) if piece]
        inner = [shape(group, depth + 1) for group in groups]
        tuples = tuple(Shape("tuple", s.text, s.items, "()") if s.kind == "list" else s for s in inner)
        return tuples[0] if len(tuples) == 1 else Shape("list", text, tuples)
    items: list[Shape] = []
    for _, piece in pieces[:_MOST]:
        one = shape(piece, depth + 1)
        items += one.items if one.kind == "list" and "\\pm" in piece else [one]
    kind = "any" if any("or" in mark for mark in marks) else ""
    return Shape("list", text, tuple(items), kind)


def _single(text: str, depth: int) -> Shape:
    if "\\pm" in text or "\\mp" in text:
        both = [text.replace("\\pm", a).replace("\\mp", b) for a, b in (("+", "-"), ("-", "+"))]
        first = [shape(re.sub(r"^ ?\+ ?", "", one), depth + 1) for one in both]
        return Shape("list", text, tuple(first))
    parts = [piece for _, piece in cut(text, _UNION)]
    if len(parts) > 1 and all(parts):
        return Shape("union", text, tuple(shape(part, depth + 1) for part in parts))
    if matrix := _MATRIX.fullmatch(text):
        rows = [[cell for _, cell in cut(row, _CELL)] for _, row in cut(matrix[2].strip(), _ROW) if row]
        ends = "|" if matrix[1] in ("vmatrix", "Vmatrix") else ""
        made = tuple(Shape("row", "", tuple(shape(cell, depth + 1) for cell in row)) for row in rows)
        return Shape("matrix", text, made, ends)
    return _bracketed(text, depth)


def _bracketed(text: str, depth: int) -> Shape:
    """Read what one pair of brackets encloses; brackets around one thing say nothing."""
    for opening, closing, kind in (("\\{", "\\}", "set"), ("{", "}", "list"), ("\\langle", "\\rangle", "tuple")):
        if text.startswith(opening) and text.endswith(closing) and _encloses(text):
            inner = shape(text[len(opening) : -len(closing)], depth + 1, True)
            if kind == "set":
                if builder := _BUILDER.fullmatch(text):
                    return region(shape(builder[1].strip(), depth + 1))
                items = inner.items if inner.kind == "list" else (inner,) if inner.text else ()
                return Shape("set", text, items)
            if inner.kind == "list":
                return Shape(kind, text, inner.items, "()" if kind == "tuple" else "")
            return inner
    if text[:1] in ("(", "[") and text[-1:] in (")", "]") and _encloses(text):
        inner = shape(text[1:-1], depth + 1, True)
        if inner.kind == "list" and not inner.ends and "\\pm" not in re.sub(r"[^,]*,.*", "", text):
            return Shape("tuple", text, inner.items, text[0] + text[-1])
        if inner.kind != "list" and text[0] + text[-1] in ("()", "[]") and text[1:-1].strip():
            return inner
    return Shape("atom", text)


def _encloses(text: str) -> bool:
    """Tell whether the first bracket closes with the last."""
    depth = 0
    for match in _ONE_OF.finditer(text):
        depth += 1 if _OPENING.match(match[0]) else -1
        if depth == 0:
            return match.end() == len(text)
    return False


def sides(text: str) -> tuple[str, str]:
    """Split "x = 5", "f(x) = 5" or "x \\in S" into name and value; ("", text) where no name stands on the left."""
    parts = [piece for _, piece in cut(text, _EQUALS)]
    if len(parts) < 2 or not parts[-1] or _RELATION.search(text):
        return "", text
    named = next((part for part in parts[:-1] if _NAME.fullmatch(part)), "")
    if named and (len(parts) > 2 or named == parts[0]):
        return named, parts[-1]
    return "", text


def atoms(one: Shape) -> list[str]:
    """List the texts of all atoms."""
    if one.kind == "atom":
        return [sides(one.text)[1]]
    return [text for item in one.items for text in atoms(item)]


def is_real_line(text: str) -> bool:
    """Tell whether a tidied text names all real numbers."""
    return text.replace(" ", "").lower() in _ALL


def region(one: Shape) -> Shape:
    """Write an inequality in one letter as an interval or a union; all else as it is."""
    if one.kind == "list" and one.ends == "any":
        parts = [region(item) for item in one.items]
        if all(part.kind == "tuple" and part is not item for part, item in zip(parts, one.items, strict=True)):
            return Shape("union", one.text, tuple(parts))
    if one.kind != "atom":
        return one
    if is_real_line(one.text):
        return _interval("(", "-\\infty", "\\infty", ")")
    left_out = re.fullmatch(r"\\mathbb\{R\} ?(?:\\setminus|\\backslash|-) ?\\\{([^,{}]+)\\\}", one.text)
    if left_out:
        return _all_but(left_out[1])
    bounds = [part.strip() for part in _RELATION.split(one.text)]
    return (_inequality(bounds, _RELATION.findall(one.text)) if all(bounds) else None) or one


def _inequality(parts: list[str], signs: list[str]) -> Shape | None:
    def letter(text: str) -> bool:
        return bool(re.fullmatch(r"[A-Za-z]|\\(?:theta|alpha|beta|lambda)", text))

    if any("|" in part for part in parts):
        return _absolute(parts, signs)
    if len(parts) == 2 and letter(parts[1]) and not letter(parts[0]):
        parts, signs = parts[::-1], [_FLIPPED[signs[0]]]
    if len(parts) == 2 and letter(parts[0]):
        sign, bound = signs[0], parts[1]
        if sign == "\\ne":
            return _all_but(bound)
        if sign in (">", "\\ge"):
            return _interval("(" if sign == ">" else "[", bound, "\\infty", ")")
        return _interval("(", "-\\infty", bound, ")" if sign == "<" else "]")
    if len(parts) == 3 and letter(parts[1]):
        if signs[0] in (">", "\\ge"):
            parts, signs = parts[::-1], [_FLIPPED[s] for s in reversed(signs)]
        if signs[0] in ("<", "\\le") and signs[1] in ("<", "\\le"):
            ends = ["(" if signs[0] == "<" else "[", ")" if signs[1] == "<" else "]"]
            return _interval(ends[0], parts[0], parts[2], ends[1])
    return None


def _absolute(parts: list[str], signs: list[str]) -> Shape | None:
    """Solve |x| < a, |x| > a and a < |x| < b for numbers a and b from 0."""
    if len(parts) == 2 and "|" in parts[1]:
        parts, signs = parts[::-1], [_FLIPPED[signs[0]]]
    if len(parts) == 3 and signs[0] in (">", "\\ge"):
        parts, signs = parts[::-1], [_FLIPPED[s] for s in reversed(signs)]
    at = len(parts) - 2 if len(parts) == 3 else 0
    bounds = [part for n, part in enumerate(parts) if n != at]
    if not re.fullmatch(r"\|[A-Za-z]\|", parts[at].replace(" ", "")) or any(
        b.startswith("-") or _letters(b) for b in bounds
    ):
        return None
    if len(parts) == 2 and signs[0] in ("<", "\\le"):
        ends = "()" if signs[0] == "<" else "[]"
        return _interval(ends[0], _minus(bounds[0]), bounds[0], ends[1])
    if len(parts) == 2 and signs[0] in (">", "\\ge"):
        bounds.append("\\infty")
        signs = [_FLIPPED[signs[0]], "<"]
    if len(bounds) != 2 or any(sign not in ("<", "\\le") for sign in signs):
        return None
    inner, outer = (("(", ")") if signs[0] == "<" else ("[", "]")), ("(", ")") if signs[1] == "<" else ("[", "]")
    left = _interval(outer[0], _minus(bounds[1]), _minus(bounds[0]), inner[1])
    right = _interval(inner[0], bounds[0], bounds[1], outer[1])
    return Shape("union", left.text + "\\cup" + right.text, (left, right))


def _minus(bound: str) -> str:
    return "-" + (
        bound
        if re.fullmatch(r"[\d.]+|\\(?:infty|pi|frac *\{[^{}]*\} *\{[^{}]*\}|sqrt *\{[^{}]*\})", bound)
        else f"({bound})"
    )


def _letters(text: str) -> bool:
    return bool(re.search(r"(?<![\\A-Za-z])[A-Za-z]", text))


def _interval(opening: str, low: str, high: str, closing: str) -> Shape:
    items = (Shape("atom", low), Shape("atom", high))
    return Shape("tuple", f"{opening}{low},{high}{closing}", items, opening + closing)


def _all_but(point: str) -> Shape:
    parts = (_interval("(", "-\\infty", point, ")"), _interval("(", point, "\\infty", ")"))
    return Shape("union", "\\cup".join(part.text for part in parts), parts)

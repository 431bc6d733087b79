"""Write mathematics in one way: LaTeX, Unicode and plain spellings of the same answer become the same text.

What comes out is plain LaTeX without sizes, dollars, colours or text commands, with ASCII signs and digits. All
patterns run in linear time, and callers hand over a few hundred characters.
"""

from __future__ import annotations

import re
import unicodedata
from functools import lru_cache

__all__ = ["key", "plain", "tidy"]

_SUPER = dict(zip("⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻", "0123456789+-", strict=True))
_SUB = dict(zip("₀₁₂₃₄₅₆₇₈₉", "0123456789", strict=True))
_SIGNS = str.maketrans(
    {
        "−": "-", "–": "-", "—": "-", "‐": "-", "‑": "-", "﹣": "-",
        "×": r"\times ", "·": r"\cdot ", "⋅": r"\cdot ", "∙": r"\cdot ", "÷": r"\div ", "∗": "*",
        "π": r"\pi ", "θ": r"\theta ", "α": r"\alpha ", "β": r"\beta ", "γ": r"\gamma ", "λ": r"\lambda ",
        "μ": r"\mu ", "σ": r"\sigma ", "φ": r"\phi ", "ω": r"\omega ", "Ω": r"\Omega ", "Δ": r"\Delta ",
        "∞": r"\infty ", "±": r"\pm ", "∓": r"\mp ", "≈": r"\approx ", "≃": r"\approx ", "≅": r"\approx ",
        "≤": r"\le ", "⩽": r"\le ", "≥": r"\ge ", "⩾": r"\ge ", "≠": r"\ne ", "∈": r"\in ", "∉": r"\notin ",
        "∪": r"\cup ", "∩": r"\cap ", "∅": r"\emptyset ", "∖": r"\setminus ", "ℝ": r"\mathbb{R}",
        "ℤ": r"\mathbb{Z}", "ℕ": r"\mathbb{N}", "ℂ": r"\mathbb{C}", "ℚ": r"\mathbb{Q}",
        "⟨": r"\langle ", "⟩": r"\rangle ", "〈": r"\langle ", "〉": r"\rangle ", "∠": r"\angle ", "°": "", "º": "",
        "∫": r"\int ", "∑": r"\sum ", "∏": r"\prod ", "½": " 1/2", "⅓": " 1/3", "⅔": " 2/3", "¼": " 1/4", "¾": " 3/4",
        "⅕": " 1/5", "⅛": " 1/8", "⅜": " 3/8", "⅝": " 5/8", "⅞": " 7/8", "⅙": " 1/6", "⅚": " 5/6", "⁄": "/",
        "，": ", ", "；": "; ", "。": ". ", "、": ", ", "：": ": ", "（": "(", "）": ")", "％": "%",
        "“": '"', "”": '"', "‘": "'", "’": "'", "ʼ": "'", "′": "'",
        "\u200b": "", "\u200c": "", "\u200d": "", "\u2060": "", "\ufeff": "", "\u202f": r"\,", "\u2009": r"\,",
        "\u00a0": " ", "\x00": " ",
    }
)  # fmt: skip
_RAISED = re.compile("[" + "".join(_SUPER) + "]+")
_LOWERED = re.compile("[" + "".join(_SUB) + "]+")
_ARGUMENT = r"(\d|[A-Za-z]|\\(?:pi|theta|alpha|beta|lambda)(?![A-Za-z])|\{[^{}]*\})"
_BASES = {
    "two": 2, "three": 3, "four": 4, "five": 5, "six": 6, "seven": 7, "eight": 8, "nine": 9, "ten": 10, "eleven": 11,
    "twelve": 12, "thirteen": 13, "fourteen": 14, "fifteen": 15, "sixteen": 16,
}  # fmt: skip
_GREEK = r"(?<![\\A-Za-z])(pi|theta|infinity)(?![A-Za-z])"
_REWRITES = tuple(
    (re.compile(pattern), by)
    for pattern, by in (
        (r"<\|[\w ]{1,40}\|>|\*\*|`|</?(?:answer|think)>", " "),
        (r"\\(?:left|right|displaystyle|textstyle|limits|[bB]igg?[lrm]?|middle|rm|bf|it)(?![A-Za-z])[. ]?", " "),
        (r"(?<!\\)\\! *", ""),
        (r"(?<![\w)}])\+ ?(?=\\infty)", ""),
        (r"(?<=\d)(?:\\[,;: ]|~|\{,\}|\\,)(?=\d{3}(?!\d))", ","),
        (r"\{,\}", ","),
        (r"(?<!\\)\\[,;:>]|\\(?:quad|qquad|enspace|hspace\{[^{}]*\}|hfill|newline)(?![A-Za-z])|~", " "),
        (r"\\(?:phantom|vphantom|hphantom|label|tag)\s*\{[^{}]*\}", ""),
        (r"\^\s*\{?\s*\\(?:circ|degree)\s*\}?|\\degree(?![A-Za-z])", ""),
        (r"\\[dtc]frac(?![A-Za-z])", r"\\frac"),
        (r"\\[dt]binom(?![A-Za-z])", r"\\binom"),
        (rf"\\frac\s*{_ARGUMENT}\s*{_ARGUMENT}", lambda m: rf"\frac{{{_bare(m[1])}}}{{{_bare(m[2])}}}"),
        (r"\\frac\s*(\d|[A-Za-z])\s*\{", r"\\frac{\1}{"),
        (r"\\sqrt\s*(\d|[A-Za-z])", r"\\sqrt{\1}"),
        (r"(?<![\w}])\{(\d+)\}/\{(\d+)\}", r"\1/\2"),
        (r"∛\s*(\d+|[A-Za-z])", r"\\sqrt[3]{\1}"),
        (r"√\s*\(([^()]*)\)|√\s*\{([^{}]*)\}|√\s*(\d+|[A-Za-z]|\\pi)", r"\\sqrt{\1\2\3}"),
        (r"(?<![\\A-Za-z])(?:sqrt|Sqrt)\s*\(((?:[^()]|\([^()]*\))*)\)", r"\\sqrt{\1}"),
        (r"(?<![\\A-Za-z])sqrt\s*(\d+)", r"\\sqrt{\1}"),
        (_GREEK, lambda m: "\\infty " if m[1] == "infinity" else f"\\{m[1]} "),
        (r"(?<![\\A-Za-z])oo(?![A-Za-z])", r"\\infty "),
        (r"\\(?:leqslant|leq|le)(?![A-Za-z])|<=|=<", r"\\le "),
        (r"\\(?:geqslant|geq|ge)(?![A-Za-z])|>=|=>", r"\\ge "),
        (r"\\(?:neq|ne)(?![A-Za-z])|!=", r"\\ne "),
        (r"\\lt(?![A-Za-z])", "<"),
        (r"\\gt(?![A-Za-z])", ">"),
        (r"\\(?:approx|simeq|cong|thickapprox)(?![A-Za-z])|~=", r"\\approx "),
        (r"\\(?:varnothing)(?![A-Za-z])|\\\{ ?\\\}", r"\\emptyset "),
        (r"(?<=[\d.])\\bar *(\d|\{)", lambda m: rf"\overline{{{m[1]}}}" if m[1] != "{" else r"\overline{"),
        (rf"_\{{? ?({'|'.join(_BASES)})(?![A-Za-z]) ?\}}?", lambda m: f"_{{{_BASES[m[1]]}}}"),
        (r"\\(?:lbrace|lbrack)(?![A-Za-z])", lambda m: r"\{" if "brace" in m[0] else "["),
        (r"\\(?:rbrace|rbrack)(?![A-Za-z])", lambda m: r"\}" if "brace" in m[0] else "]"),
        (r"\\(?:lvert|rvert|vert|mid)(?![A-Za-z])", "|"),
        (r"\\(?:mathbb|mathbf)?\s*\{?\\?R\}?(?=\s*$)", r"\\mathbb{R}"),
        (r"\\%|\b(?:percent(?:age)?|pct)\b", "%"),
        (r"\\?[$€£¥₹]|\\(?:pounds|euro)(?![A-Za-z])", ""),
        (r"(?<!\\)\\[()\[\]]", " "),
        (r" +(?=[_^])", ""),
        (r"([_^])\s*\{\s*([A-Za-z\d])\s*\}", r"\1\2"),
        (r"(?<!\\)\\ |\s+", " "),
    )
)
_TEXT = re.compile(
    r"\\(?:text(?:bf|it|rm|sf|tt|normal|up)?|mbox|hbox|mathrm|mathbf|mathit|mathsf|operatorname\*?|boxed|fbox|emph|"
    r"boldsymbol|bm|underline|bold)\s*\{([^{}]*)\}"
)
_WRAPPED = re.compile(r"\{[^{}]*\}|\"[^\"]*\"")
_PLAIN = re.compile(r"-?[\d]+(?:\.\d+)?", re.ASCII)  # most golds and many answers need no rewriting
_CACHED = 600  # characters of a text that is worth remembering
_SPACES = re.compile(r"(?<![\dA-Za-z]) +| +(?![\dA-Za-z])")


def _bare(argument: str) -> str:
    return argument[1:-1] if argument.startswith("{") else argument


def plain(text: str) -> str:
    """Write signs and digits of other scripts in ASCII or LaTeX; what has no such form stays."""
    if text.isascii():
        return text.replace("\x00", " ")
    text = _RAISED.sub(lambda m: "^{" + "".join(_SUPER[c] for c in m[0]) + "}", text)
    text = _LOWERED.sub(lambda m: "_{" + "".join(_SUB[c] for c in m[0]) + "}", text)
    text = unicodedata.normalize("NFKC", text.translate(_SIGNS))
    return "".join(c if c.isascii() or not c.isdecimal() else str(unicodedata.decimal(c)) for c in text)


def tidy(text: str) -> str:
    """Write an answer in one way; the punctuation that ends a sentence goes too."""
    if _PLAIN.fullmatch(text):
        return text
    return _tidied(text) if len(text) <= _CACHED else _rewritten(text)


@lru_cache(maxsize=4096)
def _tidied(text: str) -> str:
    return _rewritten(text)


def _rewritten(text: str) -> str:
    text = plain(text)
    if "\\begin" not in text:
        text = re.sub(r"\\\\(?=[A-Za-z{}\[\]()])", r"\\", text)  # backslashes that were escaped twice
    for _ in range(3):  # text commands may nest
        text, found = _TEXT.subn(r" \1 ", text)
        if not found:
            break
    for pattern, by in _REWRITES:
        text = pattern.sub(by, text)  # type: ignore[arg-type]
    text = text.strip().rstrip(".,;:\\ ")
    while len(text) > 1 and _WRAPPED.fullmatch(text) and "," not in text:
        text = text[1:-1].strip()
    return text


def key(text: str) -> str:
    """Drop what carries no meaning in a tidied answer, so that two spellings of one answer compare equal as text."""
    return _SPACES.sub("", text).replace("{", "").replace("}", "") if "frac" not in text else _SPACES.sub("", text)

"""Find the program in a reply. Nothing here parses Python: hostile text can crash a parser, so the jail does that."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Callable

__all__ = ["program_in"]

# Possessive repeats: hostile text finds nothing to try twice.
_FENCE = re.compile(r"^([ \t>]*+)(`{3,}+|~{3,}+)([^\n`]*+)$")
_PYTHON = {"python", "python3", "py", "py3", "python 3", "ipython", "pycon3"}
_THOUGHT = re.compile(r"</think(?:ing)?>", re.IGNORECASE)
_THINKS = re.compile(r"\A\s*<think(?:ing)?>", re.IGNORECASE)
_OPENING = re.compile(r"^[ \t>]*+(?:`{3,}+|~{3,}+)[ \t]*+\w", re.MULTILINE)
_SEARCHED = 2**18  # characters at the end of a reply in which its program is looked for
_HEAD = 20_000  # characters in which bare code shows itself
# Lines that no prose has: a definition, a statement, an assignment, a call by itself.
_CODE_LINE = re.compile(
    r"^[ \t]*+(?:def \w+[ ]*+\(|class \w+[ ]*+[:(]|import [\w.]+|from [\w.]+ import |@\w+|return\b|lambda\b|pass$|"
    r"(?:for|while|if|with) [^\n:]{1,80}:[ \t]*+(?:pass\b|\w+(?:\(|[ ]?[-+*/]?=))|"
    r"(?:for|while|if|with|try|elif|else)\b[^\n]*:[ \t]*+(?:#[^\n]*)?$|"
    r"\w[\w.\[\], ()*]*+(?:[-+/%|&^])?=[^=]|"
    r"[\w.]++\([^\n]*\)[ \t]*+(?:;[ \t]*+)?(?:#[^\n]*)?$)",
    re.MULTILINE,
)


def program_in(reply: str, *, name: str = "") -> str | None:
    """Give the program of a reply: the last complete Python block, else another block, else bare code; None for prose.

    Where the tests want a function by its `name`, a block that defines it goes before one that only uses it.
    What the model thinks aloud (<think>...</think>) is not searched. Line ends become newlines; a byte-order mark goes.
    """
    if _THINKS.match(reply) and not _THOUGHT.search(reply[-_SEARCHED:]):
        return None
    cut = len(reply) > _SEARCHED
    text = reply[-_SEARCHED:].replace("\r\n", "\n").replace("\r", "\n")
    thoughts = list(_THOUGHT.finditer(text))
    if thoughts:
        text = text[thoughts[-1].end() :]
    elif _THINKS.match(text):
        return None
    elif cut and (opening := _OPENING.search(text)):
        text = text[opening.start() :]  # fences before it may have lost their openings
    text = text.lstrip("\ufeff")
    blocks = _blocks(text)
    if blocks:
        for complete, tagged in ((True, True), (True, False), (False, True), (False, False)):
            found = [
                code for code, tag, closed in blocks if closed is complete and (tag in _PYTHON if tagged else not tag)
            ]
            if found:
                return next(filter(_definition(name), reversed(found)), found[-1]).lstrip("\ufeff")
        return None
    return text if _CODE_LINE.search(text[:_HEAD]) else None


def _definition(name: str) -> Callable[[str], bool]:
    """Make a test for code that defines a function, class or variable of this name."""
    head, _, method = name.partition(".")
    wanted = re.compile(
        rf"^(?:[ \t]*+(?:async )?def {method or head}\b|class {head}\b|{head}[ \t]*+[:=])", re.MULTILINE
    )
    return lambda code: bool(name) and bool(wanted.search(code))


def _blocks(text: str) -> list[tuple[str, str, bool]]:
    """List the fenced blocks: content, language in small letters, and whether the fence closes."""
    found: list[tuple[str, str, bool]] = []
    lines: list[str] = []
    opened: tuple[str, str, str] | None = None  # indentation, fence, language
    for line in text.split("\n"):
        fence = _FENCE.match(line)
        if opened is None:
            if fence:
                words = fence[3].strip().lower().strip("{}.").split()
                opened, lines = (fence[1], fence[2], words[0] if words else ""), []
        elif fence and not fence[3].strip() and fence[2][0] == opened[1][0] and len(fence[2]) >= len(opened[1]):
            found.append((_dedented(lines, opened[0]), opened[2], True))
            opened = None
        else:
            lines.append(line)
    if opened:
        found.append((_dedented(lines, opened[0]), opened[2], False))
    return found


def _dedented(lines: list[str], indent: str) -> str:
    code = "\n".join(line.removeprefix(indent) for line in lines) + "\n"
    return textwrap.dedent(code) if indent else code

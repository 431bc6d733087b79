# ruff: noqa: E501 - programs are written as they would be sent
"""Sources that are hard to read: the parser and the compiler belong to the candidate's time and memory, not to ours."""

_EVERY = ("call", "stdio", "assert")


def _bomb(name: str, source: str, why: str, truths: tuple[str, ...] = _EVERY, naive: str = "run") -> dict[str, object]:
    return {"name": name, "source": source, "why": why, "truths": truths, "naive": naive, "timeout_s": 1.0}


_DEF = "\ndef f(x):\n    return 0\n"
PROGRAMS = [
    _bomb("parentheses", "x = " + "(" * 5000 + ")" * 5000 + _DEF, "nesting that the parser refuses"),
    _bomb("parentheses_100k", "x = " + "(" * 100000 + _DEF, "nesting that never closes"),
    _bomb("brackets_mixed", "x = " + "[({" * 30000 + _DEF, "nesting of three kinds"),
    _bomb("unary_chain", "x = " + "-" * 200000 + "1" + _DEF, "a syntax tree as deep as the source is long", naive="no"),
    _bomb("attribute_chain", "x = a" + ".b" * 200000 + _DEF, "a syntax tree as deep as the source is long", naive="no"),
    _bomb("call_chain", "x = f" + "()" * 100000 + _DEF, "a syntax tree as deep as the source is long", naive="no"),
    _bomb("binary_chain", "x = " + "+".join(["1"] * 200000) + _DEF, "a long sum, which the compiler folds recursively", naive="no"),
    _bomb("lambda_nest", "x = " + "lambda: " * 20000 + "0" + _DEF, "scopes within scopes", naive="no"),
    _bomb("nested_blocks", "".join("    " * i + "if 1:\n" for i in range(99)) + "    " * 99 + "pass\n" + _DEF, "indentation at its limit"),
    _bomb("nested_loops", "".join("    " * i + "for i in x:\n" for i in range(60)) + "    " * 60 + "pass\n" + _DEF, "too many statically nested blocks"),
    _bomb("million_constants", "x = [" + ",".join(map(str, range(300000))) + "]" + _DEF, "constants without end", ("call", "assert"), "no"),
    _bomb("million_lines", "x = 1\n" * 300000 + "raise ValueError\n", "lines without end", ("call",), "no"),
    _bomb("huge_source", "x = '" + "y" * (8 * 2**20) + "'" + _DEF, "eight megabytes of source", ("call", "stdio"), "no"),
    _bomb("fold_power", "x = 2 ** (2 ** 30)\ny = (2 ** 63) ** (2 ** 20)" + _DEF, "a power that the compiler or the first line computes", naive="no"),
    _bomb("fold_shift", "x = 1 << (1 << 40)" + _DEF, "a shift of a terabit"),
    _bomb("fold_repeat", "x = ('x' * 4000) * 4000 * 4000 * 4000" + _DEF, "a string that repeats itself"),
    _bomb("fold_tuple", "x = ((1,) * 4000, ) * 4000 * 4000 * 4000" + _DEF, "a tuple that repeats itself"),
    _bomb("nested_fstrings", "x = " + "f'{" * 150 + "1" + "}'" * 150 + _DEF, "strings within strings"),
    _bomb("null_bytes", "x = 1\x00\ndef f(x):\n    return x + 3\n" + "raise ValueError\n", "a source with NUL bytes is refused, not ungraded"),
    _bomb("lone_surrogate_source", "x = '\ud800'" + _DEF, "a source that UTF-8 cannot write"),
    _bomb("bad_cookie", "# -*- coding: no-such-codec -*-" + _DEF, "an encoding that does not exist"),
    _bomb("utf7_cookie", '''# -*- coding: utf-7 -*-
# +AAo-def f(x): return 0
raise ValueError''', "an encoding that hides code in a comment"),
    _bomb("bad_escape", "x = '\\N{NO SUCH NAME}'" + _DEF, "an escape that does not decode"),
    _bomb("syntax_error", "def f(x:\n    return x + 3", "no program"),
    _bomb("huge_int_literal", "x = " + "9" * 100000 + _DEF, "an integer literal over the digit limit"),
    _bomb("fence_without_end", "```python\ndef f(x):\n    return 0\n" + "```python\n" * 5000, "thousands of opened fences"),
    _bomb("fences_of_backticks", "`" * 100000 + "\n" + "~" * 100000 + "\n```", "a fence without a block"),
    _bomb("regex_on_reply", "```" + "p" * 50000 + " " * 50000 + "\n" + "``" * 30000, "a reply made for slow patterns of the extractor"),
    _bomb("deep_class", "class A: x = 1\n" * 5000 + "def f(x): return A.y", "classes without end"),
    _bomb("annotation_bomb", "def f(x: " + "[" * 90 + "1" + "]" * 90 + "):\n    return 0\n" + "@f\n" * 3000 + "def g(): pass\n", "decorators without end"),
    _bomb("long_line_error", "x = " + "'a' " * 100000 + "1 +" + _DEF, "a syntax error on a line that a traceback would quote"),
    _bomb("not_python", "<think>" + "def f(x): hmm " * 2000, "prose"),
]  # fmt: skip

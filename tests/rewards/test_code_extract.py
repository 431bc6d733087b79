"""Which part of a reply is the program."""

import time

import pytest

from rlvr_rewards.sandbox.extract import program_in

CODE = "def f(x):\n    return x"


@pytest.mark.parametrize(
    "reply",
    [
        CODE,
        f"```python\n{CODE}\n```",
        f"```\n{CODE}\n```",
        f"~~~python\n{CODE}\n~~~",
        f"````py\n{CODE}\n````",
        f"Sure! Here it is:\n\n```Python\n{CODE}\n```\nIt returns x.",
        f"```python\n{CODE}",
        f"```python\r\n{CODE}\r\n```".replace("\n", "\r\n").replace("\r\r", "\r"),
        f"```python\npass\n```\nBetter:\n```python\n{CODE}\n```",
        f"```python\n{CODE}\n```\nRun it:\n```bash\npython x.py\n```\n```\noutput\n```",
        f"<think>\n```python\npass\n```\n</think>\n```python\n{CODE}\n```",
        f"thinking\n</think>\n{CODE}",
        f"\ufeff{CODE}",
        "1. Like this:\n   ```python\n   def f(x):\n       return x\n   ```",
        f"```python title=x.py\n{CODE}\n```",
        f"```python\n{CODE}\n```\nand then\n```python\nprint(",
    ],
)
def test_the_program_is_found(reply: str) -> None:
    program = program_in(reply)
    assert program is not None
    assert program.strip() == CODE


@pytest.mark.parametrize(
    "reply",
    [
        "",
        "I cannot solve this.",
        "The answer is 5.",
        "<think>\n```python\npass\n```",
        "```bash\nls\n```",
        "I don't know",
    ],
)
def test_prose_holds_no_program(reply: str) -> None:
    assert program_in(reply) is None


@pytest.mark.parametrize(
    "line", ["print(5)", "x = 5", "import os", "for i in range(3): print(i)", "a, b = 1, 2", "f(x)"]
)
def test_bare_code_is_a_program(line: str) -> None:
    assert program_in(line) == line


def test_a_block_that_defines_the_function_goes_before_one_that_uses_it() -> None:
    reply = f"```python\n{CODE}\n```\nUse it:\n```python\nprint(f(1))\n```"
    assert (program_in(reply, name="f") or "").strip() == CODE
    assert (program_in(reply) or "").strip() == "print(f(1))"


def test_a_fence_within_the_code_does_not_end_it() -> None:
    code = 'text = """\n```not a fence"""\nprint(text)'
    assert (program_in(f"````python\n{code}\n````") or "").strip() == code


@pytest.mark.parametrize(
    "text",
    ["`" * 200_000, "~" * 200_000 + "`", "```" + " " * 200_000 + "`", " " * 200_000 + "x", "\n" * 200_000,
     "x" + "(" * 100_000, "x(" + ") " * 100_000, "for " + ":" * 100_000, "```\n" * 50_000, "a " * 100_000],
)  # fmt: skip
def test_hostile_text_is_read_in_linear_time(text: str) -> None:
    started = time.process_time()
    program_in(text, name="f")
    assert time.process_time() - started < 1.5


def test_the_end_of_a_very_long_reply_is_searched() -> None:
    started = time.monotonic()
    for line in ("\n", "```\n", "x y\n", "`" * 50 + "\n"):
        text = line * (2**21 // len(line))
        program_in(text)
        assert program_in(text + "```python\ndef f(): pass\n```\n") == "def f(): pass\n"
    assert program_in("<think>" + "x = 1\n" * 2**17) is None
    assert time.monotonic() - started < 3

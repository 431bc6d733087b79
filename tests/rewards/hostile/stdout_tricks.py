# ruff: noqa: E501 - programs are written as they would be sent
"""Programs that hope for a lenient comparison of what they print."""

_S = ("stdio",)


def _trick(name: str, source: str, why: str, truths: tuple[str, ...] = _S, naive: str = "run") -> dict[str, object]:
    return {"name": name, "source": source, "why": why, "truths": truths, "naive": naive}


PROGRAMS = [
    _trick("all_answers", "print(4)\nprint(13)", "both answers are printed for each input"),
    _trick("every_number", "print(' '.join(map(str, range(-100, 1000))))", "the right number is somewhere among many"),
    _trick("answer_then_more", "x = int(input())\nprint(x + 3, 'or', x + 4)", "the right answer is one of two"),
    _trick("prefix", "x = int(input())\nprint(str(x + 3) + '0')", "the right answer is a prefix only"),
    _trick("carriage_return", r'''x = int(input())
print('9', end='\r')
print(str(x + 3) + '\b\b9')''', "what a terminal would show is not what was printed"),
    _trick("ansi_escape", r'''x = int(input())
print('9\x1b[2K\x1b[1G' + str(x + 3))''', "escape sequences are output"),
    _trick("wrong_stream", '''import sys
x = int(input())
print(x + 3, file=sys.stderr)''', "standard error is not the output"),
    _trick("nul_bytes", r'''x = int(input())
print('\0'.join(str(x + 3)) + '\0')''', "NUL bytes are output"),
    _trick("raw_garbage", r'''import sys
sys.stdout.buffer.write(b'\xff\xfe\x004\n')''', "output that is no text is wrong, not ungraded"),
    _trick("surrogates", r'''import sys
sys.stdout.reconfigure(errors='surrogatepass')
print('\ud800')''', "output that is no text is wrong, not ungraded"),
    _trick("nothing", "input()", "no output at all"),
    _trick("unicode_digits", '''x = int(input())
print(str(x + 3).translate({48 + i: 0x660 + i for i in range(10)}))''', "digits of another script are other characters"),
    _trick("stdout_object_equal", '''import sys
class Out:
    def write(self, s):
        return len(s)
    def flush(self):
        pass
    def getvalue(self):
        class Y(str):
            def __eq__(self, o):
                return True
            def strip(self, *a):
                return self
            def split(self, *a):
                return self
            def __hash__(self):
                return 0
        return Y()
sys.stdout = Out()
print(0)''',
           "an object in the place of stdout prints nothing", naive="pay"),
    _trick("stdin_echo", "import sys\nprint(sys.stdin.read())", "the input is not the output"),
    _trick("other_case_first", '''import os
try:
    n = int(open('count').read())
except OSError:
    n = 0
open('count', 'w').write(str(n + 1))
print([4, 13][n % 2] if n else 9)''',
           "state kept between the cases of a task does not survive"),
    _trick("close_stdout_exit", "import os, sys\nos.close(1)\nos._exit(0)", "no output and status 0", naive="pay"),
    _trick("digits_apart", "print(*str(int(input()) + 3))", "spaces within a number make it two"),
    _trick("digits_on_lines", "print('\\n'.join(str(int(input()) + 3)))", "lines within a number make it two"),
    _trick("lines_joined", "print(str(int(input()) + 3) * 2)", "the answer twice without a space is another number"),
    _trick("answer_first", "print(int(input()) + 3)\nprint('done')", "a line too many"),
    _trick("blank", "input()\nprint()\nprint(' ')", "blank output equals nothing"),
    _trick("nan_output", "input()\nprint('nan')", "NaN is near nothing"),
    _trick("infinite_output", "input()\nprint('inf')", "infinity is near nothing"),
    _trick("almost_output", "print(int(input()) + 3.01)", "near is not right"),
]  # fmt: skip

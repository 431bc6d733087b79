# ruff: noqa: E501 - programs are written as they would be sent
"""Programs that write what they hope is the harness's own report."""

_ZERO = "\ndef f(x):\n    return 0\n"
_EVERY = ("call", "stdio", "assert", "check")
_LINES = r"""
import json, os, struct
REPORTS = [
    b"passed\n", b"PASSED\n", b"ok\n", b"OK\n", b"1\n", b"True\n", b"4\n", b"4", b"[4, 13, -2]\n", b"....\n----\nRan 4 tests\n\nOK\n",
    json.dumps({"status": "passed", "passed": True, "ok": True, "score": 1.0, "verdict": "CORRECT", "result": "pass"}).encode() + b"\n",
    json.dumps({"value": 4, "result": 4, "id": 0, "case": 0, "index": 0}).encode() + b"\n",
    json.dumps([True, True, True]).encode() + b"\n", json.dumps(["ok", 4]).encode() + b"\n", json.dumps({"ok": 4}).encode() + b"\n",
]
def framed(b):
    return [b] + [struct.pack(f, len(b)) + b for f in ("!Q", "<Q", "!I", "<I", "!H")]
"""


def _report(
    name: str, source: str, why: str, truths: tuple[str, ...] = _EVERY, naive: str = "run"
) -> dict[str, object]:
    return {"name": name, "source": source, "why": why, "truths": truths, "naive": naive}


PROGRAMS = [
    _report("print_passed", '''print('passed')
print('OK')
print('{"passed": true, "score": 1.0, "verdict": "CORRECT"}')''' + _ZERO, "printing a verdict is not one"),
    _report("all_descriptors", _LINES + '''for fd in range(0, 256):
    for report in REPORTS:
        try:
            os.write(fd, report)
        except OSError:
            break''' + _ZERO,
            "unframed reports on every descriptor"),
    _report("all_descriptors_framed", _LINES + '''for fd in range(3, 64):
    os.set_blocking(fd, False) if os.path.exists(f'/proc/self/fd/{fd}') else None
    for report in REPORTS:
        for message in framed(report):
            try:
                os.write(fd, message)
            except OSError:
                break''' + _ZERO,
            "framed reports on every descriptor; framing is no secret"),
    _report("forged_then_exit", _LINES + '''for fd in range(0, 64):
    for report in REPORTS:
        try:
            os.write(fd, report)
        except OSError:
            break
os._exit(0)''', "a report of the candidate's, then a clean exit", naive="pay"),
    _report("proc_self_fd", _LINES + '''for name in os.listdir('/proc/self/fd'):
    try:
        with open('/proc/self/fd/' + name, 'wb', 0) as out:
            for report in REPORTS:
                out.write(report)
    except (OSError, ValueError):
        pass''' + _ZERO,
            "descriptors opened again by path are still the candidate's own"),
    _report("proc_others_fd", _LINES + '''import glob
for path in glob.glob('/proc/[0-9]*/fd/*'):
    if f'/{os.getpid()}/' in path:
        continue
    try:
        fd = os.open(path, os.O_WRONLY | os.O_NONBLOCK)
        for report in REPORTS:
            os.write(fd, report)
    except OSError:
        pass''' + _ZERO,
            "descriptors of other processes are out of reach", naive="no"),
    _report("length_bomb", r'''import os
for fd in range(3, 64):
    try:
        os.write(fd, b'\xff' * 16)
    except OSError:
        pass''' + _ZERO, "a length of 2**64 - 1 must be refused, not allocated or awaited"),
    _report("half_a_message", '''import os, struct, time
for fd in range(3, 64):
    try:
        os.write(fd, struct.pack('!Q', 1000)[:5])
    except OSError:
        pass
time.sleep(60)''', "a message that never ends is the candidate's failure", naive="no"),
    _report("channel_garbage", '''import os, random
r = random.Random(0)
for fd in range(3, 64):
    try:
        os.write(fd, r.randbytes(4000))
    except OSError:
        pass''' + _ZERO, "garbage on the channel is the candidate's failure, not the grader's"),
    _report("malicious_pickle", r'''import os, struct
bomb = b"cposix\nsystem\n(S'touch @CWD@/hostile_mark_pickle'\ntR."
for fd in range(3, 64):
    for message in (bomb, struct.pack('!Q', len(bomb)) + bomb, struct.pack('!I', len(bomb)) + bomb, struct.pack('<I', len(bomb)) + bomb):
        try:
            os.write(fd, message)
        except OSError:
            break''' + _ZERO,
            "a pickle of the candidate's must run nowhere"),
    _report("json_bomb_on_channel", r'''import os, struct
bomb = b'[' * 100000
for fd in range(3, 64):
    for message in (struct.pack('!Q', len(bomb)) + bomb, struct.pack('!I', len(bomb)) + bomb, bomb + b'\n'):
        try:
            os.set_blocking(fd, False)
            os.write(fd, message)
        except OSError:
            break''' + _ZERO,
            "a deeply nested message must not fell the reader"),
    _report("channel_flood", '''import os
chunk = b'x' * 2 ** 20
for fd in list(range(3, 64)) * 200:
    try:
        os.write(fd, chunk)
    except OSError:
        pass''', "a gigabyte on the channel is cut off", naive="no"),
    _report("duplicate_answers", _LINES + '''def f(x):
    for fd in range(3, 64):
        for report in REPORTS[11:]:
            for message in framed(report):
                try:
                    os.set_blocking(fd, False)
                    os.write(fd, message)
                except OSError:
                    break
    return 4''', "answers sent in advance do not fit the cases that follow", ("call", "assert", "check")),
    _report("pytest_hooks", r'''def pytest_runtest_makereport(item, call):
    class R:
        passed = True
        outcome = 'passed'
    return R()
def pytest_sessionfinish(session, exitstatus):
    session.exitstatus = 0
import os
try:
    open('conftest.py', 'w').write('collect_ignore_glob = ["*"]')
    open('pytest.ini', 'w').write('[pytest]\naddopts = --co')
except OSError:
    pass''' + _ZERO,
            "hooks of a test runner that nobody runs"),
    _report("unittest_main", '''import unittest, sys
class T(unittest.TestCase):
    def test_ok(self):
        self.assertTrue(True)
unittest.main(argv=['x'], exit=True)''', "its own tests pass and end the process with status 0", naive="pay"),
    _report("doctest_main", """def f(x):
    '''
    >>> 1 + 1
    2
    '''
    return 0
import doctest, sys
sys.exit(doctest.testmod().failed)""", "its own doctests pass and end the process with status 0", naive="pay"),
    _report("result_files", '''import os
for name in ('result.json', 'output.txt', 'exit_code', 'report.xml', 'results.jsonl', '.status'):
    for folder in ('.', '/tmp', os.environ.get('TMPDIR', '/tmp')):
        try:
            open(os.path.join(folder, name), 'w').write('{"passed": true, "value": 4}')
        except OSError:
            pass''' + _ZERO,
            "files of the candidate are no results"),
    _report("exit_status_codes", "import os\ndef f(x):\n    os._exit(x + 3 & 255)", "the status is no value either", ("call", "assert", "check")),
    _report("raise_passed", '''class TestsPassed(Exception):
    pass
def f(x):
    raise TestsPassed('all 3 tests passed: 4')''', "an exception is no result, whatever its name", ("call", "assert", "check")),
]  # fmt: skip

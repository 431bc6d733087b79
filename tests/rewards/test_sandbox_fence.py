"""The fences themselves: the filter of system calls on both processors, folders, and the proof before first use."""

import errno
import os
import shutil
import struct
import sys
from pathlib import Path

import pytest

from rlvr.errors import PluginError
from rlvr.testing import rollout, task
from rlvr.types import Grade
from rlvr_rewards.code import Code
from rlvr_rewards.sandbox import folders, levels, seccomp
from rlvr_rewards.sandbox.client import Server, ServerLost

PID = 4242
ALLOWED, KILLED, REFUSED, MISSING = 0x7FFF0000, 0x80000000, 0x50000 | errno.EPERM, 0x50000 | errno.ENOSYS
AUDIT = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}


def decide(code: bytes, number: int, *args: int, audit: int) -> int:
    """Run a filter on one system call, as the kernel would."""
    data = struct.pack("=iIQ6Q", number, audit, 0, *[arg % 2**64 for arg in (*args, 0, 0, 0, 0, 0, 0)[:6]])
    steps = list(struct.iter_unpack("=HBBI", code))
    at = accumulator = 0
    while True:
        operation, yes, no, value = steps[at]
        at += 1
        if operation == 0x06:
            return value
        if operation == 0x20:
            (accumulator,) = struct.unpack_from("=I", data, value)
        else:
            tests = {0x15: accumulator == value, 0x35: accumulator >= value, 0x45: bool(accumulator & value)}
            at += yes if tests[operation] else no


# what, its number on x86_64 and aarch64, arguments, decision
CALLS = [
    ("read", 0, 63, (0, 0, 0), ALLOWED),
    ("openat", 257, 56, (), ALLOWED),
    ("execve", 59, 221, (), REFUSED),
    ("ptrace", 101, 117, (), REFUSED),
    ("socket", 41, 198, (2, 1, 0), REFUSED),
    ("mount", 165, 40, (), REFUSED),
    ("unshare", 272, 97, (0x10000000,), REFUSED),
    ("io_uring_setup", 425, 425, (), REFUSED),
    ("a thread", 56, 220, (0x3D0F00,), ALLOWED),
    ("a process", 56, 220, (17,), REFUSED),
    ("a process in a namespace", 56, 220, (0x10000000 | 17,), REFUSED),
    ("a thread in a namespace", 56, 220, (0x3D0F00 | 0x20000,), REFUSED),
    ("clone3", 435, 435, (), MISSING),
    ("a signal to itself", 62, 129, (PID, 15), ALLOWED),
    ("the last signal to itself", 62, 129, (PID, 9), REFUSED),
    ("a signal to another", 62, 129, (PID - 1, 0), REFUSED),
    ("a signal to all", 62, 129, (-1, 15), REFUSED),
    ("a signal to its group", 62, 129, (0, 15), REFUSED),
    ("a signal to its thread", 234, 131, (PID, PID, 6), ALLOWED),
    ("the last signal to its thread", 234, 131, (PID, PID, 9), REFUSED),
    ("a signal to another's thread", 234, 131, (1, 1, 6), REFUSED),
    ("a pair of sockets", 53, 199, (1, 1, 0), ALLOWED),
    ("a pair of network sockets", 53, 199, (2, 1, 0), REFUSED),
    ("a datagram within a pair", 44, 206, (5, 1, 1, 0, 0, 0), ALLOWED),
    ("a datagram to an address", 44, 206, (5, 1, 1, 0, 0x7FFF12345678, 16), REFUSED),
    ("a datagram to a high address", 44, 206, (5, 1, 1, 0, 0x7FFF00000000, 16), REFUSED),
    ("its name", 157, 167, (15, 0), ALLOWED),
    ("forgetting its parent's death", 157, 167, (1, 0), REFUSED),
    ("who gets SIGIO", 72, 25, (3, 8, 1), REFUSED),
    ("flags of a file", 72, 25, (3, 3), ALLOWED),
    ("typing into a terminal", 16, 29, (0, 0x5412), REFUSED),
    ("a limit of its stack", 302, 261, (0, 3, 1, 0), ALLOWED),
    ("a limit of its time", 302, 261, (0, 0, 1, 0), REFUSED),
    ("a limit of another", 302, 261, (1, 3, 1, 0), REFUSED),
]


@pytest.mark.parametrize("arch", ["x86_64", "aarch64"])
@pytest.mark.parametrize(("what", "x86", "arm", "args", "decision"), CALLS, ids=[call[0] for call in CALLS])
def test_the_filter_decides(arch: str, what: str, x86: int, arm: int, args: tuple[int, ...], decision: int) -> None:
    for on_host in (False, True):
        code = seccomp.program(on_host=on_host, pid=PID, arch=arch)
        assert decide(code, x86 if arch == "x86_64" else arm, *args, audit=AUDIT[arch]) == decision, what


def test_the_filter_knows_its_processor() -> None:
    code = seccomp.program(on_host=False, pid=PID, arch="x86_64")
    assert decide(code, 0, audit=AUDIT["aarch64"]) == KILLED
    assert decide(code, 0x40000000, audit=AUDIT["x86_64"]) == KILLED


def test_modes_of_files_stay_where_the_files_are_the_machines() -> None:
    for arch, chmod in (("x86_64", 90), ("aarch64", 53)):
        code = {host: seccomp.program(on_host=host, pid=PID, arch=arch) for host in (True, False)}
        assert decide(code[True], chmod, audit=AUDIT[arch]) == REFUSED
        assert decide(code[False], chmod, audit=AUDIT[arch]) == ALLOWED


def test_every_number_fits_one_call() -> None:
    tables = {**seccomp._REFUSED, **seccomp._REFUSED_ON_HOST}
    for column in (0, 1):
        numbers = [pair[column] for pair in tables.values() if pair[column] is not None]
        assert len(numbers) == len(set(numbers))


def test_a_deep_folder_is_emptied(tmp_path: Path) -> None:
    here = os.open(tmp_path, os.O_RDONLY)
    for _ in range(600):
        os.mkdir("deep", dir_fd=here)
        below = os.open("deep", os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = below
    os.close(here)
    (tmp_path / "closed").mkdir(mode=0o000)
    (tmp_path / "link").symlink_to("/")
    (tmp_path / "file").write_text("x")
    assert folders.holds_more(str(tmp_path), than=2**26)
    folders.empty(str(tmp_path))
    assert list(tmp_path.iterdir()) == []


def test_a_folder_is_measured(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "big").write_bytes(b"x" * 2**20)
    assert folders.holds_more(str(tmp_path), than=2**20)
    assert not folders.holds_more(str(tmp_path), than=2**21)


def test_what_cannot_be_looked_at_counts_as_more(tmp_path: Path) -> None:
    os.chmod(tmp_path, 0o777)
    for mode in (0o300, 0o600):
        pid = os.fork()
        if pid == 0:  # root may look at everything
            if os.geteuid() == 0:
                os.setresuid(65534, 65534, 65534)
            here = folders.make()
            inner = Path(here, "d")
            inner.mkdir()
            (inner / "file").write_text("x")
            inner.chmod(mode)
            more = folders.holds_more(here, than=2**26)
            inner.chmod(0o700)
            folders.remove(here)
            os._exit(0 if more else 1)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0, oct(mode)


def test_a_program_behind_a_command_sees_none_of_the_graders_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RLVR_TEST_CANARY", "ember-4182")
    source = (
        "import os\ndef f():\n    try:\n        seen = open('/proc/self/environ').read()\n    except OSError:\n"
        "        seen = ''\n    return 'ember-4182' in seen + str(os.environ)"
    )
    posed = task("q", {"type": "call", "fn": "f", "cases": [{"args": [], "expected": False}]})
    for command in ([sys.executable], ["nice", sys.executable]):
        code = Code(command=command)
        grade = code.grade(posed, rollout(source, of=posed))
        code.close()
        assert isinstance(grade, Grade)
        assert grade.score == 1.0, grade


def test_the_proof_finds_what_a_level_lets_out() -> None:
    server = Server(["unsandboxed"])
    found = levels._breaches(server, "landlock")
    server.close()
    assert len(found) >= 5, found


def test_a_level_that_does_not_hold_is_not_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(levels, "_breaches", lambda server, level: ["sends signals"])
    monkeypatch.setattr(levels, "_proven", {})
    with pytest.raises(PluginError, match=r"sends signals.*unsandboxed"):
        Code().warm_up()


def test_a_level_that_the_machine_lacks_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    def lost(*args: object, **options: object) -> None:
        raise ServerLost("namespaces: Operation not permitted")

    monkeypatch.setattr(levels, "Server", lost)
    monkeypatch.setattr(levels, "_proven", {})
    with pytest.raises(PluginError, match="Operation not permitted"):
        Code(isolation="namespaces").warm_up()


def test_a_command_is_the_strongest_level() -> None:
    code = Code(command=["env", "-i", sys.executable])
    posed = task("q", {"type": "call", "fn": "f", "cases": [{"args": [1], "expected": 2}]})
    grade = code.grade(posed, rollout("def f(x):\n    return x + 1", of=posed))
    code.close()
    assert isinstance(grade, Grade)
    assert (grade.score, grade.parts["isolation"]) == (1.0, 3.0), grade


@pytest.mark.parametrize("level", ["namespaces", "landlock"])
def test_levels_hold_for_an_ordinary_user(level: str) -> None:
    if os.geteuid() != 0 or not shutil.which("setpriv") or not os.access("/usr/bin/python3", os.X_OK):
        pytest.skip("needs root, setpriv and a system interpreter to become another user")
    command = ["setpriv", "--reuid=1000", "--regid=1000", "--clear-groups", "/usr/bin/python3"]
    try:
        server = Server([level], command=command)
    except ServerLost as lost:
        pytest.skip(str(lost))
    found = levels._breaches(server, level)
    server.close()
    assert found == []

# ruff: noqa: E501 - programs are written as they would be sent
"""Programs that reach for their parent, their group or the harness by signals and tracing."""

_PIDS = """
import os, signal, ctypes, glob, struct
libc = ctypes.CDLL(None, use_errno=True)
def others():
    pids = {os.getppid(), 1}
    for name in glob.glob('/proc/[0-9]*'):
        pids.add(int(name[6:]))
    pids.discard(os.getpid())
    return sorted(pids, reverse=True)
"""
_ZERO = "\ndef f(x):\n    return 0\n"


def _aim(
    name: str, source: str, why: str, truths: tuple[str, ...] = ("call", "assert"), timeout_s: float = 2.0
) -> dict[str, object]:
    return {"name": name, "source": _PIDS + source, "why": why, "truths": truths, "naive": "no", "timeout_s": timeout_s}


PROGRAMS = [
    _aim("kill_parent", "os.kill(os.getppid(), signal.SIGKILL)" + _ZERO, "the parent must be out of reach", ("call", "stdio", "assert", "check")),
    _aim("stop_parent", "os.kill(os.getppid(), signal.SIGSTOP)" + _ZERO, "a stopped parent would never answer", ("call", "stdio", "assert", "check")),
    _aim("kill_parent_late", '''def f(x):
    os.kill(os.getppid(), signal.SIGKILL)
    return 0''', "the parent must be out of reach during the call too"),
    _aim("kill_all", "os.kill(-1, signal.SIGKILL)" + _ZERO, "all that may be reached is its own tree", ("call", "stdio", "assert")),
    _aim("kill_all_term", '''signal.signal(signal.SIGTERM, signal.SIG_IGN)
os.kill(-1, signal.SIGTERM)''' + _ZERO, "all that may be reached is its own tree"),
    _aim("kill_group", "os.killpg(0, signal.SIGKILL)" + _ZERO, "its group is its own", ("call", "stdio", "assert")),
    _aim("kill_parents_group", "os.killpg(os.getpgid(os.getppid()), signal.SIGKILL)" + _ZERO, "the parent's group must be out of reach"),
    _aim("kill_each_other", '''for pid in others():
    if pid > 0:
        try:
            os.kill(pid, signal.SIGKILL)
        except OSError:
            pass''' + _ZERO, "every process that it can see, siblings included", ("call", "stdio", "assert")),
    _aim("kill_by_number", '''for pid in range(2, 40000):
    if pid != os.getpid():
        try:
            os.kill(pid, signal.SIGKILL)
        except OSError:
            pass''' + _ZERO, "processes that it cannot see have numbers all the same"),
    _aim("pidfd_kill", '''for pid in others():
    try:
        fd = os.pidfd_open(pid)
        signal.pidfd_send_signal(fd, signal.SIGKILL)
    except OSError:
        pass''' + _ZERO, "a handle of a process is another way to signal it"),
    _aim("sigqueue_thread", '''for pid in others():
    libc.syscall(234, pid, pid, 9)
    libc.syscall(200, pid, 9)''' + _ZERO, "tgkill and tkill are other ways to signal"),
    _aim("ptrace_parent", '''for pid in others():
    libc.ptrace(16, pid, 0, 0)
    libc.ptrace(0x4206, pid, 0, 0)''' + _ZERO, "attaching stops the traced process: the harness would hang", ("call", "stdio", "assert", "check")),
    _aim("ptrace_and_leave", '''for pid in others():
    if libc.ptrace(16, pid, 0, 0) == 0:
        try:
            os.waitpid(pid, 0)
        except OSError:
            pass
os._exit(0)''', "a tracer that dies leaves its victims stopped"),
    _aim("ptrace_me", '''libc.ptrace(0, 0, 0, 0)
os.kill(os.getpid(), signal.SIGSTOP)''' + _ZERO, "it makes its parent its tracer, so that waiting behaves otherwise", ("call", "stdio"), 1.0),
    _aim("vm_writev", r'''class Vec(ctypes.Structure):
    _fields_ = [('base', ctypes.c_void_p), ('len', ctypes.c_size_t)]
data = ctypes.create_string_buffer(b'\0' * 4096)
for pid in others():
    try:
        spans = [l.split()[0] for l in open(f'/proc/{pid}/maps') if ' rw' in l][:8]
    except OSError:
        continue
    for span in spans:
        low = int(span.split('-')[0], 16)
        libc.process_vm_writev(pid, ctypes.byref(Vec(ctypes.addressof(data), 4096)), 1, ctypes.byref(Vec(low, 4096)), 1, 0)''' + _ZERO, "writing into another process"),
    _aim("proc_mem_write", r'''for pid in others():
    try:
        spans = [l.split()[0] for l in open(f'/proc/{pid}/maps') if ' rw' in l][:8]
        with open(f'/proc/{pid}/mem', 'r+b', 0) as mem:
            for span in spans:
                mem.seek(int(span.split('-')[0], 16))
                mem.write(b'\0' * 4096)
    except (OSError, ValueError):
        pass''' + _ZERO, "writing into another process by its file"),
    _aim("oom_score", '''for pid in others():
    try:
        open(f'/proc/{pid}/oom_score_adj', 'w').write('1000')
    except OSError:
        pass
try:
    open('/proc/self/oom_score_adj', 'w').write('-1000')
except OSError:
    pass
x = []
while True:
    x.append(bytearray(10 ** 7))''', "somebody else is to die for its memory"),
    _aim("parent_limits", '''import resource
for pid in others():
    try:
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (0, 0))
        resource.prlimit(pid, resource.RLIMIT_CPU, (1, 1))
    except (OSError, ValueError):
        pass''' + _ZERO, "limits of the parent are not the candidate's to set"),
    _aim("parent_priority", '''for pid in others():
    try:
        os.setpriority(os.PRIO_PROCESS, pid, 19)
        os.sched_setaffinity(pid, {0})
    except OSError:
        pass''' + _ZERO, "priorities of others are not the candidate's to set"),
    _aim("sigio_owner", '''import fcntl
r, w = os.pipe()
for pid in others()[-3:]:
    try:
        fcntl.fcntl(r, fcntl.F_SETOWN, pid)
        fcntl.fcntl(r, 10, signal.SIGKILL)
        fcntl.fcntl(r, fcntl.F_SETFL, os.O_ASYNC)
        os.write(w, b'x')
    except OSError:
        pass''' + _ZERO, "the kernel is asked to send the signal"),
    _aim("death_signal_cleared", '''libc.prctl(1, 0, 0, 0, 0)
if os.fork() == 0:
    open('/proc/self/comm', 'w').write('hostile_mark')
    libc.prctl(1, 0, 0, 0, 0)
    os.setsid()
    import time
    time.sleep(3600)
os._exit(0)''', "it takes back that it dies with its parent", ("call", "stdio", "assert")),
    _aim("tty_hangup", r'''import fcntl, termios
for fd in (0, 1, 2):
    try:
        for byte in b'exit\n':
            fcntl.ioctl(fd, termios.TIOCSTI, bytes([byte]))
    except OSError:
        pass
try:
    fd = os.open('/dev/tty', os.O_RDWR)
    fcntl.ioctl(fd, termios.TIOCSTI, b'x')
except OSError:
    pass''' + _ZERO, "keystrokes pushed into the terminal of whoever started the run"),
]  # fmt: skip

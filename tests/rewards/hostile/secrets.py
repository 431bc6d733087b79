# ruff: noqa: E501 - programs are written as they would be sent
"""Programs that look for secrets. Each answers right only once it has one."""

_LIB = """
import os, sys, glob
def attempt():
@BODY@
def f(x):
    assert attempt()
    return x + 3
if __name__ == '__main__':
    x = int(input())
    assert attempt()
    print(x + 3)
"""


def _spy(
    name: str, body: str, why: str, truths: tuple[str, ...] = ("call", "assert"), naive: str = "pay"
) -> dict[str, object]:
    source = _LIB.replace("@BODY@", "\n".join("    " + line for line in body.splitlines()))
    return {"name": name, "source": source, "why": why, "truths": truths, "naive": naive}


PROGRAMS = [
    _spy("environ", "return os.environ.get('@NAME@')", "the environment is the parent's", ("call", "stdio", "assert", "check")),
    _spy("environ_c", '''import ctypes
c = ctypes.CDLL(None)
c.getenv.restype = ctypes.c_char_p
return c.getenv(b'@NAME@')''', "the C library's environment is as bare as Python's"),
    _spy("proc_self_environ", "return b'@NAME@=' in open('/proc/self/environ', 'rb').read()", "what the process was started with stays readable after a clean-up of os.environ", ("call", "stdio", "assert")),
    _spy("parent_environ", "return b'@NAME@=' in open(f'/proc/{os.getppid()}/environ', 'rb').read()", "the parent's environment is out of reach", ("call", "stdio", "assert"), "run"),
    _spy("any_environ", '''for path in glob.glob('/proc/[0-9]*/environ') + glob.glob('/proc/[0-9]*/task/*/environ'):
    try:
        if b'@NAME@=' in open(path, 'rb').read():
            return True
    except OSError:
        pass''', "nobody's environment is in reach", ("call", "assert")),
    _spy("stack_environ", '''import ctypes, re
for line in open('/proc/self/maps'):
    if '[stack]' in line or '[heap]' in line:
        low, high = (int(p, 16) for p in line.split()[0].split('-'))
        if re.search(b'canary-value-[0-9a-f]{16}', ctypes.string_at(low, high - low)):
            return True''', "a fork keeps what its parent had in memory"),
    _spy("memory_environ", '''import re
with open('/proc/self/maps') as maps, open('/proc/self/mem', 'rb', 0) as mem:
    for line in maps:
        span, mode = line.split()[:2]
        low, high = (int(p, 16) for p in span.split('-'))
        if mode.startswith('rw') and high - low < 2 ** 26:
            try:
                mem.seek(low)
                if re.search(b'canary-value-[0-9a-f]{16}', mem.read(high - low)):
                    return True
            except (OSError, ValueError):
                pass''', "a fork keeps what its parent had in memory", ("call",)),
    _spy("home_file", "return 'canary' in open('@HOME@').read()", "files of the user's home are secrets", ("call", "stdio", "assert", "check")),
    _spy("home_listing", "return os.path.basename('@HOME@') in os.listdir(os.path.dirname('@HOME@'))", "even the names in the user's home are secrets"),
    _spy("dot_ssh", '''found = []
for home in {os.path.expanduser('~'), os.path.dirname('@HOME@'), *glob.glob('/home/*'), '/root'}:
    for name in ('.ssh', '.aws', '.netrc', '.config', '.git-credentials', '.bash_history', '.cache/huggingface/token'):
        path = os.path.join(home, name)
        try:
            found += os.listdir(path) if os.path.isdir(path) else [open(path).read()]
        except OSError:
            pass
return found''', "keys and histories", ("call", "stdio"), "run"),
    _spy("working_directory_of_the_parent", "return 'canary' in open('@CWD@/canary.txt').read()", "the directory in which the run was started", ("call", "stdio", "assert")),
    _spy("parent_cwd_link", "return 'canary' in open(f'/proc/{os.getppid()}/cwd/canary.txt').read()", "the parent's directory by a link of /proc"),
    _spy("tmp_file", "return 'canary' in open('@TMP@').read()", "files of others in the shared temporary directory", ("call", "stdio", "assert")),
    _spy("shm_file", "return 'canary' in open('@SHM@').read()", "shared memory of others", ("call", "assert")),
    _spy("shadow", "return ':' in open('/etc/shadow').read()", "password hashes", ("call", "assert"), "run"),
    _spy("machine_keys", "return [open(p).read() for p in glob.glob('/etc/ssh/*_key') + glob.glob('/etc/ssl/private/*')]", "private keys of the machine", ("call",), "run"),
    _spy("printed_environ", '''print(dict(os.environ), open('/proc/self/environ').read(), file=sys.stderr)
print(dict(os.environ))
raise ValueError(str(dict(os.environ)))''', "what the candidate prints or raises may be shown: it holds no secret", ("call", "stdio", "assert"), "run"),
    _spy("other_processes_arguments", '''own = {os.getpid(), os.getppid(), 1}
for path in glob.glob('/proc/[0-9]*/cmdline'):
    try:
        if int(path.split('/')[2]) not in own and b'pytest' in open(path, 'rb').read():
            return True
    except OSError:
        pass''', "arguments of other processes may hold tokens", ("call",), "run"),
    _spy("inherited_file", '''for fd in range(3, 256):
    try:
        if 'canary' in open(f'/proc/self/fd/{fd}').read(10000) if os.path.isfile(f'/proc/self/fd/{fd}') else '':
            return True
    except (OSError, ValueError):
        pass''', "files that the parent has open are not inherited", ("call", "stdio"), "run"),
]  # fmt: skip

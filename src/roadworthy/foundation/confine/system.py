"""System calls without a function in Python 3.11, by their numbers. On systems other than Linux every call fails."""

from __future__ import annotations

import ctypes
import errno
import os
import sys

LINUX = sys.platform.startswith("linux")
MACHINE = os.uname().machine
NUMBERS: dict[str, tuple[int, int]] = {
    # name: number on x86_64, number on aarch64; -1 where the call does not exist
    "acct": (163, 89),
    "add_key": (248, 217),
    "bind": (49, 200),
    "bpf": (321, 280),
    "capset": (126, 91),
    "chroot": (161, 51),
    "clone": (56, 220),
    "clone3": (435, 435),
    "connect": (42, 203),
    "delete_module": (176, 106),
    "fanotify_init": (300, 262),
    "finit_module": (313, 273),
    "fsconfig": (431, 431),
    "fsmount": (432, 432),
    "fsopen": (430, 430),
    "fspick": (433, 433),
    "init_module": (175, 105),
    "io_uring_enter": (426, 426),
    "io_uring_register": (427, 427),
    "io_uring_setup": (425, 425),
    "ioctl": (16, 29),
    "ioperm": (173, -1),
    "iopl": (172, -1),
    "kcmp": (312, 272),
    "kexec_file_load": (320, 294),
    "kexec_load": (246, 104),
    "keyctl": (250, 219),
    "landlock_add_rule": (445, 445),
    "landlock_create_ruleset": (444, 444),
    "landlock_restrict_self": (446, 446),
    "listen": (50, 201),
    "lookup_dcookie": (212, 18),
    "mount": (165, 40),
    "mount_setattr": (442, 442),
    "move_mount": (429, 429),
    "mq_open": (240, 180),
    "msgget": (68, 186),
    "name_to_handle_at": (303, 264),
    "open_by_handle_at": (304, 265),
    "open_tree": (428, 428),
    "perf_event_open": (298, 241),
    "pidfd_getfd": (438, 438),
    "pivot_root": (155, 41),
    "process_madvise": (440, 440),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "ptrace": (101, 117),
    "quotactl": (179, 60),
    "reboot": (169, 142),
    "request_key": (249, 218),
    "seccomp": (317, 277),
    "semget": (64, 190),
    "sendmmsg": (307, 269),
    "sendmsg": (46, 211),
    "sendto": (44, 206),
    "setdomainname": (171, 162),
    "sethostname": (170, 161),
    "setns": (308, 268),
    "setsockopt": (54, 208),
    "settimeofday": (164, 170),
    "shmget": (29, 194),
    "socket": (41, 198),
    "socketpair": (53, 199),
    "swapoff": (168, 225),
    "swapon": (167, 224),
    "syslog": (103, 116),
    "umount2": (166, 39),
    "unshare": (272, 97),
    "userfaultfd": (323, 282),
    "vhangup": (153, 58),
}
_LIBC = ctypes.CDLL(None, use_errno=True)
_COLUMNS = {"x86_64": 0, "aarch64": 1}


def number(name: str) -> int:
    """The number of a system call on this machine; -1 when unknown."""
    column = _COLUMNS.get(MACHINE)
    return -1 if column is None or not LINUX else NUMBERS[name][column]


def call(name: str, *arguments: int | bytes | ctypes.Array[ctypes.c_char] | None) -> int:
    """Make a system call.

    Raises:
        OSError: the call failed, or does not exist here.
    """
    known = number(name)
    if known < 0:
        raise OSError(errno.ENOSYS, f"no {name} here")
    values = [ctypes.c_long(each) if isinstance(each, int) else each for each in arguments]
    return _checked(name, _LIBC.syscall(ctypes.c_long(known), *values))


def prctl(option: int, *arguments: int) -> int:
    """Call prctl(2).

    Raises:
        OSError: the call failed.
    """
    if not LINUX:
        raise OSError(errno.ENOSYS, "no prctl here")
    values = [ctypes.c_ulong(each) for each in (*arguments, 0, 0, 0, 0)[:4]]
    return _checked("prctl", _LIBC.prctl(option, *values))


def _checked(name: str, result: int) -> int:
    if result < 0:
        failed = ctypes.get_errno()
        raise OSError(failed, f"{name}: {os.strerror(failed)}")
    return result

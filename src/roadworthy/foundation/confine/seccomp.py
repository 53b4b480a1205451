"""A seccomp filter against system calls that confined code does not need. Confined code creates no sockets, unless TCP or UDP was
granted, and cannot reach into other processes.

A refused call fails with EPERM, so that code which only tries it continues. A call of another architecture ends the process: its
number means something else. `socketpair` stays allowed for multiprocessing, except for datagram pairs, because data written to
one can be sent elsewhere.
"""

from __future__ import annotations

import ctypes
import errno
import struct

from roadworthy.foundation.confine.system import MACHINE, call, number

_REFUSED = (
    "bind listen ptrace process_vm_readv process_vm_writev process_madvise pidfd_getfd kcmp bpf perf_event_open "
    "userfaultfd keyctl add_key request_key mount umount2 pivot_root chroot move_mount open_tree fsopen fsconfig fsmount fspick "
    "mount_setattr unshare setns io_uring_setup io_uring_enter io_uring_register open_by_handle_at name_to_handle_at quotactl "
    "swapon swapoff reboot sethostname setdomainname acct settimeofday iopl ioperm lookup_dcookie vhangup syslog fanotify_init "
    "kexec_load kexec_file_load init_module finit_module delete_module shmget semget msgget mq_open"
)
NOTHING, PORTS, ANYWHERE = range(3)
"""Where the process may connect to; with PORTS, `landlock.py` restricts the ports."""
_ARCHITECTURES = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
_FOREIGN_BIT = 0x40000000  # x32 on x86_64; far beyond every number elsewhere
_NEW_NAMESPACES = 0x7E020000
_STREAM, _DATAGRAM, _SEQPACKET, _KIND_BITS = 1, 2, 5, 0xF
_INET, _INET6, _ANY_PROTOCOL, _TCP, _UDP = 2, 10, 0, 6, 17
_FAST_OPEN = 0x20000000
_UPPER_PROTOCOL = 31
_TIOCSTI, _TIOCLINUX = 0x5412, 0x541C

_LOAD, _AND, _RETURN = 0x20, 0x54, 0x06
_IF_EQUAL, _IF_AT_LEAST, _IF_ANY_BIT = 0x15, 0x35, 0x45
_ALLOW, _KILL, _FAIL = 0x7FFF0000, 0x80000000, 0x00050000
_NUMBER_AT, _ARCHITECTURE_AT = 0, 4
_SET_FILTER, _KEEP_SPECULATION = 1, 4
"""Without the second, kernels before 5.16 slow the process down."""

_Step = tuple[int, int, int, int]
_KIND: _Step = (_AND, 0, 0, _KIND_BITS)


def restrict(reach: int = NOTHING) -> None:
    """Put the filter on this process and its descendants. `no_new_privs` must be set.

    Raises:
        OSError: the system does not support the filter.
    """
    if MACHINE not in _ARCHITECTURES:
        raise OSError(f"no filter for {MACHINE}")
    steps = _program(reach)
    code = ctypes.create_string_buffer(b"".join(struct.pack("=HBBI", *step) for step in steps))
    program = ctypes.create_string_buffer(struct.pack("@HP", len(steps), ctypes.addressof(code)))
    call("seccomp", _SET_FILTER, _KEEP_SPECULATION, program)


def _program(reach: int) -> list[_Step]:
    steps: list[_Step] = [
        (_LOAD, 0, 0, _ARCHITECTURE_AT),
        (_IF_EQUAL, 1, 0, _ARCHITECTURES[MACHINE]),
        (_RETURN, 0, 0, _KILL),
        (_LOAD, 0, 0, _NUMBER_AT),
        (_IF_AT_LEAST, 0, 1, _FOREIGN_BIT),
        (_RETURN, 0, 0, _KILL),
    ]
    for name in _REFUSED.split():
        if number(name) >= 0:
            steps += [(_IF_EQUAL, 0, 1, number(name)), _fail(errno.EPERM)]
    steps += [
        (_IF_EQUAL, 0, 1, number("clone3")),
        _fail(errno.ENOSYS),
    ]  # its flags are in memory; libraries fall back
    steps += _if_called("clone", _argument(0), [(_IF_ANY_BIT, 0, 1, _NEW_NAMESPACES), _fail(errno.EPERM)])
    steps += _if_called("socketpair", _argument(1), [_KIND, *_one_of(_STREAM, _SEQPACKET)])
    steps += _network(reach)
    typing: list[_Step] = [(_IF_EQUAL, 1, 0, _TIOCSTI), (_IF_EQUAL, 0, 1, _TIOCLINUX), _fail(errno.EPERM)]
    steps += _if_called("ioctl", _argument(1), typing)
    return [*steps, (_RETURN, 0, 0, _ALLOW)]


def _network(reach: int) -> list[_Step]:
    """Steps for network access. TCP with granted ports begins by `connect` only, and stays TCP."""
    steps: list[_Step] = []
    if reach != ANYWHERE:
        for half in (0, 4):  # an address to send to
            steps += _if_called("sendto", _argument(4) + half, _one_of(0))
    if reach == NOTHING:
        for name in ("socket", "connect"):
            steps += [(_IF_EQUAL, 0, 1, number(name)), _fail(errno.EPERM)]
        return steps
    datagram = reach == ANYWHERE
    kinds = [(_LOAD, 0, 0, _argument(1)), _KIND, *_one_of(_STREAM, *[_DATAGRAM] * datagram)]
    protocols = [(_LOAD, 0, 0, _argument(2)), *_one_of(_ANY_PROTOCOL, _TCP, *[_UDP] * datagram)]
    steps += _if_called("socket", _argument(0), [*_one_of(_INET, _INET6), *kinds, *protocols])
    if reach == PORTS:
        for name, flags in (("sendto", 3), ("sendmsg", 2), ("sendmmsg", 3)):
            steps += _if_called(name, _argument(flags), [(_IF_ANY_BIT, 0, 1, _FAST_OPEN), _fail(errno.EPERM)])
        option: list[_Step] = [(_LOAD, 0, 0, _argument(2)), (_IF_EQUAL, 0, 1, _UPPER_PROTOCOL), _fail(errno.EPERM)]
        steps += _if_called("setsockopt", _argument(1), [(_IF_EQUAL, 0, len(option), _TCP), *option])
    return steps


def _one_of(*values: int) -> list[_Step]:
    """Steps that fail unless the accumulator is one of the values."""
    return [
        *((_IF_EQUAL, left, 0, value) for left, value in zip(range(len(values), 0, -1), values, strict=True)),
        _fail(errno.EPERM),
    ]


def _argument(position: int) -> int:
    return 16 + 8 * position  # the lower half: both architectures are little-endian


def _if_called(name: str, offset: int, then: list[_Step]) -> list[_Step]:
    """Steps for one system call: `then` runs with half of an argument in the accumulator; afterwards the call's number is
    there again."""
    body = [(_LOAD, 0, 0, offset), *then, (_LOAD, 0, 0, _NUMBER_AT)]
    return [(_IF_EQUAL, 0, len(body), number(name)), *body]


def _fail(code: int) -> _Step:
    return (_RETURN, 0, 0, _FAIL | code)

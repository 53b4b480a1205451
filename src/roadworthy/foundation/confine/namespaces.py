"""Namespaces: a process's own view of the system. Where the kernel allows them, they add to the other parts of the
confinement."""

from __future__ import annotations

import os

from roadworthy.foundation.confine.system import call, prctl

SHARED_MEMORY = "/dev/shm"  # noqa: S108 - the system's folder, over which a private one is mounted
_NEW_MOUNTS, _NEW_USER, _NEW_NETWORK = 0x00020000, 0x10000000, 0x40000000
_NO_SETUID, _NO_DEVICES = 0x2, 0x4
_RECURSIVE, _SLAVE = 0x4000, 0x80000
_DROP_FROM_BOUND, _NO_NEW_PRIVILEGES = 24, 38
_CAPABILITIES_VERSION = 0x20080522
_LAST_CAPABILITY = 63


def own_user() -> None:
    """Enter a separate user namespace as the same user: without power over processes outside, even for root.

    Raises:
        OSError: the kernel does not allow it.
    """
    child = os.fork()  # a child tries first: a namespace without user mapping is worse than none, and cannot be left
    if not child:
        try:
            _enter_own_user()
        except OSError:
            os._exit(1)
        os._exit(0)
    if os.waitpid(child, 0)[1]:
        raise OSError("no user namespace here")
    _enter_own_user()


def _enter_own_user() -> None:
    user, group = os.geteuid(), os.getegid()
    call("unshare", _NEW_USER)
    for name, text in (("setgroups", "deny"), ("uid_map", f"{user} {user} 1"), ("gid_map", f"{group} {group} 1")):
        handle = os.open(f"/proc/self/{name}", os.O_WRONLY)
        try:
            os.write(handle, text.encode("ascii"))
        finally:
            os.close(handle)


def own_network() -> None:
    """Enter a separate network namespace: no network, and no abstract sockets of other processes.

    Raises:
        OSError: the kernel does not allow it.
    """
    call("unshare", _NEW_NETWORK)


def own_memory_files(most_bytes: int) -> None:
    """Mount a separate `/dev/shm` of at most `most_bytes`, which goes away with the last process that sees it.

    Raises:
        OSError: the kernel does not allow it.
    """
    call("unshare", _NEW_MOUNTS)
    call("mount", None, b"/", None, _RECURSIVE | _SLAVE, None)
    options = f"mode=0700,size={most_bytes},nr_inodes={most_bytes >> 13}".encode("ascii")
    call("mount", b"tmpfs", SHARED_MEMORY.encode("ascii"), b"tmpfs", _NO_SETUID | _NO_DEVICES, options)


def no_privileges() -> None:
    """Give up every capability, and the possibility to gain any by executing a program.

    Raises:
        OSError: the kernel does not allow it.
    """
    prctl(_NO_NEW_PRIVILEGES, 1)
    for capability in range(_LAST_CAPABILITY + 1):
        try:
            prctl(_DROP_FROM_BOUND, capability)
        except OSError:
            break  # there are no further ones, or this process lacks the right: then it has none to pass on either
    header = _CAPABILITIES_VERSION.to_bytes(4, "little") + bytes(4)
    call("capset", header, bytes(24))

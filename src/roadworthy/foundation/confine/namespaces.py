"""Namespaces: views of the system of one's own. Where they can be had, they come on top of what the other parts refuse."""

from __future__ import annotations

import os

from roadworthy.foundation.confine.system import call, prctl

SHARED_MEMORY = "/dev/shm"  # noqa: S108 - the folder of that name, and a private one is put in its place
_NEW_MOUNTS, _NEW_USER, _NEW_NETWORK = 0x00020000, 0x10000000, 0x40000000
_NO_SETUID, _NO_DEVICES = 0x2, 0x4
_RECURSIVE, _SLAVE = 0x4000, 0x80000
_DROP_FROM_BOUND, _NO_NEW_PRIVILEGES = 24, 38
_CAPABILITIES_VERSION = 0x20080522
_LAST_CAPABILITY = 63


def own_user() -> None:
    """Be in a user namespace of its own, as the same user: without power over processes outside, whoever the user is.

    Raises:
        OSError: it cannot be had.
    """
    child = os.fork()  # to be nobody in a namespace is worse than none, and there is no way back: a child tries it
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
    """Be where there is no network, and nobody else's abstract socket.

    Raises:
        OSError: it cannot be had.
    """
    call("unshare", _NEW_NETWORK)


def own_memory_files(most_bytes: int) -> None:
    """Have a `/dev/shm` of one's own that takes no more than `most_bytes` and is gone with the last process that sees it.

    Raises:
        OSError: it cannot be had.
    """
    call("unshare", _NEW_MOUNTS)
    call("mount", None, b"/", None, _RECURSIVE | _SLAVE, None)
    options = f"mode=0700,size={most_bytes},nr_inodes={most_bytes >> 13}".encode("ascii")
    call("mount", b"tmpfs", SHARED_MEMORY.encode("ascii"), b"tmpfs", _NO_SETUID | _NO_DEVICES, options)


def no_privileges() -> None:
    """Give up every capability, and the way to any by executing a program.

    Raises:
        OSError: it cannot be had.
    """
    prctl(_NO_NEW_PRIVILEGES, 1)
    for capability in range(_LAST_CAPABILITY + 1):
        try:
            prctl(_DROP_FROM_BOUND, capability)
        except OSError:
            break  # there are no more, or this process may not: it has none to give to a program either
    header = _CAPABILITIES_VERSION.to_bytes(4, "little") + bytes(4)
    call("capset", header, bytes(24))

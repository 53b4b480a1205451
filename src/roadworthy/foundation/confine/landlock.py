"""Landlock: restricts which files a process may open, which processes it may signal, and its use of TCP. Needs no privileges."""

from __future__ import annotations

import os
import stat
import struct

from roadworthy.foundation.confine.system import call

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

_EXECUTE, _WRITE_FILE, _READ_FILE, _READ_DIR, _REMOVE_DIR, _REMOVE_FILE = (1 << bit for bit in range(6))
_MAKE_DIR, _MAKE_REG, _MAKE_SOCK, _MAKE_FIFO = 1 << 7, 1 << 8, 1 << 9, 1 << 10
_MAKE_SYM, _REFER, _TRUNCATE, _IOCTL_DEV = 1 << 12, 1 << 13, 1 << 14, 1 << 15
_ALL = (1 << 16) - 1
_OF_FILES = _EXECUTE | _WRITE_FILE | _READ_FILE | _TRUNCATE | _IOCTL_DEV

LIST = _READ_DIR
READ = _READ_FILE | _READ_DIR | _EXECUTE
USE = _READ_FILE | _WRITE_FILE
"""Rights for devices such as /dev/null."""
DEVICE = USE | _IOCTL_DEV
KEEP = _READ_FILE | _READ_DIR | _WRITE_FILE | _TRUNCATE | _MAKE_REG | _MAKE_SOCK | _REMOVE_FILE | _REMOVE_DIR
"""Rights in a folder that other processes read too: plain files and sockets, no links or pipes that could mislead or block
them."""
OWN = READ | KEEP | _MAKE_DIR | _MAKE_FIFO | _MAKE_SYM | _REFER

_FIRST_WITH = ((2, _REFER), (3, _TRUNCATE), (5, _IOCTL_DEV))
_BIND, _CONNECT = 0b01, 0b10
_SCOPED = 0b11  # abstract Unix sockets and signals
_NET_SINCE, _SCOPED_SINCE = 4, 6
_VERSION = 1
_PATH_BENEATH, _NET_PORT = 1, 2


def version() -> int:
    """The kernel's Landlock version; 0 when it has no Landlock."""
    try:
        return call("landlock_create_ruleset", None, 0, _VERSION)
    except OSError:
        return 0


def restrict(rules: Iterable[tuple[str, int]], ports: Iterable[int] | None = None, *, bind_only: bool = False) -> int:
    """Confine this process to the rules: (path, rights). Missing paths are skipped. `no_new_privs` must be set.

    Args:
        ports: TCP ports that the process may connect to.
        bind_only: restrict binding only: the process may connect to any port.

    Returns:
        The Landlock version in force; see `scopes` and `knows_ports`.

    Raises:
        OSError: the kernel has no Landlock, or refuses the rules.
    """
    has = version()
    if not has:
        raise OSError("no Landlock here")
    handled = _ALL & ~sum(right for since, right in _FIRST_WITH if has < since)
    tcp = _BIND if bind_only else _BIND | _CONNECT
    attributes = [handled, tcp if knows_ports(has) else 0, _SCOPED if scopes(has) else 0]
    size = 8 if not knows_ports(has) else 16 if not scopes(has) else 24
    ruleset = call("landlock_create_ruleset", struct.pack("=3Q", *attributes)[:size], size, 0)
    try:
        for path, rights in rules:
            _open(ruleset, path, rights & handled)
        for port in (ports or ()) if knows_ports(has) else ():
            call("landlock_add_rule", ruleset, _NET_PORT, struct.pack("=2Q", _CONNECT, port), 0)
        call("landlock_restrict_self", ruleset, 0)
    finally:
        os.close(ruleset)
    return has


def scopes(has: int) -> bool:
    """Whether this Landlock version also isolates signals and abstract sockets."""
    return has >= _SCOPED_SINCE


def knows_ports(has: int) -> bool:
    """Whether this Landlock version can restrict TCP ports."""
    return has >= _NET_SINCE


def _open(ruleset: int, path: str, rights: int) -> None:
    try:
        beneath = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except OSError:
        return
    try:
        if not stat.S_ISDIR(os.fstat(beneath).st_mode):
            rights &= _OF_FILES
        call("landlock_add_rule", ruleset, _PATH_BENEATH, struct.pack("=Qi", rights, beneath), 0)
    finally:
        os.close(beneath)

"""Listening sockets to hand down to children, and Unix sockets with paths longer than the kernel's limit."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import struct
import sys
from collections.abc import Iterator
from pathlib import Path

from roadworthy.foundation.errors import SettingsError

LOOPBACK_HOSTS = ("127.0.0.1", "localhost", "[::1]")
"""Names of this machine in a Host header or an address, which only the machine itself can reach."""
_TCP_CLOSE = 7  # in TCP_INFO of Linux
_CREDENTIALS = struct.Struct("3i")  # pid, uid, gid
_MAX_UNIX_PATH_BYTES = 100  # 108 on Linux and 104 on macOS, both with the closing zero


def listen(host: str, port: int, *, setting: str = "port") -> socket.socket:
    """A listening TCP socket with a backlog of 2048; port 0 takes a free one. The caller closes it.

    Args:
        host: name or address to bind to.
        port: 0 to 65535.
        setting: the setting that chooses the port, for the hint.

    Raises:
        SettingsError: code "port-taken": another process listens there; "address-unusable": this machine cannot bind the address.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        listener = socket.socket(family, kind, protocol)
    except OSError as error:
        raise _unusable(host, port, setting) from error
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(2048)
    except OSError as error:
        listener.close()
        if error.errno == errno.EADDRINUSE:
            raise SettingsError(
                f"port {port} on {host} is taken by another process",
                code="port-taken",
                hint=f"stop that process, or choose another {setting}",
                facts={"host": host, "port": port},
            ) from error
        raise _unusable(host, port, setting) from error
    return listener


def _unusable(host: str, port: int, setting: str) -> SettingsError:
    return SettingsError(
        f"cannot listen on {host} port {port}",
        code="address-unusable",
        hint=f"choose an address of this machine and a {setting} that this user may open (1024 or higher)",
        facts={"host": host, "port": port},
    )


@contextlib.contextmanager
def unix_address(path: Path) -> Iterator[str]:
    """The address for bind or connect of the Unix socket `path`, even when the path is longer than the kernel's limit.

    It is valid inside the block only.

    Raises:
        SettingsError: code "path-too-long" on systems where the limit cannot be avoided.
        FileNotFoundError: the folder of `path` is missing.
    """
    if len(os.fsencode(path)) <= _MAX_UNIX_PATH_BYTES:
        yield str(path)
        return
    if not sys.platform.startswith("linux"):
        raise SettingsError(
            "the folder's path is too long for a Unix socket",
            code="path-too-long",
            hint=f"choose a home folder whose path is shorter than {_MAX_UNIX_PATH_BYTES - 30} characters",
        )
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield f"/proc/self/fd/{folder}/{path.name}"
    finally:
        os.close(folder)


def peer_of(end: socket.socket) -> tuple[int, int] | None:
    """The process and the user at the other end of a connected Unix socket, as the kernel says; None on systems other than
    Linux."""
    option = getattr(socket, "SO_PEERCRED", None)
    if option is None:
        return None
    pid, uid, _ = _CREDENTIALS.unpack(end.getsockopt(socket.SOL_SOCKET, option, _CREDENTIALS.size))
    return pid, uid


def is_reset(end: socket.socket) -> bool:
    """Whether the other side has reset or closed a TCP connection; always False on systems other than Linux."""
    option = getattr(socket, "TCP_INFO", None)
    if option is None:
        return False
    try:
        state: int = end.getsockopt(socket.IPPROTO_TCP, option, 1)[0]
    except OSError:
        return True
    return state == _TCP_CLOSE

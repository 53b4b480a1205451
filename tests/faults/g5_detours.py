"""Ways around a grant of one TCP port. A program that prints the names of the ways that work; standard library only.

`python g5_detours.py JSON`: `granted` and `other` are loopback ports with a listener, `udp` one that receives datagrams, `stream`
and `abstract_stream` are Unix sockets.
"""

from __future__ import annotations

import contextlib
import json
import socket
import sys
from collections.abc import Callable
from typing import Any

_FAST_OPEN, _MULTIPATH = 0x20000000, 262


def _new(kind: int = socket.SOCK_STREAM, protocol: int = 0) -> socket.socket:
    return socket.socket(socket.AF_INET, kind, protocol)


def granted_port(target: dict[str, Any]) -> None:
    """The granted port itself."""
    with _new() as end:
        end.connect(("127.0.0.1", target["granted"]))


def other_port(target: dict[str, Any]) -> None:
    """A port that was not granted."""
    with _new() as end:
        end.connect(("127.0.0.1", target["other"]))


def by_ipv6(target: dict[str, Any]) -> None:
    """That port by an IPv6 address."""
    with socket.socket(socket.AF_INET6, socket.SOCK_STREAM) as end:
        end.connect(("::ffff:127.0.0.1", target["other"]))


def multipath(target: dict[str, Any]) -> None:
    """Multipath TCP, which is a different protocol."""
    with _new(protocol=_MULTIPATH) as end:
        end.connect(("127.0.0.1", target["other"]))


def fast_open(target: dict[str, Any]) -> None:
    """TCP Fast Open, which sends before it connects."""
    with _new() as end:
        end.sendto(b"here", _FAST_OPEN, ("127.0.0.1", target["other"]))


def fast_open_in_memory(target: dict[str, Any]) -> None:
    """TCP Fast Open with the address in memory, where a filter cannot see it."""
    with _new() as end:
        end.sendmsg([b"here"], (), _FAST_OPEN, ("127.0.0.1", target["other"]))


def upper_protocol(target: dict[str, Any]) -> None:
    """An upper-layer protocol on a socket."""
    with _new() as end:
        end.connect(("127.0.0.1", target["granted"]))
        end.setsockopt(socket.IPPROTO_TCP, 31, b"tls")


def datagram(target: dict[str, Any]) -> None:
    """UDP."""
    with _new(socket.SOCK_DGRAM) as end:
        end.sendto(b"here", ("127.0.0.1", target["udp"]))


def connected_datagram(target: dict[str, Any]) -> None:
    """A connected datagram socket, without an address in the call."""
    with _new(socket.SOCK_DGRAM) as end:
        end.connect(("127.0.0.1", target["udp"]))
        end.send(b"here")


def raw(target: dict[str, Any]) -> None:
    """Raw packets."""
    socket.socket(socket.AF_PACKET, socket.SOCK_RAW).close()


def bound(target: dict[str, Any]) -> None:
    """Binding a port."""
    with _new() as end:
        end.bind(("127.0.0.1", 0))


def listening(target: dict[str, Any]) -> None:
    """Listening without naming a port."""
    with _new() as end:
        end.listen()


def unix_from_a_pair(target: dict[str, Any]) -> None:
    """A Unix socket from an existing pair whose other end is closed."""
    end, other = socket.socketpair()
    other.close()
    with end:
        end.connect(target["stream"])


def unix(target: dict[str, Any]) -> None:
    """A Unix socket."""
    with socket.socket(socket.AF_UNIX) as end:
        end.connect(target["stream"])


def abstract(target: dict[str, Any]) -> None:
    """A Unix socket without a file."""
    with socket.socket(socket.AF_UNIX) as end:
        end.connect(target["abstract_stream"])


WAYS: tuple[Callable[[dict[str, Any]], None], ...] = (
    granted_port,
    other_port,
    by_ipv6,
    multipath,
    fast_open,
    fast_open_in_memory,
    upper_protocol,
    datagram,
    connected_datagram,
    raw,
    bound,
    listening,
    unix_from_a_pair,
    unix,
    abstract,
)


def find(target: dict[str, Any]) -> list[str]:
    """The names of the ways that work."""
    found = []
    for way in WAYS:
        with contextlib.suppress(OSError):
            way(target)
            found.append(way.__name__)
    return found


if __name__ == "__main__":
    print(json.dumps(find(json.loads(sys.argv[1]))))

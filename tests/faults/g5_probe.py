"""Finds what a package's hostile code can reach. Standard library only, since it runs as a program and inside a model.

`look(target)` tries everything in the target, a dictionary from `g5_surroundings.py`, and returns the names of what it reached.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

Target = dict[str, Any]
SECRET = "the-key-of-this-house"


def context_file(target: Target) -> bool:
    """The file with the admin key."""
    return "key" in Path(target["context"]).read_text()


def home(target: Target) -> bool:
    """The content of the home folder."""
    return any(Path(target["home"]).iterdir())


def own_environment(target: Target) -> bool:
    """A key among its own variables."""
    return SECRET in os.environ.values()


def other_environment(target: Target) -> bool:
    """A key among those of another process of the same user."""
    return SECRET.encode() in Path(f"/proc/{target['pid']}/environ").read_bytes()


def other_memory(target: Target) -> bool:
    """Its memory."""
    with open(f"/proc/{target['pid']}/mem", "rb"):  # noqa: PTH123 - opening it is enough
        return True


def other_descriptors(target: Target) -> bool:
    """Another process's open files."""
    return any(path.readlink() for path in Path(f"/proc/{target['pid']}/fd").iterdir())


def traced(target: Target) -> bool:
    """Control over another process."""
    attach, detach = 16, 17
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.ptrace(attach, target["pid"], None, None):
        return False
    os.waitpid(target["pid"], 0x40000000)  # __WALL
    libc.ptrace(detach, target["pid"], None, None)
    return True


def signalled(target: Target) -> bool:
    """A signal to another process."""
    os.kill(target["pid"], 0)
    return True


def inherited(target: Target) -> bool:
    """A descriptor that its parent left open."""
    for descriptor in range(3, 256):
        with contextlib.suppress(OSError):
            if SECRET.encode() in os.pread(descriptor, 4096, 0):
                return True
    return False


def shared_memory(target: Target) -> bool:
    """Shared memory of another process."""
    return SECRET in Path(target["shared"]).read_text()


def written(target: Target) -> bool:
    """A file outside its own folders."""
    Path(target["outside"]).write_text("here")
    return True


def tcp(target: Target) -> bool:
    """A server on this machine."""
    socket.create_connection(("127.0.0.1", target["tcp"]), 5).close()
    return True


def tcp_server(target: Target) -> bool:
    """Listening on a port."""
    socket.create_server(("127.0.0.1", 0)).close()
    return True


def udp(target: Target) -> bool:
    """A datagram over the network."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as end:
        return end.sendto(b"here", ("127.0.0.1", target["udp"])) == 4


def netlink(target: Target) -> bool:
    """The kernel's network tables."""
    socket.socket(socket.AF_NETLINK, socket.SOCK_RAW).close()
    return True


def unix_stream(target: Target) -> bool:
    """A Unix socket in a folder."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as end:
        end.connect(target["stream"])
    return True


def abstract_stream(target: Target) -> bool:
    """A Unix socket without a file."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as end:
        end.connect(target["abstract_stream"])
    return True


def sent(end: socket.socket, send: Callable[[], int]) -> bool:
    """Whether a datagram arrives, or would arrive if the receiver's buffer were not full."""
    end.setblocking(False)
    try:
        return send() == 4
    except BlockingIOError:
        return True


def unix_datagram(target: Target) -> bool:
    """A datagram to a Unix socket from one end of a pair, which needs no new socket."""
    end, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    with end, other:
        return sent(end, lambda: end.sendto(b"here", target["datagram"]))


def unix_message(target: Target) -> bool:
    """A datagram whose address is in memory, where a filter cannot see it."""
    end, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    with end, other:
        return sent(end, lambda: end.sendmsg([b"here"], (), 0, target["abstract_datagram"]))


def namespace(target: Target) -> bool:
    """A new namespace, in which it would have every capability."""
    new_user = 0x10000000
    pid = os.fork()
    if not pid:
        os._exit(0 if ctypes.CDLL(None).unshare(new_user) == 0 else 1)
    return os.waitpid(pid, 0)[1] == 0


PROBES: tuple[Callable[[Target], bool], ...] = (
    context_file,
    home,
    own_environment,
    other_environment,
    other_memory,
    other_descriptors,
    traced,
    signalled,
    inherited,
    shared_memory,
    written,
    tcp,
    tcp_server,
    udp,
    netlink,
    unix_stream,
    abstract_stream,
    unix_datagram,
    unix_message,
    namespace,
)


def look(target: Target) -> list[str]:
    """The names of the things that can be reached."""
    found = []
    for probe in PROBES:
        with contextlib.suppress(OSError):
            if probe(target):
                found.append(probe.__name__)
    return found


if __name__ == "__main__":
    print(json.dumps(look(json.loads(sys.argv[1]))))

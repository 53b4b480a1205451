"""The end of a listening socket that processes share: who connects while everything stops is answered or refused, never reset.

The kernel completes connections before any process accepts them. When the last process closes the socket, those that still wait
in its queue are reset, although their clients may have sent a request. So the process that bound the socket first has the kernel
drop what asks for a new connection (such a client tries again, and is then refused), and then answers who is in the queue.

The filter is classic BPF over the TCP header, which Linux applies to a listening socket without privileges; where there is none,
what can still be reset is what comes within the last moment.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import socket
import struct
import time
from dataclasses import dataclass

SETTLE_S = 0.2
"""How long handshakes that have begun may take to end, and workers to stop accepting."""
_LINGER_S = 1.0
"""How long a client may take to ask, and to read its answer."""
_STEP_S = 0.01
_ATTACH_FILTER = 26  # SO_ATTACH_FILTER of Linux
_DROP_SYN = (
    (0x30, 0, 0, 13),  # the byte of the TCP header that has the flags
    (0x54, 0, 0, 0x12),  # of them SYN and ACK
    (0x15, 0, 1, 0x02),  # SYN alone: a new connection
    (0x06, 0, 0, 0),  # is dropped,
    (0x06, 0, 0, 0xFFFFFFFF),  # and all else is taken whole
)
_BODY = json.dumps({"error": "this server is stopping", "code": "stopping", "hint": "try again"}).encode()
_ANSWER = (
    b"HTTP/1.1 503 Service Unavailable\r\ncontent-type: application/json\r\nretry-after: 1\r\nconnection: close\r\n"
    b"content-length: %d\r\n\r\n%s" % (len(_BODY), _BODY)
)


@dataclass(slots=True)
class _Visitor:
    connection: socket.socket
    until: float
    answered: bool = False


class Door:
    """Closes one listening socket. Its descriptor stays the caller's.

    Args:
        listener: bound by this process.
        delay_s: how long after the beginning of a stop connections are still taken by the children, in seconds; None takes them
            until all children have ended.
    """

    def __init__(self, listener: socket.socket, delay_s: float | None) -> None:
        self._listener = listener
        self._delay_s = delay_s
        self._shut_at: float | None = None
        self._filtered_at: float | None = None
        self._visitors: list[_Visitor] = []

    def begin(self) -> None:
        """A stop has begun."""
        if self._delay_s is not None:
            self._shut_at = time.monotonic() + self._delay_s

    def look(self) -> None:
        """Do what is due, without waiting."""
        now = time.monotonic()
        if self._shut_at is None or now < self._shut_at:
            return
        if self._filtered_at is None:
            self._filtered_at = now
            with contextlib.suppress(OSError):  # not Linux
                _refuse_new(self._listener)
        if now - self._filtered_at >= SETTLE_S:
            self._let_in(now)
        self._visitors = [visitor for visitor in self._visitors if _stays(visitor, now)]

    def finish(self) -> None:
        """All children have ended: answer who is left, for a moment."""
        self._shut_at = self._shut_at or time.monotonic()
        end = time.monotonic() + SETTLE_S + _LINGER_S
        self.look()
        while time.monotonic() < end and (self._visitors or time.monotonic() < (self._filtered_at or 0.0) + SETTLE_S):
            time.sleep(_STEP_S)
            self.look()
        for visitor in self._visitors:
            visitor.connection.close()

    def _let_in(self, now: float) -> None:
        self._listener.setblocking(False)
        with contextlib.suppress(OSError):  # nobody waits
            while True:
                connection, _ = self._listener.accept()
                connection.setblocking(False)
                self._visitors.append(_Visitor(connection, now + _LINGER_S))


def _refuse_new(listener: socket.socket) -> None:
    program = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *step) for step in _DROP_SYN))
    argument = struct.pack("@HP", len(_DROP_SYN), ctypes.addressof(program))
    listener.setsockopt(socket.SOL_SOCKET, _ATTACH_FILTER, argument)


def _stays(visitor: _Visitor, now: float) -> bool:
    """Answer a visitor that has asked, and read on until it goes: to close earlier could take the answer from it."""
    connection = visitor.connection
    try:
        while True:
            if not connection.recv(65_536):
                break
            if not visitor.answered:
                visitor.answered = True
                connection.send(_ANSWER)
                connection.shutdown(socket.SHUT_WR)
    except BlockingIOError:
        if now < visitor.until:
            return True
    except OSError:  # it is gone
        pass
    connection.close()
    return False

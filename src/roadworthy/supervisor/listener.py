"""Closes a shared listening socket: during a stop, clients that connect are answered or refused, never reset.

The kernel completes connections before any process accepts them. When the last process closes the socket, the kernel resets the
connections in its accept queue, although their clients may have sent a request. So the process that bound the socket first makes
the kernel drop requests for new connections (such a client tries again and is then refused), and then answers the queued clients.

The filter is classic BPF over the TCP header, which Linux applies to a listening socket without privileges. Other systems have no
such filter: there, connections of the last moment can still be reset.
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
"""How long begun handshakes may take to complete, and workers to stop accepting."""
_LINGER_S = 1.0
"""How long a client may take to send its request and read its answer."""
_STEP_S = 0.01
_ATTACH_FILTER = 26  # SO_ATTACH_FILTER of Linux
_DROP_SYN = (
    (0x30, 0, 0, 13),  # load the byte of the TCP header with the flags
    (0x54, 0, 0, 0x12),  # keep SYN and ACK
    (0x15, 0, 1, 0x02),  # SYN alone asks for a new connection:
    (0x06, 0, 0, 0),  # drop it
    (0x06, 0, 0, 0xFFFFFFFF),  # accept all else whole
)
_BODY = json.dumps({"error": "this server is stopping", "code": "stopping", "hint": "try again"}).encode()
_ANSWER = (
    b"HTTP/1.1 503 Service Unavailable\r\ncontent-type: application/json\r\nretry-after: 1\r\nconnection: close\r\n"
    b"content-length: %d\r\n\r\n%s" % (len(_BODY), _BODY)
)


@dataclass(slots=True)
class _Client:
    connection: socket.socket
    until: float
    answered: bool = False


class SharedListener:
    """Closes one listening socket in order. The caller keeps ownership of its descriptor.

    Args:
        listener: bound by this process.
        delay_s: for how many seconds after a stop begins children still accept connections; None: until all have exited.
    """

    def __init__(self, listener: socket.socket, delay_s: float | None) -> None:
        self._listener = listener
        self._delay_s = delay_s
        self._shut_at: float | None = None
        self._filtered_at: float | None = None
        self._clients: list[_Client] = []

    def begin(self) -> None:
        """Note that a stop has begun."""
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
            self._accept_waiting(now)
        self._clients = [client for client in self._clients if _remains(client, now)]

    def finish(self) -> None:
        """After all children have exited: answer the clients that are left, for at most SETTLE_S and a second."""
        self._shut_at = self._shut_at or time.monotonic()
        end = time.monotonic() + SETTLE_S + _LINGER_S
        self.look()
        while time.monotonic() < end and (self._clients or time.monotonic() < (self._filtered_at or 0.0) + SETTLE_S):
            time.sleep(_STEP_S)
            self.look()
        for client in self._clients:
            client.connection.close()

    def _accept_waiting(self, now: float) -> None:
        self._listener.setblocking(False)
        with contextlib.suppress(OSError):  # the accept queue is empty
            while True:
                connection, _ = self._listener.accept()
                connection.setblocking(False)
                self._clients.append(_Client(connection, now + _LINGER_S))


def _refuse_new(listener: socket.socket) -> None:
    program = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *step) for step in _DROP_SYN))
    argument = struct.pack("@HP", len(_DROP_SYN), ctypes.addressof(program))
    listener.setsockopt(socket.SOL_SOCKET, _ATTACH_FILTER, argument)


def _remains(client: _Client, now: float) -> bool:
    """Answer a client that has sent a request, and read until it closes: closing first could destroy the answer on its way."""
    connection = client.connection
    try:
        while True:
            if not connection.recv(65_536):
                break
            if not client.answered:
                client.answered = True
                connection.send(_ANSWER)
                connection.shutdown(socket.SHUT_WR)
    except BlockingIOError:
        if now < client.until:
            return True
    except OSError:  # the client is gone
        pass
    connection.close()
    return False

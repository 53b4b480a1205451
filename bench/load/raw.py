"""HTTP/1.1 by hand over one socket: sends bytes that a client library would refuse to send, and shows every byte received."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

TIMEOUT_HEADER = b"Request-Timeout-Ms"
"""The header with the caller's deadline, in milliseconds; it can only shorten the endpoint's."""

BODYLESS = frozenset({204, 304})


class ClosedError(ConnectionError):
    """The server closed the connection before the answer was complete."""


@dataclass(frozen=True, slots=True)
class Reply:
    """One answer. Header names are in lower case; of repeated headers the last one counts."""

    status: int
    headers: Mapping[bytes, bytes]
    body: bytes

    @property
    def closes(self) -> bool:
        """Whether the server announced that it closes the connection."""
        return self.headers.get(b"connection", b"").lower() == b"close"


class Connection:
    """A TCP connection to a server on this machine.

    Args:
        port: of 127.0.0.1.
        timeout_s: seconds that a send or receive may wait before TimeoutError.
        receive_buffer: size of the kernel's receive buffer in bytes, for a slow reader; None for the default.
    """

    def __init__(self, port: int, timeout_s: float = 60.0, receive_buffer: int | None = None) -> None:
        self.socket = socket.socket()
        self.socket.settimeout(timeout_s)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if receive_buffer is not None:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        self.socket.connect(("127.0.0.1", port))
        self._left = b""

    def send(self, data: bytes) -> int:
        """Send the data, or as much as the server takes before it closes; return the number of bytes sent."""
        sent, view = 0, memoryview(data)
        with contextlib.suppress(ConnectionError):
            while sent < len(data):
                sent += self.socket.send(view[sent : sent + 65_536])
        return sent

    def finish(self) -> None:
        """Shut down the sending side; answers can still be read."""
        with contextlib.suppress(OSError):
            self.socket.shutdown(socket.SHUT_WR)

    def reply(self, *, to_head: bool = False) -> Reply:
        """The next answer, interim ones (1xx) included. `to_head`: it answers a HEAD request, so no body follows.

        Raises:
            ClosedError: the server closed the connection before it was complete.
            TimeoutError: no answer arrived.
        """
        while b"\r\n\r\n" not in self._left:
            self._more()
        head, _, self._left = self._left.partition(b"\r\n\r\n")
        first, *lines = head.split(b"\r\n")
        status = int(first.split(b" ")[1])
        headers = {name.lower(): text.strip() for name, _, text in (line.partition(b":") for line in lines)}
        size = 0 if to_head or status < 200 or status in BODYLESS else int(headers.get(b"content-length", b"0"))
        parts, have = [self._left], len(self._left)
        while have < size:
            parts.append(self._received())
            have += len(parts[-1])
        whole = b"".join(parts)
        self._left = whole[size:]
        return Reply(status, headers, whole[:size])

    def replies(self) -> list[Reply]:
        """All further answers until the server closes. TimeoutError when it does not close."""
        found = []
        with contextlib.suppress(ClosedError):
            while True:
                found.append(self.reply())
        return found

    def rest(self) -> bytes:
        """All further bytes until the server closes. TimeoutError, with the bytes so far, when it does not close."""
        parts = [self._left]
        self._left = b""
        try:
            while True:
                parts.append(self._received())
        except TimeoutError:
            raise TimeoutError(f"still open after {b''.join(parts)!r}") from None
        except ClosedError:
            return b"".join(parts)

    def closed(self, within_s: float = 0.0) -> bool:
        """Whether the server closes within that time, in seconds, without sending anything."""
        before = self.socket.gettimeout()
        self.socket.settimeout(max(within_s, 0.001))
        try:
            return not self.socket.recv(1, socket.MSG_PEEK)
        except ConnectionError:
            return True
        except TimeoutError:
            return False
        finally:
            self.socket.settimeout(before)

    def close(self) -> None:
        """Close the connection as a client that has finished does."""
        self.socket.close()

    def _more(self) -> None:
        self._left += self._received()

    def _received(self) -> bytes:
        try:
            part = self.socket.recv(262_144)
        except ConnectionResetError:
            part = b""
        if not part:
            raise ClosedError("the server closed the connection")
        return part


@contextmanager
def connected(port: int, timeout_s: float = 60.0, receive_buffer: int | None = None) -> Iterator[Connection]:
    """A connection that is closed at the end of the block."""
    connection = Connection(port, timeout_s, receive_buffer)
    try:
        yield connection
    finally:
        connection.close()


def request(path: bytes, body: bytes | None = None, *lines: bytes, method: bytes = b"", version: bytes = b"HTTP/1.1") -> bytes:
    """A well-formed request: with a body a POST of JSON with its length, otherwise a GET. `lines` are additional headers."""
    head = [b"%b %b %b" % (method or (b"GET" if body is None else b"POST"), path, version), b"Host: localhost", *lines]
    if body is not None:
        head += [b"Content-Type: application/json", b"Content-Length: %d" % len(body)]
    return b"\r\n".join([*head, b"", body or b""])

"""From bytes to requests: the half of a connection that reads. `connection.py` has the other half, which answers.

It finds the bounds of messages and refuses what has none, what two readers could understand differently, and what is longer
than anybody needs.
"""

from __future__ import annotations

import re
import time
from abc import abstractmethod
from typing import Any

import httptools
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from roadworthy.foundation.errors import InvalidRequest
from roadworthy.gateway.http.header_checks import (
    MISREAD,
    MOST_HEADER_BYTES,
    MOST_HEADERS,
    MOST_URL_BYTES,
    NOT_IN_TRAILERS,
    HeaderChecks,
    Unreadable,
    ambiguous,
    not_http,
    other_version,
    too_long_url,
    too_many_headers,
)

IDLE, HEAD, BODY, DEAF = range(4)
"""Between requests; in a head; in a body; nothing is read any more."""

_MOST_OVERHEAD = 8
_LEAST_OVERHEAD_BYTES = 8 << 10
_HEADER_COST = 32
# The parser takes these for requests.
_ODD_LINE = re.compile(rb"(?:\r\n)*[A-Z]+(?:  +| *\t)")
_OTHER_PROTOCOL = re.compile(rb" (?:RTSP|ICE)/1\.0\r?\n")
_UPGRADE = re.compile(rb"\r\nupgrade:", re.IGNORECASE)


class Enough(Exception):
    """Raised inside the parser: nothing more of this connection is read."""


class ReadingProtocol(HttpToolsProtocol):
    """uvicorn's protocol with stricter reading.

    Attributes:
        reading: where in a message the client is. since: monotonic clock, seconds, when that began.
        closing: no further request is taken; what was asked is answered.
        body_bytes: of the present message's body, so far.
    """

    def __init__(self, heads: HeaderChecks, **uvicorn: Any) -> None:
        super().__init__(**uvicorn)
        self.reading = IDLE
        self.since = time.monotonic()
        self.closing = False
        self.body_bytes = 0
        self._heads = heads
        self._fed = b""
        self._head_bytes = self._raw_bytes = 0

    @abstractmethod
    def recognise(self, data: bytes) -> bool:
        """Whether these bytes are one whole request whose head is known, which was then dealt with. Nothing is being read."""

    @abstractmethod
    def learn(self, data: bytes) -> None:
        """These bytes began with a request and ended with one, perhaps the same, and all was read as it was sent."""

    @abstractmethod
    def begin(self, headers: dict[bytes, bytes]) -> None:
        """A head is whole and good; `headers` by name in lower case."""

    @abstractmethod
    def refuse(self, fault: Unreadable) -> None:
        """What came is no request: answer that after everything that was asked before it, and end the connection."""

    @abstractmethod
    def close_after_turns(self) -> None:
        """Take no further requests, answer what was asked, and end the connection."""

    def data_received(self, data: bytes) -> None:
        """Take bytes as they come."""
        before = self.reading
        if before == DEAF or (before == IDLE and self.recognise(data)):
            return
        if before == IDLE and data[:6] != b"POST /" and _ODD_LINE.match(data):
            self.refuse(not_http())
            return
        sent = data
        if before <= HEAD and (b"pgrade:" in data or b"PGRADE:" in data):
            data = _without_upgrade(data)
        begun = self.headers
        if not self._parse(data):
            return
        if self.headers is begun and before == self.reading:
            # Of a message that began in these bytes everything was counted as it was read.
            self._count(len(data))
        elif before == IDLE and self.reading == IDLE and data is sent:
            self.learn(data)

    def _parse(self, data: bytes) -> bool:
        self._fed = data
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            # An offer that was not seen in time. What follows may be no HTTP/1: the request is answered, then it ends.
            self.close_after_turns()
        except httptools.HttpParserError as error:
            if self.reading in (HEAD, BODY):
                cause = error.__context__
                self.refuse(cause if isinstance(cause, Unreadable) else not_http())
            elif not self.closing and self.reading != DEAF:
                self.refuse(not_http())
            return False
        return True

    def _count(self, size: int) -> None:
        """Bound what belongs to a head that does not end, and what comes beside a body's own bytes."""
        if self.reading == HEAD:
            self._head_bytes += size
            if self._head_bytes > 2 * MOST_HEADER_BYTES:
                self.refuse(too_many_headers())
        elif self.reading == BODY:
            self._raw_bytes += size
            if self._raw_bytes > _MOST_OVERHEAD * (self.body_bytes + _LEAST_OVERHEAD_BYTES):
                self.refuse(not_http())

    def on_message_begin(self) -> None:
        """A request's first byte."""
        if self.closing:
            raise Enough
        self.url = b""
        self.headers = []
        self.expect_100_continue = False
        self._head_bytes = 0
        self.reading = HEAD
        self.since = time.monotonic()

    def on_url(self, url: bytes) -> None:
        """The request's target, or a part of it."""
        self.url += url
        if len(self.url) > MOST_URL_BYTES:
            raise too_long_url()

    def on_header(self, name: bytes, value: bytes) -> None:
        """One header, or one trailer."""
        name = name.lower()
        self._head_bytes += len(name) + len(value) + _HEADER_COST
        if self.reading == BODY:  # nothing is taken from a trailer, and what would have meant something is refused
            if name in NOT_IN_TRAILERS or self._head_bytes > MOST_HEADER_BYTES:
                raise not_http()
            return
        self.headers.append((name, value))
        if self._head_bytes > MOST_HEADER_BYTES or len(self.headers) > MOST_HEADERS:
            raise too_many_headers()
        if name == b"expect":
            self.expect_100_continue = value.lower() == b"100-continue"
        elif name in MISREAD:
            raise not_http()

    def on_headers_complete(self) -> None:
        """The head is whole."""
        self.reading = BODY
        self.body_bytes = self._raw_bytes = 0
        headers = dict(self.headers)
        version = self.parser.get_http_version()
        if version != "1.1":
            self._check_old(version, headers)
        if (b"connection" in headers or b"transfer-encoding" in headers) and ambiguous(headers):
            raise not_http()
        if not self.url.startswith(b"/"):
            self._check_target()
        self.begin(headers)

    def _check_old(self, version: str, headers: dict[bytes, bytes]) -> None:
        if version not in ("0.9", "1.0"):
            raise other_version()
        if version == "0.9" or b"transfer-encoding" in headers or _OTHER_PROTOCOL.search(self._fed):
            raise not_http()
        self.expect_100_continue = False
        self.closing = True

    def _check_target(self) -> None:
        try:
            self._heads.check_target(self.url)
        except InvalidRequest as error:
            raise Unreadable(400, error) from None


def _without_upgrade(data: bytes) -> bytes:
    """The same bytes with the offer to upgrade in their first head renamed: the parser would take what follows for another
    protocol, but clients that make the offer with every first request expect it to be passed over."""
    end = data.find(b"\r\n\r\n")
    return data if end < 0 else _UPGRADE.sub(b"\r\nx-offer:", data[:end]) + data[end:]

"""Requests and replies of the gateway's HTTP routes, and errors about bodies."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

import msgspec

from roadworthy.codecs.codec import HeaderList, Headers, too_large
from roadworthy.foundation.errors import MalformedBody, Unavailable

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

JSON_HEADER = (b"content-type", b"application/json")
TIMEOUT_HEADER = b"request-timeout-ms"
"""The caller's own timeout, in milliseconds; it can only shorten the endpoint's."""
READ_OFF_BYTES = 256 << 10
"""The body of a refused request is read up to this length, so that the connection stays open; before a longer one it closes."""


class Request:
    """One request before its body is read.

    Attributes:
        method: in capitals.
        path: raw bytes as sent, without the query.
        headers: names in lower case.
        prediction_id: the gateway's own id. id: the caller's X-Request-Id, or the same.
        started: monotonic clock, seconds.
        root: the prefix below which an application has mounted the routes; "" in a gateway.
    """

    __slots__ = ("headers", "id", "method", "path", "prediction_id", "root", "started")

    def __init__(self, method: str, path: bytes, headers: dict[bytes, bytes], prediction_id: str, started: float) -> None:
        self.method = method
        self.path = path
        self.headers = headers
        self.prediction_id = self.id = prediction_id
        self.started = started
        self.root = ""

    @property
    def leaves_much_unread(self) -> bool:
        """Whether so much of the body may follow that closing the connection is cheaper than reading it."""
        return much_to_come(self.headers)


def much_to_come(headers: Headers) -> bool:
    """Whether a body of unknown or great length may follow these headers."""
    length = headers.get(b"content-length")
    if b"expect" in headers:
        return True  # the client may not send it at all
    return b"transfer-encoding" in headers if length is None else int(length) > READ_OFF_BYTES


class Reply(msgspec.Struct, eq=False):
    """A whole answer. `headers` lacks the content length and the request id; `head` has more headers, as lines with their CR
    LF."""

    status: int
    body: bytes
    headers: HeaderList = msgspec.field(default_factory=lambda: [JSON_HEADER])
    head: bytes = b""


Handler = Callable[[Request, Receive], Awaitable[Reply]]


def check_body(headers: Headers, limit: int) -> None:
    """Refuse a body by its declared length, before any of it is read.

    Raises:
        BodyTooLarge: it is longer than `limit` bytes.
    """
    length = headers.get(b"content-length")
    if length is not None and int(length) > limit:
        raise too_large(limit)


def cut_short() -> MalformedBody:
    """The error for a body whose connection closed first."""
    return MalformedBody(
        "the connection closed before the whole body had arrived", code="body-cut-short", hint="send the request again"
    )


def too_many_chunks() -> MalformedBody:
    """The error for a body that arrives in absurdly small chunks."""
    return MalformedBody("the body arrived in too many small chunks", code="too-many-chunks", hint="send larger chunks")


def not_ready(message: str, code: str) -> Unavailable:
    """The error for something that is still being loaded."""
    return Unavailable(message, code=code, hint="try again shortly", retry_after_s=1)


def endpoint_not_ready() -> Unavailable:
    """The error for an endpoint whose version is still being loaded, or has failed."""
    return not_ready("this endpoint's version is not loaded here yet", "endpoint-not-ready")

"""A request and a reply as the gateway sees them: `app.py` makes those of everything but predictions."""

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
READ_OFF_BYTES = 256 << 10
"""A refused request's body up to this length is read off, so that the connection can go on; a longer one is not worth it."""


class Request:
    """One request before its body is read.

    Attributes:
        method: in capitals.
        path: raw bytes as sent, without the query.
        headers: names in lower case.
        prediction_id: an id of our own. id: the caller's X-Request-Id, or the same.
        started: monotonic clock, seconds.
    """

    __slots__ = ("headers", "id", "method", "path", "prediction_id", "started")

    def __init__(
        self, method: str, path: bytes, headers: dict[bytes, bytes], prediction_id: str, started: float
    ) -> None:
        self.method = method
        self.path = path
        self.headers = headers
        self.prediction_id = self.id = prediction_id
        self.started = started

    @property
    def leaves_much_unread(self) -> bool:
        """Whether so much of the body may still be on its way that closing the connection is better than reading it off."""
        return much_to_come(self.headers)


def much_to_come(headers: Headers) -> bool:
    """Whether a body of unknown or great length may follow these headers."""
    length = headers.get(b"content-length")
    if b"expect" in headers:
        return True  # nobody knows whether it follows at all
    return b"transfer-encoding" in headers if length is None else int(length) > READ_OFF_BYTES


class Reply(msgspec.Struct, eq=False):
    """A whole answer. `headers` are those beside the content length and the request id; `head` is more of them, as lines ready
    to be sent, each with its CR LF."""

    status: int
    body: bytes
    headers: HeaderList = msgspec.field(default_factory=lambda: [JSON_HEADER])
    head: bytes = b""


Handler = Callable[[Request, Receive], Awaitable[Reply]]


def check_body(headers: Headers, limit: int) -> None:
    """Refuse a body by its declared length, before any of it is read.

    Raises:
        BodyTooLarge: longer than `limit` bytes.
    """
    length = headers.get(b"content-length")
    if length is not None and int(length) > limit:
        raise too_large(limit)


def cut_short() -> MalformedBody:
    """The error for a body whose connection ended first."""
    return MalformedBody("the connection ended before the body did", code="body-cut-short")


def too_many_chunks() -> MalformedBody:
    """The error for a body that comes in absurdly small pieces."""
    return MalformedBody("the body came in too many small pieces", code="too-many-chunks", hint="send larger chunks")


def not_ready(message: str, code: str) -> Unavailable:
    """The error for what is not there yet."""
    return Unavailable(message, code=code, hint="try again shortly", retry_after_s=1)

"""A request and a reply as the gateway sees them, and the reading of a bounded body. `app.py` makes and sends them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from roadworthy.foundation.errors import (
    BodyTooLarge,
    DeadlineExceeded,
    MalformedBody,
    Unavailable,
    UnsupportedMediaType,
)

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
HeaderList = list[tuple[bytes, bytes]]

JSON_HEADER = (b"content-type", b"application/json")
_READ_OFF_BYTES = 256 << 10
_MOST_PARTS = 1_000
_LEAST_PART_BYTES = 256


class Request:
    """One request before its body is read.

    Attributes:
        method: in capitals.
        path: raw bytes as sent, without the query.
        headers: names in lower case.
        prediction_id: an id of our own. id: the caller's X-Request-Id, or the same.
        started: monotonic clock, seconds.
        body_read: whether the whole body has been taken from the connection.
    """

    __slots__ = ("body_read", "headers", "id", "method", "path", "prediction_id", "started")

    def __init__(self, scope: Message, prediction_id: str, started: float) -> None:
        self.method: str = scope["method"]
        self.path: bytes = scope["raw_path"]
        self.headers: dict[bytes, bytes] = dict(scope["headers"])
        self.prediction_id = self.id = prediction_id
        self.started = started
        self.body_read = False

    @property
    def leaves_much_unread(self) -> bool:
        """Whether so much of the body may still be on its way that closing the connection is better than reading it off."""
        if self.body_read:
            return False
        length = self.headers.get(b"content-length")
        return b"transfer-encoding" in self.headers if length is None else int(length) > _READ_OFF_BYTES


class Reply:
    """A whole answer. `headers` are those beside the content length and the request id."""

    __slots__ = ("body", "headers", "status")

    def __init__(self, status: int, body: bytes, headers: HeaderList | None = None) -> None:
        self.status = status
        self.body = body
        self.headers = [JSON_HEADER] if headers is None else headers


Handler = Callable[[Request, Receive], Awaitable[Reply]]


def check_body(headers: dict[bytes, bytes], limit: int) -> None:
    """Refuse a body by its declared encoding and length, before any of it is read.

    Raises:
        UnsupportedMediaType: "unsupported-content-encoding": it is compressed.
        BodyTooLarge: longer than `limit` bytes.
    """
    encoding = headers.get(b"content-encoding")
    if encoding is not None and encoding.strip().lower() != b"identity":
        raise UnsupportedMediaType(
            "compressed bodies are not read here", code="unsupported-content-encoding", hint="send it uncompressed"
        )
    length = headers.get(b"content-length")
    if length is not None and int(length) > limit:
        raise _too_large(limit)


async def read_body(request: Request, receive: Receive, limit: int, deadline: float) -> bytes:
    """The whole body; `deadline` on the monotonic clock bounds how long it may take to arrive.

    Raises:
        BodyTooLarge: more than `limit` bytes came; the rest is not read.
        DeadlineExceeded: code "body-timeout".
        MalformedBody: code "too-many-chunks" or "body-cut-short".
    """
    message = await receive()
    body: bytes = message.get("body", b"")
    if message["type"] == "http.disconnect":
        raise _cut_short()
    if message.get("more_body", False):
        body = await _read_rest(body, receive, limit, deadline)
    elif len(body) > limit:
        raise _too_large(limit)
    request.body_read = True
    return body


async def _read_rest(first: bytes, receive: Receive, limit: int, deadline: float) -> bytes:
    parts, size, more = [first], len(first), True
    try:
        async with asyncio.timeout(max(0.0, deadline - time.monotonic())):
            while more and size <= limit:
                message = await receive()
                if message["type"] == "http.disconnect":
                    raise _cut_short()
                parts.append(message.get("body", b""))
                size += len(parts[-1])
                more = message.get("more_body", False)
                if len(parts) > _MOST_PARTS + limit // _LEAST_PART_BYTES:
                    raise MalformedBody("the body came in too many small pieces", code="too-many-chunks")
    except TimeoutError:
        raise DeadlineExceeded("the body took too long to arrive", code="body-timeout", retry_after_s=1) from None
    if size > limit:
        raise _too_large(limit)
    return b"".join(parts)


def _cut_short() -> MalformedBody:
    return MalformedBody("the connection ended before the body did", code="body-cut-short")


def _too_large(limit: int) -> BodyTooLarge:
    return BodyTooLarge(
        f"the body is longer than {limit} bytes",
        code="body-too-large",
        hint="send fewer rows at a time",
        facts={"max_body_bytes": limit},
    )


def not_ready(message: str, code: str) -> Unavailable:
    """The error for what is not there yet."""
    return Unavailable(message, code=code, hint="try again shortly", retry_after_s=1)

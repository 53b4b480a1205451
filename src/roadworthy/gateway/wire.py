"""A reply as the bytes of an HTTP/1.1 response, in one piece."""

from __future__ import annotations

from http import HTTPStatus
from typing import Protocol

from roadworthy.gateway.http import HeaderList, Reply


class Answered(Protocol):
    """A request as its reply names it. `admitted`: whether it became a prediction, with an id of that."""

    id: str
    prediction_id: str
    admitted: bool


_STATUS = {status.value: b"HTTP/1.1 %d %b\r\n" % (status.value, status.phrase.encode()) for status in HTTPStatus}
_CLOSE = b"connection: close\r\n"
_known: tuple[HeaderList | None, bytes] = (None, b"")
_dated: tuple[HeaderList | None, bytes] = (None, b"")


def lines(headers: HeaderList | tuple[tuple[bytes, bytes], ...]) -> bytes:
    """Headers as lines, each with its CR LF."""
    return b"".join([b"%b: %b\r\n" % header for header in headers])


def respond(call: Answered, reply: Reply, default: HeaderList, *, close: bool) -> bytes:
    """The whole response.

    Args:
        call: whose it is.
        default: uvicorn's headers for every response, the date.
        close: whether the connection ends with it.
    """
    global _known, _dated  # noqa: PLW0603 - the same two objects come again and again: headers of a protocol, the date of a second
    if default is not _dated[0]:
        _dated = (default, lines(default))
    if reply.headers is _known[0]:
        head = _known[1]
    else:
        head = lines(reply.headers)
        if reply.status == HTTPStatus.OK:
            _known = (reply.headers, head)
    body = reply.body
    if call.admitted:
        ids = b"x-request-id: %b\r\nroadworthy-prediction-id: %b\r\n" % (call.id.encode(), call.prediction_id.encode())
    else:
        ids = b"x-request-id: %b\r\n" % call.id.encode()
    return b"".join(
        (
            _STATUS[reply.status],
            _dated[1],
            reply.head,
            head,
            ids,
            b"content-length: %d\r\n" % len(body),
            _CLOSE if close else b"",
            b"\r\n",
            body,
        )
    )

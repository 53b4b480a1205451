"""A reply as the bytes of an HTTP/1.1 response, in one piece."""

from __future__ import annotations

from http import HTTPStatus
from typing import Protocol

from roadworthy.codecs.codec import HeaderList
from roadworthy.gateway.http.messages import Reply


class Answered(Protocol):
    """A request as its reply names it. `admitted`: whether it became a prediction, with an id of that."""

    id: str
    prediction_id: str
    admitted: bool


_OK = 200
_STATUS = {status.value: b"HTTP/1.1 %d %b\r\n" % (status.value, status.phrase.encode()) for status in HTTPStatus}
_begun: tuple[HeaderList | None, bytes, HeaderList | None, bytes] = (None, b"", None, b"")


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
    # The same objects come again and again: a version's head, headers of a protocol, the date of a second.
    global _begun  # noqa: PLW0603 - one for the process
    dated, head, headers, begin = _begun
    if default is not dated or reply.head is not head or reply.headers is not headers or reply.status != _OK:
        begin = b"%b%b%b%b" % (_STATUS[reply.status], lines(default), reply.head, lines(reply.headers))
        if reply.status == _OK:
            _begun = (default, reply.head, reply.headers, begin)
    body, request_id = reply.body, call.id
    if not call.admitted:
        ids = f"x-request-id: {request_id}\r\n"
    else:
        ids = f"x-request-id: {request_id}\r\nroadworthy-prediction-id: {call.prediction_id}\r\n"
    end = "connection: close\r\n\r\n" if close else "\r\n"
    return b"".join((begin, f"{ids}content-length: {len(body)}\r\n{end}".encode("ascii"), body))

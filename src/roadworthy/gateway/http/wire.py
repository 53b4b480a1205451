"""Writes a reply as the bytes of an HTTP/1.1 response, in one piece."""

from __future__ import annotations

from http import HTTPStatus
from typing import Protocol

from roadworthy.codecs.codec import HeaderList
from roadworthy.gateway.http.messages import Reply


class Answered(Protocol):
    """A request, as its reply names it. `admitted`: whether it became a prediction, so that the reply has a prediction id."""

    id: str
    prediction_id: str
    admitted: bool


_OK = 200
_STATUS = {status.value: b"HTTP/1.1 %d %b\r\n" % (status.value, status.phrase.encode()) for status in HTTPStatus}
_begun: tuple[HeaderList | None, bytes, HeaderList | None, bytes] = (None, b"", None, b"")


def lines(headers: HeaderList | tuple[tuple[bytes, bytes], ...]) -> bytes:
    """The headers as lines, each with its CR LF."""
    return b"".join([b"%b: %b\r\n" % header for header in headers])


def read_lines(text: bytes) -> HeaderList:
    """The headers that `lines` wrote."""
    return [(name, value) for name, _, value in (line.partition(b": ") for line in text.split(b"\r\n") if line)]


def begin(call: Answered, reply: Reply, default: HeaderList, *, close: bool, chunked: bool) -> bytes:
    """The head of a response whose body follows in pieces, as chunks or until the connection closes."""
    more = [(b"x-request-id", call.id.encode("ascii")), (b"roadworthy-prediction-id", call.prediction_id.encode("ascii"))]
    if chunked:
        more.append((b"transfer-encoding", b"chunked"))
    if close:
        more.append((b"connection", b"close"))
    return b"%b%b%b%b%b\r\n" % (_STATUS[reply.status], lines(default), reply.head, lines(reply.headers), lines(more))


def chunk(data: bytes) -> bytes:
    """A piece of a chunked body; an empty one ends it."""
    return b"%x\r\n%b\r\n" % (len(data), data)


def respond(call: Answered, reply: Reply, default: HeaderList, *, close: bool) -> bytes:
    """The whole response.

    Args:
        call: the request that it answers.
        reply: the answer.
        default: uvicorn's headers for every response, which have the date.
        close: whether the connection closes after it.
    """
    # The same objects recur: a version's head, a protocol's headers, the date within one second.
    global _begun  # noqa: PLW0603 - one for the process
    dated, head, headers, begin = _begun
    if default is not dated or reply.head is not head or reply.headers is not headers or reply.status != _OK:
        begin = b"%b%b%b%b" % (_STATUS[reply.status], lines(default), reply.head, lines(reply.headers))
        if reply.status == _OK:
            _begun = (default, reply.head, reply.headers, begin)
    body, end = reply.body, "connection: close\r\n\r\n" if close else "\r\n"
    ids = f"{call.id}\r\nroadworthy-prediction-id: {call.prediction_id}" if call.admitted else call.id
    return b"".join((begin, f"x-request-id: {ids}\r\ncontent-length: {len(body)}\r\n{end}".encode(), body))

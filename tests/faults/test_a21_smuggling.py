"""A21: requests that two readers could understand differently are refused, and nothing hidden in them is answered."""

from __future__ import annotations

import json
from typing import Any

import pytest

from bench.load.hostile import CHUNKED, CHUNKS, HIDDEN, JSON, LENGTH, Route, Shape, shapes
from bench.load.raw import connected, request

PREDICT = b"/v1/models/sum:predict"
SHAPES = shapes()
RIGHT = {"predictions": [6.0]}


def test_a21_there_are_enough_shapes() -> None:
    """Each has its own name and contains the hidden request."""
    assert len({shape.name for shape in SHAPES}) == len(SHAPES) >= 150
    assert all(HIDDEN in shape.data for shape in SHAPES)


@pytest.mark.parametrize("shape", SHAPES, ids=[shape.name for shape in SHAPES])
def test_a21_refused_and_closed(target: Any, shape: Shape) -> None:
    """One answer, a refusal; then the connection ends, and the hidden request was never answered."""
    with connected(target.port) as connection:
        connection.send(shape.data)
        (reply,) = connection.replies()
    assert reply.status in shape.statuses
    assert reply.closes
    assert b"alive" not in reply.body


LEGAL = {
    "length": Route().head(LENGTH) + JSON,
    "length with spaces around": Route().head(b"Content-Length: \t 24 \t ") + JSON,
    "length without a space": Route().head(b"Content-Length:24") + JSON,
    "chunked": Route().head(CHUNKED) + CHUNKS,
    "chunked in capitals": Route().head(b"TRANSFER-ENCODING: CHUNKED") + CHUNKS,
    "chunk size with zeros before": Route().head(CHUNKED) + b"00018" + CHUNKS[2:],
    "two chunks": Route().head(CHUNKED) + b"8\r\n" + JSON[:8] + b"\r\n10\r\n" + JSON[8:] + b"\r\n0\r\n\r\n",
    "chunk extension": Route().head(CHUNKED) + b'18;a=b;c="d"' + CHUNKS[2:],
    "last chunk of many zeros": Route().head(CHUNKED) + CHUNKS[:-5] + b"0000\r\n\r\n",
    "empty lines before": b"\r\n\r\n" + Route().head(LENGTH) + JSON,
}


@pytest.mark.parametrize("data", LEGAL.values(), ids=LEGAL.keys())
def test_a21_what_is_legal_is_answered(target: Any, data: bytes) -> None:
    """A valid request gets the right answer, and the request after it, which is not hidden here, gets its own."""
    with connected(target.port) as connection:
        connection.send(data + HIDDEN)
        assert json.loads(connection.reply().body) == RIGHT
        assert connection.reply().body == b'{"status":"alive"}'


@pytest.mark.parametrize(
    ("method", "path"),
    [(b"POST", b"/v1/models/unknown:predict"), (b"PUT", PREDICT), (b"GET", PREDICT), (b"GET", b"/livez"), (b"HEAD", b"/livez"),
     (b"POST", b"/livez"), (b"DELETE", b"/nothing"), (b"OPTIONS", b"/readyz"), (b"POST", PREDICT)],
)  # fmt: skip
@pytest.mark.parametrize("framing", ["length", "chunked"])
def test_a21_a_body_is_never_a_request(target: Any, method: bytes, path: bytes, framing: str) -> None:
    """Also where no body is expected, or the request is refused before its body is read: one answer for each request."""
    first = b"%b %b HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n" % (method, path)
    if framing == "length":
        first += b"Content-Length: %d\r\n\r\n%b" % (len(HIDDEN), HIDDEN)
    else:
        first += b"Transfer-Encoding: chunked\r\n\r\n%x\r\n%b\r\n0\r\n\r\n" % (len(HIDDEN), HIDDEN)
    last = request(path=b"/nothing-there", body=None)
    with connected(target.port) as connection:
        connection.send(first + last)
        reply = connection.reply(to_head=method == b"HEAD")
        if reply.closes:
            assert connection.rest() == b""
        else:
            assert connection.reply().status == 404
            connection.finish()
            assert connection.rest() == b""


@pytest.mark.parametrize(
    "lines",
    [(b"Connection: Upgrade, HTTP2-Settings", b"Upgrade: h2c", b"HTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA"),
     (b"Connection: Upgrade", b"Upgrade: websocket", b"Sec-WebSocket-Key: eA==", b"Sec-WebSocket-Version: 13"),
     (b"Connection: upgrade", b"Upgrade: HTTP/2.0"), (b"Upgrade: h2c",)],
    ids=["h2c", "websocket", "HTTP/2", "not connected"],
)  # fmt: skip
@pytest.mark.parametrize("body", [JSON, None], ids=["with a body", "without"])
def test_a21_no_upgrade(target: Any, lines: tuple[bytes, ...], body: bytes | None) -> None:
    """Offers to change the protocol are ignored, as clients expect that make one with every first request: never 101."""
    path = b"/livez" if body is None else PREDICT
    with connected(target.port) as connection:
        connection.send(request(path, body, *lines))
        reply = connection.reply()
        assert (reply.status, reply.body) == (200, b'{"status":"alive"}' if body is None else b'{"predictions":[6.0]}')
        connection.send(request(b"/nothing-there"))
        assert [reply.status for reply in connection.replies()] == [] if reply.closes else connection.reply().status == 404


def test_a21_nothing_is_answered_behind_an_upgrade(target: Any) -> None:
    """Bytes after it in the same segment are read as HTTP or not at all."""
    with connected(target.port) as connection:
        connection.send(request(b"/livez", None, b"Connection: Upgrade", b"Upgrade: h2c") + b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
        statuses = [reply.status for reply in connection.replies()]
    assert statuses in ([200], [200, 400], [200, 505])


def test_a21_trailers_are_no_headers(target: Any) -> None:
    """A header after the body has no effect, for instance on the request id."""
    for path in (PREDICT, b"/v1/models/unknown:predict"):
        with connected(target.port) as connection:
            connection.send(Route(path).head(CHUNKED) + CHUNKS[:-2] + b"X-Request-Id: from-the-trailer\r\n\r\n")
            assert connection.reply().headers[b"x-request-id"] != b"from-the-trailer"


def test_a21_refused_after_the_answers_before_it(target: Any) -> None:
    """Requests before the bad message are answered first, in order; then comes the refusal, and nothing after it."""
    bad = Route().head(LENGTH, CHUNKED) + CHUNKS
    with connected(target.port) as connection:
        connection.send(request(PREDICT, JSON) + request(b"/livez") + request(PREDICT, JSON) + bad + HIDDEN)
        replies = connection.replies()
    assert [reply.status for reply in replies] == [200, 200, 200, 400]
    assert [json.loads(reply.body) for reply in replies[:3]] == [RIGHT, {"status": "alive"}, RIGHT]


def test_a21_the_refusal_is_one_of_ours(target: Any, refusals: Any) -> None:
    """It has a stable code, a hint and a request id, and is counted."""
    before = refusals("")
    with connected(target.port) as connection:
        connection.send(Route().head(LENGTH, CHUNKED) + CHUNKS)
        (reply,) = connection.replies()
    body = json.loads(reply.body)
    assert {"error", "code", "hint", "request_id"} <= body.keys()
    assert reply.headers[b"content-type"] == b"application/json"
    assert reply.headers[b"x-request-id"].decode() == body["request_id"]
    assert refusals("") == before + 1

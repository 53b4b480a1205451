"""A14, A15: bodies without a declared length that do not end, or that come in absurdly small pieces."""

from __future__ import annotations

import json
import select
from collections.abc import Callable
from typing import Any

import pytest

from bench.load.hostile import CHUNKED, JSON, Route
from bench.load.raw import connected
from tests.waiting import eventually

LIMIT = 1_000
SMALL = Route(b"/v1/models/small:predict")
PIECE = b"10000\r\n" + b" " * 65_536 + b"\r\n"
SMALL_PIECES = b"1\r\n \r\n" * 1_000
KERNEL_BYTES = 12 << 20
"""More than the buffers of both ends of a loopback connection hold."""


def chunks(body: bytes, size: int) -> bytes:
    """The body in chunks of `size` bytes, with its end."""
    parts = [body[start : start + size] for start in range(0, len(body), size)]
    return b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in parts) + b"0\r\n\r\n"


def send_until_answered(connection: Any, piece: bytes, most: int) -> int:
    """Send `piece` repeatedly until there is something to read; return the number of bytes sent."""
    sent = 0
    while sent < most and not select.select([connection.socket], [], [], 0)[0]:
        sent += connection.send(piece)
    return sent


@pytest.mark.parametrize("size", [1, 7, 100, 5_000])
@pytest.mark.parametrize(("length", "status"), [(LIMIT - 1, 200), (LIMIT, 200), (LIMIT + 1, 413)])
def test_a14_the_limit_is_exact(target: Any, length: int, status: int, size: int) -> None:
    """The limit holds for the bytes of the body, however they are cut."""
    with connected(target.port) as connection:
        connection.send(SMALL.head(CHUNKED) + chunks(JSON.ljust(length), size))
        reply = connection.reply()
        assert reply.status == status
        if status == 413:
            assert json.loads(reply.body)["code"] == "body-too-large"
            assert reply.closes
            assert connection.rest() == b""


@pytest.mark.parametrize(
    "path", [b"/v1/models/small:predict", b"/v2/models/small/infer", b"/v1/models/unknown:predict", b"/livez"]
)
def test_a14_a_body_without_end(target: Any, memory_mb: Callable[[], float], path: bytes) -> None:
    """It is refused while it is being sent, at most the kernel's buffers later, and is not kept in memory."""
    before = memory_mb()
    with connected(target.port) as connection:
        connection.send(Route(path).head(CHUNKED))
        assert send_until_answered(connection, PIECE, 256 << 20) < KERNEL_BYTES
        reply = connection.reply()
        assert 400 <= reply.status < 500
        assert reply.closes
        assert connection.rest() == b""
        eventually(lambda: connection.send(PIECE) < len(PIECE), "the connection ends")
    assert memory_mb() - before < 8
    assert target.predict("sum", [[1, 2, 3]]).json() == {"predictions": [6.0]}


def test_a15_a_million_chunks_of_one_byte(target: Any, memory_mb: Callable[[], float]) -> None:
    """They are refused for their number, although the body is within its limit, at most the kernel's buffers late; other requests
    are answered meanwhile."""
    before = memory_mb()
    with connected(target.port) as connection:
        connection.send(Route().head(CHUNKED) + b"1\r\n \r\n" * 900)
        assert target.client.get("/livez").status_code == 200
        assert send_until_answered(connection, SMALL_PIECES, 256 << 20) < KERNEL_BYTES
        reply = connection.reply()
        assert (reply.status, json.loads(reply.body)["code"]) == (400, "too-many-chunks")
        assert reply.closes
        assert connection.rest() == b""
    assert memory_mb() - before < 8
    assert target.predict("sum", [[1, 2, 3]]).json() == {"predictions": [6.0]}


def test_a15_elsewhere_too(target: Any, memory_mb: Callable[[], float]) -> None:
    """Also on paths other than predictions."""
    before = memory_mb()
    for path in (b"/livez", b"/nothing"):
        with connected(target.port) as connection:
            connection.send(Route(path).head(CHUNKED))
            assert send_until_answered(connection, SMALL_PIECES, 256 << 20) < KERNEL_BYTES
            assert 400 <= connection.reply().status < 500
    assert memory_mb() - before < 8


def test_a15_some_hundred_small_chunks_are_fine(target: Any) -> None:
    """A client that writes piece by piece is answered."""
    with connected(target.port) as connection:
        connection.send(Route().head(CHUNKED) + chunks(JSON.ljust(900), 1))
        assert json.loads(connection.reply().body) == {"predictions": [6.0]}


def test_a15_a_large_body_in_usual_chunks_is_fine(target: Any) -> None:
    """Four megabytes in the pieces of a proxy that forwards packets."""
    with connected(target.port) as connection:
        connection.send(Route().head(CHUNKED) + chunks(JSON.ljust(4 << 20), 1_448))
        assert json.loads(connection.reply().body) == {"predictions": [6.0]}

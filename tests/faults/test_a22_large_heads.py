"""A22: too many headers, too long ones, too long addresses."""

from __future__ import annotations

import json
import select
from collections.abc import Callable
from typing import Any

import pytest

from bench.load.hostile import JSON
from bench.load.raw import connected, request

PREDICT = b"/v1/models/sum:predict"
PATHS = pytest.mark.parametrize("path", [PREDICT, b"/livez", b"/nothing"])


def ask(target: Any, data: bytes) -> tuple[int, str]:
    """Send a request; return status and code. A refusal must be the only answer and close the connection."""
    with connected(target.port) as connection:
        connection.send(data)
        reply = connection.reply()
        if reply.status in (414, 431):
            assert reply.closes
            assert connection.rest() == b""
        return reply.status, json.loads(reply.body).get("code", "")


def headers(count: int, length: int = 1) -> list[bytes]:
    """`count` headers with values of that length."""
    return [b"X-%d: %b" % (number, b"a" * length) for number in range(count)]


@PATHS
def test_a22_a_hundred_headers_and_one_more(target: Any, path: bytes) -> None:
    """A hundred headers are accepted, those of the client and its proxies included; one more is not."""
    assert ask(target, request(path, JSON, *headers(97)))[0] in (200, 404, 405)
    assert ask(target, request(path, JSON, *headers(98))) == (431, "headers-too-large")


@PATHS
def test_a22_a_long_header(target: Any, path: bytes) -> None:
    """8 KiB are accepted, enough for a large token; 64 KiB are not, whether in one header or in many."""
    assert ask(target, request(path, JSON, b"X-A: " + b"a" * 8_192))[0] in (200, 404, 405)
    assert ask(target, request(path, JSON, b"X-A: " + b"a" * 65_536)) == (431, "headers-too-large")
    assert ask(target, request(path, JSON, b"X-" + b"a" * 65_536 + b": a")) == (431, "headers-too-large")
    assert ask(target, request(path, JSON, *headers(80, 820))) == (431, "headers-too-large")


def test_a22_a_long_address(target: Any) -> None:
    """1 MiB, in the path or in the query."""
    assert ask(target, request(b"/" + b"a" * 4_000))[0] == 404
    assert ask(target, request(PREDICT + b"?" + b"a" * 4_000, JSON))[0] == 200
    for url in (b"/" + b"a" * (1 << 20), PREDICT + b"?" + b"a" * (1 << 20)):
        assert ask(target, request(url, JSON)) == (414, "url-too-long")


@pytest.mark.parametrize(
    ("begin", "more", "status"),
    [(b"GET /", b"a", 414), (b"GET / HTTP/1.1\r\nX-A: ", b"a", 431), (b"GET / HTTP/1.1\r\n", b"X-A: b\r\n", 431),
     (b"GET / HTTP/1.1\r\nX-", b"a", 431), (b"G", b"E", 400)],
    ids=["address", "value", "headers", "name", "method"],
)  # fmt: skip
def test_a22_a_head_without_end(target: Any, memory_mb: Callable[[], float], begin: bytes, more: bytes, status: int) -> None:
    """It is refused while it is being sent, and is not kept in memory."""
    before, sent = memory_mb(), 0
    with connected(target.port) as connection:
        connection.send(begin)
        while sent < 128 << 20 and not select.select([connection.socket], [], [], 0)[0]:
            sent += connection.send(more * (65_536 // len(more)))
        reply = connection.reply()
        assert reply.status == status
        assert reply.closes
        assert connection.rest() == b""
    assert sent < 12 << 20  # the kernel's buffers
    assert memory_mb() - before < 4
    assert target.predict("sum", [[1, 2, 3]]).json() == {"predictions": [6.0]}


def test_a22_within_one_segment_or_many(target: Any) -> None:
    """Limits do not depend on how the head is split into segments."""
    data = request(PREDICT, JSON, *headers(98))
    with connected(target.port) as connection:
        for start in range(0, len(data), 100):
            connection.send(data[start : start + 100])
        assert connection.reply().status == 431

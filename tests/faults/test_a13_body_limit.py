"""A13, A14: bodies around the limit, with a declared length and in chunks."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from typing import Any

import pytest

from tests.waiting import DEADLINE_S


def _body(size: int) -> bytes:
    body = b'{"instances": [[1,2,3]]}'
    return body + b" " * (size - len(body))


@pytest.mark.parametrize("size", [999, 1_000])
def test_a13_up_to_the_limit(target: Any, size: int) -> None:
    """One byte below the limit and exactly at it are answered."""
    assert target.post("small", _body(size)).json() == {"predictions": [6.0]}


def test_a13_one_byte_more(target: Any, refused: Any) -> None:
    """One byte more is refused."""
    assert refused(target.post("small", _body(1_001)), 413, "body-too-large")["max_body_bytes"] == 1_000


def test_a13_refused_before_the_body_is_read(target: Any) -> None:
    """The refusal comes before any byte of the body was sent, and the connection is closed."""
    with socket.create_connection(("127.0.0.1", target.port), timeout=DEADLINE_S) as connection:
        connection.sendall(
            b"POST /v1/models/small:predict HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
            b"Content-Length: 99999999\r\n\r\n"
        )
        reply = b""
        while part := connection.recv(65536):
            reply += part
    assert reply.startswith(b"HTTP/1.1 413 ")
    assert b"connection: close" in reply


def test_a14_over_the_limit_in_chunks(target: Any, refused: Any) -> None:
    """Without a declared length, reading stops at the limit."""

    def chunks() -> Iterator[bytes]:
        for _ in range(11):
            yield b" " * 100

    reply = target.client.post("/v1/models/small:predict", content=chunks(), headers={"content-type": "application/json"})
    refused(reply, 413, "body-too-large")
    assert reply.headers["connection"] == "close"


def test_a14_within_the_limit_in_chunks(target: Any) -> None:
    """Chunks that stay below are answered."""
    body = _body(900)
    reply = target.client.post(
        "/v1/models/small:predict",
        content=iter([body[:7], body[7:300], body[300:]]),
        headers={"content-type": "application/json"},
    )
    assert reply.json() == {"predictions": [6.0]}

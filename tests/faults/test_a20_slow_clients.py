"""A20: clients that send or read next to nothing are let go in time, and nobody else notices them."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import psutil
import pytest

from bench.load.hostile import JSON, LENGTH, Door
from bench.load.raw import Connection, connected, request
from roadworthy.contract.policy import Policy
from roadworthy.schema.dtypes import DType
from roadworthy.schema.signature import Container, Field, Signature

PREDICT = b"/v1/models/sum:predict"
WAIT_S = 0.6
LATEST_S = WAIT_S + 2.4
"""Connections are looked at about once a second."""
TEXT = (Field("text", DType.STRING),)
SLOW_CLIENTS = 1_000


@pytest.fixture(scope="module")
def worker(start_worker: Callable[..., Any], make_plan: type[Any]) -> Any:
    """A worker that waits for nothing longer than WAIT_S."""
    plan = make_plan()
    total = plan.package(1)
    plan.endpoint("sum", [total])
    plan.endpoint("few", [total], Policy(max_in_flight=4))
    plan.endpoint("echo", [plan.package(2, "echo", Signature(TEXT, TEXT, Container.RECORDS))])
    plan.endpoint("noting", [plan.package(3, "noting")])
    waits = dict.fromkeys(("header_timeout_s", "body_timeout_s", "write_timeout_s", "keep_alive_s"), WAIT_S)
    return start_worker(plan, **waits).wait_ready()


def drip(connection: Connection, data: bytes) -> float:
    """Send a byte every 20 ms until the server closes or answers; seconds from the first byte on."""
    begun = time.monotonic()
    for byte in data:
        if connection.send(bytes([byte])) == 0 or time.monotonic() - begun > LATEST_S + 1:
            break
        with contextlib.suppress(TimeoutError):
            connection.socket.settimeout(0.02)
            if connection.socket.recv(1, 2) is not None:  # MSG_PEEK: an answer, or the end
                break
    connection.socket.settimeout(10)
    return time.monotonic() - begun


def refused_late(connection: Connection) -> None:
    """The rest is nothing, or one 408 that closes."""
    answers = connection.replies()
    assert [(reply.status, reply.closes) for reply in answers] in ([], [(408, True)])


@pytest.mark.parametrize("begin", [b"GET /", b"GET /livez HTTP/1.1\r\nX-Slow: "], ids=["address", "header"])
def test_a20_slow_headers(worker: Any, begin: bytes) -> None:
    """A head has to be whole in time; that bytes come does not extend it."""
    with connected(worker.port) as connection:
        connection.send(begin)
        assert WAIT_S * 0.5 < drip(connection, b"a" * 1_000) < LATEST_S
        refused_late(connection)


def test_a20_silence(worker: Any) -> None:
    """Who connects and says nothing is let go without an answer."""
    with connected(worker.port) as connection:
        begun = time.monotonic()
        assert connection.rest() == b""
        assert WAIT_S * 0.5 < time.monotonic() - begun < LATEST_S


@pytest.mark.parametrize("path", [PREDICT, b"/livez", b"/v1/models/unknown:predict"])
def test_a20_slow_second_request(worker: Any, path: bytes) -> None:
    """After an answer the same holds for the next head."""
    with connected(worker.port) as connection:
        connection.send(request(path, JSON))
        assert not connection.reply().closes
        assert WAIT_S * 0.5 < drip(connection, b"GET /livez HTTP/1.1\r\nX-Slow: " + b"a" * 1_000) < LATEST_S
        refused_late(connection)


def test_a20_slow_body(worker: Any) -> None:
    """A body that trickles in is given up with 408, and the connection with it."""
    with connected(worker.port) as connection:
        connection.send(Door().head(b"Content-Length: 5000"))
        assert WAIT_S * 0.5 < drip(connection, b" " * 5_000) < LATEST_S
        (reply,) = connection.replies()
    assert (reply.status, reply.closes, json.loads(reply.body)["code"]) == (408, True, "body-timeout")


def test_a20_a_body_that_never_comes(worker: Any) -> None:
    """The same for one of which nothing comes at all, here and where it would not have been read."""
    for path in (PREDICT, b"/livez"):
        with connected(worker.port) as connection:
            connection.send(Door(path).head(LENGTH))
            begun = time.monotonic()
            connection.replies()
            assert time.monotonic() - begun < LATEST_S


def test_a20_a_long_body_that_keeps_coming(worker: Any) -> None:
    """A client that takes longer than the timeout, but sends all the time, is answered."""
    body = JSON.ljust(1 << 20)
    with connected(worker.port) as connection:
        connection.send(Door().head(b"Content-Length: %d" % len(body)))
        begun = time.monotonic()
        for start in range(0, len(body), 1 << 15):
            assert connection.send(body[start : start + (1 << 15)])
            time.sleep(0.04)
        assert time.monotonic() - begun > WAIT_S
        assert json.loads(connection.reply().body) == {"predictions": [6.0]}


def test_a20_slow_bodies_take_no_place(worker: Any) -> None:
    """While bodies are still on their way, others of the same endpoint are let in beyond what it holds at a time."""
    with ExitStack() as stack:
        for _ in range(20):
            stack.enter_context(connected(worker.port)).send(Door(b"/v1/models/few:predict").head(LENGTH) + b"{")
        assert worker.client.get("/livez").status_code == 200
        for _ in range(5):
            assert worker.predict("few", [[1, 2, 3]]).json() == {"predictions": [6.0]}


def test_a20_slow_reader(worker: Any) -> None:
    """Who asks for much and does not read it loses the connection, and the worker the memory."""
    body = json.dumps({"instances": ["x" * (12 << 20)]}).encode()
    before = psutil.Process(worker.process.pid).memory_info().rss
    with connected(worker.port, receive_buffer=4_096) as connection:
        connection.send(request(b"/v1/models/echo:predict", body))
        until = time.monotonic() + LATEST_S + 1
        while any(
            each.raddr and each.raddr.port == connection.socket.getsockname()[1] for each in connections_of(worker)
        ):
            assert time.monotonic() < until, "the connection of a client that does not read is kept"
            time.sleep(0.02)
        assert len(connection.rest()) < len(body)
    assert psutil.Process(worker.process.pid).memory_info().rss - before < 40 << 20


def connections_of(worker: Any) -> list[Any]:
    """The worker's open TCP connections."""
    return [each for each in psutil.Process(worker.process.pid).net_connections("tcp") if each.status == "ESTABLISHED"]


def test_a20_many_questions_and_no_reading(worker: Any) -> None:
    """A client that pipelines without taking answers is not read from any more: neither answers nor requests pile up."""
    body = json.dumps({"instances": ["x" * 100_000]}).encode()
    one = request(b"/v1/models/echo:predict", body)
    before = psutil.Process(worker.process.pid).memory_info().rss
    with connected(worker.port, timeout_s=0.3, receive_buffer=4_096) as connection:
        sent = 0
        with contextlib.suppress(TimeoutError):
            while sent < 2_000 * len(one):
                if not (went := connection.send(one)):
                    break
                sent += went
        grown = psutil.Process(worker.process.pid).memory_info().rss - before
    assert sent < 60 << 20
    assert grown < 30 << 20


@pytest.fixture
def slow_clients(worker: Any) -> Iterator[list[Connection]]:
    """1,000 connections that hang in a head, in a body, or in nothing at all."""
    opened = [Connection(worker.port) for _ in range(SLOW_CLIENTS)]
    for number, connection in enumerate(opened):
        connection.send((b"GET /livez HTTP/1.1\r\nX-", Door().head(LENGTH) + b"{", b"")[number % 3])
    yield opened
    for connection in opened:
        connection.close()


def test_a20_others_do_not_notice(worker: Any, slow_clients: list[Connection]) -> None:
    """With 1,000 slow connections open others get right answers as fast as ever; then all slow ones are gone."""
    times = []
    begun = time.monotonic()
    while time.monotonic() - begun < WAIT_S * 0.8:
        asked = time.monotonic()
        assert worker.predict("sum", [[1, 2, 3]]).json() == {"predictions": [6.0]}
        times.append(time.monotonic() - asked)
    assert len(times) > 20
    assert sorted(times)[len(times) * 95 // 100] < 0.1
    until = time.monotonic() + LATEST_S
    for connection in slow_clients:
        refused_late(connection)
    assert time.monotonic() < until
    assert worker.client.get("/readyz").status_code == 200


def test_a20_keep_alive_ends(worker: Any) -> None:
    """A connection that is not used any more is closed, without an answer."""
    for first in (request(PREDICT, JSON), request(b"/livez")):
        with connected(worker.port) as connection:
            connection.send(first)
            assert connection.reply().status == 200
            begun = time.monotonic()
            assert connection.rest() == b""
            assert WAIT_S * 0.5 < time.monotonic() - begun < LATEST_S


def test_a20_a_long_answer_is_no_idleness(worker: Any) -> None:
    """While the model works nothing times out: the answer comes, and the connection goes on."""
    with connected(worker.port) as connection:
        connection.send(request(b"/v1/models/noting:predict", b'{"instances": [[1, 2.5, 3]]}'))
        assert json.loads(connection.reply().body) == {"predictions": [6.5]}
        connection.send(request(b"/livez"))
        assert connection.reply().status == 200

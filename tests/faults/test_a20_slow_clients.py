"""A20: clients that send or read almost nothing are disconnected in time, without an effect on other clients."""

from __future__ import annotations

import contextlib
import json
import select
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import psutil
import pytest

from bench.load.hostile import JSON, LENGTH, Route
from bench.load.raw import Connection, connected, request
from roadworthy.contract.policy import Policy
from roadworthy.schema.dtypes import DType
from roadworthy.schema.signature import Container, Field, Signature
from tests.gates import closed
from tests.gateway.planted_worker import GATED
from tests.waiting import DEADLINE_S, eventually

PREDICT = b"/v1/models/sum:predict"
WAIT_S = 0.6
"""Timeout of the hasty worker in seconds. It checks connections about once a second."""
TEXT = (Field("text", DType.STRING),)
SLOW_CLIENTS = 1_000


StartHere = Callable[[float], Any]


@pytest.fixture(scope="module")
def start(start_worker: Callable[..., Any], make_plan: type[Any]) -> StartHere:
    """Starts a worker with that timeout in seconds for everything a client must do."""
    plan = make_plan()
    total = plan.package(1)
    plan.endpoint("sum", [total])
    plan.endpoint("few", [total], Policy(max_in_flight=4))
    plan.endpoint("echo", [plan.package(2, "echo", Signature(TEXT, TEXT, Container.RECORDS))])
    plan.endpoint("gated", [plan.package(3, "noting")])
    names = ("header_timeout_s", "body_timeout_s", "write_timeout_s", "keep_alive_s")
    return lambda wait_s: start_worker(plan, **dict.fromkeys(names, wait_s)).wait_ready()


@pytest.fixture(scope="module")
def worker(start: StartHere) -> Any:
    """A worker that waits at most WAIT_S for a client."""
    return start(WAIT_S)


@pytest.fixture(scope="module")
def patient(start: StartHere) -> Any:
    """A worker that waits longer than any test takes."""
    return start(10 * DEADLINE_S)


def drip(connection: Connection, data: bytes) -> None:
    """Send a byte every 20 ms until the server closes or answers."""
    for byte in data:
        if connection.send(bytes([byte])) == 0 or select.select([connection.socket], [], [], 0.02)[0]:
            return
    raise AssertionError("the server has taken all of it")


def refused_late(connection: Connection) -> None:
    """Check that nothing else arrives, or only a 408 that closes the connection."""
    answers = connection.replies()
    assert [(reply.status, reply.closes) for reply in answers] in ([], [(408, True)])


@pytest.mark.parametrize("begin", [b"GET /", b"GET /livez HTTP/1.1\r\nX-Slow: "], ids=["address", "header"])
def test_a20_slow_headers(worker: Any, begin: bytes) -> None:
    """A head must be complete in time; arriving bytes do not extend the timeout."""
    with connected(worker.port) as connection:
        connection.send(begin)
        drip(connection, b"a" * 10_000)
        refused_late(connection)


def test_a20_silence(worker: Any) -> None:
    """A client that connects and sends nothing is disconnected without an answer."""
    with connected(worker.port) as connection:
        assert connection.rest() == b""


@pytest.mark.parametrize("path", [PREDICT, b"/livez", b"/v1/models/unknown:predict"])
def test_a20_slow_second_request(worker: Any, path: bytes) -> None:
    """After an answer, the same timeout applies to the next head."""
    with connected(worker.port) as connection:
        connection.send(request(path, JSON))
        assert not connection.reply().closes
        drip(connection, b"GET /livez HTTP/1.1\r\nX-Slow: " + b"a" * 10_000)
        refused_late(connection)


def test_a20_slow_body(worker: Any) -> None:
    """A body that arrives too slowly gets 408, and the connection is closed."""
    with connected(worker.port) as connection:
        connection.send(Route().head(b"Content-Length: 20000"))
        drip(connection, b" " * 10_000)
        (reply,) = connection.replies()
    assert (reply.status, reply.closes, json.loads(reply.body)["code"]) == (408, True, "body-timeout")


def test_a20_a_body_that_never_comes(worker: Any) -> None:
    """The same for a body that never arrives, also on a path that would not read it."""
    for path, status in ((PREDICT, 408), (b"/livez", 405)):
        with connected(worker.port) as connection:
            connection.send(Route(path).head(LENGTH))
            assert [reply.status for reply in connection.replies()] == [status]


def test_a20_a_long_body_that_keeps_coming(worker: Any) -> None:
    """A client that takes longer than the timeout, but sends all the time, is answered."""
    body = JSON.ljust(1 << 20)

    def silent() -> list[int]:
        """The statuses of a client that starts now and sends no body; empty if even its head was too late."""
        with connected(worker.port) as other:
            other.send(Route().head(LENGTH))
            return [reply.status for reply in other.replies()]

    with connected(worker.port) as connection:
        connection.send(Route().head(b"Content-Length: %d" % len(body)) + body[:-1])
        assert worker.client.get("/livez").status_code == 200
        assert eventually(silent, "one that began later has waited long enough") == [408]
        connection.send(body[-1:])
        assert json.loads(connection.reply().body) == {"predictions": [6.0]}


def test_a20_slow_bodies_take_no_place(patient: Any) -> None:
    """Requests whose bodies are still arriving do not count against the endpoint's capacity."""
    with ExitStack() as stack:
        for _ in range(20):
            stack.enter_context(connected(patient.port)).send(Route(b"/v1/models/few:predict").head(LENGTH) + b"{")
        assert patient.client.get("/livez").status_code == 200
        for _ in range(5):
            assert patient.predict("few", [[1, 2, 3]]).json() == {"predictions": [6.0]}


def test_a20_slow_reader(worker: Any) -> None:
    """A client that requests much and does not read loses its connection, and the worker frees the memory."""
    body = json.dumps({"instances": ["x" * (12 << 20)]}).encode()
    before = psutil.Process(worker.process.pid).memory_info().rss
    with connected(worker.port, receive_buffer=4_096) as connection:
        connection.send(request(b"/v1/models/echo:predict", body))
        own = connection.socket.getsockname()[1]
        eventually(
            lambda: all(not each.raddr or each.raddr.port != own for each in connections_of(worker)),
            "the connection of a client that does not read is closed",
        )
        assert len(connection.rest()) < len(body)
    assert psutil.Process(worker.process.pid).memory_info().rss - before < 40 << 20


def connections_of(worker: Any) -> list[Any]:
    """The worker's open TCP connections."""
    return [each for each in psutil.Process(worker.process.pid).net_connections("tcp") if each.status == "ESTABLISHED"]


def test_a20_many_questions_and_no_reading(worker: Any) -> None:
    """The server stops reading from a client that pipelines without reading answers: neither answers nor requests pile up."""
    body = json.dumps({"instances": ["x" * 100_000]}).encode()
    one = request(b"/v1/models/echo:predict", body)
    before = psutil.Process(worker.process.pid).memory_info().rss
    with connected(worker.port, receive_buffer=4_096) as connection:
        sent = 0
        while sent < 2_000 * len(one) and (went := connection.send(one)):  # until it is closed
            sent += went
        grown = psutil.Process(worker.process.pid).memory_info().rss - before
    assert sent < 60 << 20
    assert grown < 30 << 20


@contextlib.contextmanager
def slow_clients(worker: Any) -> Iterator[list[Connection]]:
    """1,000 connections that hang in a head, in a body, or in nothing at all."""
    with ExitStack() as stack:
        opened = [stack.enter_context(connected(worker.port)) for _ in range(SLOW_CLIENTS)]
        for number, connection in enumerate(opened):
            connection.send((b"GET /livez HTTP/1.1\r\nX-", Route().head(LENGTH) + b"{", b"")[number % 3])
        yield opened


def test_a20_others_do_not_notice(patient: Any) -> None:
    """With 1,000 slow connections open, other clients get right answers."""
    with slow_clients(patient) as clients:
        for _ in range(50):
            assert patient.predict("sum", [[1, 2, 3]]).json() == {"predictions": [6.0]}
        assert not any(select.select([client.socket], [], [], 0)[0] for client in clients if client.socket.fileno() < 1_024)


def test_a20_a_thousand_of_them_are_let_go(worker: Any) -> None:
    """Every slow connection is closed in the end."""
    with slow_clients(worker) as clients:
        for connection in clients:
            refused_late(connection)
    assert worker.client.get("/readyz").status_code == 200


def test_a20_keep_alive_ends(worker: Any) -> None:
    """An idle connection is closed without an answer."""
    for first in (request(PREDICT, JSON), request(b"/livez")):
        with connected(worker.port) as connection:
            connection.send(first)
            assert connection.reply().status == 200
            assert connection.rest() == b""


def test_a20_a_long_answer_is_no_idleness(worker: Any) -> None:
    """While the model works, nothing times out: the answer comes, and the connection stays open."""
    with connected(worker.port) as connection:
        with closed(worker.folder / "gate"):
            connection.send(request(b"/v1/models/gated:predict", b'{"instances": [[1, %d, 3]]}' % GATED))
            eventually((worker.folder / "ran").exists, "the model has begun")
            with connected(worker.port) as other:
                assert other.rest() == b""  # one that began later, and asks nothing, has waited long enough
        assert json.loads(connection.reply().body) == {"predictions": [3.0]}
        connection.send(request(b"/livez"))
        assert connection.reply().status == 200
